"""Whose an event is. A firm's own account says it; events of the platform's accounts find their firm, or wait until it can be found.

An event goes to one firm or to none. The provider's ids that we noted when we made the objects are our own record; metadata on the
object is believed where that record has nothing, and only for a firm that has no account of its own to which such an object would belong.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from dunwell_server.inbox.model import Account, NewEvent, event_id_of, retry_delay
from dunwell_server.inbox.service.accounts import Vault
from dunwell_server.inbox.store import envelopes, events
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.ids import Prefix, decode
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, Row, UnitOfWork
from dunwell_server.providers.abilities import Webhooks
from dunwell_server.providers.events import NormalisedEvent

UNREADABLE: Final = "it cannot be read"
FOREIGN: Final = "nothing of it concerns us"


@dataclass(frozen=True, slots=True)
class Stored:
    """How an event was taken in."""

    id: UUID
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Route:
    """The firm of an event; or why there is none."""

    firm_id: UUID | None
    why: str = ""
    waits: bool = True
    """False: it concerns nobody here, and waiting would not change that."""


def read_event(webhooks: Webhooks, body: bytes) -> NormalisedEvent | None:
    """What the event says; None where it cannot be read."""
    try:
        return webhooks.normalise(body)
    except Exception:
        # Whatever goes wrong while a provider's text is read means that it was not understood; it is kept as it is.
        return None


async def find_firm(database: Database, context: CallContext, account: Account, event: NormalisedEvent | None) -> Route:
    """The firm of an event of the platform's account."""
    if event is None:
        return Route(None, UNREADABLE)
    named, has_own, owners = await envelopes.firm_facts(
        database, context, account.id, account.provider, account.mode, _firm_id(event.firm), event.references
    )
    return _decide(named, has_own, owners, says_firm=bool(event.firm), concerns_us=bool(event.notices))


def _decide(named: UUID | None, has_own: bool, owners: Sequence[UUID], *, says_firm: bool, concerns_us: bool) -> Route:
    if len(owners) > 1:
        return Route(None, "its objects are of several firms")
    if owners:
        owner = owners[0]
        if named is not None and named != owner:
            return Route(None, "its metadata names another firm than the one whose objects these are")
        return Route(owner)
    if named is not None and not has_own:
        return Route(named)
    if not concerns_us:
        return Route(None, FOREIGN, waits=False)
    if named is not None:
        return Route(None, "its metadata names a firm that has an account of its own")
    return Route(None, "its metadata names no firm of ours" if says_firm else "no firm is known for its objects")


async def store(database: Database, context: CallContext, event: NewEvent, route: Route, vault: Vault) -> Stored:
    """Keep an event with its firm, or waiting for it. Durable when this returns; a repeat gives what was stored before."""
    unbound = context.unbound()
    if route.firm_id is not None:
        new = await events.store(database, context.for_firm(route.firm_id), event)
    else:
        sealed, delay = seal(vault, event.account_id, event.body), retry_delay(1)
        assert delay is not None
        new = await envelopes.store_unrouted(database, unbound, event, sealed, waits=route.waits, delay=delay)
    if new:
        return Stored(event.id, duplicate=False)
    return Stored(await envelopes.find(database, unbound, event.account_id, event.dedupe_key), duplicate=True)


async def assign(uow: UnitOfWork, row: Row, firm_id: UUID, body: bytes) -> bool:
    """Give a waiting envelope to its firm, in a transaction bound to that firm. False: it was somebody's already."""
    if not await envelopes.mark_routed(uow, row["id"], firm_id):
        return False
    headers = {name: text for name, text in (row["headers"] or {}).items() if name != "content-length"}
    event = NewEvent(
        id=row["id"],
        account_id=row["account_id"],
        provider=row["provider"],
        event_id=event_id_of(row["dedupe_key"]),
        type=row["type"],
        body=body,
        headers=headers,
        provider_time=row["provider_time"],
        fetched=row["fetched"],
        receive_time=row["create_time"],
    )
    await events.store_routed(uow, event)
    return True


def seal(vault: Vault, account_id: UUID, body: bytes) -> tuple[bytes, str]:
    """A body, encrypted for as long as its firm is not known."""
    return vault.encrypt({"body": b64encode(body).decode()}, _aad(account_id))


def unseal(vault: Vault, row: Row) -> bytes:
    """The body in an envelope. VaultError."""
    return b64decode(vault.decrypt(bytes(row["sealed_body"]), row["sealed_key_id"], _aad(row["account_id"]))["body"])


def _aad(account_id: UUID) -> bytes:
    return f"inbox-envelope|{account_id.hex}".encode()


def _firm_id(text: str | None) -> UUID | None:
    if not text:
        return None
    try:
        return decode(Prefix.FIRM, text, "firm")
    except DunwellError:
        return None
