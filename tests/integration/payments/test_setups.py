"""Saving methods through the provider: in a browser, on a page, by adoption, by what events tell. Attached once, whoever tells of it first."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from dunwell_server.billing.model import InvoiceState
from dunwell_server.inbox.ports import AppliedState, NotYet
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.payments.model import Channel, MethodState
from dunwell_server.payments.page_model import CheckoutPurpose, SessionState, SetupIntentState
from dunwell_server.payments.service import methods
from dunwell_server.payments.service.checkouts import PageWish
from dunwell_server.platform.firms import RetryPolicy
from dunwell_server.providers.abilities import SetupDetails, SetupState
from dunwell_server.providers.accounts import MethodDetails, MethodKind
from dunwell_server.providers.events import CustomerNotice, MethodChange, MethodNotice, SetupNotice
from tests.integration.payments.pages_world import BACK, Pages
from tests.integration.payments.world import START, World

VISA = MethodDetails("pm_told", MethodKind.CARD, "visa", "4242", 12, 2030, "fp_1", "US")


@pytest.fixture
async def pages(world: World) -> Pages:
    return Pages(world)


async def client_row(pages: Pages, client_id: Any) -> tuple[bool, Any]:
    world = pages.world
    return (
        await world.scalar("SELECT autopay_enabled FROM client WHERE id = %s", client_id),
        await world.scalar("SELECT autopay_method_id FROM client WHERE id = %s", client_id),
    )


async def attached(pages: Pages, client_id: Any) -> list[Any]:
    async with pages.world.db.transaction(pages.world.context, write=False) as uow:
        found = await methods.list_methods(uow, client_id, include_detached=True, after=None, limit=50)
    return [method for _, method in found]


# Set-up intents ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("teller", ["event", "poll", "both"])
async def test_a_completed_setup_attaches_the_method_and_switches_autopay_on(pages: Pages, teller: str) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    setup = await pages.open_setup(client, enable_autopay=True, backup_priority=2, metadata={"use": "main"})
    assert setup.state is SetupIntentState.OPEN
    pages.confirm(setup)
    if teller == "event":
        await pages.hear()
    elif teller == "poll":
        await world.advance(START + timedelta(minutes=5))
    else:
        told = await pages.notices()
        await asyncio.gather(
            *(pages.deliver([notice]) for notice in told * 2), world.advance(START + timedelta(minutes=5))
        )
    done = await pages.setup(setup.id)
    assert done.state is SetupIntentState.SUCCEEDED
    [method] = await attached(pages, client.id)
    assert (method.id, method.last4, method.backup_priority, method.metadata) == (
        done.method_id,
        "4242",
        2,
        {"use": "main"},
    )
    assert await client_row(pages, client.id) == (True, method.id)
    assert [action for action, _ in await world.actions(method.id)].count("payment_method_attached") == 1
    assert [action for action, _ in await world.actions(client.id)].count("autopay_enabled") == 1


async def test_a_refused_try_can_be_repeated_with_another_card(pages: Pages) -> None:
    client, _ = await pages.world.client(autopay=False)
    setup = await pages.open_setup(client)
    pages.confirm(setup, "pm_sandbox_attachDeclined", refused=True)
    await pages.hear()
    failed = await pages.setup(setup.id)
    assert failed.state in (SetupIntentState.FAILED, SetupIntentState.OPEN)
    pages.confirm(setup, "pm_card_mastercard")
    await pages.hear()
    assert (await pages.setup(setup.id)).state is SetupIntentState.SUCCEEDED
    assert [method.last4 for method in await attached(pages, client.id)] == ["4444"]


async def test_the_client_secret_is_stored_nowhere(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    setup = await pages.open_setup(client)
    details = await pages.keeper.read_setup(world.db, world.call(), setup)
    assert details.client_secret
    for table in ("setup_intent", "audit_event", "event", "idempotency"):
        found = await world.scalar(
            f"SELECT count(*) FROM {table} t WHERE t::text LIKE %s", f"%{details.client_secret}%"
        )
        assert found == 0


async def test_a_setup_whose_answer_was_lost_is_made_once(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    asked = await pages.ask_setup(client)
    world.gateway.control(
        "faults", account=world.account, faults=[{"on": "setup", "outcome": "accept_then_drop", "count": 1}]
    )
    with pytest.raises(DunwellError) as lost:
        await pages.keeper.make_setup(world.db, world.call(), asked)
    assert lost.value.reason is Reason.PROVIDER_UNAVAILABLE
    assert (await pages.setup(asked.id)).state is SetupIntentState.CREATING
    await world.advance(START + timedelta(minutes=3))
    made = await pages.setup(asked.id)
    assert made.state is SetupIntentState.OPEN
    again = await pages.keeper.make_setup(world.db, world.call(), asked)
    assert again is not None
    assert again.provider_reference == made.provider_reference


async def test_a_setup_at_a_provider_that_stays_away_ends(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    asked = await pages.ask_setup(client)
    world.gateway.control("faults", account=world.account, faults=[{"on": "setup", "outcome": "drop_before_accept"}])
    await world.advance(START + timedelta(days=2))
    failed = await pages.setup(asked.id)
    assert (failed.state, failed.failure_code) == (SetupIntentState.FAILED, "not_made")


async def test_an_abandoned_setup_is_closed_with_the_provider(pages: Pages) -> None:
    client, _ = await pages.world.client(autopay=False)
    setup = await pages.open_setup(client)
    await pages.world.advance(START + timedelta(days=40))
    assert (await pages.setup(setup.id)).state is SetupIntentState.CANCELLED


async def test_setup_events_of_others_and_early_ones(pages: Pages) -> None:
    world = pages.world
    foreign = SetupDetails(provider_reference="seti_x", state=SetupState.SUCCEEDED)
    [told] = await pages.deliver([SetupNotice(foreign)])
    assert told.state is AppliedState.IGNORED
    metadata = {"firm": encode(Prefix.FIRM, world.firm_id), "setup": encode(Prefix.SETUP_INTENT, uuid7())}
    early = SetupDetails(provider_reference="seti_y", state=SetupState.OPEN, metadata=metadata)
    with pytest.raises(NotYet):
        await pages.deliver([SetupNotice(early)])
    [told] = await pages.deliver(
        [SetupNotice(replace(early, metadata={**metadata, "firm": encode(Prefix.FIRM, uuid7())}))]
    )
    assert told.state is AppliedState.IGNORED


# Pages that ask for no money -----------------------------------------------------------------------------------------


async def test_a_card_update_page_makes_the_new_card_the_default(pages: Pages) -> None:
    world = pages.world
    client, [old] = await world.client("pm_card_visa")
    session = await pages.setup_page(client, make_default=True)
    assert session.url
    pages.complete(session, "pm_card_mastercard")
    await world.advance(START + timedelta(minutes=5))
    done = await pages.session(session.id)
    assert done.state is SessionState.COMPLETED
    assert done.method_id not in (None, old.id)
    assert await client_row(pages, client.id) == (True, done.method_id)


async def test_a_setup_page_is_made_once_after_a_lost_answer_and_expires(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    world.gateway.control(
        "faults", account=world.account, faults=[{"on": "checkout", "outcome": "accept_then_drop", "count": 1}]
    )
    with pytest.raises(DunwellError):
        await pages.setup_page(client, life_seconds=3600)
    await world.advance(START + timedelta(minutes=3))
    session_id = await world.scalar("SELECT id FROM checkout_session WHERE firm_id = %s", world.firm_id)
    assert (await pages.session(session_id)).state is SessionState.OPEN
    assert pages.count("/v1/checkout/sessions") == 1
    await world.advance(START + timedelta(hours=2))
    assert (await pages.session(session_id)).state is SessionState.EXPIRED
    assert await world.next_due() is None


async def test_a_subscription_page_records_its_subscription_once(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    wish = PageWish(
        purpose=CheckoutPurpose.SUBSCRIPTION, channel=Channel.CHECKOUT, success_url=BACK, client_id=client.id,
        price_reference="price_pro", quantity=3,
    )  # fmt: skip
    session = await pages.open(wish)
    pages.complete(session)
    told = await pages.notices()
    await asyncio.gather(*(pages.deliver([notice]) for notice in told * 3), world.work())
    done = await pages.session(session.id)
    assert done.state is SessionState.COMPLETED
    assert done.subscription_reference is not None
    assert done.subscription_reference.startswith("sub_")
    actions = [action for action, _ in await world.actions(session.id)]
    assert actions.count("checkout_session_completed") == 1


# Customers -----------------------------------------------------------------------------------------------------------


async def test_a_customer_is_made_once_under_concurrency(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    references = await asyncio.gather(*(pages.customer(client.id) for _ in range(5)))
    assert len(set(references)) == 1
    assert await world.scalar("SELECT count(*) FROM provider_customer WHERE firm_id = %s", world.firm_id) == 1


async def test_a_deleted_customer_takes_its_methods_and_is_made_anew(pages: Pages) -> None:
    world = pages.world
    client, [method] = await world.client("pm_card_visa")
    reference = await pages.customer(client.id)
    gone = CustomerNotice(reference, "Someone else", "other@example.com", True)
    await pages.deliver([gone, gone])
    assert (await attached(pages, client.id))[0].state is MethodState.DETACHED
    assert await client_row(pages, client.id) == (True, None)
    assert await pages.customer(client.id) != reference
    assert [action for action, _ in await world.actions(method.id)].count("payment_method_detached") == 1
    assert await world.scalar("SELECT name FROM client WHERE id = %s", client.id) == "Harbour Bakery"


# What events tell of methods -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_attached_and_detached_in_any_order_end_detached(pages: Pages, seed: int) -> None:
    client, _ = await pages.world.client(autopay=False)
    reference = await pages.customer(client.id)
    told = [MethodNotice(VISA, reference, change) for change in (MethodChange.ATTACHED, MethodChange.DETACHED) * 2]
    random.Random(seed).shuffle(told)
    await pages.deliver(told)
    assert [method.state for method in await attached(pages, client.id)] == [MethodState.DETACHED]
    assert await client_row(pages, client.id) == (False, None)


async def test_a_method_attached_at_the_provider_is_attached_here(pages: Pages) -> None:
    client, [first] = await pages.world.client("pm_card_mastercard")
    reference = await pages.customer(client.id)
    await pages.deliver([MethodNotice(VISA, reference, MethodChange.ATTACHED)] * 2)
    assert [method.is_default for method in await attached(pages, client.id)] == [True, False]
    assert await client_row(pages, client.id) == (True, first.id)
    [told] = await pages.deliver([MethodNotice(VISA, "cus_foreign", MethodChange.ATTACHED)])
    assert "known" in told.result


async def test_the_event_of_our_own_attachment_may_come_first(pages: Pages) -> None:
    """The provider tells of a method before the call that attached it has stored its answer."""
    world = pages.world
    client, _ = await world.client(autopay=False)
    await pages.customer(client.id)
    call = world.call()
    found = await world.workers.keeper.attach(
        world.db, call, client.id, "pm_card_visa", backup_priority=3, metadata={"a": "b"}
    )
    await pages.hear()
    async with world.db.transaction(call) as uow:
        method = await methods.attach(uow, found.values, customer_reference=found.customer_reference, make_default=True)
    assert (method.backup_priority, method.metadata, method.is_default) == (3, {"a": "b"}, True)
    assert len(await attached(pages, client.id)) == 1


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_renewed_card_is_active_again_and_may_be_tried_at_once(make_world: Any, at_once: bool) -> None:
    world: World = await make_world(retry=RetryPolicy(retry_on_new_method=at_once))
    pages = Pages(world)
    client, [method] = await world.client("pm_card_chargeDeclinedExpiredCard")
    invoice = await world.invoice(client, due=date(2026, 3, 3))
    await world.advance(START + timedelta(days=2))
    assert (await attached(pages, client.id))[0].state is MethodState.NEEDS_ACTION
    failed = await world.invoice_now(invoice.id)
    assert (failed.state, failed.collection.failure_count) == (InvoiceState.FAILED, 1)
    pages.post(f"/v1/payment_methods/{method.provider_reference}", token="pm_card_visa", exp_year=2035)
    await pages.hear()
    [renewed] = await attached(pages, client.id)
    assert (renewed.state, renewed.exp_year, renewed.block_code) == (MethodState.ACTIVE, 2035, None)
    await world.work()
    now = await world.invoice_now(invoice.id)
    assert now.state is (InvoiceState.PAID if at_once else InvoiceState.FAILED)
    assert now.collection.failure_count == 1
