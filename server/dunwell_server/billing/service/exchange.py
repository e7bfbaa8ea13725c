"""The firm's exchange rates: set by callers, used by reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Final

from dunwell_server.billing.exchange import Rate, convert
from dunwell_server.billing.store import exchange_rates as store
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import uuid7
from dunwell_server.kernel.money import known_currency
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change

LARGEST: Final = Decimal(10) ** 12
SMALLEST: Final = Decimal(10) ** -12


async def set_rates(uow: UnitOfWork, rates: Sequence[Rate]) -> None:
    """Set rates, all or none. Errors name `rates[n]`: UNKNOWN_CURRENCY; FIELD_INVALID for a currency in itself, a rate that is not between
    10^-12 and 10^12, or a pair and day that comes twice."""
    seen: set[tuple[str, str, date]] = set()
    for position, rate in enumerate(rates):
        path = f"rates[{position}]"
        for name, code in (("base_currency_code", rate.base), ("quote_currency_code", rate.quote)):
            known_currency(code, f"{path}.{name}")
        if rate.base == rate.quote:
            raise field_invalid(f"{path}.quote_currency_code", "must be another currency than the base")
        if not rate.value.is_finite() or not SMALLEST <= rate.value <= LARGEST:
            raise field_invalid(f"{path}.rate", "must be between 10^-12 and 10^12")
        if (key := (rate.base, rate.quote, rate.day)) in seen:
            raise field_invalid(path, "gives the rate of a pair and day that came before")
        seen.add(key)
    await store.upsert(uow, rates)
    pairs = sorted({f"{rate.base}/{rate.quote}" for rate in rates})
    metadata = {"pairs": pairs, "rates": len(rates)}
    change = Change(
        Category.BILLING, "exchange_rates_set", "exchange_rates", uuid7(), "exchange_rates.set", metadata=metadata
    )
    await journal.record(uow, change)


class Converter:
    """Converts amounts to one currency, with the latest rate on or before each amount's day; keeps the rates it used."""

    def __init__(self, currency: str, rates: dict[tuple[str, date], Rate]) -> None:
        self.currency = currency
        self._rates = rates

    @property
    def rates(self) -> list[Rate]:
        """The rates that apply, each once, by pair and day."""
        return sorted(set(self._rates.values()), key=lambda rate: (rate.base, rate.quote, rate.day))

    def __call__(self, minor: int, currency: str, day: date) -> int:
        """`minor` units of `currency` as of `day`, in minor units of the converter's currency, rounded once."""
        return minor if currency == self.currency else convert(minor, currency, self._rates[currency, day])


async def converter(uow: UnitOfWork, currency: str, wanted: Iterable[tuple[str, date]]) -> Converter:
    """What converts amounts of each wanted (currency, day) to `currency`.

    Errors: UNKNOWN_CURRENCY; EXCHANGE_RATE_MISSING naming the first pair and day that have no rate in either direction.
    """
    known_currency(currency, "convert_to_currency_code")
    needed = sorted({(base, day) for base, day in wanted if base != currency})
    rates = await store.latest(uow, currency, needed) if needed else {}
    for base, day in needed:
        if (base, day) not in rates:
            raise DunwellError(
                Reason.EXCHANGE_RATE_MISSING, f"There is no exchange rate between {base} and {currency} on or before {day}.",
                metadata={"base_currency_code": base, "quote_currency_code": currency, "rate_date": day.isoformat()},
            )  # fmt: skip
    return Converter(currency, rates)
