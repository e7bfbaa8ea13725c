"""Attempts: made in sets, sent one by one under a fence, settled with everything that follows in one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.payments.model import Attempt, Claim, Payment, PaymentMethod, attempt_id_of, idempotency_key
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.payments.store.rows import ATTEMPT_COLUMNS, METHOD_COLUMNS, PAYMENT_COLUMNS, build, columns
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.leases import LEASE_SECONDS

"""Machine time for which a claim holds without being renewed."""

# The hold decides: where another channel asks for the invoice's money, nothing of the payment is written.
_CREATE = f"""
WITH wanted AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::uuid[], %(clients)s::uuid[], %(invoices)s::uuid[], %(currencies)s::text[], %(amounts)s::bigint[], %(cycles)s::int[],
                         %(slots)s::smallint[], %(revisions)s::int[], %(methods)s::uuid[], %(accounts)s::uuid[], %(providers)s::text[],
                         %(modes)s::text[], %(attempt_ids)s::uuid[], %(keys)s::text[])
        AS w (id, client_id, invoice_id, currency_code, amount_minor, cycle, slot, revision, method_id, account_id, provider, mode, attempt_id, key)
), held AS (
    INSERT INTO collection_hold (firm_id, invoice_id, payment_id, channel)
    SELECT %(firm_id)s, invoice_id, id, %(channel)s FROM wanted w
    WHERE NOT EXISTS (SELECT 1 FROM payment p WHERE p.firm_id = %(firm_id)s AND p.id = w.id) OR %(kind)s <> 'AUTOPAY'
    ORDER BY invoice_id
    ON CONFLICT DO NOTHING RETURNING payment_id
), paid AS (
    INSERT INTO payment (firm_id, id, client_id, invoice_id, kind, state, currency_code, amount_minor, cycle, slot, revision, provider, account_id,
                         mode, method_id, run_id, firm_time, update_time)
    SELECT %(firm_id)s, w.id, client_id, invoice_id, %(kind)s, 'PROCESSING', currency_code, amount_minor, cycle, slot, revision, provider,
           account_id, mode, method_id, %(run_id)s, %(now)s, %(now)s
    FROM wanted w JOIN held h ON h.payment_id = w.id
), tried AS (
    INSERT INTO attempt (firm_id, id, payment_id, attempt_no, idempotency_key, provider, account_id, method_id, currency_code, amount_minor,
                         owner, fence, lease_until)
    SELECT %(firm_id)s, attempt_id, w.id, 1, key, provider, account_id, method_id, currency_code, amount_minor,
           %(owner)s, 1, clock_timestamp() + interval '{LEASE_SECONDS} s'
    FROM wanted w JOIN held h ON h.payment_id = w.id
)
SELECT payment_id FROM held
"""
_CREATE_FAILED = """
INSERT INTO payment (firm_id, id, client_id, invoice_id, kind, state, currency_code, amount_minor, cycle, slot, revision, provider, method_id,
                     failure_code, failure_message, run_id, finish_time, firm_time, update_time)
SELECT %(firm_id)s, id, client_id, invoice_id, 'AUTOPAY', 'FAILED', currency_code, amount_minor, cycle, slot, revision, %(provider)s, method_id,
       failure_code, failure_message, %(run_id)s, %(now)s, %(now)s, %(now)s
FROM unnest(%(ids)s::uuid[], %(clients)s::uuid[], %(invoices)s::uuid[], %(currencies)s::text[], %(amounts)s::bigint[], %(cycles)s::int[],
            %(slots)s::smallint[], %(revisions)s::int[], %(methods)s::uuid[], %(codes)s::text[], %(messages)s::text[])
    AS w (id, client_id, invoice_id, currency_code, amount_minor, cycle, slot, revision, method_id, failure_code, failure_message)
"""
_ADD = f"""
INSERT INTO attempt (firm_id, id, payment_id, attempt_no, idempotency_key, provider, account_id, method_id, currency_code, amount_minor,
                     next_check_time, owner, fence, lease_until)
VALUES (%(firm_id)s, %(id)s, %(payment_id)s, %(attempt_no)s, %(key)s, %(provider)s, %(account_id)s, %(method_id)s, %(currency)s, %(amount)s,
        %(next_check_time)s::timestamptz, %(owner)s::uuid, 1,
        CASE WHEN %(owner)s::uuid IS NULL THEN NULL ELSE clock_timestamp() + interval '{LEASE_SECONDS} s' END)
"""
_LOAD = f"""
SELECT {columns(ATTEMPT_COLUMNS, "a", "a_")}, {columns(PAYMENT_COLUMNS, "p", "p_")}, {columns(METHOD_COLUMNS, "m", "m_")},
       coalesce(c.autopay_method_id = m.id, false) AS m_is_default, c.autopay_enabled, c.autopay_method_id,
       k.provider_reference AS customer_reference, pa.id AS pa_id, pa.firm_id AS pa_firm_id, pa.provider AS pa_provider, pa.mode AS pa_mode,
       pa.credentials AS pa_credentials, pa.key_id AS pa_key_id, pa.version AS pa_version, pa.state AS pa_state,
       EXISTS (SELECT 1 FROM provider_breaker b WHERE b.firm_id = a.firm_id AND b.account_id = a.account_id) AS breaker_open,
       (SELECT max(o.last_failure_time) FROM payment_method o WHERE o.firm_id = a.firm_id AND o.client_id = p.client_id
            AND (o.id = a.method_id OR o.fingerprint = m.fingerprint)) AS card_failure_time,
       (SELECT count(*) FROM attempt t WHERE t.firm_id = a.firm_id AND t.payment_id = a.payment_id AND t.decline_class = 'TECHNICAL') AS technical,
       (SELECT count(*) FROM attempt t WHERE t.firm_id = a.firm_id AND t.method_id = a.method_id AND t.state = 'SENT'
            AND t.first_send_time > %(now)s - interval '1 day') AS on_their_way,
       EXISTS (SELECT 1 FROM attempt s WHERE s.firm_id = a.firm_id AND s.payment_id = a.payment_id AND s.state = 'SUCCEEDED' AND s.id <> a.id)
           AS other_success,
       ARRAY(SELECT t.method_id FROM attempt t WHERE t.firm_id = a.firm_id AND t.payment_id = a.payment_id) AS tried_methods
FROM attempt a
JOIN payment p ON p.firm_id = a.firm_id AND p.id = a.payment_id
LEFT JOIN payment_method m ON m.firm_id = a.firm_id AND m.id = a.method_id
JOIN client c ON c.firm_id = p.firm_id AND c.id = p.client_id
LEFT JOIN provider_customer k ON k.firm_id = a.firm_id AND k.client_id = p.client_id AND k.account_id = a.account_id
LEFT JOIN control.provider_account pa ON pa.id = a.account_id
WHERE a.firm_id = %(firm_id)s AND a.id = %(id)s
FOR NO KEY UPDATE OF p, a
"""
_LOAD_ALL = _LOAD.replace("a.id = %(id)s", "a.id = ANY(%(ids)s)")
_WHERE_IS = """
SELECT p.id AS payment_id, p.invoice_id, p.client_id, a.account_id, a.state, a.fence
FROM attempt a JOIN payment p ON p.firm_id = a.firm_id AND p.id = a.payment_id WHERE a.firm_id = %(firm_id)s AND a.id = %(id)s
"""
_BY_REFERENCE = "SELECT id FROM attempt WHERE firm_id = %(firm_id)s AND account_id = %(account_id)s AND provider_reference = %(reference)s"
_CHECK_NOW = """
UPDATE attempt SET next_check_time = %(now)s, version = version + 1, update_time = clock_timestamp()
WHERE firm_id = %(firm_id)s AND id = %(id)s AND state IN ('REQUIRES_ACTION', 'PENDING', 'UNKNOWN') AND next_check_time > %(now)s
"""
_SEND = f"""
UPDATE attempt SET state = 'SENT', send_count = send_count + 1, first_send_time = coalesce(first_send_time, %(now)s), send_time = %(now)s,
    request_digest = %(digest)s, next_check_time = NULL, owner = %(owner)s, fence = fence + %(raise)s,
    lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s', version = version + 1, update_time = clock_timestamp()
WHERE firm_id = %(firm_id)s AND id = %(id)s
"""
_SEND_ALL = f"""
UPDATE attempt a SET state = 'SENT', send_count = send_count + 1, first_send_time = coalesce(first_send_time, %(now)s), send_time = %(now)s,
    request_digest = w.digest, next_check_time = NULL, lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s', version = version + 1,
    update_time = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(digests)s::bytea[]) AS w (id, digest)
WHERE a.firm_id = %(firm_id)s AND a.id = w.id
"""
_RESENT = f"""
UPDATE attempt SET send_count = send_count + 1, send_time = %(now)s, lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s',
    version = version + 1, update_time = clock_timestamp()
WHERE firm_id = %(firm_id)s AND id = %(id)s AND owner = %(owner)s AND fence = %(fence)s AND state = 'UNKNOWN'
"""
_POSTPONE = """
UPDATE attempt SET next_check_time = %(now)s, owner = NULL, lease_until = NULL, version = version + 1, update_time = clock_timestamp()
WHERE firm_id = %(firm_id)s AND id = %(id)s
"""
_RENEW = f"""
UPDATE attempt SET lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s'
WHERE firm_id = %(firm_id)s AND id = ANY(%(ids)s) AND owner = %(owner)s AND lease_until IS NOT NULL
"""
_SETTLE = """
WITH a AS (
    UPDATE attempt SET state = %(state)s, provider_reference = coalesce(provider_reference, %(reference)s),
        failure_code = coalesce(%(failure_code)s, failure_code), provider_code = coalesce(%(provider_code)s, provider_code),
        network_code = coalesce(%(network_code)s, network_code), advice_code = coalesce(%(advice_code)s, advice_code),
        decline_class = coalesce(%(decline_class)s, decline_class), message = coalesce(%(message)s, message),
        action_url = %(action_url)s, action_expire_time = %(action_expire_time)s, evidence = coalesce(%(evidence)s, evidence),
        check_count = check_count + %(checked)s, next_check_time = %(next_check_time)s, needs_person = %(needs_person)s,
        unknown_time = coalesce(unknown_time, %(unknown_time)s), finish_time = coalesce(finish_time, %(attempt_finish_time)s),
        owner = NULL, lease_until = NULL, version = version + 1, update_time = clock_timestamp()
    WHERE firm_id = %(firm_id)s AND id = %(attempt_id)s
), p AS (
    UPDATE payment SET state = %(payment_state)s, captured_minor = %(captured)s, allocated_minor = %(allocated)s, credited_minor = %(credited)s,
        failure_code = %(payment_failure_code)s, failure_provider_code = %(payment_provider_code)s, failure_message = %(payment_message)s,
        action_url = %(action_url)s, action_expire_time = %(action_expire_time)s, method_id = %(method_id)s,
        finish_time = %(finish_time)s, version = version + 1, update_time = %(now)s
    WHERE firm_id = %(firm_id)s AND id = %(payment_id)s AND %(touch_payment)s
), h AS (
    UPDATE collection_hold SET release_time = clock_timestamp()
    WHERE firm_id = %(firm_id)s AND payment_id = %(payment_id)s AND release_time IS NULL AND %(release)s
), l AS (
    INSERT INTO payment_allocation (firm_id, payment_id, invoice_id, currency_code, amount_minor)
    SELECT %(firm_id)s, %(payment_id)s, invoice_id, %(currency)s, amount_minor
    FROM unnest(%(settled_invoices)s::uuid[], %(settled_amounts)s::bigint[]) AS s (invoice_id, amount_minor)
), m AS (
    UPDATE payment_method SET state = coalesce(%(method_state)s, state),
        block_code = CASE WHEN %(method_state)s::text IS NULL THEN block_code ELSE %(block_code)s END,
        last_success_time = coalesce(%(success_time)s, last_success_time), last_failure_time = coalesce(%(failure_time)s, last_failure_time),
        failure_streak = CASE WHEN %(success_time)s::timestamptz IS NOT NULL THEN 0 WHEN %(failure_time)s::timestamptz IS NOT NULL THEN failure_streak + 1
                              ELSE failure_streak END,
        version = version + 1, update_time = %(now)s
    WHERE firm_id = %(firm_id)s AND id = %(attempt_method_id)s AND state IN ('ACTIVE', 'NEEDS_ACTION')
      AND (%(method_state)s::text IS NOT NULL OR %(success_time)s::timestamptz IS NOT NULL OR %(failure_time)s::timestamptz IS NOT NULL)
)
SELECT 1
"""
# A method's row follows its client's lock; its own state says whether it had waited for its holder.
_SUCCEED = """
WITH w AS MATERIALIZED (
    SELECT * FROM unnest(%(attempts)s::uuid[], %(payments)s::uuid[], %(methods)s::uuid[], %(references)s::text[], %(captured)s::bigint[],
                         %(allocated)s::bigint[], %(credited)s::bigint[], %(checked)s::int[])
        AS w (attempt_id, payment_id, method_id, reference, captured, allocated, credited, checked)
), a AS (
    UPDATE attempt a SET state = 'SUCCEEDED', provider_reference = coalesce(a.provider_reference, w.reference), action_url = NULL,
        action_expire_time = NULL, check_count = check_count + w.checked, next_check_time = NULL, needs_person = false,
        finish_time = coalesce(finish_time, %(now)s), owner = NULL, lease_until = NULL, version = version + 1, update_time = clock_timestamp()
    FROM w WHERE a.firm_id = %(firm_id)s AND a.id = w.attempt_id
), p AS (
    UPDATE payment p SET state = 'SUCCEEDED', captured_minor = w.captured, allocated_minor = w.allocated, credited_minor = w.credited,
        failure_code = NULL, failure_provider_code = NULL, failure_message = NULL, action_url = NULL, action_expire_time = NULL,
        method_id = w.method_id, finish_time = %(now)s, version = version + 1, update_time = %(now)s
    FROM w WHERE p.firm_id = %(firm_id)s AND p.id = w.payment_id
), h AS (
    UPDATE collection_hold SET release_time = clock_timestamp()
    WHERE firm_id = %(firm_id)s AND payment_id = ANY(%(payments)s) AND release_time IS NULL
), l AS (
    INSERT INTO payment_allocation (firm_id, payment_id, invoice_id, currency_code, amount_minor)
    SELECT %(firm_id)s, payment_id, invoice_id, currency_code, amount_minor
    FROM unnest(%(share_payments)s::uuid[], %(share_invoices)s::uuid[], %(share_currencies)s::text[], %(share_amounts)s::bigint[])
        AS s (payment_id, invoice_id, currency_code, amount_minor)
), m AS (
    UPDATE payment_method m SET state = 'ACTIVE', block_code = CASE WHEN m.state = 'ACTIVE' THEN m.block_code END, last_success_time = %(now)s,
        failure_streak = 0, version = version + 1, update_time = %(now)s
    FROM w WHERE m.firm_id = %(firm_id)s AND m.id = w.method_id AND m.state IN ('ACTIVE', 'NEEDS_ACTION')
)
SELECT 1
"""


@dataclass(frozen=True, slots=True)
class NewPayment:
    """A payment to be asked for, with its first attempt. Cycle, slot and revision are None for explicit requests."""

    id: UUID
    client_id: UUID
    invoice_id: UUID
    currency_code: str
    amount_minor: int
    method: PaymentMethod
    cycle: int | None = None
    slot: int | None = None
    revision: int | None = None

    @property
    def attempt_id(self) -> UUID:
        """Id of the first attempt."""
        return attempt_id_of(self.id, 1)


@dataclass(frozen=True, slots=True)
class FailedSlot:
    """A slot that fails without a call."""

    id: UUID
    client_id: UUID
    invoice_id: UUID
    currency_code: str
    amount_minor: int
    cycle: int
    slot: int
    revision: int
    method_id: UUID | None
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """An attempt with all that deciding about it needs; payment and attempt are locked."""

    attempt: Attempt
    payment: Payment
    method: PaymentMethod | None
    """None: the client chooses on the provider's page."""
    client_enabled: bool
    default_method_id: UUID | None
    customer_reference: str | None
    account: ProviderAccount | None
    """None: the account was removed."""
    technical_declines: int
    on_their_way: int
    """Other tries of the method that are at the provider at this moment."""
    other_success: bool
    tried_methods: frozenset[UUID]
    breaker_open: bool = False
    """Charging at the account has stopped by itself."""
    card_failure_time: datetime | None = None
    """When a try of the card was last refused, under any of the methods that are the same card."""


@dataclass(frozen=True, slots=True)
class Success:
    """An attempt that has succeeded, and what its payment's money does: shares of invoices (minor units), the rest becomes credit."""

    loaded: Loaded
    reference: str | None
    shares: Mapping[UUID, int]
    allocated_minor: int
    credited_minor: int
    was_asked: bool
    """It was learned by asking, not from the answer to the call."""


async def create(
    uow: UnitOfWork, payments: Sequence[NewPayment], *, kind: str, channel: str, owner: UUID, run_id: UUID | None
) -> set[UUID]:
    """Write payments with holds and CREATED attempts, claimed by `owner` at fence 1. Returns those written: the others' invoices are held."""
    if not payments:
        return set()
    rows = await uow.fetch_all(_CREATE, {
        "firm_id": uow.firm_id, "now": uow.now, "kind": kind, "channel": channel, "owner": owner, "run_id": run_id,
        "ids": [new.id for new in payments], "clients": [new.client_id for new in payments], "invoices": [new.invoice_id for new in payments],
        "currencies": [new.currency_code for new in payments], "amounts": [new.amount_minor for new in payments],
        "cycles": [new.cycle for new in payments], "slots": [new.slot for new in payments], "revisions": [new.revision for new in payments],
        "methods": [new.method.id for new in payments], "accounts": [new.method.account_id for new in payments],
        "providers": [new.method.provider for new in payments], "modes": [new.method.mode for new in payments],
        "attempt_ids": [new.attempt_id for new in payments], "keys": [idempotency_key(new.id, 1) for new in payments],
    })  # fmt: skip
    return {row["payment_id"] for row in rows}


async def create_failed(uow: UnitOfWork, slots: Sequence[FailedSlot], *, provider: str, run_id: UUID | None) -> None:
    """Write payments that failed without a call."""
    if not slots:
        return
    await uow.execute(_CREATE_FAILED, {
        "firm_id": uow.firm_id, "now": uow.now, "provider": provider, "run_id": run_id,
        "ids": [slot.id for slot in slots], "clients": [slot.client_id for slot in slots], "invoices": [slot.invoice_id for slot in slots],
        "currencies": [slot.currency_code for slot in slots], "amounts": [slot.amount_minor for slot in slots],
        "cycles": [slot.cycle for slot in slots], "slots": [slot.slot for slot in slots], "revisions": [slot.revision for slot in slots],
        "methods": [slot.method_id for slot in slots], "codes": [slot.code for slot in slots], "messages": [slot.message for slot in slots],
    })  # fmt: skip


async def add(
    uow: UnitOfWork,
    payment: Payment,
    attempt_no: int,
    method: PaymentMethod,
    *,
    owner: UUID | None,
    due: datetime | None,
) -> UUID:
    """Add a payment's next attempt: claimed by `owner` at once, or left to whoever is there at `due`. Returns its id."""
    attempt_id = attempt_id_of(payment.id, attempt_no)
    await uow.execute(_ADD, {
        "firm_id": uow.firm_id, "id": attempt_id, "payment_id": payment.id, "attempt_no": attempt_no,
        "key": idempotency_key(payment.id, attempt_no), "provider": method.provider, "account_id": method.account_id, "method_id": method.id,
        "currency": payment.currency_code, "amount": payment.amount_minor, "owner": owner, "next_check_time": due,
    })  # fmt: skip
    return attempt_id


async def whereabouts(uow: UnitOfWork, attempt_id: UUID) -> Row | None:
    """Which payment, invoice, client and account an attempt concerns; nothing is locked."""
    return await uow.fetch_one(_WHERE_IS, {"firm_id": uow.firm_id, "id": attempt_id})


async def by_reference(uow: UnitOfWork, account_id: UUID, reference: str) -> UUID | None:
    """The attempt that the account's provider knows under this id of its own."""
    values = {"firm_id": uow.firm_id, "account_id": account_id, "reference": reference}
    found: UUID | None = await uow.fetch_value(_BY_REFERENCE, values)
    return found


async def check_now(uow: UnitOfWork, attempt_id: UUID) -> bool:
    """Have an attempt that waits asked about at once; False where it does not wait, or is about to be asked about anyway."""
    return await uow.execute(_CHECK_NOW, {"firm_id": uow.firm_id, "now": uow.now, "id": attempt_id}) == 1


async def load(uow: UnitOfWork, attempt_id: UUID) -> Loaded:
    """Lock payment and attempt, in that order; client and invoice must be locked before."""
    row = await uow.fetch_one(_LOAD, {"firm_id": uow.firm_id, "id": attempt_id, "now": uow.now})
    if row is None:
        raise LookupError(f"attempt {attempt_id} is gone")
    return _loaded(row)


async def load_all(uow: UnitOfWork, attempts: Sequence[UUID]) -> dict[UUID, Loaded]:
    """The same for several attempts, by id; clients and invoices of all must be locked before."""
    rows = await uow.fetch_all(_LOAD_ALL, {"firm_id": uow.firm_id, "ids": list(attempts), "now": uow.now})
    return {row["a_id"]: _loaded(row) for row in rows}


def _loaded(row: Row) -> Loaded:
    account = None
    if row["pa_state"] is not None:
        account = ProviderAccount(
            row["pa_id"],
            row["pa_firm_id"],
            row["pa_provider"],
            row["pa_mode"],
            bytes(row["pa_credentials"]),
            row["pa_key_id"],
            row["pa_version"],
            row["pa_state"],
        )
    method = None if row["m_id"] is None else build(
        PaymentMethod, row, "m_", is_default=row["m_is_default"], reachable=row["pa_state"] == "ACTIVE"
    )  # fmt: skip
    return Loaded(
        build(Attempt, row, "a_"), build(Payment, row, "p_"), method,
        row["autopay_enabled"], row["autopay_method_id"], row["customer_reference"], account, row["technical"], row["on_their_way"], row["other_success"],
        frozenset(method_id for method_id in row["tried_methods"] if method_id is not None), row["breaker_open"], row["card_failure_time"],
    )  # fmt: skip


async def mark_sent(uow: UnitOfWork, claim: Claim, digest: bytes) -> None:
    """Record the intent to send, before the call. The attempt is locked and its fence was checked."""
    await uow.execute(_SEND, {
        "firm_id": uow.firm_id, "id": claim.attempt_id, "now": uow.now, "digest": digest, "owner": claim.owner, "raise": 0,
    })  # fmt: skip


async def mark_all_sent(uow: UnitOfWork, sent: Sequence[tuple[Claim, bytes]]) -> None:
    """The same for several claims, each with the digest of what goes out; their owners stay."""
    if sent:
        await uow.execute(_SEND_ALL, {
            "firm_id": uow.firm_id, "now": uow.now, "ids": [claim.attempt_id for claim, _ in sent], "digests": [digest for _, digest in sent],
        })  # fmt: skip


async def mark_resent(uow: UnitOfWork, claim: Claim) -> bool:
    """Record that the same key goes out again; False where somebody else has the attempt now."""
    values = {
        "firm_id": uow.firm_id,
        "id": claim.attempt_id,
        "now": uow.now,
        "owner": claim.owner,
        "fence": claim.fence,
    }
    return await uow.execute(_RESENT, values) == 1


async def postpone(uow: UnitOfWork, attempt_id: UUID) -> None:
    """Give an unsent attempt back to be taken up again at once, by whoever comes next."""
    await uow.execute(_POSTPONE, {"firm_id": uow.firm_id, "id": attempt_id, "now": uow.now})


async def renew(uow: UnitOfWork, attempts: Sequence[UUID], owner: UUID) -> None:
    """Lengthen the leases of the attempts that are still `owner`'s."""
    await uow.execute(_RENEW, {"firm_id": uow.firm_id, "ids": list(attempts), "owner": owner})


_NOTHING: Final[dict[str, Any]] = {
    "reference": None, "failure_code": None, "provider_code": None, "network_code": None, "advice_code": None, "decline_class": None,
    "message": None, "action_url": None, "action_expire_time": None, "evidence": None, "checked": 0, "next_check_time": None,
    "needs_person": False, "unknown_time": None, "attempt_finish_time": None, "settled_invoices": [], "settled_amounts": [], "method_state": None, "block_code": None,
    "success_time": None, "failure_time": None, "release": False, "touch_payment": True,
}  # fmt: skip


async def settle(uow: UnitOfWork, loaded: Loaded, **changes: Any) -> None:
    """Write what evidence does to the attempt, its payment, hold, allocation and method, in one statement; the claim ends.

    What `changes` does not name stays as it is (payment) or is cleared (what only makes sense in a state).
    """
    payment = loaded.payment
    values: dict[str, Any] = {
        **_NOTHING, "firm_id": uow.firm_id, "now": uow.now, "attempt_id": loaded.attempt.id, "payment_id": payment.id,
        "currency": payment.currency_code, "attempt_method_id": loaded.attempt.method_id, "method_id": loaded.attempt.method_id,
        "state": loaded.attempt.state.value, "payment_state": payment.state.value, "captured": payment.captured_minor,
        "allocated": payment.allocated_minor, "credited": payment.credited_minor, "payment_failure_code": payment.failure_code,
        "payment_provider_code": payment.failure_provider_code, "payment_message": payment.failure_message, "finish_time": payment.finish_time,
        "needs_person": loaded.attempt.needs_person,
    }  # fmt: skip
    unexpected = changes.keys() - values.keys()
    if unexpected:
        raise TypeError(f"settle() knows nothing of {sorted(unexpected)}")
    values.update(changes)
    if values["evidence"] is not None:
        values["evidence"] = Jsonb(values["evidence"])
    await uow.execute(_SETTLE, values)


async def succeed(uow: UnitOfWork, successes: Sequence[Success]) -> None:
    """Write that the locked attempts have succeeded: with their payments, holds, allocations and methods, in one statement; the claims end.

    No two of them are of one method or one invoice.
    """
    shares = [
        (each.loaded.payment, invoice_id, amount) for each in successes for invoice_id, amount in each.shares.items()
    ]
    await uow.execute(_SUCCEED, {
        "firm_id": uow.firm_id, "now": uow.now,
        "attempts": [each.loaded.attempt.id for each in successes], "payments": [each.loaded.payment.id for each in successes],
        "methods": [each.loaded.attempt.method_id for each in successes], "references": [each.reference for each in successes],
        "captured": [each.loaded.payment.amount_minor for each in successes], "allocated": [each.allocated_minor for each in successes],
        "credited": [each.credited_minor for each in successes], "checked": [int(each.was_asked) for each in successes],
        "share_payments": [payment.id for payment, _, _ in shares], "share_invoices": [invoice_id for _, invoice_id, _ in shares],
        "share_currencies": [payment.currency_code for payment, _, _ in shares], "share_amounts": [amount for _, _, amount in shares],
    })  # fmt: skip
