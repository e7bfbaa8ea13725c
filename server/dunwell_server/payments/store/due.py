"""What is due: invoices to collect, attempts to look after. Claims take rows in sets and never wait."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from dunwell_server.payments.model import AttemptState, Claim
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.leases import LEASE_SECONDS
from dunwell_server.platform.questions import Question, ask

_DUE_COLUMNS = """
i.id, i.client_id, i.currency_code, i.amount_due, i.state, i.autopay_enabled, i.autopay_method_id, i.collection_cycle AS cycle,
i.failure_count AS slot, i.autopay_next_charge_time AS due_time"""
_MORE = """
c.autopay_enabled AS client_enabled, c.autopay_method_id AS default_method_id,
coalesce((SELECT max(p.revision) + 1 FROM payment p WHERE p.firm_id = %(firm_id)s AND p.kind = 'AUTOPAY' AND p.invoice_id = d.id
          AND p.cycle = d.cycle AND p.slot = d.slot), 0) AS revision"""
_HELD = """
EXISTS (SELECT 1 FROM collection_hold h WHERE h.firm_id = %(firm_id)s AND h.invoice_id = {0}.id AND h.release_time IS NULL)"""
# The account of the method that would be charged, as `choosing.choose` takes it; one that waits for its client is passed over, which only
# leaves more invoices waiting.
_STOPPED = """
(SELECT m.account_id FROM payment_method m JOIN client k ON k.firm_id = m.firm_id AND k.id = m.client_id
 WHERE m.firm_id = %(firm_id)s AND m.client_id = i.client_id AND m.state = 'ACTIVE'
   AND (m.id = i.autopay_method_id OR m.id = k.autopay_method_id OR m.backup_priority > 0)
 ORDER BY (m.id = i.autopay_method_id) DESC NULLS LAST, (m.id = k.autopay_method_id) DESC NULLS LAST, m.backup_priority, m.id LIMIT 1)
= ANY({0})"""
_CLAIM = f"""
WITH d AS MATERIALIZED (
    SELECT {_DUE_COLUMNS} FROM invoice i
    WHERE i.firm_id = %(firm_id)s AND i.autopay_next_charge_time <= %(now)s AND (%(client_id)s::uuid IS NULL OR i.client_id = %(client_id)s)
      AND NOT {_HELD.format("i")} AND (%(stopped)s::uuid[] = '{{}}' OR NOT coalesce({_STOPPED.format("%(stopped)s")}, false))
    ORDER BY i.autopay_next_charge_time, i.id LIMIT %(limit)s FOR NO KEY UPDATE OF i SKIP LOCKED
)
SELECT d.*, false AS held, {_MORE} FROM d JOIN client c ON c.firm_id = %(firm_id)s AND c.id = d.client_id
"""
_PAGE = f"""
WITH d AS MATERIALIZED (
    SELECT {_DUE_COLUMNS} FROM invoice i
    WHERE i.firm_id = %(firm_id)s AND i.autopay_next_charge_time <= %(as_of)s AND (%(client_id)s::uuid IS NULL OR i.client_id = %(client_id)s)
      AND (%(after_time)s::timestamptz IS NULL OR (i.autopay_next_charge_time, i.id) > (%(after_time)s, %(after_id)s))
    ORDER BY i.autopay_next_charge_time, i.id LIMIT %(limit)s
)
SELECT d.*, {_HELD.format("d")} AS held, {_MORE} FROM d JOIN client c ON c.firm_id = %(firm_id)s AND c.id = d.client_id
ORDER BY d.due_time, d.id
"""
_COUNT = """
SELECT count(*) FROM invoice i
WHERE i.firm_id = %(firm_id)s AND i.autopay_next_charge_time <= %(as_of)s AND (%(client_id)s::uuid IS NULL OR i.client_id = %(client_id)s)
"""
_EARLIEST = "ORDER BY i.autopay_next_charge_time LIMIT 1"
_SCHEDULED = f"""
SELECT i.autopay_next_charge_time FROM invoice i
WHERE i.firm_id = %(firm_id)s AND i.autopay_next_charge_time IS NOT NULL AND NOT {_HELD.format("i")}"""
# Which method an invoice would be charged with is looked up only where an account is stopped.
_NEXT_COLLECT = f"""
SELECT CASE WHEN stopped = '{{}}' THEN ({_SCHEDULED} {_EARLIEST})
            ELSE ({_SCHEDULED} AND NOT coalesce({_STOPPED.format("stopped")}, false) {_EARLIEST}) END
FROM (SELECT ARRAY(SELECT b.account_id FROM provider_breaker b WHERE b.firm_id = %(firm_id)s) AS stopped) AS b
"""
_CHECKABLE = "('CREATED', 'NOT_SENT', 'UNKNOWN', 'PENDING', 'REQUIRES_ACTION')"
_CLAIM_ATTEMPTS = f"""
WITH c AS MATERIALIZED (
    SELECT a.id, a.state FROM attempt a
    WHERE a.firm_id = %(firm_id)s
      AND ((a.state IN ('CREATED', 'SENT') AND a.lease_until < clock_timestamp())
        OR (a.next_check_time <= %(now)s AND a.state IN {_CHECKABLE} AND (a.lease_until IS NULL OR a.lease_until < clock_timestamp())))
    ORDER BY coalesce(a.next_check_time, a.lease_until), a.id LIMIT %(limit)s FOR NO KEY UPDATE OF a SKIP LOCKED
)
UPDATE attempt a SET owner = %(owner)s, fence = a.fence + 1, lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s'
FROM c, payment p
WHERE a.firm_id = %(firm_id)s AND a.id = c.id AND p.firm_id = %(firm_id)s AND p.id = a.payment_id
RETURNING a.id AS attempt_id, a.payment_id, p.invoice_id, p.client_id, a.account_id, c.state, a.fence, a.owner
"""
_NEXT_ATTEMPTS = f"""
SELECT least(
    (SELECT min(a.next_check_time) FROM attempt a WHERE a.firm_id = %(firm_id)s AND a.next_check_time IS NOT NULL AND a.state IN {_CHECKABLE}
         AND a.lease_until IS NULL),
    (SELECT %(now)s + greatest(l.ends - clock_timestamp(), interval '0') FROM (
         SELECT min(a.lease_until) AS ends FROM attempt a WHERE a.firm_id = %(firm_id)s AND a.state IN ('CREATED', 'SENT')
     ) l WHERE l.ends IS NOT NULL),
    (SELECT %(now)s + greatest(l.ends - clock_timestamp(), interval '0') FROM (
         SELECT min(a.lease_until) AS ends FROM attempt a WHERE a.firm_id = %(firm_id)s AND a.next_check_time IS NOT NULL
     ) l WHERE l.ends IS NOT NULL))
"""
# By the last lease of each kind, which its index ends with: a firm's attempts are many, those at work few.
_IN_HAND = """
SELECT coalesce(greatest(
    (SELECT max(a.lease_until) FROM attempt a WHERE a.firm_id = %(firm_id)s AND a.state IN ('CREATED', 'SENT')),
    (SELECT max(a.lease_until) FROM attempt a WHERE a.firm_id = %(firm_id)s AND a.next_check_time IS NOT NULL)) > clock_timestamp(), false)
"""
_UNREPORTED = """
SELECT p.id, p.invoice_id, p.client_id, p.state, p.amount_minor, p.currency_code, p.failure_code, p.failure_message, a.state AS attempt_state
FROM payment p
LEFT JOIN LATERAL (SELECT t.state, t.next_check_time FROM attempt t WHERE t.firm_id = p.firm_id AND t.payment_id = p.id ORDER BY t.attempt_no DESC LIMIT 1) a ON true
WHERE p.firm_id = %(firm_id)s AND p.run_id = %(run_id)s
  AND NOT EXISTS (SELECT 1 FROM run_item r WHERE r.firm_id = p.firm_id AND r.run_id = p.run_id AND r.subject_id = p.invoice_id)
  AND (a.state IS NULL OR a.state NOT IN ('CREATED', 'SENT') OR (a.state = 'CREATED' AND a.next_check_time > %(now)s)) AND p.state <> 'CANCELLED'
ORDER BY p.create_time, p.id LIMIT %(limit)s
"""
_ABANDONED = """
SELECT p.id, p.invoice_id, p.client_id, p.amount_minor, p.currency_code, p.failure_message FROM payment p
WHERE p.firm_id = %(firm_id)s AND p.run_id = %(run_id)s AND p.state = 'CANCELLED'
  AND NOT EXISTS (SELECT 1 FROM run_item r WHERE r.firm_id = p.firm_id AND r.run_id = p.run_id AND r.subject_id = p.invoice_id)
  AND NOT EXISTS (SELECT 1 FROM payment o WHERE o.firm_id = p.firm_id AND o.run_id = p.run_id AND o.invoice_id = p.invoice_id AND o.id <> p.id
                  AND o.state <> 'CANCELLED')
ORDER BY p.create_time, p.id LIMIT %(limit)s
"""
_OPEN_OF_RUN = """
SELECT count(*) FROM payment p JOIN attempt a ON a.firm_id = p.firm_id AND a.payment_id = p.id
WHERE p.firm_id = %(firm_id)s AND p.run_id = %(run_id)s AND a.state IN ('CREATED', 'SENT')
  AND (a.next_check_time IS NULL OR a.next_check_time <= %(now)s)
"""
_REPORTED = "SELECT subject_id FROM run_item WHERE firm_id = %(firm_id)s AND run_id = %(run_id)s AND subject_id = ANY(%(subjects)s)"
_LOCK_RUN = "SELECT 1 FROM run WHERE firm_id = %(firm_id)s AND id = %(run_id)s FOR NO KEY UPDATE"


@dataclass(frozen=True, slots=True)
class DueInvoice:
    """An invoice whose charge has come. `slot` is the number of slots that have failed: the one now due."""

    id: UUID
    client_id: UUID
    currency_code: str
    amount_due: int
    state: str
    autopay_enabled: bool
    autopay_method_id: UUID | None
    cycle: int
    slot: int
    due_time: datetime
    held: bool
    client_enabled: bool
    default_method_id: UUID | None
    revision: int


async def claim_due(
    uow: UnitOfWork, limit: int, client_id: UUID | None, *, stopped: Collection[UUID] = ()
) -> list[DueInvoice]:
    """Lock up to `limit` due invoices that are neither held nor locked, nor to be charged at a `stopped` account; the earliest first."""
    values = {"firm_id": uow.firm_id, "now": uow.now, "limit": limit, "client_id": client_id, "stopped": list(stopped)}
    rows = await uow.fetch_all(_CLAIM, values)
    return [DueInvoice(**row) for row in rows]


async def page_due(
    uow: UnitOfWork, as_of: datetime, after: tuple[datetime, UUID] | None, limit: int, client_id: UUID | None
) -> list[DueInvoice]:
    """Due invoices after the cursor, without locking anything."""
    rows = await uow.fetch_all(_PAGE, {
        "firm_id": uow.firm_id, "as_of": as_of, "after_time": after[0] if after else None, "after_id": after[1] if after else None,
        "limit": limit, "client_id": client_id,
    })  # fmt: skip
    return [DueInvoice(**row) for row in rows]


async def count_due(uow: UnitOfWork, as_of: datetime, client_id: UUID | None) -> int:
    """How many invoices are due."""
    return int(await uow.fetch_value(_COUNT, {"firm_id": uow.firm_id, "as_of": as_of, "client_id": client_id}))


def next_collect(uow: UnitOfWork) -> Question[datetime | None]:
    """When the next invoice is to be charged (firm time), at no account whose breaker is open; None: nothing is scheduled."""
    return ask(uow, _NEXT_COLLECT)


async def claim_attempts(uow: UnitOfWork, owner: UUID, limit: int) -> list[Claim]:
    """Take attempts whose holder is gone or whose next check has come, under a higher fence. None while the firm is in recovery."""
    if uow.recovering:
        return []
    rows = await uow.fetch_all(
        _CLAIM_ATTEMPTS, {"firm_id": uow.firm_id, "now": uow.now, "owner": owner, "limit": limit}
    )
    return [Claim(**{**row, "state": AttemptState(row["state"])}) for row in rows]


def next_attempts(uow: UnitOfWork) -> Question[datetime | None]:
    """When an attempt next needs somebody (firm time); a lease that runs counts by what is left of it."""
    return ask(uow, _NEXT_ATTEMPTS, {"now": uow.now})


def in_hand(uow: UnitOfWork) -> Question[bool]:
    """Whether somebody is working on an attempt at this moment."""
    return ask(uow, _IN_HAND)


async def lock_run(uow: UnitOfWork, run_id: UUID) -> None:
    """One reporter of a run at a time."""
    await uow.execute(_LOCK_RUN, {"firm_id": uow.firm_id, "run_id": run_id})


async def reported(uow: UnitOfWork, run_id: UUID, subjects: Sequence[UUID]) -> set[UUID]:
    """Which of these subjects a run has told about already."""
    rows = await uow.fetch_all(_REPORTED, {"firm_id": uow.firm_id, "run_id": run_id, "subjects": list(subjects)})
    return {row["subject_id"] for row in rows}


async def unreported(uow: UnitOfWork, run_id: UUID, limit: int) -> Sequence[Row]:
    """Payments of a run that have come to something and are not among its items yet."""
    return await uow.fetch_all(_UNREPORTED, {"firm_id": uow.firm_id, "now": uow.now, "run_id": run_id, "limit": limit})


async def abandoned(uow: UnitOfWork, run_id: UUID, limit: int) -> Sequence[Row]:
    """Payments of a run that were given up before sending, whose invoice came to nothing else in it."""
    return await uow.fetch_all(_ABANDONED, {"firm_id": uow.firm_id, "run_id": run_id, "limit": limit})


async def open_of_run(uow: UnitOfWork, run_id: UUID) -> int:
    """How many attempts of a run are about to be sent or on their way."""
    return int(await uow.fetch_value(_OPEN_OF_RUN, {"firm_id": uow.firm_id, "now": uow.now, "run_id": run_id}))
