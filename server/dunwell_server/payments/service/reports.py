"""GetPaymentReport: how collection went, what retries recovered, what is at risk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from dunwell_server.kernel.calendar import local_date
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import known_currency
from dunwell_server.payments.model import PaymentMethod
from dunwell_server.payments.store import reports as store
from dunwell_server.payments.store.reports import Reach
from dunwell_server.platform.database import Row, UnitOfWork

DEFAULT_RANGE: Final = timedelta(days=90)
LONGEST_RANGE: Final = timedelta(days=400)
EXPIRY_WARNING: Final = timedelta(days=30)
METHODS: Final = 1000


@dataclass(frozen=True, slots=True)
class Tally:
    """Payments that came to an end, and those of them that failed. `name` is the month, the provider, or empty."""

    name: str = ""
    finished: int = 0
    failed: int = 0

    @property
    def rate(self) -> float:
        """failed / finished; 0 without payments."""
        return self.failed / self.finished if self.finished else 0.0


@dataclass(slots=True)
class CodeTally:
    """Failed attempts with one code, and what was asked for, per currency."""

    code: str
    count: int = 0
    amounts: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class SlotTally:
    """The first try (0) or one retry: how many ended, how many brought the money, and how much of it per currency."""

    slot: int
    finished: int = 0
    succeeded: int = 0
    amounts: dict[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """succeeded / finished."""
        return self.succeeded / self.finished if self.finished else 0.0


@dataclass(frozen=True, slots=True)
class PaymentReport:
    """The report. Amounts are minor units by currency; `expiring` holds at most METHODS of `expiring_count`."""

    since: datetime
    until: datetime
    total: Tally
    months: list[Tally]
    providers: list[Tally]
    codes: list[CodeTally]
    slots: list[SlotTally]
    at_risk: dict[str, int]
    invoices_at_risk: int
    exhausted: dict[str, int]
    expiring: list[PaymentMethod]
    expiring_count: int


async def payment_report(
    uow: UnitOfWork,
    since: datetime | None,
    until: datetime | None,
    *,
    currency: str | None = None,
    provider: str | None = None,
) -> PaymentReport:
    """The report of [since, until) in firm time; the last 90 days where neither is given. Errors: PERIOD_INVALID, UNKNOWN_CURRENCY."""
    if currency is not None:
        known_currency(currency)
    # A test clock stands still: what ends at this very instant belongs to it.
    until = until or uow.now + timedelta(microseconds=1)
    since = since or until - DEFAULT_RANGE
    if not timedelta(0) <= until - since <= LONGEST_RANGE:
        raise DunwellError(
            Reason.PERIOD_INVALID, f"The range must not end before it starts, nor be longer than {LONGEST_RANGE.days} days.", field="range"
        )  # fmt: skip
    reach = Reach(since, until, currency, provider)
    settings = uow.firm.settings
    rows = await store.payments(uow, reach, settings.time_zone)
    risks = await store.at_risk(uow, reach)
    # A card is good until the last day of its month.
    last_day = local_date(uow.now, settings.zone) + EXPIRY_WARNING
    expiring, expiring_count = await store.expiring(uow, last_day, provider, METHODS)
    return PaymentReport(
        since, until,
        total=next((_tally("", row) for row in rows if row["no_month"] and row["no_provider"] and row["no_slot"]), Tally()),
        months=[_tally(row["month"], row) for row in rows if not row["no_month"]],
        providers=[_tally(row["provider"], row) for row in rows if not row["no_provider"]],
        codes=_codes(await store.codes(uow, reach)), slots=_slots([row for row in rows if not row["no_slot"] and row["slot"] is not None]),
        at_risk={row["currency_code"]: row["at_risk"] for row in risks if row["at_risk"]},
        invoices_at_risk=sum(row["pending"] for row in risks),
        exhausted={row["currency_code"]: row["exhausted"] for row in risks if row["exhausted"]},
        expiring=expiring, expiring_count=expiring_count,
    )  # fmt: skip


def _tally(name: str, row: Row) -> Tally:
    return Tally(name, row["finished"], row["failed"])


def _codes(rows: Sequence[Row]) -> list[CodeTally]:
    found: dict[str, CodeTally] = {}
    for row in rows:
        tally = found.setdefault(row["code"], CodeTally(row["code"]))
        tally.count += row["count"]
        tally.amounts[row["currency_code"]] = row["amount"]
    return sorted(found.values(), key=lambda tally: (-tally.count, tally.code))


def _slots(rows: Sequence[Row]) -> list[SlotTally]:
    found: dict[int, SlotTally] = {}
    for row in rows:
        tally = found.setdefault(row["slot"], SlotTally(row["slot"]))
        tally.finished += row["finished"]
        tally.succeeded += row["finished"] - row["failed"]
        if row["captured"]:
            tally.amounts[row["currency_code"]] = row["captured"]
    return [found[slot] for slot in sorted(found)]
