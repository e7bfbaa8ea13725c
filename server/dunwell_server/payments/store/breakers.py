"""Breakers' SQL: what was sent through an account lately, which breakers are open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.platform.database import UnitOfWork

_OPEN = "SELECT account_id FROM provider_breaker WHERE firm_id = %(firm_id)s"
# What is claimed and not sent yet is told apart: it takes room under the limit, so that batches do not pass it together, and trips nothing.
_TRAFFIC = """
SELECT w.account_id, s.sent, s.declined, c.claimed
FROM unnest(%(accounts)s::uuid[]) AS w (account_id)
LEFT JOIN provider_breaker_reset r ON r.firm_id = %(firm_id)s AND r.account_id = w.account_id
LEFT JOIN LATERAL (
    SELECT count(*) AS sent, count(*) FILTER (WHERE a.state = 'DECLINED') AS declined FROM attempt a
    WHERE a.firm_id = %(firm_id)s AND a.account_id = w.account_id
      AND a.first_send_time > greatest(%(now)s - interval '1 hour', coalesce(r.reset_time, '-infinity'))
) s ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS claimed FROM attempt a
    WHERE a.firm_id = %(firm_id)s AND a.account_id = w.account_id AND a.state = 'CREATED' AND a.lease_until > clock_timestamp()
) c ON true
"""
_SAME_AMOUNT = """
SELECT w.client_id, w.account_id, w.amount_minor, w.currency_code, s.times
FROM (SELECT DISTINCT * FROM unnest(%(clients)s::uuid[], %(accounts)s::uuid[], %(amounts)s::bigint[], %(currencies)s::text[])
      AS u (client_id, account_id, amount_minor, currency_code)) w
LEFT JOIN provider_breaker_reset r ON r.firm_id = %(firm_id)s AND r.account_id = w.account_id
CROSS JOIN LATERAL (
    SELECT count(*) AS times FROM payment p JOIN attempt a ON a.firm_id = p.firm_id AND a.payment_id = p.id
    WHERE p.firm_id = %(firm_id)s AND p.client_id = w.client_id AND p.create_time > %(born_after)s AND p.amount_minor = w.amount_minor
      AND p.currency_code = w.currency_code AND p.account_id = w.account_id
      AND a.first_send_time > greatest(%(now)s - interval '1 day', coalesce(r.reset_time, '-infinity'))
) s
WHERE s.times >= %(limit)s
"""
_TRIP = """
INSERT INTO provider_breaker (firm_id, account_id, cause, detail, trip_time)
VALUES (%(firm_id)s, %(account_id)s, %(cause)s, %(detail)s, %(now)s) ON CONFLICT DO NOTHING
"""
_RESET = """
WITH gone AS (
    DELETE FROM provider_breaker b USING control.provider_account a
    WHERE b.firm_id = %(firm_id)s AND a.id = b.account_id AND a.provider = %(provider)s
    RETURNING b.account_id, b.cause, b.trip_time
), noted AS (
    INSERT INTO provider_breaker_reset (firm_id, account_id, reset_time) SELECT %(firm_id)s, account_id, %(now)s FROM gone
    ON CONFLICT (firm_id, account_id) DO UPDATE SET reset_time = excluded.reset_time
)
SELECT account_id, cause, trip_time FROM gone
"""
_PROVIDERS = """
SELECT DISTINCT a.provider FROM provider_breaker b JOIN control.provider_account a ON a.id = b.account_id WHERE b.firm_id = %(firm_id)s
"""
_PROVIDER_OF = "SELECT provider FROM control.provider_account WHERE id = %(account_id)s"

_AGES = timedelta(days=2)
"""No payment that was sent within a day of real time is older than that when it is sent, save one that waited a day to be sent."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Charges of the last hour of an account: sent, those of them that were declined, and those about to be sent."""

    account_id: UUID
    sent: int
    declined: int
    claimed: int = 0


@dataclass(frozen=True, slots=True)
class Repeated:
    """The same amount, asked of the same client `times` times within a day."""

    client_id: UUID
    account_id: UUID
    amount_minor: int
    currency_code: str
    times: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A charge that is about to be made."""

    client_id: UUID
    account_id: UUID
    amount_minor: int
    currency_code: str


@dataclass(frozen=True, slots=True)
class Reset:
    """A breaker that was open until now."""

    account_id: UUID
    cause: str
    trip_time: datetime


async def open_accounts(uow: UnitOfWork) -> frozenset[UUID]:
    """The accounts at which the firm's breaker is open."""
    rows = await uow.fetch_all(_OPEN, {"firm_id": uow.firm_id})
    return frozenset(row["account_id"] for row in rows)


async def traffic(uow: UnitOfWork, accounts: Sequence[UUID]) -> list[Traffic]:
    """The last hour of each account, since its last reset."""
    rows = await uow.fetch_all(_TRAFFIC, {"firm_id": uow.firm_id, "now": uow.now, "accounts": list(accounts)})
    return [Traffic(**row) for row in rows]


async def repeated(uow: UnitOfWork, asked: Sequence[Asked], limit: int) -> list[Repeated]:
    """Which of these charges would be beyond `limit` of their kind within a day."""
    # A test clock's day has nothing to do with the machine's.
    born_after = "-infinity" if uow.clock.is_test else uow.now - _AGES
    rows = await uow.fetch_all(_SAME_AMOUNT, {
        "firm_id": uow.firm_id, "now": uow.now, "limit": limit, "born_after": born_after,
        "clients": [each.client_id for each in asked], "accounts": [each.account_id for each in asked],
        "amounts": [each.amount_minor for each in asked], "currencies": [each.currency_code for each in asked],
    })  # fmt: skip
    return [Repeated(**row) for row in rows]


async def trip(uow: UnitOfWork, account_id: UUID, cause: str, detail: dict[str, Any]) -> bool:
    """Open a breaker; False where it is open already."""
    values = {"firm_id": uow.firm_id, "now": uow.now, "account_id": account_id, "cause": cause, "detail": Jsonb(detail)}
    return await uow.execute(_TRIP, values) == 1


async def reset(uow: UnitOfWork, provider: str) -> list[Reset]:
    """Close the breakers of the firm's accounts at a provider; what was before no longer counts."""
    rows = await uow.fetch_all(_RESET, {"firm_id": uow.firm_id, "now": uow.now, "provider": provider})
    return [Reset(**row) for row in rows]


async def open_providers(uow: UnitOfWork) -> frozenset[str]:
    """Names of the providers at which a breaker of the firm is open."""
    rows = await uow.fetch_all(_PROVIDERS, {"firm_id": uow.firm_id})
    return frozenset(row["provider"] for row in rows)


async def provider_of(uow: UnitOfWork, account_id: UUID) -> str:
    """The provider of an account."""
    return str(await uow.fetch_value(_PROVIDER_OF, {"account_id": account_id}))
