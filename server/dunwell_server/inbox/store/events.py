"""Provider events as a firm's rows: stored once, claimed with a lease and a fence, marked in the transaction of their effect."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.inbox.model import EventFilter, EventState, NewEvent, StoredEvent
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import TENANT_CTE, Database, Row, UnitOfWork
from dunwell_server.platform.leases import LEASE_SECONDS
from dunwell_server.platform.questions import Question, ask

_LIST: Final = """
    id, firm_id, account_id, provider, event_id, type, state, attempts, fence, fetched, octet_length(body) AS body_bytes, create_time, result,
    last_error, next_attempt_time, object_reference, provider_time, finish_time
"""
_FULL: Final = _LIST + ", body, headers"
_INSERT: Final = """
INSERT INTO provider_event (firm_id, id, account_id, provider, dedupe_key, event_id, type, body, body_hash, headers, provider_time, fetched,
                            next_attempt_time, create_time)
SELECT %(firm_id)s, %(id)s, %(account_id)s, %(provider)s, %(dedupe_key)s, %(event_id)s, %(type)s, %(body)s, %(body_hash)s, %(headers)s,
       %(provider_time)s, %(fetched)s, clock_timestamp(), coalesce(%(receive_time)s, clock_timestamp())
"""
_STORE: Final = f"""
WITH {TENANT_CTE}, envelope AS (
    INSERT INTO control.inbox_envelope (id, account_id, provider, dedupe_key, type, firm_id, state, provider_time, fetched)
    SELECT %(id)s, %(account_id)s, %(provider)s, %(dedupe_key)s, %(type)s, %(firm_id)s, 'ROUTED', %(provider_time)s, %(fetched)s FROM tenant
    ON CONFLICT (account_id, dedupe_key) DO NOTHING RETURNING id
), stored AS ({_INSERT} FROM envelope RETURNING id)
INSERT INTO control.wake (firm_id, kind, due) SELECT %(firm_id)s, 'inbox', clock_timestamp() FROM stored RETURNING true AS stored
"""
_CLAIM: Final = f"""
WITH c AS MATERIALIZED (
    SELECT id FROM provider_event WHERE firm_id = %(firm_id)s AND state = 'RECEIVED' AND next_attempt_time <= clock_timestamp()
    ORDER BY next_attempt_time, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE provider_event e SET owner = %(owner)s, fence = e.fence + 1, lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s',
    next_attempt_time = clock_timestamp() + interval '{LEASE_SECONDS} s'
FROM c WHERE e.firm_id = %(firm_id)s AND e.id = c.id
RETURNING {_FULL.replace(" id,", " e.id,", 1)}
"""
_RENEW: Final = f"""
UPDATE provider_event SET lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s',
    next_attempt_time = clock_timestamp() + interval '{LEASE_SECONDS} s'
WHERE firm_id = %(firm_id)s AND owner = %(owner)s AND state = 'RECEIVED' AND lease_until IS NOT NULL AND id = ANY(%(ids)s)
"""
_FINISH: Final = """
UPDATE provider_event SET state = %(state)s, result = %(result)s, object_reference = coalesce(%(reference)s, object_reference),
    attempts = attempts + 1, last_error = NULL, next_attempt_time = NULL, finish_time = clock_timestamp(), owner = NULL, lease_until = NULL,
    version = version + 1
WHERE firm_id = %(firm_id)s AND id = %(id)s AND fence = %(fence)s AND state = 'RECEIVED'
"""
_POSTPONE: Final = """
UPDATE provider_event SET state = %(state)s, last_error = %(error)s, object_reference = coalesce(%(reference)s, object_reference),
    attempts = attempts + 1, next_attempt_time = CASE WHEN %(state)s = 'RECEIVED' THEN clock_timestamp() + %(delay)s END,
    owner = NULL, lease_until = NULL, version = version + 1
WHERE firm_id = %(firm_id)s AND id = %(id)s AND fence = %(fence)s AND state = 'RECEIVED'
"""
_REPLAY: Final = """
UPDATE provider_event SET state = 'RECEIVED', attempts = 0, next_attempt_time = clock_timestamp(), result = NULL, finish_time = NULL,
    fence = fence + 1, owner = NULL, lease_until = NULL, version = version + 1
WHERE firm_id = %(firm_id)s AND id = %(id)s
"""
_DISCARD: Final = """
UPDATE provider_event SET state = 'DISCARDED', result = %(result)s, next_attempt_time = NULL, finish_time = clock_timestamp(),
    fence = fence + 1, owner = NULL, lease_until = NULL, version = version + 1
WHERE firm_id = %(firm_id)s AND id = %(id)s
"""
_NEXT_DUE: Final = (
    "SELECT min(next_attempt_time) FROM provider_event WHERE firm_id = %(firm_id)s AND state = 'RECEIVED'"
)
_HURRY: Final = """
UPDATE provider_event SET next_attempt_time = clock_timestamp()
WHERE firm_id = %(firm_id)s AND state = 'RECEIVED' AND attempts = 1 AND owner IS NULL AND next_attempt_time > clock_timestamp()
"""
_WAITING: Final = "SELECT EXISTS (SELECT 1 FROM provider_event WHERE firm_id = %(firm_id)s AND state = 'RECEIVED')"
_BUSY: Final = """
SELECT EXISTS (SELECT 1 FROM provider_event WHERE firm_id = %(firm_id)s AND state = 'RECEIVED'
               AND (next_attempt_time <= clock_timestamp() OR lease_until > clock_timestamp()))
"""
_STANDING: Final = """
SELECT (SELECT min(create_time) FROM provider_event WHERE firm_id = %(firm_id)s AND state = 'RECEIVED') AS oldest,
       (SELECT count(*) FROM provider_event WHERE firm_id = %(firm_id)s AND state = 'QUARANTINED') AS quarantined
"""
_GET: Final = f"SELECT {_FULL} FROM provider_event WHERE firm_id = %(firm_id)s AND id = %(id)s"
_LOCK: Final = _GET + " FOR NO KEY UPDATE"
_PAGE: Final = f"""
SELECT {_LIST} FROM provider_event WHERE firm_id = %(firm_id)s
  AND (%(states)s::text[] IS NULL OR state = ANY(%(states)s)) AND (%(provider)s::text IS NULL OR provider = %(provider)s)
  AND (%(type)s::text IS NULL OR type = %(type)s) AND (%(event_id)s::text IS NULL OR event_id = %(event_id)s)
  AND (%(object_reference)s::text IS NULL OR object_reference = %(object_reference)s)
  AND (%(from_time)s::timestamptz IS NULL OR create_time >= %(from_time)s)
  AND (%(until_time)s::timestamptz IS NULL OR create_time < %(until_time)s)
"""
_DESCENDING: Final = (
    _PAGE
    + """
  AND (%(after_time)s::timestamptz IS NULL OR (create_time, id) < (%(after_time)s, %(after_id)s::uuid))
ORDER BY create_time DESC, id DESC LIMIT %(limit)s
"""
)
_ASCENDING: Final = (
    _PAGE
    + """
  AND (%(after_time)s::timestamptz IS NULL OR (create_time, id) > (%(after_time)s, %(after_id)s::uuid))
ORDER BY create_time, id LIMIT %(limit)s
"""
)


async def store(database: Database, context: CallContext, event: NewEvent) -> bool:
    """Keep an event of the context's firm: its envelope, its row and a wake for the inbox worker, in one statement and one round trip.

    Durable when this returns. False: it was known.
    """
    assert context.firm_id is not None
    return bool(await database.submit(context, _STORE, _values(context.firm_id, event)))


async def store_routed(uow: UnitOfWork, event: NewEvent) -> None:
    """Keep an event whose envelope has just been routed to the firm."""
    await uow.execute(_INSERT, _values(uow.firm_id, event))
    await uow.execute(
        "INSERT INTO control.wake (firm_id, kind, due) VALUES (%(firm_id)s, 'inbox', clock_timestamp())",
        {"firm_id": uow.firm_id},
    )


async def claim(uow: UnitOfWork, owner: UUID, limit: int) -> list[StoredEvent]:
    """Take events that are due; each is the owner's until its lease ends. Never waits for another claim."""
    rows = await uow.fetch_all(_CLAIM, {"firm_id": uow.firm_id, "owner": owner, "limit": limit})
    return [event_of(row) for row in rows]


async def renew(uow: UnitOfWork, owner: UUID, ids: Sequence[UUID]) -> None:
    """Keep the leases of what is still in hand."""
    await uow.execute(_RENEW, {"firm_id": uow.firm_id, "owner": owner, "ids": list(ids)})


async def finish(
    uow: UnitOfWork, event: StoredEvent, state: EventState, result: str, *, reference: str | None = None
) -> bool:
    """Mark a claimed event. False: its claim is somebody else's by now, or a person decided about it."""
    values = {"state": state.value, "result": result, "reference": reference}
    return await uow.execute(_FINISH, {**_key(uow, event.id), "fence": event.fence, **values}) == 1


async def postpone(
    uow: UnitOfWork, event: StoredEvent, error: str, delay: timedelta | None, *, reference: str | None = None
) -> bool:
    """Try a claimed event again after `delay`; None: quarantine it. False: it is no longer the caller's."""
    values = {
        "state": (EventState.RECEIVED if delay is not None else EventState.QUARANTINED).value, "error": error, "delay": delay or timedelta(0),
        "reference": reference, "fence": event.fence,
    }  # fmt: skip
    return await uow.execute(_POSTPONE, {**_key(uow, event.id), **values}) == 1


async def set_replayed(uow: UnitOfWork, event_id: UUID) -> None:
    """Due now, as if it had never been tried. Whoever has it in hand loses it."""
    await uow.execute(_REPLAY, _key(uow, event_id))


async def set_discarded(uow: UnitOfWork, event_id: UUID, result: str) -> None:
    """Never to be applied. Whoever has it in hand loses it."""
    await uow.execute(_DISCARD, {**_key(uow, event_id), "result": result})


async def next_due(uow: UnitOfWork) -> datetime | None:
    """When the firm's next event is due, in machine time; what is in hand is due when its lease ends."""
    due: datetime | None = await uow.fetch_value(_NEXT_DUE, {"firm_id": uow.firm_id})
    return due


async def hurry(uow: UnitOfWork) -> None:
    """Have events tried again now that have failed once: a test clock does not wait out the seconds of machine time between the two tries."""
    await uow.execute(_HURRY, {"firm_id": uow.firm_id})


def waiting(uow: UnitOfWork) -> Question[bool]:
    """Whether an event is still to be applied, now or later."""
    return ask(uow, _WAITING)


async def busy(uow: UnitOfWork) -> bool:
    """Whether an event is due now or in somebody's hands."""
    return bool(await uow.fetch_value(_BUSY, {"firm_id": uow.firm_id}))


async def standing(uow: UnitOfWork) -> tuple[datetime | None, int]:
    """When the oldest event that waits was received, and how many are quarantined."""
    row = await uow.fetch_one(_STANDING, {"firm_id": uow.firm_id})
    assert row is not None
    return row["oldest"], row["quarantined"]


async def get(uow: UnitOfWork, event_id: UUID, *, lock: bool = False) -> StoredEvent | None:
    """One event of the firm, with its body."""
    row = await uow.fetch_one(_LOCK if lock else _GET, _key(uow, event_id))
    return event_of(row) if row else None


async def page(
    uow: UnitOfWork, wanted: EventFilter, *, oldest_first: bool, after: tuple[datetime, UUID] | None, limit: int
) -> list[StoredEvent]:
    """Events of the firm, without bodies."""
    values: dict[str, Any] = {
        "firm_id": uow.firm_id, "states": list(wanted.states) or None, "provider": wanted.provider, "type": wanted.type,
        "event_id": wanted.event_id, "object_reference": wanted.object_reference, "from_time": wanted.from_time, "until_time": wanted.until_time,
        "after_time": after[0] if after else None, "after_id": after[1] if after else None, "limit": limit,
    }  # fmt: skip
    return [event_of(row) for row in await uow.fetch_all(_ASCENDING if oldest_first else _DESCENDING, values)]


def event_of(row: Row) -> StoredEvent:
    """The event in a row of `provider_event`."""
    return StoredEvent(**{**row, "state": EventState(row["state"])})


def _key(uow: UnitOfWork, event_id: UUID) -> dict[str, Any]:
    return {"firm_id": uow.firm_id, "id": event_id}


def _values(firm_id: UUID, event: NewEvent) -> dict[str, Any]:
    return {
        "firm_id": firm_id, "id": event.id, "account_id": event.account_id, "provider": event.provider, "dedupe_key": event.dedupe_key,
        "event_id": event.event_id, "type": event.type, "body": event.body, "body_hash": sha256(event.body).digest(),
        "headers": Jsonb(dict(event.headers)), "provider_time": event.provider_time, "fetched": event.fetched, "receive_time": event.receive_time,
    }  # fmt: skip
