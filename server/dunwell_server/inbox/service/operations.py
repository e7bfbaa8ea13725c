"""Looking at events and deciding about them: what operations do with the inbox."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.inbox.model import EventFilter, EventState, StoredEvent
from dunwell_server.inbox.service import routing
from dunwell_server.inbox.service.accounts import Vault
from dunwell_server.inbox.store import envelopes, events
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.context import Role
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.journal import Category, Change, record
from dunwell_server.platform.work import WorkKind, wake

_CONTROL_AUDIT = """
INSERT INTO control.audit_event (id, action, actor, method, metadata) VALUES (%(id)s, %(action)s, %(actor)s, %(method)s, %(metadata)s)
"""


async def list_events(
    uow: UnitOfWork, wanted: EventFilter, *, oldest_first: bool, after: tuple[datetime, UUID] | None, limit: int
) -> list[StoredEvent]:
    """Events without bodies: the firm's, or in a firmless transaction those whose firm is not known."""
    store = envelopes.page if uow.context.firm_id is None else events.page
    return await store(uow, wanted, oldest_first=oldest_first, after=after, limit=limit)


async def get_event(uow: UnitOfWork, event_id: UUID, vault: Vault) -> StoredEvent:
    """One event with its body. RESOURCE_NOT_FOUND."""
    if uow.context.firm_id is None:
        row = await envelopes.get(uow, event_id)
        found = None if row is None else envelopes.shown(row, routing.unseal(vault, row))
    else:
        found = await events.get(uow, event_id)
    if found is None:
        raise _unknown(event_id)
    return found


async def replay(uow: UnitOfWork, event_id: UUID, vault: Vault) -> StoredEvent:
    """Have an event applied again. An ADMIN who replays one without a firm thereby gives it to the firm that the call names.

    Errors: RESOURCE_NOT_FOUND; PROVIDER_MODE_MISMATCH for giving it to a firm of the other mode.
    """
    event = await events.get(uow, event_id, lock=True)
    if event is None:
        await _assign(uow, await _unrouted(uow, event_id), vault)
        metadata = {"from_state": "UNROUTED"}
    else:
        await events.set_replayed(uow, event_id)
        await wake(uow, WorkKind.INBOX, uow.machine_now)
        metadata = {"from_state": event.state.value}
    change = Change(Category.PAYMENT, "provider_event_replayed", "provider_event", event_id, metadata=metadata)
    await record(uow, change)
    return await _get(uow, event_id)


async def discard(uow: UnitOfWork, event_id: UUID, note: str, vault: Vault) -> StoredEvent:
    """Decide that an event shall not be applied; deciding it again changes nothing.

    Errors: RESOURCE_NOT_FOUND, STATE_CONFLICT when it was applied or ignored.
    """
    event = await events.get(uow, event_id, lock=True)
    if event is None:
        return await _discard_unrouted(uow, await _unrouted(uow, event_id), note, vault)
    if event.state is EventState.DISCARDED:
        return event
    if event.state in (EventState.APPLIED, EventState.IGNORED):
        raise DunwellError(
            Reason.STATE_CONFLICT,
            f"The event is {event.state.value}: it has been dealt with.",
            metadata={"state": event.state.value},
        )
    await events.set_discarded(uow, event_id, f"discarded by {uow.context.actor.label}: {note}")
    metadata = {"note": note, "from_state": event.state.value}
    change = Change(Category.PAYMENT, "provider_event_discarded", "provider_event", event_id, metadata=metadata)
    await record(uow, change)
    return await _get(uow, event_id)


async def _unrouted(uow: UnitOfWork, event_id: UUID) -> Row:
    """An envelope without a firm, which is an ADMIN's to decide about; to others it does not exist."""
    row = await envelopes.get(uow, event_id, lock=True) if uow.context.actor.role is Role.ADMIN else None
    if row is None:
        raise _unknown(event_id)
    return row


async def _assign(uow: UnitOfWork, row: Row, vault: Vault) -> None:
    if row["mode"] != uow.firm.mode:
        raise DunwellError(
            Reason.PROVIDER_MODE_MISMATCH,
            f"The event is of a {row['mode']} account, the firm is in {uow.firm.mode} mode.",
            metadata={"mode": row["mode"]},
        )
    await routing.assign(uow, row, uow.firm_id, routing.unseal(vault, row))


async def _discard_unrouted(uow: UnitOfWork, row: Row, note: str, vault: Vault) -> StoredEvent:
    if row["state"] != "DISCARDED":
        await envelopes.discard(uow, row["id"], f"discarded by {uow.context.actor.label}: {note}")
        await record_firmless(uow, "provider_event_discarded", row["id"], note)
    fresh = await envelopes.get(uow, row["id"])
    assert fresh is not None
    return envelopes.shown(fresh, routing.unseal(vault, fresh))


async def record_firmless(uow: UnitOfWork, action: str, event_id: UUID, note: str) -> None:
    """An audit entry about an event that has no firm."""
    context = uow.context
    metadata = {"provider_event": encode(Prefix.PROVIDER_EVENT, event_id), "note": note}
    values = {"id": uuid7(), "action": action, "actor": context.actor.label, "method": context.method}
    await uow.execute(_CONTROL_AUDIT, {**values, "metadata": Jsonb(metadata)})


async def _get(uow: UnitOfWork, event_id: UUID) -> StoredEvent:
    found = await events.get(uow, event_id)
    assert found is not None
    return found


def _unknown(event_id: UUID) -> DunwellError:
    text = encode(Prefix.PROVIDER_EVENT, event_id)
    return DunwellError(Reason.RESOURCE_NOT_FOUND, "No such provider event.", resource=("ProviderEvent", text))
