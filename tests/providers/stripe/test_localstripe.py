"""The adapter's abilities against localstripe, as far as it has them, with the contract suite's front before it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from dunwell_server.kernel.money import Money
from dunwell_server.providers.abilities import RefundOutcomeClass, RefundRequest, SetupState
from dunwell_server.providers.base import (
    ClientProfile,
    CustomerRef,
    MethodKind,
    OutcomeClass,
    ProviderAccount,
    ProviderPayment,
    ProviderRefused,
)
from dunwell_server.providers.events import CustomerNotice, PaymentNotice
from dunwell_server.providers.stripe import StripeProvider, charges
from tests.providers.stripe.front import Front
from tests.providers.stripe.localstripe import LocalStripe, start_localstripe
from tests.providers.stripe.loopback import Loopback, Reply, Seen, serving
from tests.providers.stripe.support import TEST_ACCOUNT, charge_request

CLIENT = ClientProfile(client_id="client-1", firm_id="firm-1", name="Hollis & Varga", email="pay@example.com")


@dataclass
class World:
    """An adapter, and the stand-in it speaks to."""

    provider: StripeProvider
    account: ProviderAccount
    book: LocalStripe
    front: Loopback

    async def customer(self) -> CustomerRef:
        return await self.provider.ensure_customer(self.account, CLIENT, f"customer:{uuid4()}")

    async def payment(self, minor: int = 4999) -> tuple[str, str]:
        """A succeeded charge: Stripe's id and our key."""
        request = charge_request(customer_reference=None, method_reference="pm_card_visa", money=Money("USD", minor))
        outcome = await self.provider.charge(request)
        assert outcome.outcome is OutcomeClass.SUCCEEDED
        assert outcome.provider_reference
        return outcome.provider_reference, request.key

    def refund(self, payment: str, minor: int, key: str | None = None) -> RefundRequest:
        return RefundRequest(
            account=self.account,
            key=key or f"refund:{uuid4()}",
            firm="firm-1",
            payment="payment-1",
            refund="refund-1",
            payment_reference=payment,
            money=Money("USD", minor),
        )


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    book = start_localstripe(tmp_path_factory.mktemp("localstripe"))
    front = Front(book.url, TEST_ACCOUNT.credentials["secret_key"])
    async with serving(front) as server:
        provider = StripeProvider(server.url)
        yield World(provider, TEST_ACCOUNT, book, server)
        await provider.close()
        await front.close()
    book.stop()


async def test_a_customer_is_fetched_updated_and_says_when_it_is_not_there(world: World) -> None:
    customer = await world.customer()
    found = await world.provider.get_customer(world.account, customer.provider_reference)
    assert (found.name, found.email, found.deleted) == (CLIENT.name, CLIENT.email, False)
    assert found.metadata["client"] == "client-1"
    changed = await world.provider.update_customer(
        world.account, customer.provider_reference, name=None, email="new@example.com", metadata={"extra": "1"}
    )
    assert (changed.name, changed.email) == (CLIENT.name, "new@example.com")
    assert {"client", "firm", "key", "extra"} <= set(changed.metadata)
    for nobody in ("cus_none", "", "../charges", "cus_1?x=y"):
        with pytest.raises(ProviderRefused) as refused:
            await world.provider.get_customer(world.account, nobody)
        assert refused.value.provider_code == "resource_missing"


async def test_an_existing_customer_is_adopted_with_its_methods(world: World) -> None:
    customer = await world.customer()
    attached = [
        await world.provider.attach_method(world.account, customer, "pm_card_visa", f"attach:{uuid4()}")
        for _ in range(3)
    ]
    listed = await world.provider.list_methods(world.account, customer.provider_reference)
    assert {method.provider_reference for method in listed} == {method.provider_reference for method in attached}
    assert all(method.kind is MethodKind.CARD and method.last4 == "4242" for method in listed)
    chosen = attached[1].provider_reference
    await world.provider.set_default_method(world.account, customer.provider_reference, chosen)
    found = await world.provider.get_customer(world.account, customer.provider_reference)
    assert found.default_method_reference == chosen
    await world.provider.detach_method(world.account, chosen)
    left = await world.provider.list_methods(world.account, customer.provider_reference)
    assert chosen not in {method.provider_reference for method in left}


async def test_a_set_up_intent_is_opened_completed_and_cancelled(world: World) -> None:
    customer = await world.customer()
    key = f"setup:{uuid4()}"
    opened = await world.provider.create_setup_intent(world.account, customer, key, {"firm": "firm-1", "setup": "s-1"})
    assert (opened.state, opened.publishable_key) == (SetupState.OPEN, "pk_test_1")
    assert opened.client_secret
    assert opened.client_secret not in repr(opened)
    again = await world.provider.create_setup_intent(world.account, customer, key, {"firm": "firm-1", "setup": "s-1"})
    assert again == opened
    await asyncio.to_thread(
        world.book.post, f"/v1/setup_intents/{opened.provider_reference}/confirm", payment_method="pm_card_visa"
    )
    done = await world.provider.get_setup_intent(world.account, opened.provider_reference)
    assert done.state is SetupState.SUCCEEDED
    assert done.method is not None
    assert done.metadata["setup"] == "s-1"
    other = await world.provider.create_setup_intent(world.account, customer, f"setup:{uuid4()}", {})
    ended = await world.provider.cancel_setup_intent(world.account, other.provider_reference)
    assert ended.state is SetupState.CANCELLED


async def test_refunds_in_part_and_in_full_are_made_once_found_and_listed(world: World) -> None:
    payment, _ = await world.payment()
    first = world.refund(payment, 1000)
    made = await world.provider.refund(first)
    assert (made.outcome, made.money) == (RefundOutcomeClass.SUCCEEDED, Money("USD", 1000))
    assert await world.provider.refund(first) == made
    second = await world.provider.refund(world.refund(payment, 3999))
    assert second.outcome is RefundOutcomeClass.SUCCEEDED
    assert await world.provider.lookup_refund(world.account, key=first.key, payment_reference=payment) == made
    by_id = await world.provider.lookup_refund(
        world.account, key="x", payment_reference=payment, provider_reference=made.provider_reference
    )
    assert by_id == made
    assert await world.provider.lookup_refund(world.account, key="nobody's", payment_reference=payment) is None
    listed = await world.provider.list_refunds(world.account, payment_reference=payment)
    assert {refund.provider_reference for refund in listed.refunds} == {
        made.provider_reference,
        second.provider_reference,
    }
    assert all(refund.payment_reference == payment for refund in listed.refunds)
    now = datetime.now(UTC)
    spanned = await world.provider.list_refunds(
        world.account, since=now - timedelta(hours=1), until=now + timedelta(hours=1)
    )
    assert {made.provider_reference, second.provider_reference} <= {r.provider_reference for r in spanned.refunds}
    refused = await world.provider.refund(world.refund("pi_none", 1))
    assert (refused.outcome, refused.executed) == (RefundOutcomeClass.FAILED, False)
    mismatched = await world.provider.refund(replace(first, money=Money("USD", 1001)))
    assert mismatched.outcome is RefundOutcomeClass.UNKNOWN


async def test_the_list_of_a_span_has_every_payment_once_oldest_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charges, "PAGE_SIZE", 4)  # So that a second holds more than a page, and the span many.
    since = datetime.now(UTC) - timedelta(hours=1)
    keys = [key for _, key in await asyncio.gather(*(world.payment(100 + n) for n in range(15)))]
    await asyncio.sleep(1.1)
    keys += [(await world.payment())[1] for _ in range(3)]
    until = datetime.now(UTC) + timedelta(hours=1)
    listed: list[ProviderPayment] = []
    page: str | None = None
    pages = 0
    while True:
        found = await world.provider.list_payments(world.account, since, until, page)
        listed += found.payments
        pages += 1
        page = found.next_page
        if page is None:
            break
    ours = [payment.key for payment in listed if payment.key in set(keys)]
    assert sorted(ours) == sorted(keys)
    assert pages > 1
    assert [payment.created_time for payment in listed] == sorted(payment.created_time for payment in listed)
    before = await world.provider.list_payments(world.account, since - timedelta(days=9), since)
    assert not before.payments
    empty = await world.provider.list_payments(world.account, until, since)
    assert (empty.payments, empty.next_page) == ((), None)


async def test_cancelling_too_late_tells_that_the_money_moved(world: World) -> None:
    payment, _ = await world.payment()
    assert (await world.provider.cancel(world.account, payment)).outcome is OutcomeClass.SUCCEEDED
    assert (await world.provider.cancel(world.account, "pi_none")).outcome is OutcomeClass.UNKNOWN


async def test_webhooks_it_signs_are_verified_read_and_listed(world: World) -> None:
    arrived: asyncio.Queue[Seen] = asyncio.Queue()

    async def endpoint(seen: Seen) -> Reply:
        await arrived.put(seen)
        return Reply()

    secret = "whsec_localstripe"
    async with serving(endpoint) as server:
        form = {"url": f"{server.url}/webhooks/stripe", "secret": secret}
        await asyncio.to_thread(world.book.post, "/_config/webhooks/test", **form)
        customer = await world.customer()
        payment, key = await world.payment()
        bodies: dict[str, bytes] = {}
        while {"customer.created", "payment_intent.succeeded"} - set(bodies):
            seen = await asyncio.wait_for(arrived.get(), 10)
            signed = await world.provider.verify(world.account, [secret], seen.body, seen.headers, datetime.now(UTC))
            if json.loads(seen.body)["data"]["object"]["id"] in (customer.provider_reference, payment):
                bodies[signed.type] = seen.body
    created = world.provider.normalise(bodies["customer.created"])
    [notice] = created.notices
    assert isinstance(notice, CustomerNotice)
    assert notice.provider_reference == customer.provider_reference
    assert created.firm == "firm-1"
    [paid] = world.provider.normalise(bodies["payment_intent.succeeded"]).notices
    assert isinstance(paid, PaymentNotice)
    assert (paid.provider_reference, paid.key, paid.outcome.outcome) == (payment, key, OutcomeClass.SUCCEEDED)
    now = datetime.now(UTC)
    page = await world.provider.list_events(world.account, now - timedelta(hours=1), now + timedelta(hours=1))
    listed = {signed.event_id: raw for signed, raw in page.events}
    event_id = world.provider.normalise(bodies["payment_intent.succeeded"]).event_id
    assert json.loads(listed[event_id]) == json.loads(bodies["payment_intent.succeeded"])


async def test_every_post_named_its_key(world: World) -> None:
    posts = [seen for seen in world.front.seen if seen.method == "POST"]
    assert posts
    assert all(seen.headers.get("idempotency-key") for seen in posts)
    # Keys that the SDK makes up by itself are bare UUIDs; ours never are.
    assert all(":" in seen.headers["idempotency-key"] for seen in posts)
