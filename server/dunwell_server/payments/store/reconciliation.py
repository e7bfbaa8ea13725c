"""Reconciliation's SQL: accounts, matching a page, our successes of a time, rows that a restore has lost, the run's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.payments.matching import Ours
from dunwell_server.payments.model import AttemptState
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.leases import LEASE_SECONDS
from dunwell_server.platform.questions import Question, ask

# A firm's own accounts, in any state, and those of the platform that it has used; in recovery also those it may have used.
_ACCOUNTS: Final = """
SELECT pa.id, pa.firm_id, pa.provider, pa.mode, pa.credentials, pa.key_id, pa.version FROM control.provider_account pa
WHERE (pa.firm_id = %(firm_id)s OR pa.firm_id IS NULL) AND pa.mode = %(mode)s AND pa.provider <> 'manual'
  AND (%(provider)s::text IS NULL OR pa.provider = %(provider)s)
  AND ((pa.state = 'ACTIVE' AND (pa.firm_id IS NOT NULL OR %(all)s))
       OR EXISTS (SELECT 1 FROM attempt a WHERE a.firm_id = %(firm_id)s AND a.account_id = pa.id)
       OR EXISTS (SELECT 1 FROM provider_customer c WHERE c.firm_id = %(firm_id)s AND c.account_id = pa.id))
ORDER BY pa.provider, pa.id
"""
_ACCOUNT: Final = """
SELECT id, firm_id, provider, mode, credentials, key_id, version FROM control.provider_account
WHERE id = %(id)s AND (firm_id = %(firm_id)s OR firm_id IS NULL)
"""
# What a person has typed is no word of the provider's, which is kept with the payment once it is known.
_OURS: Final = """
a.id AS attempt_id, a.payment_id, p.client_id, p.invoice_id, a.state, a.idempotency_key AS key,
CASE WHEN a.evidence ? 'by_hand' THEN p.provider_reference ELSE a.provider_reference END AS reference,
a.amount_minor, a.currency_code, coalesce(a.lease_until > clock_timestamp(), false) AND a.state = 'SENT' AND NOT %(recovering)s AS in_hand,
a.first_send_time AS send_time, coalesce(a.evidence ? 'by_hand', false) AS by_hand"""
_MATCH: Final = f"""
SELECT {_OURS} FROM attempt a JOIN payment p ON p.firm_id = a.firm_id AND p.id = a.payment_id
WHERE a.firm_id = %(firm_id)s AND a.account_id = %(account_id)s
  AND (a.idempotency_key = ANY(%(keys)s) OR a.provider_reference = ANY(%(references)s))
UNION ALL
SELECT NULL, p.id, p.client_id, p.invoice_id, 'SUCCEEDED', NULL, p.provider_reference, p.amount_minor, p.currency_code, false, NULL, false
FROM payment p
WHERE p.firm_id = %(firm_id)s AND p.account_id = %(account_id)s AND p.provider_reference = ANY(%(references)s) AND p.kind = 'ADOPTED'
"""
_OWNERS: Final = """
SELECT reference FROM control.provider_reference
WHERE account_id = %(account_id)s AND reference = ANY(%(references)s) AND firm_id = %(firm_id)s
"""
_SUCCESSES: Final = f"""
SELECT {_OURS} FROM attempt a JOIN payment p ON p.firm_id = a.firm_id AND p.id = a.payment_id
WHERE a.firm_id = %(firm_id)s AND a.account_id = %(account_id)s AND a.state = 'SUCCEEDED'
  AND a.first_send_time >= %(since)s AND a.first_send_time < %(until)s
  AND (%(after_time)s::timestamptz IS NULL OR (a.first_send_time, a.id) > (%(after_time)s, %(after_id)s))
ORDER BY a.first_send_time, a.id LIMIT %(limit)s
"""
_COUNT: Final = """
SELECT count(*) FROM attempt WHERE firm_id = %(firm_id)s AND account_id = ANY(%(accounts)s) AND state = 'SUCCEEDED'
  AND first_send_time >= %(since)s AND first_send_time < %(until)s
"""
_CUSTOMERS: Final = """
SELECT provider_reference, client_id FROM provider_customer
WHERE firm_id = %(firm_id)s AND account_id = %(account_id)s AND provider_reference = ANY(%(references)s)
"""
_OPEN_INVOICES: Final = """
SELECT id, client_id, collection_cycle, failure_count, amount_due FROM invoice
WHERE firm_id = %(firm_id)s AND currency_code = %(currency)s AND finalize_time IS NOT NULL AND void_time IS NULL AND amount_due > 0
  AND CASE WHEN %(client_id)s::uuid IS NULL THEN amount_due = %(amount)s ELSE client_id = %(client_id)s END
ORDER BY due_date, id LIMIT 2000
"""
_INSERT_SLOT: Final = """
WITH held AS (
    INSERT INTO collection_hold (firm_id, invoice_id, payment_id, channel)
    VALUES (%(firm_id)s, %(invoice_id)s, %(payment_id)s, %(channel)s) ON CONFLICT DO NOTHING RETURNING payment_id
), paid AS (
    INSERT INTO payment (firm_id, id, client_id, invoice_id, kind, state, currency_code, amount_minor, cycle, slot, revision, provider,
                         account_id, mode, method_id, firm_time, update_time)
    SELECT %(firm_id)s, payment_id, %(client_id)s, %(invoice_id)s, %(kind)s, 'PROCESSING', %(currency)s, %(amount)s, %(cycle)s, %(slot)s,
           %(revision)s, %(provider)s, %(account_id)s, %(mode)s, %(method_id)s, %(created)s, %(now)s
    FROM held
)
INSERT INTO attempt (firm_id, id, payment_id, attempt_no, idempotency_key, provider, account_id, method_id, currency_code, amount_minor)
SELECT %(firm_id)s, %(attempt_id)s, payment_id, %(attempt_no)s, %(key)s, %(provider)s, %(account_id)s, %(method_id)s, %(currency)s, %(amount)s
FROM held
"""
_SENT: Final = f"""
UPDATE attempt SET state = 'SENT', send_count = send_count + 1, first_send_time = coalesce(first_send_time, %(at)s), send_time = %(at)s,
    next_check_time = NULL, owner = NULL, fence = fence + 1, lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s',
    version = version + 1, update_time = clock_timestamp()
WHERE firm_id = %(firm_id)s AND id = %(id)s AND state IN ('CREATED', 'NOT_SENT')
"""
_ADOPT: Final = """
WITH p AS (
    INSERT INTO payment (firm_id, id, client_id, invoice_id, kind, state, currency_code, amount_minor, captured_minor, allocated_minor,
                         credited_minor, provider, account_id, mode, provider_reference, finish_time, firm_time, update_time)
    VALUES (%(firm_id)s, %(id)s, %(client_id)s, %(invoice_id)s, 'ADOPTED', 'SUCCEEDED', %(currency)s, %(amount)s, %(amount)s, %(allocated)s,
            %(credited)s, %(provider)s, %(account_id)s, %(mode)s, %(reference)s, %(now)s, %(now)s, %(now)s)
    RETURNING id
)
INSERT INTO payment_allocation (firm_id, payment_id, invoice_id, currency_code, amount_minor)
SELECT %(firm_id)s, p.id, invoice_id, %(currency)s, amount_minor
FROM p, unnest(%(invoices)s::uuid[], %(amounts)s::bigint[]) AS l (invoice_id, amount_minor)
"""
_TOLD_BEFORE: Final = """
SELECT EXISTS (SELECT 1 FROM run_item i JOIN run r ON r.firm_id = i.firm_id AND r.id = i.run_id
               WHERE i.firm_id = %(firm_id)s AND i.subject_id = %(subject)s AND i.run_id <> %(run_id)s AND i.outcome = 'DIFFERENT'
                 AND r.kind = 'RECONCILIATION' AND NOT r.dry_run)
"""
_TAKE_RUN: Final = f"""
UPDATE run SET owner = %(owner)s, lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s'
WHERE firm_id = %(firm_id)s AND id = %(run_id)s AND state IN ('QUEUED', 'RUNNING')
  AND (owner IS NULL OR owner = %(owner)s OR lease_until IS NULL OR lease_until < clock_timestamp())
"""
_GIVE_RUN: Final = """
UPDATE run SET owner = NULL, lease_until = NULL WHERE firm_id = %(firm_id)s AND id = %(run_id)s AND owner = %(owner)s
"""
_MOVE_RUN: Final = """
UPDATE run SET params = jsonb_set(params, '{place}', %(place)s), total = greatest(total, done + %(done)s)
WHERE firm_id = %(firm_id)s AND id = %(run_id)s AND params -> 'place' IS NOT DISTINCT FROM %(before)s::jsonb
"""


_USED_LATELY: Final = """
SELECT EXISTS (SELECT 1 FROM payment WHERE firm_id = %(firm_id)s AND finish_time > %(now)s - interval '3 days' AND account_id IS NOT NULL)
"""
_CLOSE_TOTAL: Final = "UPDATE run SET total = done WHERE firm_id = %(firm_id)s AND id = %(run_id)s"
_ADOPTED_AMONG: Final = "SELECT id FROM payment WHERE firm_id = %(firm_id)s AND id = ANY(%(ids)s) AND kind = 'ADOPTED'"
_FIX_WINDOW: Final = """
UPDATE run SET params = params || jsonb_build_object('since', %(since)s::text, 'until', %(until)s::text)
WHERE firm_id = %(firm_id)s AND id = %(run_id)s
"""


@dataclass(frozen=True, slots=True)
class OpenInvoice:
    """An invoice that is owed, with what the id of a slot's payment follows from."""

    id: UUID
    client_id: UUID
    collection_cycle: int
    failure_count: int
    amount_due: int


async def accounts(uow: UnitOfWork, provider: str | None, *, everything: bool) -> list[ProviderAccount]:
    """The accounts to reconcile, of the firm's mode; `everything`: also platform accounts that the book does not know it used."""
    values = {"firm_id": uow.firm_id, "mode": uow.firm.mode, "provider": provider, "all": everything}
    return [_account(row) for row in await uow.fetch_all(_ACCOUNTS, values)]


async def account(uow: UnitOfWork, account_id: UUID) -> ProviderAccount | None:
    """One account that the firm may use."""
    row = await uow.fetch_one(_ACCOUNT, {"firm_id": uow.firm_id, "id": account_id})
    return _account(row) if row else None


async def match(uow: UnitOfWork, account_id: UUID, keys: Sequence[str], references: Sequence[str]) -> list[Ours]:
    """The firm's attempts with one of these keys or references, and payments adopted under one of these references."""
    values = {
        "firm_id": uow.firm_id, "account_id": account_id, "keys": list(keys), "references": list(references), "recovering": uow.recovering,
    }  # fmt: skip
    return [_ours(row) for row in await uow.fetch_all(_MATCH, values)]


async def adopted(uow: UnitOfWork, account_id: UUID, reference: str) -> bool:
    """Whether the provider's payment was taken over as a payment of its own, without an attempt."""
    return any(ours.attempt_id is None for ours in await match(uow, account_id, [], [reference]))


async def adopted_among(uow: UnitOfWork, payment_ids: Sequence[UUID]) -> set[UUID]:
    """Which of these payments were taken over from a provider's record."""
    values = {"firm_id": uow.firm_id, "ids": list(payment_ids)}
    return {row["id"] for row in await uow.fetch_all(_ADOPTED_AMONG, values)}


async def owned(uow: UnitOfWork, account_id: UUID, references: Sequence[str]) -> set[str]:
    """Which of these objects of a shared account are known to be this firm's."""
    values = {"firm_id": uow.firm_id, "account_id": account_id, "references": list(references)}
    return {row["reference"] for row in await uow.fetch_all(_OWNERS, values)}


async def successes(
    uow: UnitOfWork, account_id: UUID, since: datetime, until: datetime, after: Ours | None, limit: int
) -> list[Ours]:
    """Our successes first sent in [since, until), behind `after`."""
    values = {
        "firm_id": uow.firm_id, "account_id": account_id, "since": since, "until": until, "limit": limit, "recovering": uow.recovering,
        "after_time": after.send_time if after else None, "after_id": after.attempt_id if after else None,
    }  # fmt: skip
    return [_ours(row) for row in await uow.fetch_all(_SUCCESSES, values)]


async def count_successes(uow: UnitOfWork, account_ids: Sequence[UUID], since: datetime, until: datetime) -> int:
    """How many successes of ours lie in the window: about as many items as the run will have."""
    values = {"firm_id": uow.firm_id, "accounts": list(account_ids), "since": since, "until": until}
    return int(await uow.fetch_value(_COUNT, values))


async def clients_of(uow: UnitOfWork, account_id: UUID, references: Sequence[str]) -> dict[str, UUID]:
    """The clients behind the provider's customers."""
    values = {"firm_id": uow.firm_id, "account_id": account_id, "references": list(references)}
    return {row["provider_reference"]: row["client_id"] for row in await uow.fetch_all(_CUSTOMERS, values)}


async def open_invoices(uow: UnitOfWork, client_id: UUID | None, currency: str, amount_minor: int) -> list[OpenInvoice]:
    """What the client owes in that currency; without a client, every invoice that owes exactly that amount. At most 2,000."""
    values = {"firm_id": uow.firm_id, "client_id": client_id, "currency": currency, "amount": amount_minor}
    return [OpenInvoice(**row) for row in await uow.fetch_all(_OPEN_INVOICES, values)]


async def insert_payment(uow: UnitOfWork, values: dict[str, Any]) -> bool:
    """Write a payment that a restore has lost, with its CREATED attempt and hold; False where the invoice is held for another."""
    return await uow.execute(_INSERT_SLOT, {**values, "firm_id": uow.firm_id, "now": uow.now}) == 1


async def mark_sent(uow: UnitOfWork, attempt_id: UUID, at: datetime) -> None:
    """Note that an attempt which the book thinks unsent is with the provider since `at`; whoever holds it loses it."""
    await uow.execute(_SENT, {"firm_id": uow.firm_id, "id": attempt_id, "at": at})


async def insert_adopted(uow: UnitOfWork, values: dict[str, Any]) -> None:
    """Write money that the provider has and the book had not, as received."""
    await uow.execute(_ADOPT, {**values, "firm_id": uow.firm_id, "now": uow.now})


async def told_before(uow: UnitOfWork, subject: UUID, run_id: UUID) -> bool:
    """Whether an earlier run has told about this difference."""
    return bool(await uow.fetch_value(_TOLD_BEFORE, {"firm_id": uow.firm_id, "subject": subject, "run_id": run_id}))


async def take_run(uow: UnitOfWork, run_id: UUID, owner: UUID) -> bool:
    """Take the run for a lease, or lengthen it; False where another worker is at it."""
    return await uow.execute(_TAKE_RUN, {"firm_id": uow.firm_id, "run_id": run_id, "owner": owner}) == 1


async def give_run(uow: UnitOfWork, run_id: UUID, owner: UUID) -> None:
    """Let others go on with the run."""
    await uow.execute(_GIVE_RUN, {"firm_id": uow.firm_id, "run_id": run_id, "owner": owner})


async def move_run(
    uow: UnitOfWork, run_id: UUID, before: dict[str, Any] | None, place: dict[str, Any], done: int
) -> bool:
    """Move the run's place from `before`, as this transaction's last change; False where somebody else has moved it."""
    values = {
        "firm_id": uow.firm_id, "run_id": run_id, "before": None if before is None else Jsonb(before), "place": Jsonb(place), "done": done,
    }  # fmt: skip
    return await uow.execute(_MOVE_RUN, values) == 1


async def close_total(uow: UnitOfWork, run_id: UUID) -> None:
    """What was expected is what was found, once everything has been looked at."""
    await uow.execute(_CLOSE_TOTAL, {"firm_id": uow.firm_id, "run_id": run_id})


def used_lately(uow: UnitOfWork) -> Question[bool]:
    """Whether a payment at a provider came to an end within three days."""
    return ask(uow, _USED_LATELY, {"now": uow.now}).then(bool)


async def fix_window(uow: UnitOfWork, run_id: UUID, since: datetime, until: datetime) -> None:
    """Keep the run's window, so that whoever goes on with it compares the same."""
    values = {"firm_id": uow.firm_id, "run_id": run_id, "since": since.isoformat(), "until": until.isoformat()}
    await uow.execute(_FIX_WINDOW, values)


def _account(row: Row) -> ProviderAccount:
    return ProviderAccount(**{**row, "credentials": bytes(row["credentials"])})


def _ours(row: Row) -> Ours:
    return Ours(**{**row, "state": AttemptState(row["state"])})
