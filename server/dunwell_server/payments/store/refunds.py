"""Refunds: asked for, claimed and sent under a fence, settled together with their payment, listed with what they were taken from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.billing.service import credit_notes
from dunwell_server.payments.model import Payment
from dunwell_server.payments.refunds import Destination, Left, Refund, RefundClaim, RefundState, SendState
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.payments.store.rows import PAYMENT_COLUMNS, build, columns
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.leases import LEASE_SECONDS
from dunwell_server.platform.questions import Question, ask, known

REFUND_COLUMNS: Final = tuple(field.name for field in fields(Refund))

_WHERE_IS = """
SELECT p.client_id, ARRAY(SELECT l.invoice_id FROM payment_allocation l WHERE l.firm_id = p.firm_id AND l.payment_id = p.id) AS invoices
FROM payment p WHERE p.firm_id = %(firm_id)s AND p.id = %(payment_id)s
"""
_GET = f"SELECT {columns(REFUND_COLUMNS, 'r')} FROM refund r WHERE r.firm_id = %(firm_id)s AND r.id = %(id)s"
_LOCK = _GET + " FOR NO KEY UPDATE"
# What the provider calls the payment: the success among its tries, the try that landed late, or what it was adopted under.
_LOAD_PAYMENT = f"""
SELECT {columns(PAYMENT_COLUMNS, "p", "p_")},
       coalesce(p.provider_reference,
                (SELECT a.provider_reference FROM attempt a WHERE a.firm_id = p.firm_id AND a.id = p.late_attempt_id),
                (SELECT a.provider_reference FROM attempt a WHERE a.firm_id = p.firm_id AND a.payment_id = p.id AND a.state = 'SUCCEEDED'))
           AS reference,
       coalesce((SELECT e.remaining_minor FROM credit_entry e WHERE e.firm_id = p.firm_id AND e.source_type = 'payment' AND e.source_id = p.id), 0)
           AS credit
FROM payment p WHERE p.firm_id = %(firm_id)s AND p.id = %(payment_id)s FOR NO KEY UPDATE OF p
"""
_SETTLED = """
SELECT l.invoice_id, least(l.amount_minor - coalesce((
           SELECT sum(x.amount_minor) FROM refund_allocation x JOIN refund r ON r.firm_id = x.firm_id AND r.id = x.refund_id
           WHERE x.firm_id = l.firm_id AND x.invoice_id = l.invoice_id AND r.payment_id = l.payment_id), 0), i.amount_paid)::bigint AS amount
FROM payment_allocation l JOIN invoice i ON i.firm_id = l.firm_id AND i.id = l.invoice_id
WHERE l.firm_id = %(firm_id)s AND l.payment_id = %(payment_id)s ORDER BY l.create_time DESC, l.invoice_id DESC
"""
_ACCOUNT = """
SELECT id, firm_id, provider, mode, credentials, key_id, version, state FROM control.provider_account
WHERE id = %(account_id)s AND (firm_id = %(firm_id)s OR firm_id IS NULL)
"""
_INSERT = f"""
INSERT INTO refund (firm_id, id, payment_id, client_id, state, send_state, currency_code, amount_minor, destination, reason, note, reopen_invoice,
                    provider, account_id, idempotency_key, payment_reference, approval_id, actor, owner, fence, lease_until, firm_time, update_time)
VALUES (%(firm_id)s, %(id)s, %(payment_id)s, %(client_id)s, %(state)s, %(send_state)s, %(currency)s, %(amount)s, %(destination)s, %(reason)s,
        %(note)s, %(reopen)s, %(provider)s, %(account_id)s, %(key)s, %(payment_reference)s, %(approval_id)s, %(actor)s, %(owner)s::uuid, 1,
        CASE WHEN %(owner)s::uuid IS NULL THEN NULL ELSE clock_timestamp() + interval '{LEASE_SECONDS} s' END, %(now)s, %(now)s)
"""
_RESERVE = """
UPDATE payment SET refund_pending_minor = refund_pending_minor + %(amount)s, version = version + 1, update_time = %(now)s
WHERE firm_id = %(firm_id)s AND id = %(payment_id)s
"""
_SETTLE = """
WITH r AS (
    UPDATE refund SET state = %(state)s, send_state = %(send_state)s, provider_reference = coalesce(provider_reference, %(reference)s),
        failure_code = %(failure_code)s, failed_after_success = failed_after_success OR %(came_back)s, from_credit_minor = %(from_credit)s,
        from_payable_minor = %(from_payable)s, uncovered_minor = %(uncovered)s, evidence = coalesce(%(evidence)s, evidence), check_count = check_count + %(checked)s,
        next_check_time = %(next_check_time)s, needs_person = %(needs_person)s, unknown_time = coalesce(unknown_time, %(unknown_time)s),
        succeed_time = coalesce(succeed_time, %(succeed_time)s), finish_time = coalesce(%(finish_time)s, finish_time),
        owner = NULL, lease_until = NULL, version = version + 1, update_time = %(now)s
    WHERE firm_id = %(firm_id)s AND id = %(id)s
), p AS (
    UPDATE payment SET refunded_minor = refunded_minor + %(refunded)s, refund_pending_minor = refund_pending_minor - %(released)s,
        version = version + 1, update_time = %(now)s
    WHERE firm_id = %(firm_id)s AND id = %(payment_id)s AND (%(refunded)s > 0 OR %(released)s > 0)
)
SELECT 1
"""
_ALLOCATE = """
INSERT INTO refund_allocation (firm_id, refund_id, invoice_id, currency_code, amount_minor, credit_note_id)
SELECT %(firm_id)s, %(id)s, invoice_id, %(currency)s, amount_minor, note_id
FROM unnest(%(invoices)s::uuid[], %(amounts)s::bigint[], %(notes)s::uuid[]) AS l (invoice_id, amount_minor, note_id)
"""
_SEND = f"""
UPDATE refund SET send_state = 'SENT', send_count = send_count + 1, first_send_time = coalesce(first_send_time, %(now)s), send_time = %(now)s,
    next_check_time = NULL, lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s', version = version + 1, update_time = %(now)s
WHERE firm_id = %(firm_id)s AND id = %(id)s
"""
_RESENT = f"""
UPDATE refund SET send_count = send_count + 1, send_time = %(now)s, lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s',
    version = version + 1, update_time = %(now)s
WHERE firm_id = %(firm_id)s AND id = %(id)s AND owner = %(owner)s AND fence = %(fence)s AND state = 'PROCESSING' AND send_state = 'UNKNOWN'
"""
_POSTPONE = """
UPDATE refund SET state = 'PROCESSING', next_check_time = %(now)s, owner = NULL, lease_until = NULL, version = version + 1, update_time = %(now)s
WHERE firm_id = %(firm_id)s AND id = %(id)s
"""
_REJECT = """
WITH p AS (
    UPDATE payment SET refund_pending_minor = refund_pending_minor - %(amount)s, version = version + 1, update_time = %(now)s
    WHERE firm_id = %(firm_id)s AND id = %(payment_id)s
)
UPDATE refund SET state = 'REJECTED', finish_time = %(now)s, version = version + 1, update_time = %(now)s
WHERE firm_id = %(firm_id)s AND id = %(id)s
"""
_RENEW = f"""
UPDATE refund SET lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s'
WHERE firm_id = %(firm_id)s AND id = ANY(%(ids)s) AND owner = %(owner)s AND lease_until IS NOT NULL
"""
_CHECKABLE = "((r.state = 'PROCESSING' AND r.send_state IN ('CREATED', 'NOT_SENT', 'UNKNOWN')) OR r.state = 'PENDING')"
_HELD = "(r.state = 'PROCESSING' AND r.send_state IN ('CREATED', 'SENT'))"
_CLAIM = f"""
WITH c AS MATERIALIZED (
    SELECT r.id FROM refund r
    WHERE r.firm_id = %(firm_id)s
      AND (({_HELD} AND r.lease_until < clock_timestamp())
        OR (r.next_check_time <= %(now)s AND {_CHECKABLE} AND (r.lease_until IS NULL OR r.lease_until < clock_timestamp())))
    ORDER BY coalesce(r.next_check_time, r.lease_until), r.id LIMIT %(limit)s FOR NO KEY UPDATE OF r SKIP LOCKED
)
UPDATE refund r SET owner = %(owner)s, fence = r.fence + 1, lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s'
FROM c WHERE r.firm_id = %(firm_id)s AND r.id = c.id
RETURNING r.id AS refund_id, r.payment_id, r.client_id, r.account_id, r.state, r.send_state, r.fence, r.owner
"""
_NEXT = f"""
SELECT least(
    (SELECT min(r.next_check_time) FROM refund r WHERE r.firm_id = %(firm_id)s AND r.next_check_time IS NOT NULL AND {_CHECKABLE}
         AND r.lease_until IS NULL),
    (SELECT %(now)s + greatest(l.ends - clock_timestamp(), interval '0') FROM (
         SELECT min(r.lease_until) AS ends FROM refund r WHERE r.firm_id = %(firm_id)s AND {_HELD}
     ) l WHERE l.ends IS NOT NULL),
    (SELECT %(now)s + greatest(l.ends - clock_timestamp(), interval '0') FROM (
         SELECT min(r.lease_until) AS ends FROM refund r WHERE r.firm_id = %(firm_id)s AND r.next_check_time IS NOT NULL
     ) l WHERE l.ends IS NOT NULL))
"""
# By the last lease of each kind, which its index ends with: a firm's refunds are many, those at work few.
_IN_HAND = f"""
SELECT coalesce(greatest(
    (SELECT max(r.lease_until) FROM refund r WHERE r.firm_id = %(firm_id)s AND {_HELD}),
    (SELECT max(r.lease_until) FROM refund r WHERE r.firm_id = %(firm_id)s AND r.next_check_time IS NOT NULL)) > clock_timestamp(), false)
"""
_BY_REFERENCE = """
SELECT id FROM refund WHERE firm_id = %(firm_id)s AND account_id = %(account_id)s AND provider_reference = %(reference)s
"""
# Newest first: what was asked for last gives way first.
_UNSENT = f"""
SELECT {columns(REFUND_COLUMNS, "r")} FROM refund r
WHERE r.firm_id = %(firm_id)s AND r.payment_id = %(payment_id)s
  AND (r.state = 'AWAITING_APPROVAL' OR (r.state = 'PROCESSING' AND r.send_state IN ('CREATED', 'NOT_SENT')))
ORDER BY r.create_time DESC, r.id DESC FOR NO KEY UPDATE
"""
_PAYMENT_BY_REFERENCE = """
SELECT p.id FROM payment p WHERE p.firm_id = %(firm_id)s AND p.account_id = %(account_id)s AND p.provider_reference = %(reference)s AND p.state = 'SUCCEEDED'
UNION ALL
SELECT coalesce(l.id, p.id) FROM attempt a JOIN payment p ON p.firm_id = a.firm_id AND p.id = a.payment_id
LEFT JOIN payment l ON l.firm_id = a.firm_id AND l.late_attempt_id = a.id
WHERE a.firm_id = %(firm_id)s AND a.account_id = %(account_id)s AND a.provider_reference = %(reference)s
  AND (l.id IS NOT NULL OR (a.state = 'SUCCEEDED' AND p.state = 'SUCCEEDED'))
LIMIT 1
"""
_ALLOCATIONS = """
coalesce((SELECT json_agg(json_build_array(x.invoice_id, x.amount_minor, n.id, n.number) ORDER BY x.create_time, x.invoice_id)
          FROM refund_allocation x LEFT JOIN credit_note n ON n.firm_id = x.firm_id AND n.id = x.credit_note_id
          WHERE x.firm_id = r.firm_id AND x.refund_id = r.id), '[]')"""
_VIEW = (
    f"SELECT {columns(REFUND_COLUMNS, 'r')}, {_ALLOCATIONS} AS allocations FROM refund r WHERE r.firm_id = %(firm_id)s"
)
_VIEW_ONE = _VIEW + " AND r.id = %(id)s"
# Before it has succeeded, a refund concerns every invoice that its payment has settled.
_PAGE = (
    _VIEW
    + """
  AND (%(payment_id)s::uuid IS NULL OR r.payment_id = %(payment_id)s) AND (%(client_id)s::uuid IS NULL OR r.client_id = %(client_id)s)
  AND (%(invoice_id)s::uuid IS NULL
       OR EXISTS (SELECT 1 FROM refund_allocation x WHERE x.firm_id = r.firm_id AND x.refund_id = r.id AND x.invoice_id = %(invoice_id)s)
       OR (r.succeed_time IS NULL AND EXISTS (
           SELECT 1 FROM payment_allocation l WHERE l.firm_id = r.firm_id AND l.payment_id = r.payment_id AND l.invoice_id = %(invoice_id)s)))
  AND (%(states)s::text[] IS NULL OR r.state = ANY(%(states)s))
  AND (%(from)s::timestamptz IS NULL OR r.firm_time >= %(from)s) AND (%(until)s::timestamptz IS NULL OR r.firm_time < %(until)s)
  AND (%(last_time)s::timestamptz IS NULL OR (r.create_time, r.id) < (%(last_time)s, %(last_id)s))
ORDER BY r.create_time DESC, r.id DESC LIMIT %(limit)s
"""
)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Whose money a payment was, and which invoices it settled: what is locked before it."""

    client_id: UUID
    invoices: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class LoadedPayment:
    """A locked payment with what is left of it, and what the provider calls it."""

    payment: Payment
    reference: str | None
    left: Left


@dataclass(frozen=True, slots=True)
class RefundAllocation:
    """What of a refund was taken from one invoice, and the credit note for it."""

    invoice_id: UUID
    amount_minor: int
    credit_note_id: UUID | None
    credit_note_number: str | None


@dataclass(frozen=True, slots=True)
class RefundView:
    """A refund with its allocations."""

    refund: Refund
    allocations: tuple[RefundAllocation, ...]


@dataclass(frozen=True, slots=True)
class RefundFilter:
    """What a list of refunds is limited to; None does not limit. Times are firm time, half-open."""

    payment_id: UUID | None = None
    client_id: UUID | None = None
    invoice_id: UUID | None = None
    states: Sequence[str] | None = None
    from_time: datetime | None = None
    until_time: datetime | None = None


async def whereabouts(uow: UnitOfWork, payment_id: UUID) -> Whereabouts | None:
    """What has to be locked before the payment; nothing is locked."""
    row = await uow.fetch_one(_WHERE_IS, {"firm_id": uow.firm_id, "payment_id": payment_id})
    return Whereabouts(row["client_id"], tuple(row["invoices"])) if row else None


async def get(uow: UnitOfWork, refund_id: UUID, *, lock: bool = False) -> Refund | None:
    """One refund of the firm; its payment must be locked before it is."""
    row = await uow.fetch_one(_LOCK if lock else _GET, {"firm_id": uow.firm_id, "id": refund_id})
    return _refund(row) if row else None


async def unsent(uow: UnitOfWork, payment_id: UUID) -> list[Refund]:
    """Refunds of a (locked) payment that surely have not happened: they wait for a person, or to be sent. Locked, the newest first."""
    rows = await uow.fetch_all(_UNSENT, {"firm_id": uow.firm_id, "payment_id": payment_id})
    return [_refund(row) for row in rows]


async def load_payment(uow: UnitOfWork, payment_id: UUID) -> LoadedPayment:
    """Lock a payment and read what is left of it; client and invoices must be locked before."""
    values = {"firm_id": uow.firm_id, "payment_id": payment_id}
    row = await uow.fetch_one(_LOAD_PAYMENT, values)
    if row is None:
        raise LookupError(f"payment {payment_id} is gone")
    payment = build(Payment, row, "p_")
    settled = [(each["invoice_id"], each["amount"]) for each in await uow.fetch_all(_SETTLED, values)]
    promised = await credit_notes.promised(uow, [invoice_id for invoice_id, _ in settled])
    left = Left(
        captured=payment.captured_minor, returned=payment.refunded_minor + payment.charged_back_minor,
        reserved=payment.refund_pending_minor, credit=row["credit"],
        settled=settled, promised=[(each.note_id, each.amount_minor) for each in promised],
    )  # fmt: skip
    return LoadedPayment(payment, row["reference"], left)


async def account(uow: UnitOfWork, account_id: UUID) -> ProviderAccount | None:
    """An account of the firm's or the platform's, also a disabled one: what is open at it is still looked after."""
    row = await uow.fetch_one(_ACCOUNT, {"firm_id": uow.firm_id, "account_id": account_id})
    return ProviderAccount(**{**row, "credentials": bytes(row["credentials"])}) if row else None


async def insert(uow: UnitOfWork, values: Mapping[str, Any], *, reserve: bool) -> None:
    """Write a refund, claimed by `owner` at fence 1 where there is one, and keep its amount back of the (locked) payment if `reserve`."""
    row = {
        "send_state": SendState.CREATED.value, "reason": None, "note": None, "reopen": False, "account_id": None, "payment_reference": None,
        "approval_id": None, "owner": None, **values, "firm_id": uow.firm_id, "now": uow.now,
    }  # fmt: skip
    await uow.execute(_INSERT, row)
    if reserve:
        await uow.execute(_RESERVE, row)


_NOTHING: Final[dict[str, Any]] = {
    "reference": None, "came_back": False, "evidence": None, "checked": 0, "next_check_time": None, "unknown_time": None, "succeed_time": None,
    "finish_time": None, "refunded": 0, "released": 0,
}  # fmt: skip


async def settle(uow: UnitOfWork, refund: Refund, **changes: Any) -> None:
    """Write what evidence does to a refund and its payment, in one statement; the claim ends. What is not named stays, or is cleared."""
    values: dict[str, Any] = {
        **_NOTHING, "firm_id": uow.firm_id, "now": uow.now, "id": refund.id, "payment_id": refund.payment_id, "state": refund.state.value,
        "send_state": refund.send_state.value, "failure_code": refund.failure_code, "from_credit": refund.from_credit_minor, "from_payable": refund.from_payable_minor,
        "uncovered": refund.uncovered_minor, "needs_person": refund.needs_person,
    }  # fmt: skip
    unexpected = changes.keys() - values.keys()
    if unexpected:
        raise TypeError(f"settle() knows nothing of {sorted(unexpected)}")
    values.update(changes)
    if values["evidence"] is not None:
        values["evidence"] = Jsonb(values["evidence"])
    await uow.execute(_SETTLE, values)


async def allocate(uow: UnitOfWork, refund: Refund, parts: Mapping[UUID, int], notes: Mapping[UUID, UUID]) -> None:
    """Write what was taken from each invoice, with the credit note issued for it."""
    if parts:
        await uow.execute(_ALLOCATE, {
            "firm_id": uow.firm_id, "id": refund.id, "currency": refund.currency_code, "invoices": list(parts),
            "amounts": list(parts.values()), "notes": [notes.get(invoice_id) for invoice_id in parts],
        })  # fmt: skip


async def mark_sent(uow: UnitOfWork, refund_id: UUID) -> None:
    """Record the intent to send, before the call. The refund is locked and its fence was checked."""
    await uow.execute(_SEND, {"firm_id": uow.firm_id, "id": refund_id, "now": uow.now})


async def mark_resent(uow: UnitOfWork, claim: RefundClaim) -> bool:
    """Record that the same key goes out again; False where somebody else has the refund now."""
    values = {
        "firm_id": uow.firm_id, "id": claim.refund_id, "now": uow.now, "owner": claim.owner, "fence": claim.fence,
    }  # fmt: skip
    return await uow.execute(_RESENT, values) == 1


async def release(uow: UnitOfWork, refund_id: UUID) -> None:
    """Leave an unsent refund (also one that was just approved) to whoever comes next."""
    await uow.execute(_POSTPONE, {"firm_id": uow.firm_id, "id": refund_id, "now": uow.now})


async def reject(uow: UnitOfWork, refund: Refund) -> None:
    """End a refund that was not approved; what it reserved is free again."""
    await uow.execute(_REJECT, {
        "firm_id": uow.firm_id, "id": refund.id, "payment_id": refund.payment_id, "amount": refund.amount_minor, "now": uow.now,
    })  # fmt: skip


async def renew(uow: UnitOfWork, refunds: Sequence[UUID], owner: UUID) -> None:
    """Lengthen the leases of the refunds that are still `owner`'s."""
    await uow.execute(_RENEW, {"firm_id": uow.firm_id, "ids": list(refunds), "owner": owner})


async def claim(uow: UnitOfWork, owner: UUID, limit: int) -> list[RefundClaim]:
    """Take refunds whose holder is gone or whose next check has come, under a higher fence; none while the firm recovers."""
    if uow.recovering:
        return []
    rows = await uow.fetch_all(_CLAIM, {"firm_id": uow.firm_id, "now": uow.now, "owner": owner, "limit": limit})
    return [
        RefundClaim(**{**row, "state": RefundState(row["state"]), "send_state": SendState(row["send_state"])})
        for row in rows
    ]


def next_due(uow: UnitOfWork) -> Question[datetime | None]:
    """When a refund next needs somebody (firm time); a lease that runs counts by what is left of it. None while the firm is in recovery."""
    return known(uow, None) if uow.recovering else ask(uow, _NEXT, {"now": uow.now})


def in_hand(uow: UnitOfWork) -> Question[bool]:
    """Whether somebody is working on a refund at this moment."""
    return ask(uow, _IN_HAND)


async def by_reference(uow: UnitOfWork, account_id: UUID, reference: str) -> UUID | None:
    """The refund that the provider knows by this id."""
    values = {"firm_id": uow.firm_id, "account_id": account_id, "reference": reference}
    found: UUID | None = await uow.fetch_value(_BY_REFERENCE, values)
    return found


async def payment_by_reference(uow: UnitOfWork, account_id: UUID, reference: str) -> UUID | None:
    """The payment whose money the provider knows by this id, once it is in the book."""
    values = {"firm_id": uow.firm_id, "account_id": account_id, "reference": reference}
    found: UUID | None = await uow.fetch_value(_PAYMENT_BY_REFERENCE, values)
    return found


async def view(uow: UnitOfWork, refund_id: UUID) -> RefundView | None:
    """One refund with its allocations."""
    row = await uow.fetch_one(_VIEW_ONE, {"firm_id": uow.firm_id, "id": refund_id})
    return _view(row) if row else None


async def page(
    uow: UnitOfWork, wanted: RefundFilter, *, after: tuple[datetime, UUID] | None, limit: int
) -> list[RefundView]:
    """A page of refunds with their allocations, newest first, in one query."""
    rows = await uow.fetch_all(_PAGE, {
        "firm_id": uow.firm_id, "payment_id": wanted.payment_id, "client_id": wanted.client_id, "invoice_id": wanted.invoice_id,
        "states": [str(state) for state in wanted.states] if wanted.states else None, "from": wanted.from_time, "until": wanted.until_time,
        "last_time": after[0] if after else None, "last_id": after[1] if after else None, "limit": limit,
    })  # fmt: skip
    return [_view(row) for row in rows]


def _refund(row: Row) -> Refund:
    values = {name: row[name] for name in REFUND_COLUMNS}
    values["state"], values["send_state"] = RefundState(row["state"]), SendState(row["send_state"])
    values["destination"] = Destination(row["destination"])
    return Refund(**values)


def _view(row: Row) -> RefundView:
    allocations = tuple(
        RefundAllocation(UUID(invoice_id), amount, UUID(note_id) if note_id else None, number)
        for invoice_id, amount, note_id, number in row["allocations"]
    )
    return RefundView(_refund(row), allocations)
