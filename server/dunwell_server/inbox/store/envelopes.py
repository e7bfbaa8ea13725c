"""Envelopes: one row per event of an account in schema `control`, also while nobody knows whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.inbox.model import EventFilter, EventState, NewEvent, StoredEvent, event_id_of
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, Row, UnitOfWork
from dunwell_server.platform.leases import LEASE_SECONDS

_ID: Final = "SELECT id FROM control.inbox_envelope WHERE account_id = %(account_id)s AND dedupe_key = %(dedupe_key)s"
_KNOWN: Final = """
SELECT dedupe_key FROM control.inbox_envelope WHERE account_id = %(account_id)s AND dedupe_key = ANY(%(keys)s)
"""
_STORE: Final = """
INSERT INTO control.inbox_envelope (id, account_id, provider, dedupe_key, type, state, sealed_body, sealed_key_id, headers,
                                    provider_time, fetched, next_attempt_time)
VALUES (%(id)s, %(account_id)s, %(provider)s, %(dedupe_key)s, %(type)s, %(state)s, %(sealed)s, %(key_id)s, %(headers)s,
        %(provider_time)s, %(fetched)s, CASE WHEN %(state)s = 'WAITING' THEN clock_timestamp() + %(delay)s END)
ON CONFLICT (account_id, dedupe_key) DO NOTHING RETURNING id
"""
_FIRM: Final = """
SELECT (SELECT id FROM control.firm WHERE id = %(named)s AND mode = %(mode)s) AS named,
       EXISTS (SELECT 1 FROM control.provider_account WHERE firm_id = %(named)s AND provider = %(provider)s AND mode = %(mode)s
                                                        AND state = 'ACTIVE') AS has_own,
       (SELECT coalesce(array_agg(DISTINCT firm_id), '{}') FROM control.provider_reference
        WHERE account_id = %(account_id)s AND reference = ANY(%(references)s)) AS owners
"""
_CLAIM: Final = f"""
WITH c AS MATERIALIZED (
    SELECT id FROM control.inbox_envelope WHERE state = 'WAITING' AND next_attempt_time <= clock_timestamp()
    ORDER BY next_attempt_time LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE control.inbox_envelope e SET next_attempt_time = clock_timestamp() + interval '{LEASE_SECONDS} s'
FROM c, control.provider_account a WHERE e.id = c.id AND a.id = e.account_id
RETURNING e.*, a.mode
"""
_ROUTE: Final = """
UPDATE control.inbox_envelope SET state = 'ROUTED', firm_id = %(firm_id)s, sealed_body = NULL, sealed_key_id = NULL, headers = NULL,
    next_attempt_time = NULL, last_error = NULL
WHERE id = %(id)s AND state <> 'ROUTED'
"""
_POSTPONE: Final = """
UPDATE control.inbox_envelope SET attempts = attempts + 1, last_error = %(error)s, state = %(state)s,
    next_attempt_time = CASE WHEN %(state)s = 'WAITING' THEN clock_timestamp() + %(delay)s END
WHERE id = %(id)s AND state = 'WAITING'
"""
_DISCARD: Final = """
UPDATE control.inbox_envelope SET state = 'DISCARDED', next_attempt_time = NULL, last_error = %(error)s WHERE id = %(id)s AND state <> 'ROUTED'
"""
_OLDEST: Final = """
SELECT (SELECT min(create_time) FROM control.inbox_envelope WHERE state = 'WAITING') AS oldest,
       (SELECT count(*) FROM control.inbox_envelope WHERE state = 'QUARANTINED') AS quarantined
"""
_UNROUTED: Final = """
SELECT e.*, a.mode FROM control.inbox_envelope e JOIN control.provider_account a ON a.id = e.account_id WHERE e.state <> 'ROUTED'
"""
_GET: Final = _UNROUTED + " AND e.id = %(id)s"
_LOCK: Final = _GET + " FOR NO KEY UPDATE OF e"
_PAGE: Final = (
    _UNROUTED
    + """
  AND (%(states)s::text[] IS NULL OR e.state = ANY(%(states)s)) AND (%(provider)s::text IS NULL OR e.provider = %(provider)s)
  AND (%(type)s::text IS NULL OR e.type = %(type)s) AND (%(event_id)s::text IS NULL OR e.dedupe_key = %(event_id)s)
  AND (%(from_time)s::timestamptz IS NULL OR e.create_time >= %(from_time)s)
  AND (%(until_time)s::timestamptz IS NULL OR e.create_time < %(until_time)s)
"""
)
_DESCENDING: Final = (
    _PAGE
    + """
  AND (%(after_time)s::timestamptz IS NULL OR (e.create_time, e.id) < (%(after_time)s, %(after_id)s::uuid))
ORDER BY e.create_time DESC, e.id DESC LIMIT %(limit)s
"""
)
_ASCENDING: Final = (
    _PAGE
    + """
  AND (%(after_time)s::timestamptz IS NULL OR (e.create_time, e.id) > (%(after_time)s, %(after_id)s::uuid))
ORDER BY e.create_time, e.id LIMIT %(limit)s
"""
)
_STATES: Final = {"WAITING": EventState.RECEIVED, "QUARANTINED": EventState.QUARANTINED, "DISCARDED": EventState.DISCARDED}  # fmt: skip
_NAMES: Final = {state.value: name for name, state in _STATES.items()}


async def find(database: Database, context: CallContext, account_id: UUID, dedupe_key: str) -> UUID:
    """The id under which an event of the account is stored, which it must be."""
    (row,) = await database.submit(context, _ID, {"account_id": account_id, "dedupe_key": dedupe_key})
    found: UUID = row["id"]
    return found


async def known(uow: UnitOfWork, account_id: UUID, keys: Sequence[str]) -> set[str]:
    """Those of the dedupe keys that the inbox has."""
    rows = await uow.fetch_all(_KNOWN, {"account_id": account_id, "keys": list(keys)})
    return {row["dedupe_key"] for row in rows}


async def store_unrouted(
    database: Database,
    context: CallContext,
    event: NewEvent,
    sealed: tuple[bytes, str],
    *,
    waits: bool,
    delay: timedelta,
) -> bool:
    """Keep an event whose firm is not known, durable when this returns. False: it was known.

    `waits`: it is looked at again after `delay`; else nothing of it concerns us.
    """
    values = {
        "id": event.id, "account_id": event.account_id, "provider": event.provider, "dedupe_key": event.dedupe_key, "type": event.type,
        "state": "WAITING" if waits else "DISCARDED", "sealed": sealed[0], "key_id": sealed[1],
        # The body cannot be measured while it is sealed, so that its length is kept beside it.
        "headers": Jsonb({**event.headers, "content-length": str(len(event.body))}),
        "provider_time": event.provider_time, "fetched": event.fetched, "delay": delay,
    }  # fmt: skip
    return bool(await database.submit(context, _STORE, values))


async def firm_facts(
    database: Database,
    context: CallContext,
    account_id: UUID,
    provider: str,
    mode: str,
    named: UUID | None,
    references: Sequence[str],
) -> tuple[UUID | None, bool, list[UUID]]:
    """The named firm if there is one of that mode, whether it has an account of its own there, and the firms that own the references."""
    values = {
        "account_id": account_id,
        "provider": provider,
        "mode": mode,
        "named": named,
        "references": list(references),
    }
    (row,) = await database.submit(context, _FIRM, values)
    return row["named"], row["has_own"], row["owners"]


async def claim_waiting(uow: UnitOfWork, limit: int) -> list[Row]:
    """Take envelopes that are due to be looked at; each is this caller's for the length of a lease."""
    return await uow.fetch_all(_CLAIM, {"limit": limit})


async def mark_routed(uow: UnitOfWork, envelope_id: UUID, firm_id: UUID) -> bool:
    """The event is the firm's now, its body with it. False: it was somebody's already."""
    return await uow.execute(_ROUTE, {"id": envelope_id, "firm_id": firm_id}) == 1


async def postpone(uow: UnitOfWork, envelope_id: UUID, error: str, delay: timedelta | None) -> None:
    """Look again after `delay`; None: leave it to a person."""
    state = "QUARANTINED" if delay is None else "WAITING"
    await uow.execute(_POSTPONE, {"id": envelope_id, "error": error, "state": state, "delay": delay or timedelta(0)})


async def discard(uow: UnitOfWork, envelope_id: UUID, why: str) -> None:
    """It shall not be applied."""
    await uow.execute(_DISCARD, {"id": envelope_id, "error": why})


async def standing(uow: UnitOfWork) -> tuple[datetime | None, int]:
    """When the oldest waiting envelope was received, and how many wait for a person."""
    row = await uow.fetch_one(_OLDEST)
    assert row is not None
    return row["oldest"], row["quarantined"]


async def get(uow: UnitOfWork, envelope_id: UUID, *, lock: bool = False) -> Row | None:
    """An envelope without a firm, with its sealed body and its account's mode."""
    return await uow.fetch_one(_LOCK if lock else _GET, {"id": envelope_id})


async def page(
    uow: UnitOfWork, wanted: EventFilter, *, oldest_first: bool, after: tuple[datetime, UUID] | None, limit: int
) -> list[StoredEvent]:
    """Envelopes without a firm, without bodies."""
    if wanted.object_reference is not None:
        return []
    states = [_NAMES[state] for state in wanted.states if state in _NAMES]
    if wanted.states and not states:
        return []
    values: dict[str, Any] = {
        "states": states or None, "provider": wanted.provider, "type": wanted.type, "event_id": wanted.event_id,
        "from_time": wanted.from_time, "until_time": wanted.until_time,
        "after_time": after[0] if after else None, "after_id": after[1] if after else None, "limit": limit,
    }  # fmt: skip
    return [shown(row) for row in await uow.fetch_all(_ASCENDING if oldest_first else _DESCENDING, values)]


def shown(row: Row, body: bytes = b"") -> StoredEvent:
    """An envelope as an event, its body opened by the caller."""
    headers = dict(row["headers"] or {})
    return StoredEvent(
        id=row["id"],
        firm_id=None,
        account_id=row["account_id"],
        provider=row["provider"],
        event_id=event_id_of(row["dedupe_key"]),
        type=row["type"],
        state=_STATES[row["state"]],
        attempts=row["attempts"],
        fence=0,
        fetched=row["fetched"],
        body_bytes=int(headers.get("content-length", len(body))),
        create_time=row["create_time"],
        last_error=row["last_error"],
        next_attempt_time=row["next_attempt_time"],
        provider_time=row["provider_time"],
        body=body,
        headers=headers,
    )
