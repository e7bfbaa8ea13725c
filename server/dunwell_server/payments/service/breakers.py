"""Breakers: charging at a provider account stops by itself when it looks wrong, until somebody has looked.

Per firm and account, from the attempts' rows: charges in an hour, the same amount to the same client in a day, the part of an hour's charges
that is declined. Firm time throughout. Tripping stops claims and explicit requests and raises an alert; what is due stays due, nothing is
dropped.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from prometheus_client import Counter

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.store import breakers
from dunwell_server.payments.store.breakers import Asked, Repeated, Reset, Traffic
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.firms import BreakerPolicy
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.platform.work import WorkKind, wake

DECLINES_COUNT_FROM: Final = 100
"""Charges in the hour before their declines say anything."""

TRIPS = Counter("dunwell_breaker_trips", "Breakers that tripped, by provider and cause", ("provider", "cause"))


@dataclass(frozen=True, slots=True)
class Trip:
    """Why a breaker trips, with the numbers behind it."""

    cause: str
    detail: dict[str, Any]


def judge(policy: BreakerPolicy, traffic: Traffic) -> Trip | None:
    """Whether an account's hour makes its breaker trip when one more charge is asked for. Pure."""
    if traffic.sent >= policy.charges_per_hour:
        return Trip("charges_per_hour", {"charges": traffic.sent, "limit": policy.charges_per_hour})
    if traffic.sent >= DECLINES_COUNT_FROM and traffic.declined * 100 > policy.decline_percent * traffic.sent:
        detail = {"charges": traffic.sent, "declined": traffic.declined, "limit_percent": policy.decline_percent}
        return Trip("decline_ratio", detail)
    return None


@dataclass(slots=True)
class Pacing:
    """When an account's hour is counted again. Counting costs as much as there are rows: it is done after a sixteenth of them, or of what is
    left to the limit, whichever is less, and after five seconds at the latest. Up to sixteen processes cannot pass a limit together."""

    clock: Callable[[], float] = time.monotonic
    _next: dict[tuple[UUID, UUID], tuple[int, float]] = field(default_factory=dict)

    def is_due(self, firm_id: UUID, account_id: UUID, charges: int) -> bool:
        """Note `charges` more, and tell whether to count before they are made."""
        left, until = self._next.get((firm_id, account_id), (0, 0.0))
        left -= charges
        self._next[(firm_id, account_id)] = (left, until)
        return left < 0 or self.clock() >= until

    def counted(self, firm_id: UUID, account_id: UUID, sent: int, limit: int) -> None:
        """The account was counted now."""
        if len(self._next) > 10_000:
            self._next.clear()
        self._next[(firm_id, account_id)] = (min(sent, limit - sent) // 16, self.clock() + 5.0)

    def forget(self, firm_id: UUID, account_id: UUID) -> None:
        """Count before the next charge."""
        self._next.pop((firm_id, account_id), None)


_pacing = Pacing()


async def open_accounts(uow: UnitOfWork) -> frozenset[UUID]:
    """The accounts at which the firm's breaker is open."""
    return await breakers.open_accounts(uow)


def breaker_open(provider: str) -> DunwellError:
    """BREAKER_OPEN."""
    return DunwellError(
        Reason.BREAKER_OPEN,
        f"Charging at {provider} has stopped by itself because it looked wrong; somebody has to look, and reset the breaker.",
        metadata={"provider": provider},
    )


def recovering() -> DunwellError:
    """RECOVERING."""
    return DunwellError(
        Reason.RECOVERING, "The firm charges nothing until the providers' record has been taken over after a restore."
    )


class BreakerTrips(DunwellError):
    """BREAKER_OPEN for the charge that trips the breaker. Its own transaction cannot keep that: see `jobs.guarding`."""

    def __init__(self, provider: str, asked: Asked) -> None:
        error = breaker_open(provider)
        super().__init__(error.reason, error.message, metadata=error.metadata)
        self.asked = asked


async def require_closed(uow: UnitOfWork, account_id: UUID, asked: Asked | None = None) -> None:
    """Refuse a charge at an account whose breaker is open, or that `asked` would trip. Errors: BREAKER_OPEN, RECOVERING."""
    if uow.recovering:
        raise recovering()
    if account_id in await breakers.open_accounts(uow):
        raise breaker_open(await breakers.provider_of(uow, account_id))
    if asked is not None and await _trips(uow, [asked]):
        raise BreakerTrips(await breakers.provider_of(uow, account_id), asked)


async def trip_where_due(uow: UnitOfWork, asked: Sequence[Asked]) -> tuple[frozenset[UUID], dict[UUID, int]]:
    """Trip the breakers that these charges would trip. Returns their accounts, and how many more charges accounts may take where that is near."""
    if not asked or uow.firm.settings.breaker.disabled:
        return frozenset(), {}
    room: dict[UUID, int] = {}
    tripped = await _trips(uow, asked, room)
    for account_id, trip in tripped.items():
        await _trip(uow, account_id, trip)
    return frozenset(tripped), room


async def _trips(uow: UnitOfWork, asked: Sequence[Asked], room: dict[UUID, int] | None = None) -> dict[UUID, Trip]:
    policy = uow.firm.settings.breaker
    if policy.disabled:
        return {}
    found: dict[UUID, Trip] = {}
    charges: dict[UUID, int] = defaultdict(int)
    for each in asked:
        charges[each.account_id] += 1
    due = [account for account, number in charges.items() if _pacing.is_due(uow.firm_id, account, number)]
    for traffic in await breakers.traffic(uow, due) if due else ():
        known = traffic.sent + traffic.claimed
        _pacing.counted(uow.firm_id, traffic.account_id, known, policy.charges_per_hour)
        trip = judge(policy, traffic)
        if trip is not None:
            _pacing.forget(uow.firm_id, traffic.account_id)
            found[traffic.account_id] = trip
        elif room is not None:
            room[traffic.account_id] = policy.charges_per_hour - known
    for again in await breakers.repeated(uow, asked, policy.same_amount_per_day):
        found.setdefault(again.account_id, _repeated(again, policy))
    return found


def _repeated(again: Repeated, policy: BreakerPolicy) -> Trip:
    return Trip(
        "same_amount",
        {
            "client_id": encode(Prefix.CLIENT, again.client_id), "amount_minor": again.amount_minor, "currency_code": again.currency_code,
            "charges": again.times, "limit": policy.same_amount_per_day,
        },
    )  # fmt: skip


async def _trip(uow: UnitOfWork, account_id: UUID, trip: Trip) -> None:
    if not await breakers.trip(uow, account_id, trip.cause, trip.detail):
        return
    provider = await breakers.provider_of(uow, account_id)
    TRIPS.labels(provider, trip.cause).inc()
    metadata = {"notice": "breaker_tripped", "provider": provider, "cause": trip.cause, **trip.detail}
    await record(uow, Change(
        Category.PAYMENT, "breaker_tripped", "provider_account", account_id, "provider.breaker_tripped", Severity.CRITICAL, metadata,
    ))  # fmt: skip


async def reset(uow: UnitOfWork, provider: str, note: str) -> list[Reset]:
    """Close the firm's breakers at a provider; what is due is collected again. STATE_CONFLICT where none is open."""
    closed = await breakers.reset(uow, provider)
    if not closed:
        raise DunwellError(
            Reason.STATE_CONFLICT, f"No breaker of the firm at {provider} has tripped.",
            metadata={"state": "CLOSED", "allowed": "OPEN", "provider": provider},
        )  # fmt: skip
    await record(uow, *(_told_reset(each, provider, note) for each in closed))
    await wake(uow, WorkKind.COLLECT)
    return closed


def _told_reset(closed: Reset, provider: str, note: str) -> Change:
    metadata = {"provider": provider, "cause": closed.cause, "trip_time": closed.trip_time.isoformat(), "note": note}
    return Change(
        Category.PAYMENT, "breaker_reset", "provider_account", closed.account_id, "provider.breaker_reset", Severity.WARNING, metadata
    )  # fmt: skip


async def open_providers(uow: UnitOfWork) -> frozenset[str]:
    """Names of the providers at which a breaker of the firm is open."""
    return await breakers.open_providers(uow)
