"""Pages: kept before they are made at the provider, changed forward only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from dunwell_server.payments.page_model import CheckoutPurpose, CheckoutSession, NewSession, SessionState
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.questions import Question, ask

_COLUMNS: Final[LiteralString] = """
id, client_id, purpose, channel, state, invoice_id, payment_id, provider, account_id, mode, idempotency_key, provider_reference, url, success_url,
cancel_url, life_seconds, price_reference, quantity, subscription_reference, method_id, save_method, make_default, enable_autopay, failure_code,
expire_time, finish_time, next_check_time, check_count, firm_time, version, update_time"""
_INSERT = """
INSERT INTO checkout_session (firm_id, id, client_id, purpose, channel, provider, account_id, mode, idempotency_key, success_url, cancel_url,
                              life_seconds, invoice_id, payment_id, price_reference, quantity, save_method, make_default, enable_autopay,
                              next_check_time, firm_time, update_time)
VALUES (%(firm_id)s, %(id)s, %(client_id)s, %(purpose)s, %(channel)s, %(provider)s, %(account_id)s, %(mode)s, %(idempotency_key)s, %(success_url)s,
        %(cancel_url)s, %(life_seconds)s, %(invoice_id)s, %(payment_id)s, %(price_reference)s, %(quantity)s, %(save_method)s, %(make_default)s,
        %(enable_autopay)s, %(next_check_time)s, %(now)s, %(now)s)
"""
_GET = f"SELECT {_COLUMNS} FROM checkout_session WHERE firm_id = %(firm_id)s AND id = %(id)s"
_LOCK = _GET + " FOR NO KEY UPDATE"
_OF_PAYMENT = f"SELECT {_COLUMNS} FROM checkout_session WHERE firm_id = %(firm_id)s AND payment_id = %(id)s"
_LOCK_OF_PAYMENT = _OF_PAYMENT + " FOR NO KEY UPDATE"
_OF_PAYMENTS = "SELECT payment_id, id FROM checkout_session WHERE firm_id = %(firm_id)s AND payment_id = ANY(%(ids)s)"
_BY_REFERENCE = (
    "SELECT id FROM checkout_session"
    " WHERE firm_id = %(firm_id)s AND account_id = %(account_id)s AND provider_reference = %(reference)s"
)
_CHANGE = """
UPDATE checkout_session SET state = %(state)s, provider_reference = coalesce(provider_reference, %(provider_reference)s), url = %(url)s,
    expire_time = coalesce(%(expire_time)s, expire_time), subscription_reference = coalesce(subscription_reference, %(subscription_reference)s),
    method_id = coalesce(method_id, %(method_id)s), failure_code = %(failure_code)s, finish_time = %(finish_time)s,
    next_check_time = %(next_check_time)s, version = version + 1, update_time = %(now)s
WHERE firm_id = %(firm_id)s AND id = %(id)s
"""
_CLAIM = f"""
WITH c AS MATERIALIZED (
    SELECT id FROM checkout_session WHERE firm_id = %(firm_id)s AND next_check_time <= %(now)s
    ORDER BY next_check_time, id LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE checkout_session s SET next_check_time = %(next)s, check_count = check_count + 1 FROM c
WHERE s.firm_id = %(firm_id)s AND s.id = c.id
RETURNING {", ".join("s." + name.strip() for name in _COLUMNS.split(","))}
"""
_PLAN = "UPDATE checkout_session SET next_check_time = %(next)s WHERE firm_id = %(firm_id)s AND id = %(id)s AND next_check_time IS NOT NULL"
_NEXT = "SELECT min(next_check_time) FROM checkout_session WHERE firm_id = %(firm_id)s AND next_check_time IS NOT NULL"


async def insert(uow: UnitOfWork, new: NewSession) -> None:
    """Keep a page that is to be made. The database refuses the same id twice."""
    await uow.execute(_INSERT, {**asdict(new), "firm_id": uow.firm_id, "now": uow.now})


async def get(uow: UnitOfWork, session_id: UUID, *, lock: bool = False) -> CheckoutSession | None:
    """One page of the firm; locked when asked (after client, invoice, payment and attempt)."""
    row = await uow.fetch_one(_LOCK if lock else _GET, {"firm_id": uow.firm_id, "id": session_id})
    return _session(row) if row else None


async def of_payment(uow: UnitOfWork, payment_id: UUID, *, lock: bool = False) -> CheckoutSession | None:
    """The page on which a payment is asked for."""
    row = await uow.fetch_one(_LOCK_OF_PAYMENT if lock else _OF_PAYMENT, {"firm_id": uow.firm_id, "id": payment_id})
    return _session(row) if row else None


async def of_payments(uow: UnitOfWork, payments: Sequence[UUID]) -> dict[UUID, UUID]:
    """The pages on which these payments are asked for, by payment."""
    rows = await uow.fetch_all(_OF_PAYMENTS, {"firm_id": uow.firm_id, "ids": list(payments)}) if payments else []
    return {row["payment_id"]: row["id"] for row in rows}


async def by_reference(uow: UnitOfWork, account_id: UUID, reference: str) -> UUID | None:
    """The page that the account's provider knows under this id of its own."""
    values = {"firm_id": uow.firm_id, "account_id": account_id, "reference": reference}
    found: UUID | None = await uow.fetch_value(_BY_REFERENCE, values)
    return found


async def change(uow: UnitOfWork, session: CheckoutSession, **changes: Any) -> CheckoutSession:
    """Write what has become of a locked page; what `changes` does not name stays. References that are known stay."""
    names = (
        "state",
        "provider_reference",
        "url",
        "expire_time",
        "subscription_reference",
        "method_id",
        "failure_code",
        "finish_time",
    )
    values = {name: getattr(session, name) for name in (*names, "next_check_time")}
    unexpected = changes.keys() - values.keys()
    if unexpected:
        raise TypeError(f"change() knows nothing of {sorted(unexpected)}")
    await uow.execute(_CHANGE, {**values, **changes, "firm_id": uow.firm_id, "id": session.id, "now": uow.now})
    changed = await get(uow, session.id)
    assert changed is not None
    return changed


async def claim(uow: UnitOfWork, limit: int, following: datetime) -> list[CheckoutSession]:
    """Take pages whose next check has come; should the taker die, they are looked at again at `following`."""
    values = {"firm_id": uow.firm_id, "now": uow.now, "limit": limit, "next": following}
    return [_session(row) for row in await uow.fetch_all(_CLAIM, values)]


async def plan(uow: UnitOfWork, session_id: UUID, following: datetime) -> None:
    """Have a page that is looked after looked at again at `following`."""
    await uow.execute(_PLAN, {"firm_id": uow.firm_id, "id": session_id, "next": following})


def next_check(uow: UnitOfWork) -> Question[datetime | None]:
    """When a page is next to be looked at, in firm time."""
    return ask(uow, _NEXT)


def _session(row: Row) -> CheckoutSession:
    values = {each.name: row[each.name] for each in fields(CheckoutSession)}
    values["purpose"], values["state"] = CheckoutPurpose(row["purpose"]), SessionState(row["state"])
    return CheckoutSession(**values)
