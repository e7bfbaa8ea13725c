"""A provider that sends signed webhooks and nothing else, and an applier that keeps payments forward-only in the mirror's table."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from dunwell_server.inbox.ports import Applied, NotYet, Origin
from dunwell_server.kernel.money import Money
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.providers.abilities import SignatureRefused
from dunwell_server.providers.base import (
    Capabilities,
    DeclineClass,
    FailureCode,
    Outcome,
    OutcomeClass,
    ProviderAccount,
)
from dunwell_server.providers.events import (
    DisputeNotice,
    EventPage,
    NormalisedEvent,
    Notice,
    PaymentNotice,
    SignedEvent,
)
from dunwell_server.providers.registry import ProviderRegistry

TOLERANCE = 300
RANK = ("NONE", "PENDING", "DECLINED", "SUCCEEDED")


def signature(secret: str, body: bytes, when: datetime | None = None) -> str:
    """A header as the toy provider signs: seconds and HMAC-SHA256 over both."""
    stamp = str(int((when or datetime.now(UTC)).timestamp()))
    return f"{stamp}.{hmac.new(secret.encode(), f'{stamp}.'.encode() + body, hashlib.sha256).hexdigest()}"


def signed_headers(secret: str, body: bytes, when: datetime | None = None) -> dict[str, str]:
    return {"toy-signature": signature(secret, body, when), "user-agent": "toy/1"}


def event_body(event_id: str, kind: str = "payment", **facts: Any) -> bytes:
    """One event as the toy provider writes it. `facts`: state, key, firm, references, created."""
    return json.dumps({"id": event_id, "type": kind, "created": 1767225600, **facts}).encode()


class ToyProvider:
    """Only `capabilities`, `name` and the webhooks ability: nothing else of a provider is asked of it here."""

    name = "toy"
    capabilities = Capabilities(webhooks=True)

    def __init__(self) -> None:
        self.listed: list[tuple[datetime, bytes]] = []
        self.windows: list[tuple[datetime, datetime]] = []
        self.page_size = 3

    async def verify(
        self, account: ProviderAccount, secrets: Sequence[str], body: bytes, headers: Mapping[str, str], now: datetime
    ) -> SignedEvent:
        given = headers.get("toy-signature", "")
        stamp, _, _ = given.partition(".")
        if not secrets or not stamp.isdigit():
            raise SignatureRefused("missing")
        when = datetime.fromtimestamp(int(stamp), UTC)
        if not any(hmac.compare_digest(signature(secret, body, when), given) for secret in secrets):
            raise SignatureRefused("mismatch")
        if abs((now - when).total_seconds()) > TOLERANCE:
            raise SignatureRefused("time")
        return self._signed(body)

    @staticmethod
    def _signed(body: bytes) -> SignedEvent:
        try:
            event = json.loads(body)
        except ValueError:
            return SignedEvent(None, "", None)
        return SignedEvent(event.get("id"), event["type"], datetime.fromtimestamp(event["created"], UTC))

    def normalise(self, body: bytes) -> NormalisedEvent:
        event = json.loads(body)
        notices: tuple[Notice, ...] = ()
        if event["type"] == "payment":
            notices = (PaymentNotice(f"toy_{event['key']}", event["key"], _outcome(event["state"], event["key"])),)
        elif event["type"] == "dispute":
            notices = (DisputeNotice(event),)
        return NormalisedEvent(
            event.get("id"), event["type"], datetime.fromtimestamp(event["created"], UTC), notices,
            event.get("firm"), tuple(event.get("references", ())),
        )  # fmt: skip

    async def list_events(
        self, account: ProviderAccount, since: datetime, until: datetime, page: str | None = None
    ) -> EventPage:
        if page is None:
            self.windows.append((since, until))
        found = [(self._signed(body), body) for when, body in self.listed if since <= when < until]
        first = int(page or 0)
        after = first + self.page_size
        return EventPage(tuple(found[first:after]), str(after) if after < len(found) else None)

    async def close(self) -> None:
        return None


def _outcome(state: str, key: str) -> Outcome:
    declined = state == "DECLINED"
    return Outcome(
        outcome=OutcomeClass[state],
        provider_reference=f"toy_{key}",
        money=Money("USD", 100),
        failure_code=FailureCode.CARD_DECLINED if declined else None,
        decline_class=DeclineClass.SOFT if declined else None,
    )


@dataclass
class PaymentBook:
    """Takes PaymentNotice: the payment must be in the book, and only ever moves forward. `poison` makes keys fail."""

    poison: dict[str, Exception] = field(default_factory=dict)
    prepared: list[str] = field(default_factory=list)
    notices: tuple[type, ...] = (PaymentNotice,)

    async def prepare(self, database: Database, context: CallContext, origin: Origin, notice: Any) -> Any:
        self.prepared.append(notice.key)
        return notice.outcome.outcome.name

    async def apply(self, uow: UnitOfWork, origin: Origin, notice: Any, prepared: Any) -> Applied:
        key = {"firm": uow.firm_id, "account": origin.account_id, "key": notice.key}
        row = await uow.fetch_one(
            "SELECT state FROM provider_mirror WHERE firm_id = %(firm)s AND account_id = %(account)s AND kind = 'INVOICE'"
            " AND reference = %(key)s FOR NO KEY UPDATE",
            key,
        )
        if row is None:
            raise NotYet("no such payment")
        forward = RANK.index(prepared) > RANK.index(row["state"])
        if forward:
            await uow.execute(
                "UPDATE provider_mirror SET state = %(state)s, version = version + 1"
                " WHERE firm_id = %(firm)s AND account_id = %(account)s AND kind = 'INVOICE' AND reference = %(key)s",
                {**key, "state": prepared},
            )
        if notice.key in self.poison:
            raise self.poison[notice.key]
        return Applied(f"payment {notice.key} {'is' if forward else 'was past'} {prepared}")


async def open_payment(uow: UnitOfWork, account_id: UUID, key: str) -> None:
    """A payment of ours that waits to hear what became of it."""
    await uow.execute(
        "INSERT INTO provider_mirror (firm_id, account_id, kind, reference, state, snapshot) VALUES (%s, %s, 'INVOICE', %s, 'NONE', '{}')",
        (uow.firm_id, account_id, key),
    )


async def payment_states(uow: UnitOfWork) -> dict[str, str]:
    """Every payment's state."""
    rows = await uow.fetch_all("SELECT reference, state FROM provider_mirror WHERE kind = 'INVOICE'")
    return {row["reference"]: row["state"] for row in rows}


def registry_of(provider: ToyProvider) -> ProviderRegistry:
    registry = ProviderRegistry()
    registry.register("toy", lambda: provider)  # type: ignore[arg-type,return-value]
    return registry
