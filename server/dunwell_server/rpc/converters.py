"""Between the contract's shared messages and the kernel's types, both ways. Wrong values are errors naming the field."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage

from dunwell.v1 import money_pb2
from dunwell_server.kernel import ids
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.money import Money, known_currency
from dunwell_server.kernel.paging import PageToken, SortValue, filter_hash, page_size
from dunwell_server.rpc.current import current_call

T = TypeVar("T")

_DECIMAL: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_MAX_DECIMAL_CHARS: Final = 64
_ETAG: Final = re.compile(r'(?:W/)?"?v([1-9]\d{0,17})"?', re.ASCII)


# Time


def timestamp(instant: datetime | None) -> Timestamp | None:
    """An instant with a time zone as a Timestamp; None stays None, which leaves a field unset."""
    if instant is None:
        return None
    message = Timestamp()
    message.FromDatetime(instant)
    return message


def instant(message: Timestamp, field: str) -> datetime:
    """A Timestamp as a UTC instant, microseconds kept. FIELD_INVALID outside of the years 1 to 9999."""
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise field_invalid(field, "must be an instant of the years 1 to 9999") from None


def optional_instant(holder: Any, field: str, path: str | None = None) -> datetime | None:
    """The instant in `holder.field`, None where it is not set. `path` names it in errors."""
    return instant(getattr(holder, field), path or field) if holder.HasField(field) else None


def date_message(day: date | None) -> Date | None:
    """A civil date; None stays None."""
    return None if day is None else Date(year=day.year, month=day.month, day=day.day)


def civil_date(message: Date, field: str) -> date:
    """A complete Date. FIELD_INVALID for one that is not in the calendar, or lacks a part."""
    try:
        return date(message.year, message.month, message.day)
    except (ValueError, OverflowError):
        raise field_invalid(field, "must be a real calendar date") from None


def optional_date(holder: Any, field: str, path: str | None = None) -> date | None:
    """The date in `holder.field`, None where it is not set."""
    return civil_date(getattr(holder, field), path or field) if holder.HasField(field) else None


def seconds(message: Duration) -> float:
    """A Duration in seconds."""
    return float(message.seconds) + message.nanos / 1e9


# Numbers


def money_message(amount: Money | None) -> money_pb2.Money | None:
    """An amount; None stays None."""
    return None if amount is None else money_pb2.Money(currency_code=amount.currency, amount_minor=amount.minor)


def optional_currency(code: str, field: str) -> str | None:
    """A currency code; None where it is not set. UNKNOWN_CURRENCY naming the field."""
    return known_currency(code, field) if code else None


def money(message: money_pb2.Money, field: str) -> Money:
    """An amount. UNKNOWN_CURRENCY naming the field."""
    try:
        return Money(message.currency_code, message.amount_minor)
    except DunwellError as error:
        if error.reason is not Reason.UNKNOWN_CURRENCY:
            raise
        path = f"{field}.currency_code"
        raise DunwellError(error.reason, error.message, field=path, metadata=error.metadata) from None


def decimal_message(value: Decimal | None) -> DecimalMessage | None:
    """A Decimal in plain notation, without an exponent; None stays None."""
    return None if value is None else DecimalMessage(value=format(value, "f"))


def decimal(message: DecimalMessage, field: str) -> Decimal:
    """A google.type.Decimal. FIELD_INVALID for what is no finite decimal number, or is too long."""
    text = message.value
    if len(text) > _MAX_DECIMAL_CHARS or _DECIMAL.fullmatch(text) is None:
        raise field_invalid(field, "must be a decimal number such as 249.95")
    return Decimal(text)


def optional_decimal(holder: Any, field: str, path: str | None = None) -> Decimal | None:
    """The decimal in `holder.field`, None where it is not set."""
    return decimal(getattr(holder, field), path or field) if holder.HasField(field) else None


# Identity


def id_text(prefix: ids.Prefix, value: UUID | None) -> str:
    """The text form of an id; empty for None."""
    return "" if value is None else ids.encode(prefix, value)


def id_value(prefix: ids.Prefix, text: str, field: str) -> UUID:
    """A required id. INVALID_ID."""
    return ids.decode(prefix, text, field)


def optional_id(prefix: ids.Prefix, text: str, field: str) -> UUID | None:
    """An id that may be left empty."""
    return ids.decode(prefix, text, field) if text else None


def id_values(prefix: ids.Prefix, texts: Iterable[str], field: str) -> list[UUID]:
    """A list of ids; errors name the element."""
    return [ids.decode(prefix, text, f"{field}[{index}]") for index, text in enumerate(texts)]


def etag(version: int) -> str:
    """The etag of a row version."""
    return f"v{version}"


def expected_version(text: str) -> int | None:
    """The row version that an etag asks for; None where none was sent. What is no etag of ours matches no version."""
    if not text:
        return None
    match = _ETAG.fullmatch(text)
    return int(match[1]) if match else -1


def metadata_map(values: Mapping[str, str]) -> dict[str, str]:
    """A message's label map as a dictionary, in the order of its keys."""
    return {key: values[key] for key in sorted(values)}


def optional_value(holder: Any, field: str) -> Any:
    """The value of a field with presence, None where it is not set."""
    return getattr(holder, field) if holder.HasField(field) else None


def enum_name(enum: Any, value: int, prefix: str) -> str:
    """The name of an enum value without its prefix: `enum_name(InvoiceState, 3, "INVOICE_STATE_")` is `PAID`."""
    name: str = enum.Name(value)
    return name.removeprefix(prefix)


def enum_value(enum: Any, name: str, prefix: str) -> int:
    """The number of the enum value that a stored name stands for."""
    value: int = enum.Value(prefix + name)
    return value


# Pages


class Pager:
    """Makes and reads page tokens. A token belongs to the method, firm, filter and order that it was made for."""

    def __init__(self, key: bytes) -> None:
        """`key` is `Keys.page_token`."""
        self._key = key

    def read(self, request: Any) -> Page:
        """The page that a list request asks for: its size, and where the one before ended.

        Everything in the request but `page_size` and `page_token` is its filter. PAGE_TOKEN_INVALID,
        PAGE_TOKEN_MISMATCH, FIELD_INVALID.
        """
        binding = self._binding(request)
        after = PageToken.decode(request.page_token, self._key, binding).values if request.page_token else None
        return Page(page_size(request.page_size), after, binding, self._key)

    @staticmethod
    def _binding(request: Any) -> str:
        context = current_call()
        bare = type(request)()
        bare.CopyFrom(request)
        bare.ClearField("page_size")
        bare.ClearField("page_token")
        firm = "" if context.firm_id is None else context.firm_id.hex
        return filter_hash(context.method, firm, bare.SerializeToString(deterministic=True))


class Page:
    """One page of a list: ask the store for `limit` rows after `after`, then `split` them."""

    __slots__ = ("_binding", "_key", "after", "size")

    def __init__(self, size: int, after: tuple[SortValue, ...] | None, binding: str, key: bytes) -> None:
        self.size = size
        self.after = after
        self._binding = binding
        self._key = key

    @property
    def limit(self) -> int:
        """One row more than the page has, to know whether there is another page."""
        return self.size + 1

    def split(self, rows: Sequence[T], sort_key: Callable[[T], tuple[SortValue, ...]]) -> tuple[Sequence[T], str]:
        """The page's rows, and the token of the next page: empty on the last."""
        if len(rows) <= self.size:
            return rows, ""
        shown = rows[: self.size]
        return shown, PageToken(sort_key(shown[-1]), self._binding).encode(self._key)
