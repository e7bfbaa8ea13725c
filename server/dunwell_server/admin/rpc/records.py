"""CSV files of clients, engagements and open invoices: read, and checked by the very rules of the RPCs that create single ones."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, Final, TypeVar
from uuid import uuid4

from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import data_exit_pb2, engagement_pb2, money_pb2
from dunwell_server.billing.importing import (
    MAX_ROWS,
    Batch,
    ClientReference,
    OpenInvoice,
    Record,
    RecordKind,
    RowError,
    errors_of,
)
from dunwell_server.billing.rpc import requests
from dunwell_server.billing.service.importing import OLD_NUMBER
from dunwell_server.kernel import ids
from dunwell_server.kernel.errors import DunwellError, field_invalid
from dunwell_server.kernel.ids import Prefix
from dunwell_server.rpc.interceptors.validation import RequestValidator

T = TypeVar("T")

CLIENT_COLUMNS: Final = (
    "external_id", "name", "email", "phone", "address_line1", "address_line2", "address_line3", "city", "region", "postal_code", "country_code",
    "tax_id", "locale", "currency_code", "payment_terms_days", "default_provider",
)  # fmt: skip
ENGAGEMENT_COLUMNS: Final = (
    "external_id", "client_external_id", "client_id", "name", "description", "pricing_mode", "currency_code", "start_date", "end_date", "fee",
    "interval", "anchor", "timing", "partial_periods", "line_description", "default_rate", "billing_increment_minutes", "payment_terms_days",
)  # fmt: skip
INVOICE_COLUMNS: Final = (
    "number", "external_id", "client_external_id", "client_id", "issue_date", "due_date", "open_amount", "currency_code", "description", "memo",
)  # fmt: skip
_METADATA: Final = "metadata."
_ADDRESS: Final = ("city", "region", "postal_code", "country_code")
# Stands in for what is known only with the firm's data at hand; the contract's rules want something.
_SOME_CLIENT: Final = ids.encode(Prefix.CLIENT, ids.uuid7())
_DECIMAL: Final = re.compile(r"[0-9]{1,15}([.][0-9]{1,9})?")


class _Cells:
    """The cells of one row by column, empty ones left out; what is wrong with them is collected."""

    def __init__(self, row: int, values: Mapping[str, str]) -> None:
        self.row = row
        self.errors: list[RowError] = []
        self._values = {name: value.strip() for name, value in values.items() if value.strip()}

    def text(self, name: str) -> str:
        return self._values.get(name, "")

    def metadata(self) -> dict[str, str]:
        return {name[len(_METADATA) :]: value for name, value in self._values.items() if name.startswith(_METADATA)}

    def required(self, name: str) -> str:
        if name not in self._values:
            self.errors.append(RowError(self.row, name, "is required"))
        return self.text(name)

    def day(self, name: str) -> date | None:
        return self._read(name, date.fromisoformat, "must be a date such as 2027-03-31")

    def number(self, name: str) -> int | None:
        return self._read(name, int, "must be a whole number")

    def decimal(self, name: str) -> Decimal | None:
        def read(text: str) -> Decimal:
            if not _DECIMAL.fullmatch(text):
                raise ValueError
            return Decimal(text)

        return self._read(
            name, read, "must be a plain number such as 1234.50: no sign, no thousands separators, no currency"
        )

    def choice(self, name: str, enum: Any, prefix: str) -> int:
        names: list[str] = list(enum.keys())
        allowed = [name.removeprefix(prefix) for name in names if not name.endswith("_UNSPECIFIED")]

        def read(text: str) -> int:
            return int(enum.Value(prefix + text.upper().replace("-", "_").replace(" ", "_")))

        return self._read(name, read, f"must be one of {', '.join(allowed)}") or 0

    def _read(self, name: str, read: Callable[[str], T], problem: str) -> T | None:
        if name not in self._values:
            return None
        try:
            return read(self._values[name])
        except (ValueError, InvalidOperation):
            self.errors.append(RowError(self.row, name, problem))
            return None


@dataclass(frozen=True, slots=True)
class _Reader:
    """How rows of one kind are read: their columns, those that a file must have, and the maker of a record."""

    columns: tuple[str, ...]
    required: tuple[tuple[str, ...], ...]
    record: Callable[[_Cells], Record]


async def read_records(kind: data_exit_pb2.RecordKind.ValueType, data: bytes) -> Batch:
    """The rows of a file, checked as far as they can be without the firm's data. FIELD_INVALID where it is no CSV file."""
    name = data_exit_pb2.RecordKind.Name(kind).removeprefix("RECORD_KIND_")
    return await asyncio.to_thread(read_file, RecordKind(name), data)


def read_file(kind: RecordKind, data: bytes) -> Batch:
    """The same, at once."""
    reader, batch = _READERS[kind], Batch(kind)
    rows = _rows(data)
    header = [_column(name.strip()) for name in next(rows, [])]
    batch.errors += _header_errors(header, reader)
    for number, row in enumerate(rows, 2):
        if not any(cell.strip() for cell in row):
            continue
        batch.count += 1
        if batch.count > MAX_ROWS:
            raise field_invalid("csv", f"has more than {MAX_ROWS:,} rows: split the file")
        if batch.errors and batch.errors[0].row <= 1:
            continue
        if len(row) > len(header):
            batch.errors.append(RowError(number, "", f"has {len(row)} cells, the header {len(header)}"))
            continue
        _read_row(reader, _Cells(number, dict(zip(header, row, strict=False))), batch)
    return batch


def _column(name: str) -> str:
    """Columns are known in any case; what follows `metadata.` is the caller's own word and stays as it is."""
    plain = name.lower()
    return _METADATA + name[len(_METADATA) :] if plain.startswith(_METADATA) else plain


def _rows(data: bytes) -> Iterator[list[str]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise field_invalid("csv", f"is not UTF-8 (line {line}): save it as CSV UTF-8") from None
    if "\x00" in text:
        raise field_invalid("csv", "is not a CSV file")
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        yield from csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except csv.Error as error:
        raise field_invalid("csv", f"cannot be read: {error}") from None


def _header_errors(header: list[str], reader: _Reader) -> list[RowError]:
    errors = []
    for name in dict.fromkeys(header):
        if not name or (name not in reader.columns and not name.startswith(_METADATA)):
            shown = name[:40] or "an empty one"
            allowed = ", ".join((*reader.columns, "metadata.<key>"))
            errors.append(
                RowError(1, name[:40], f"is no column of this kind of file ({shown}); the columns are {allowed}")
            )
        elif header.count(name) > 1:
            errors.append(RowError(1, name, "stands in the header twice"))
    for group in reader.required:
        if not any(name in header for name in group):
            errors.append(RowError(1, group[0], f"is missing: the file needs a column {' or '.join(group)}"))
    return errors


def _read_row(reader: _Reader, cells: _Cells, batch: Batch) -> None:
    try:
        record = reader.record(cells)
    except DunwellError as error:
        batch.errors += cells.errors + errors_of(cells.row, error)
        return
    if cells.errors:
        batch.errors += cells.errors
    else:
        batch.records.append(record)


def _client(cells: _Cells) -> Record:
    names = ("external_id", "name", "email", "phone", "tax_id", "locale", "currency_code", "default_provider")
    cells.required("name")
    terms = cells.number("payment_terms_days")
    request = pb.CreateClientRequest(request_id=_REQUEST)
    client = request.client
    for name in names:
        setattr(client, name, cells.text(name))
    lines = [line for line in (cells.text(f"address_line{number}") for number in (1, 2, 3)) if line]
    parts = {name: cells.text(name) for name in _ADDRESS if cells.text(name)}
    if lines or parts:
        client.address.lines.extend(lines)
        for name, value in parts.items():
            setattr(client.address, name, value)
    _set_terms(client, terms)
    client.metadata.update(cells.metadata())
    _check(request, cells)
    return Record(cells.row, requests.new_client(client))


def _engagement(cells: _Cells) -> Record:
    reference = _reference(cells)
    cells.required("name")
    cells.required("start_date")
    mode = engagement_pb2.PricingMode.ValueType(
        cells.choice("pricing_mode", engagement_pb2.PricingMode, "PRICING_MODE_") or engagement_pb2.PRICING_MODE_PACKAGE
    )
    fee, rate = cells.decimal("fee"), cells.decimal("default_rate")
    request = pb.CreateEngagementRequest(request_id=_REQUEST)
    engagement = request.engagement
    engagement.client_id, engagement.pricing_mode = _SOME_CLIENT, mode
    for name in ("external_id", "name", "description", "currency_code"):
        setattr(engagement, name, cells.text(name))
    for name in ("start_date", "end_date"):
        day = cells.day(name)
        if day is not None:
            getattr(engagement, name).CopyFrom(Date(year=day.year, month=day.month, day=day.day))
    _set_terms(engagement, cells.number("payment_terms_days"))
    engagement.metadata.update(cells.metadata())
    if mode != engagement_pb2.PRICING_MODE_HOURLY:
        cells.required("fee")
        cells.required("interval")
        _package(engagement.package, cells)
    elif fee is not None:
        cells.errors.append(RowError(cells.row, "fee", "HOURLY has no fee"))
    if mode != engagement_pb2.PRICING_MODE_PACKAGE:
        cells.required("default_rate")
        _hourly(engagement.hourly, cells, rate, mode)
    elif rate is not None:
        cells.errors.append(RowError(cells.row, "default_rate", "PACKAGE has no rate"))
    if not cells.errors:
        _check(request, cells)
    new = requests.new_engagement(engagement) if not cells.errors else None
    return Record(cells.row, new, reference, fee)


def _package(package: engagement_pb2.PackageTerms, cells: _Cells) -> None:
    package.fee.CopyFrom(money_pb2.Money(currency_code=cells.text("currency_code") or "USD", amount_minor=0))
    package.interval = _interval(cells)
    package.anchor = _anchor(cells)
    package.timing = engagement_pb2.BillingTiming.ValueType(
        cells.choice("timing", engagement_pb2.BillingTiming, "BILLING_TIMING_")
    )
    package.partial_periods = engagement_pb2.PartialPeriods.ValueType(
        cells.choice("partial_periods", engagement_pb2.PartialPeriods, "PARTIAL_PERIODS_")
    )
    package.line_description = cells.text("line_description")


def _hourly(hourly: engagement_pb2.HourlyTerms, cells: _Cells, rate: Decimal | None, mode: int) -> None:
    if rate is not None:
        hourly.default_rate.CopyFrom(DecimalMessage(value=str(rate)))
    hourly.billing_increment_minutes = cells.number("billing_increment_minutes") or 0
    if mode == engagement_pb2.PRICING_MODE_HOURLY:
        cells.required("interval")
        hourly.interval = _interval(cells)
        hourly.anchor = _anchor(cells)


def _interval(cells: _Cells) -> engagement_pb2.BillingInterval.ValueType:
    return engagement_pb2.BillingInterval.ValueType(
        cells.choice("interval", engagement_pb2.BillingInterval, "BILLING_INTERVAL_")
    )


def _anchor(cells: _Cells) -> engagement_pb2.BillingAnchor.ValueType:
    return engagement_pb2.BillingAnchor.ValueType(
        cells.choice("anchor", engagement_pb2.BillingAnchor, "BILLING_ANCHOR_")
    )


def _invoice(cells: _Cells) -> Record:
    reference = _reference(cells)
    number = cells.required("number")
    for name in ("issue_date", "due_date", "open_amount"):
        cells.required(name)
    issued, due, amount = cells.day("issue_date"), cells.day("due_date"), cells.decimal("open_amount")
    request = pb.CreateInvoiceRequest(request_id=_REQUEST)
    invoice = request.invoice
    invoice.client_id = _SOME_CLIENT
    for name in ("external_id", "currency_code", "memo"):
        setattr(invoice, name, cells.text(name))
    if OLD_NUMBER in cells.metadata():
        cells.errors.append(
            RowError(cells.row, _METADATA + OLD_NUMBER, "is where the number goes: leave the column out")
        )
    invoice.metadata.update({**cells.metadata(), OLD_NUMBER: number})
    description = cells.text("description") or f"Open balance of invoice {number} of {issued}"
    invoice.lines.add(description=description, unit_price=DecimalMessage(value=str(amount or 0)))
    _check(request, cells)
    if cells.errors or issued is None or due is None or amount is None:
        return Record(cells.row, None)
    new = OpenInvoice(
        number, cells.text("external_id") or None, issued, due, amount, cells.text("currency_code") or None, description, cells.text("memo") or None,
        cells.metadata(),
    )  # fmt: skip
    return Record(cells.row, new, reference)


def _reference(cells: _Cells) -> ClientReference:
    ours, theirs = cells.text("client_id"), cells.text("client_external_id")
    if bool(ours) == bool(theirs):
        column = "client_id" if ours else "client_external_id"
        cells.errors.append(RowError(cells.row, column, "is required: one of client_external_id and client_id"))
        return ClientReference(None, None)
    return ClientReference(ids.decode(Prefix.CLIENT, ours, "client_id") if ours else None, theirs or None)


def _set_terms(message: Any, terms: int | None) -> None:
    if terms is not None:
        message.payment_terms_days = max(-1, min(terms, 1_000_000))


@cache
def _validator(request: Any) -> RequestValidator:
    return RequestValidator(request)


def _check(request: Any, cells: _Cells) -> None:
    """Collect what the contract's rules for a single one say of the row."""
    try:
        _validator(request.DESCRIPTOR).check(request, request.SerializeToString())
    except DunwellError as error:
        known = {each.column for each in cells.errors}
        for each in errors_of(cells.row, error):
            # A rule about several fields names none: where a cell is missing, that has been told already.
            column = _OWN.get(each.column, "" if each.column in _WHOLE else each.column)
            if column not in known and (column or not known):
                cells.errors.append(replace(each, column=column))


_WHOLE: Final = frozenset({"client", "engagement", "invoice"})
_OWN: Final = {f"{_METADATA}{OLD_NUMBER}": "number"}
"""Columns that travel under another name."""
_REQUEST: Final = str(uuid4())
_READERS: Final = {
    RecordKind.CLIENTS: _Reader(CLIENT_COLUMNS, (("name",),), _client),
    RecordKind.ENGAGEMENTS: _Reader(
        ENGAGEMENT_COLUMNS,
        (("client_external_id", "client_id"), ("name",), ("start_date",), ("interval",)),
        _engagement,
    ),
    RecordKind.INVOICES: _Reader(
        INVOICE_COLUMNS,
        (("number",), ("client_external_id", "client_id"), ("issue_date",), ("due_date",), ("open_amount",)),
        _invoice,
    ),
}
