"""Set-up intents: kept before they are made at the provider, changed forward only."""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.payments.page_model import NewSetup, SetupIntent, SetupIntentState
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.questions import Question, ask

_COLUMNS: Final[LiteralString] = """
id, client_id, state, provider, account_id, mode, idempotency_key, provider_reference, make_default, enable_autopay, backup_priority, metadata,
method_id, failure_code, finish_time, next_check_time, check_count, firm_time, version, update_time"""
_INSERT = """
INSERT INTO setup_intent (firm_id, id, client_id, provider, account_id, mode, idempotency_key, make_default, enable_autopay, backup_priority,
                          metadata, next_check_time, firm_time, update_time)
VALUES (%(firm_id)s, %(id)s, %(client_id)s, %(provider)s, %(account_id)s, %(mode)s, %(idempotency_key)s, %(make_default)s, %(enable_autopay)s,
        %(backup_priority)s, %(metadata)s, %(next_check_time)s, %(now)s, %(now)s)
"""
_GET = f"SELECT {_COLUMNS} FROM setup_intent WHERE firm_id = %(firm_id)s AND id = %(id)s"
_LOCK = _GET + " FOR NO KEY UPDATE"
_BY_REFERENCE = (
    "SELECT id FROM setup_intent"
    " WHERE firm_id = %(firm_id)s AND account_id = %(account_id)s AND provider_reference = %(reference)s"
)
_CHANGE = """
UPDATE setup_intent SET state = %(state)s, provider_reference = coalesce(provider_reference, %(provider_reference)s),
    method_id = coalesce(method_id, %(method_id)s), failure_code = %(failure_code)s, finish_time = %(finish_time)s,
    next_check_time = %(next_check_time)s, version = version + 1, update_time = %(now)s
WHERE firm_id = %(firm_id)s AND id = %(id)s
"""
_CLAIM = f"""
WITH c AS MATERIALIZED (
    SELECT id FROM setup_intent WHERE firm_id = %(firm_id)s AND next_check_time <= %(now)s
    ORDER BY next_check_time, id LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE setup_intent s SET next_check_time = %(next)s, check_count = check_count + 1 FROM c
WHERE s.firm_id = %(firm_id)s AND s.id = c.id
RETURNING {", ".join("s." + name.strip() for name in _COLUMNS.split(","))}
"""
_PLAN = "UPDATE setup_intent SET next_check_time = %(next)s WHERE firm_id = %(firm_id)s AND id = %(id)s AND next_check_time IS NOT NULL"
_NEXT = "SELECT min(next_check_time) FROM setup_intent WHERE firm_id = %(firm_id)s AND next_check_time IS NOT NULL"


async def insert(uow: UnitOfWork, new: NewSetup) -> None:
    """Keep a set-up intent that is to be made. The database refuses the same id twice."""
    values = {**asdict(new), "metadata": Jsonb(new.metadata), "firm_id": uow.firm_id, "now": uow.now}
    await uow.execute(_INSERT, values)


async def get(uow: UnitOfWork, setup_id: UUID, *, lock: bool = False) -> SetupIntent | None:
    """One set-up intent of the firm; locked when asked (after its client)."""
    row = await uow.fetch_one(_LOCK if lock else _GET, {"firm_id": uow.firm_id, "id": setup_id})
    return _setup(row) if row else None


async def by_reference(uow: UnitOfWork, account_id: UUID, reference: str) -> UUID | None:
    """The set-up intent that the account's provider knows under this id of its own."""
    values = {"firm_id": uow.firm_id, "account_id": account_id, "reference": reference}
    found: UUID | None = await uow.fetch_value(_BY_REFERENCE, values)
    return found


async def change(uow: UnitOfWork, setup: SetupIntent, **changes: Any) -> SetupIntent:
    """Write what has become of a locked set-up intent; what `changes` does not name stays."""
    names = ("state", "provider_reference", "method_id", "failure_code", "finish_time", "next_check_time")
    values = {name: getattr(setup, name) for name in names}
    unexpected = changes.keys() - values.keys()
    if unexpected:
        raise TypeError(f"change() knows nothing of {sorted(unexpected)}")
    await uow.execute(_CHANGE, {**values, **changes, "firm_id": uow.firm_id, "id": setup.id, "now": uow.now})
    changed = await get(uow, setup.id)
    assert changed is not None
    return changed


async def claim(uow: UnitOfWork, limit: int, following: datetime) -> list[SetupIntent]:
    """Take set-up intents whose next check has come; should the taker die, they are looked at again at `following`."""
    values = {"firm_id": uow.firm_id, "now": uow.now, "limit": limit, "next": following}
    return [_setup(row) for row in await uow.fetch_all(_CLAIM, values)]


async def plan(uow: UnitOfWork, setup_id: UUID, following: datetime | None) -> None:
    """Have a set-up intent that is looked after looked at again at `following`; None: no more."""
    await uow.execute(_PLAN, {"firm_id": uow.firm_id, "id": setup_id, "next": following})


def next_check(uow: UnitOfWork) -> Question[datetime | None]:
    """When a set-up intent is next to be looked at, in firm time."""
    return ask(uow, _NEXT)


def _setup(row: Row) -> SetupIntent:
    values = {each.name: row[each.name] for each in fields(SetupIntent)}
    values["state"] = SetupIntentState(row["state"])
    return SetupIntent(**values)
