"""Due work: which firm has something to do, of which kind, and when.

Transactions append to the insert-only `control.wake`; a worker folds wakes into `control.due_work`, picks firms from there, and a sweep
derives every firm's due times anew each minute, so that a lost wake-up costs a minute and never the work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork


class WorkKind(StrEnum):
    """Kinds of due work. The job workers have one handler for each."""

    RUN = "run"
    """A queued or abandoned run of the firm."""
    PACKAGES = "packages"
    """The daily package run."""
    OVERDUE = "overdue"
    """The daily overdue marking."""
    RENEWALS = "renewals"
    """Engagements that are renewed by themselves."""
    RECOGNITION = "recognition"
    """The daily recognition of deferred revenue."""
    CHARGES = "charges"
    """The daily collection run."""
    COLLECT = "collect"
    """Invoices whose next charge time has come, continuously."""
    ATTEMPTS = "attempts"
    """Attempts whose claim expired, or whose next check has come: the UNKNOWN ladder, pending polls."""
    REFUNDS = "refunds"
    """Refunds to be sent, whose claim expired, or whose next check has come."""
    PAGES = "pages"
    """Checkout sessions and set-up intents that are being made, or whose next check has come."""
    INBOX = "inbox"
    """Provider events to be applied."""
    METHODS = "methods"
    """The daily look at cards that are about to expire."""
    RECONCILE = "reconcile"
    """The daily comparison of the book with the providers'."""
    GAPS = "gaps"
    """The comparison of the provider's list of events with the inbox."""


MACHINE_TIME_KINDS = frozenset({WorkKind.RUN, WorkKind.INBOX, WorkKind.GAPS})
"""Kinds that follow machine time: done for every firm. The others follow firm time: for a firm on a test clock only AdvanceTestClock does them."""


class WorkHandler(Protocol):
    """Does one kind of due work for one firm. Safe to be killed, repeated, and run by several workers at once."""

    kind: WorkKind

    def next_due(self, uow: UnitOfWork) -> Awaitable[datetime | None]:
        """When the firm next has this work, in firm time (machine time for MACHINE_TIME_KINDS); None where it has none.

        Best a `Question`: a test clock asks all handlers at every instant, and those in one statement.
        """
        ...

    async def work(self, database: Database, context: CallContext) -> None:
        """Do what is due now. May leave a rest: `next_due` then says so."""
        ...


async def wake(uow: UnitOfWork, kind: WorkKind, due: datetime | None = None) -> None:
    """Have the firm looked at for this kind of work at `due` (firm time; None: now), once this transaction commits."""
    await uow.execute(
        "INSERT INTO control.wake (firm_id, kind, due) VALUES (%(firm_id)s, %(kind)s, coalesce(%(due)s, clock_timestamp()))",
        {"firm_id": uow.firm_id, "kind": kind.value, "due": due},
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """One kind of work of one firm, taken by this worker until `lease`; the lease's instant is the claim's token."""

    firm_id: UUID
    kind: WorkKind
    lease: datetime


_FOLD = """
WITH folded AS (
    DELETE FROM control.wake WHERE id IN (SELECT id FROM control.wake ORDER BY id LIMIT 2000 FOR UPDATE SKIP LOCKED) RETURNING firm_id, kind, due
)
INSERT INTO control.due_work AS d (firm_id, kind, next_due)
SELECT firm_id, kind, min(due) FROM folded GROUP BY firm_id, kind ORDER BY firm_id, kind
ON CONFLICT (firm_id, kind) DO UPDATE SET next_due = least(d.next_due, excluded.next_due)
"""
_CLAIM = """
WITH c AS MATERIALIZED (
    SELECT d.firm_id, d.kind FROM control.due_work d LEFT JOIN control.test_clock t ON t.firm_id = d.firm_id
    WHERE d.next_due <= clock_timestamp() AND (t.firm_id IS NULL OR d.kind = ANY(%(machine_kinds)s))
      AND (d.firm_id, d.kind) NOT IN (SELECT * FROM unnest(%(busy_firms)s::uuid[], %(busy_kinds)s::text[]))
    ORDER BY d.next_due LIMIT %(limit)s FOR UPDATE OF d SKIP LOCKED
)
UPDATE control.due_work d SET next_due = clock_timestamp() + make_interval(secs => %(lease)s)
FROM c WHERE d.firm_id = c.firm_id AND d.kind = c.kind RETURNING d.firm_id, d.kind, d.next_due
"""
_SETTLE = """
UPDATE control.due_work SET next_due = %(next_due)s WHERE firm_id = %(firm_id)s AND kind = %(kind)s AND next_due = %(lease)s
"""
_FORGET = "DELETE FROM control.due_work WHERE firm_id = %(firm_id)s AND kind = %(kind)s AND next_due = %(lease)s"
_SWEEP = """
INSERT INTO control.due_work AS d (firm_id, kind, next_due)
SELECT f.id, k.kind, clock_timestamp() FROM control.firm f CROSS JOIN unnest(%(kinds)s::text[]) AS k (kind) WHERE f.state = 'ACTIVE'
ORDER BY 1, 2 ON CONFLICT (firm_id, kind) DO UPDATE SET next_due = least(d.next_due, excluded.next_due)
"""


async def fold_wakes(uow: UnitOfWork) -> None:
    """Turn wakes into due work, in one transaction: a wake is gone only when its due time is kept."""
    await uow.execute(_FOLD)


async def claim(
    uow: UnitOfWork, *, limit: int, busy: Sequence[tuple[UUID, WorkKind]], lease_seconds: float
) -> list[Claim]:
    """Take up to `limit` pieces of due work, the longest due first, leaving out what this worker does already.

    The lease is short on purpose: work is safe to share, and a dead worker's comes back when the lease ends.
    """
    rows = await uow.fetch_all(
        _CLAIM,
        {
            "machine_kinds": sorted(MACHINE_TIME_KINDS), "busy_firms": [firm for firm, _ in busy], "busy_kinds": [kind.value for _, kind in busy],
            "limit": limit, "lease": lease_seconds,
        },
    )  # fmt: skip
    return [Claim(row["firm_id"], WorkKind(row["kind"]), row["next_due"]) for row in rows]


async def settle(uow: UnitOfWork, done: Claim, next_due: datetime | None) -> None:
    """Note when the work is next due, unless a wake or another worker touched the row since the claim: then it is looked at again anyway."""
    values = {"firm_id": done.firm_id, "kind": done.kind.value, "lease": done.lease, "next_due": next_due}
    await uow.execute(_FORGET if next_due is None else _SETTLE, values)


async def sweep(uow: UnitOfWork, kinds: Sequence[WorkKind]) -> None:
    """Have every active firm looked at for `kinds`: whatever a lost wake-up hid is found."""
    await uow.execute(_SWEEP, {"kinds": [kind.value for kind in kinds]})
