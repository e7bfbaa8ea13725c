"""The failure report's SQL: every part is one statement over the rows of the range, grouped by the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from dunwell_server.kernel.calendar import local_date
from dunwell_server.payments.model import PaymentMethod
from dunwell_server.payments.store.rows import METHOD_COLUMNS, build, columns
from dunwell_server.platform.database import Row, UnitOfWork

_FINISHED: Final = """
p.firm_id = %(firm_id)s AND p.finish_time >= %(since)s AND p.finish_time < %(until)s AND p.state IN ('SUCCEEDED', 'FAILED')
  AND p.kind <> 'MANUAL' AND (%(currency)s::text IS NULL OR p.currency_code = %(currency)s)
  AND (%(provider)s::text IS NULL OR p.provider = %(provider)s)
"""
# One pass for three groupings; `part` says which of them a row belongs to.
_PAYMENTS: Final = f"""
SELECT grouping(month)::int AS no_month, grouping(provider)::int AS no_provider, grouping(slot)::int AS no_slot,
       grouping(currency_code)::int AS no_currency, month, provider, slot, currency_code, count(*) AS finished,
       count(*) FILTER (WHERE state = 'FAILED') AS failed, coalesce(sum(captured_minor), 0)::bigint AS captured
FROM (SELECT to_char(p.finish_time AT TIME ZONE %(zone)s, 'YYYY-MM') AS month, p.provider, p.state, p.captured_minor, p.currency_code,
             CASE WHEN p.kind = 'AUTOPAY' THEN p.slot END AS slot
      FROM payment p WHERE {_FINISHED}) p
GROUP BY GROUPING SETS ((), (month), (provider), (slot, currency_code))
ORDER BY month, provider, slot, currency_code
"""
# A slot that failed without a call has no attempt: the payment itself tells why.
_CODES: Final = f"""
SELECT code, currency_code, count(*) AS count, sum(amount_minor)::bigint AS amount FROM (
    SELECT a.failure_code AS code, a.currency_code, a.amount_minor
    FROM payment p JOIN attempt a ON a.firm_id = p.firm_id AND a.payment_id = p.id
    WHERE {_FINISHED} AND a.failure_code IS NOT NULL AND a.state IN ('DECLINED', 'CLOSED')
    UNION ALL
    SELECT p.failure_code, p.currency_code, p.amount_minor FROM payment p
    WHERE {_FINISHED} AND p.failure_code IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.firm_id = p.firm_id AND a.payment_id = p.id)
) f GROUP BY code, currency_code ORDER BY code, currency_code
"""
# Of a provider's is what its last failed try has left unpaid.
_AT_RISK: Final = """
SELECT currency_code, count(*) FILTER (WHERE retry_pending) AS pending, coalesce(sum(amount_due) FILTER (WHERE retry_pending), 0)::bigint AS at_risk,
       coalesce(sum(amount_due) FILTER (WHERE retries_exhausted), 0)::bigint AS exhausted
FROM invoice i
WHERE firm_id = %(firm_id)s AND finalize_time IS NOT NULL AND void_time IS NULL AND write_off_time IS NULL AND amount_due > 0
  AND (retry_pending OR retries_exhausted) AND (%(currency)s::text IS NULL OR currency_code = %(currency)s)
  AND (%(provider)s::text IS NULL OR %(provider)s = (
      SELECT p.provider FROM payment p
      WHERE p.firm_id = i.firm_id AND p.invoice_id = i.id AND p.kind = 'AUTOPAY' AND p.state = 'FAILED'
      ORDER BY p.finish_time DESC, p.id DESC LIMIT 1))
GROUP BY currency_code ORDER BY currency_code
"""
_EXPIRING: Final = f"""
SELECT {columns(METHOD_COLUMNS, "m")}, coalesce(c.autopay_method_id = m.id, false) AS is_default, count(*) OVER () AS matches
FROM payment_method m JOIN client c ON c.firm_id = m.firm_id AND c.id = m.client_id
WHERE m.firm_id = %(firm_id)s AND m.state = 'ACTIVE' AND m.exp_year IS NOT NULL AND m.exp_month IS NOT NULL
  AND make_date(m.exp_year, m.exp_month, 1) + interval '1 month' <= %(until)s::date
  AND (%(provider)s::text IS NULL OR m.provider = %(provider)s)
ORDER BY m.exp_year, m.exp_month, m.id LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Reach:
    """What a report covers: firm time, half-open; None does not limit."""

    since: datetime
    until: datetime
    currency: str | None = None
    provider: str | None = None


async def payments(uow: UnitOfWork, reach: Reach, zone: str) -> list[Row]:
    """Finished payments: in all, per month in `zone`, per provider, and per slot and currency of automatic collection."""
    return await uow.fetch_all(_PAYMENTS, {**_values(uow, reach), "zone": zone})


async def codes(uow: UnitOfWork, reach: Reach) -> list[Row]:
    """Failed attempts per code and currency, with what was asked for."""
    return await uow.fetch_all(_CODES, _values(uow, reach))


async def at_risk(uow: UnitOfWork, reach: Reach) -> list[Row]:
    """What is owed now on invoices that wait for a retry, and on those whose retries are used up, per currency; of a provider: those whose
    last try failed there."""
    return await uow.fetch_all(_AT_RISK, _values(uow, reach))


async def expiring(uow: UnitOfWork, before: date, provider: str | None, limit: int) -> tuple[list[PaymentMethod], int]:
    """Usable cards whose last day is before `before`, those that expire first before the others, and how many there are."""
    values = {"firm_id": uow.firm_id, "until": before, "provider": provider, "limit": limit}
    rows = await uow.fetch_all(_EXPIRING, values)
    today = local_date(uow.now, uow.firm.settings.zone)
    found = [build(PaymentMethod, row, is_default=row["is_default"], seen_on=today) for row in rows]
    return found, rows[0]["matches"] if rows else 0


def _values(uow: UnitOfWork, reach: Reach) -> dict[str, Any]:
    return {
        "firm_id": uow.firm_id, "since": reach.since, "until": reach.until, "currency": reach.currency, "provider": reach.provider,
    }  # fmt: skip
