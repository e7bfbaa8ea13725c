"""Accounts that change while events are on their way: a firm gets its own, loses it again; the installation's secret is rotated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from dunwell.v1 import admin_service_pb2, payment_service_pb2, provider_pb2
from dunwell_server.sidecar_config import SidecarSettings
from dunwell_server.webhooks.server import Sidecar
from tests.integration.stripe_house.conftest import configured, new_firm
from tests.integration.stripe_house.house import PLATFORM_SECRET, House, event_state, payment_state, reference_of
from tests.integration.stripe_house.payloads import event, event_id, payment_intent, refund

SECRET = "whsec_of_its_own_0123456789abcdef"


async def test_what_began_at_the_installations_account_ends_there(house: House) -> None:
    """The firm gets its own account while a charge is open at the shared one: the events of both find it, each at its account."""
    firm = await new_firm(house, "Moving")
    _, invoice_id = await firm.payer("pm_sandbox_acceptThenDrop", 31)
    payment = await firm.charge(invoice_id)
    [intent] = [
        one for one in await house.platform._all("payment_intents") if one["metadata"].get("payment") == payment.id
    ]
    await configured(firm, SECRET)
    body = payment_intent(intent["id"], 3100, "succeeded", intent["metadata"], customer=intent["customer"])
    wrong = await firm.told("payment_intent.succeeded", body)
    assert event_state(wrong) == "IGNORED", wrong.result
    name = event_id()
    assert (await house.post(event("payment_intent.succeeded", body, name=name), PLATFORM_SECRET)).status_code == 200
    assert event_state(await firm.dealt_with(name)) == "APPLIED"
    assert payment_state(await firm.payment(payment.id)) == "SUCCEEDED"
    made = refund(f"re_{uuid4().hex}", intent["id"], 100, "succeeded")
    name = event_id()
    assert (await house.post(event("refund.created", made, name=name), PLATFORM_SECRET)).status_code == 200
    assert event_state(await firm.dealt_with(name)) == "APPLIED"
    later, paid = await firm.paid(10)
    assert reference_of(paid) in [one["id"] for one in await house.own._all("payment_intents")]
    assert await firm.invoice_state(later) == "PAID"


async def test_what_is_open_at_an_account_that_is_disabled_is_still_heard(house: House) -> None:
    firm = await configured(await new_firm(house, "Leaving"), SECRET)
    invoice_id, payment = await firm.paid(22)
    disable = admin_service_pb2.ConfigureProviderRequest(
        provider="stripe", mode=provider_pb2.ACCOUNT_MODE_TEST, disable=True
    )
    await firm.call(disable)
    made = refund(f"re_{uuid4().hex}", reference_of(payment), 2200, "succeeded")
    told = await firm.told("refund.created", made)
    assert event_state(told) == "APPLIED", told.last_error
    assert await firm.invoice_state(invoice_id) == "REFUNDED"
    # New things are made at the installation's account.
    client = await firm.client()
    request = payment_service_pb2.EnsureProviderCustomerRequest(client_id=client.id)
    customer = (await firm.call(request)).provider_customer.provider_reference
    assert customer in [one["id"] for one in await house.platform._all("customers")]


async def test_the_installations_secret_is_rotated_by_an_admin(house: House) -> None:
    new = "whsec_of_the_installation_rotated_01"

    async def rotate(secret: str, seconds: int) -> None:
        request = admin_service_pb2.ConfigureProviderRequest(
            provider="stripe", mode=provider_pb2.ACCOUNT_MODE_TEST, shared=True, credentials={"webhook_secret": secret},
            previous_secret_seconds=seconds,
        )  # fmt: skip
        await house.call(request, house.admin_key)

    async def status(secret: str) -> int:
        return (await house.post(event("product.created", {"id": "prod_1", "object": "product"}), secret)).status_code

    await rotate(new, 4)
    try:
        assert (await status(new), await status(PLATFORM_SECRET)) == (200, 200)
        await asyncio.sleep(4.3)
        assert (await status(new), await status(PLATFORM_SECRET)) == (200, 400)
    finally:
        await rotate(PLATFORM_SECRET, 1)
    assert await status(PLATFORM_SECRET) == 200
    await asyncio.sleep(1.3)
    assert await status(new) == 400


@asynccontextmanager
async def lonely_sidecar() -> AsyncIterator[str]:
    """A sidecar whose server is not there."""
    values: dict[str, Any] = {"sidecar_port": 0, "sidecar_server": "127.0.0.1:9", "sidecar_key": "dw_test_x", "sidecar_metrics_port": 0, "drain_delay": 0,
              "sidecar_deadline": 2}  # fmt: skip
    sidecar = Sidecar(SidecarSettings(_env_file=None, **values))
    await sidecar.start()
    try:
        yield f"http://127.0.0.1:{sidecar.port}"
    finally:
        await sidecar.stop()


async def test_without_a_server_stripe_is_told_to_come_again(house: House) -> None:
    async with lonely_sidecar() as url:
        answer = await house.post(
            event("product.created", {"id": "prod_1", "object": "product"}), PLATFORM_SECRET, f"{url}/webhooks/stripe"
        )
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert (await house.http.get(f"{url}/readyz")).status_code == 503
        assert (await house.http.get(f"{url}/healthz")).status_code == 200
