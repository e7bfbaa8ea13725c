"""Stripe's signatures and events at the platform's accounts: signed by Stripe's own library, routed by metadata or by what we know."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
import stripe

from dunwell_server.inbox.model import EventState
from dunwell_server.inbox.service.accounts import Endpoints
from dunwell_server.inbox.service.ingest import Ingestor, Webhook
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.crypto import account_aad
from dunwell_server.platform.database import Database
from dunwell_server.platform.provider_references import remember
from dunwell_server.providers.registry import ProviderRegistry
from dunwell_server.providers.stripe import StripeProvider
from tests import support
from tests.integration.inbox.conftest import SIDECAR, House, firm_of

MakeFirm = Callable[..., Awaitable[CallContext]]
SECRET = "whsec_of_the_platform"


def intent_event(event_id: str, *, firm: UUID | None, customer: str = "cus_1", livemode: bool = False) -> bytes:
    metadata = {} if firm is None else {"firm": encode(Prefix.FIRM, firm), "key": f"v1:{uuid7()}:1"}
    intent = {
        "id": f"pi_{event_id}", "object": "payment_intent", "amount": 1200, "amount_received": 1200, "currency": "usd", "status": "succeeded",
        "customer": customer, "metadata": metadata, "created": 1767225600, "livemode": livemode,
    }  # fmt: skip
    event = {
        "id": event_id, "object": "event", "type": "payment_intent.succeeded", "created": 1767225600, "livemode": livemode,
        "api_version": "2025-01-27.acacia", "data": {"object": intent},
    }  # fmt: skip
    return json.dumps(event, indent=2).encode()


@pytest.fixture
async def stripe_house(db: Database) -> AsyncIterator[House]:
    house = House(db)
    registry = ProviderRegistry()
    registry.register("stripe", StripeProvider)
    house.endpoints = Endpoints(registry, house.vault)
    house.ingestor = Ingestor(db, house.endpoints, house.vault)
    credentials = {"secret_key": "sk_test_0123456789abcdef", "webhook_secret": SECRET}
    sealed, key_id = house.vault.encrypt(credentials, account_aad(None, "stripe"))
    await house.change(
        "INSERT INTO control.provider_account (id, firm_id, provider, mode, credentials, key_id) VALUES (%s, NULL, 'stripe', 'TEST', %s, %s)",
        uuid7(),
        sealed,
        key_id,
    )
    yield house
    await house.forget_accounts()
    await registry.close()


async def send(house: House, body: bytes, secret: str = SECRET) -> Any:
    stamp = int(time.time())
    signature = stripe.WebhookSignature._compute_signature(f"{stamp}.{body.decode()}", secret)
    headers = {"stripe-signature": f"t={stamp},v0=00,v1={signature}", "user-agent": "Stripe/1.0"}
    return await house.ingestor.ingest(SIDECAR, Webhook("stripe", None, body, headers))


async def test_stripes_events_reach_their_firms(stripe_house: House, make_firm: MakeFirm) -> None:
    house = stripe_house
    one, other = await firm_of(await make_firm()), await firm_of(await make_firm())
    (account,) = await house.rows(
        "SELECT id FROM control.provider_account WHERE provider = 'stripe' AND state = 'ACTIVE'"
    )
    async with house.db.transaction(support.context(other)) as uow:
        await remember(uow, account["id"], "cus_other")

    by_metadata = await send(house, intent_event("evt_a", firm=one))
    by_customer = await send(house, intent_event("evt_b", firm=None, customer="cus_other"))
    nobodys = await send(house, intent_event("evt_c", firm=None, customer="cus_foreign"))

    event = await house.event(one, by_metadata.id)
    assert (event.event_id, event.type, event.state) == ("evt_a", "payment_intent.succeeded", EventState.RECEIVED)
    assert event.headers == {"user-agent": "Stripe/1.0"}
    assert (await house.event(other, by_customer.id)).event_id == "evt_b"
    (row,) = await house.rows("SELECT state FROM control.inbox_envelope WHERE id = %s", nobodys.id)
    assert row["state"] == "WAITING"


@pytest.mark.parametrize("changes", [{"secret": "whsec_guessed"}, {"livemode": True}])
async def test_forged_ones_and_those_of_the_other_mode_are_refused(
    stripe_house: House, make_firm: MakeFirm, changes: dict[str, Any]
) -> None:
    firm = await firm_of(await make_firm())
    body = intent_event("evt_x", firm=firm, livemode=changes.pop("livemode", False))
    with pytest.raises(DunwellError, match="SIGNATURE_INVALID"):
        await send(stripe_house, body, **changes)
