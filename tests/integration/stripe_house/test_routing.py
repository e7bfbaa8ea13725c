"""Whose an event is: never another firm's. And what operations see of it and do about it."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import pytest

from dunwell.v1 import payment_pb2, payment_service_pb2, provider_event_pb2
from tests.integration.stripe_house.house import (
    OWN_SECRET,
    PLATFORM_SECRET,
    Firm,
    House,
    Refused,
    event_state,
    events,
    payment_state,
    reference_of,
    until,
    usd,
)
from tests.integration.stripe_house.payloads import card, charge, dispute, event, event_id, payment_intent, refund

pay = payment_service_pb2


async def customer_of(firm: Firm) -> tuple[str, str]:
    client = await firm.client()
    made = await firm.call(pay.EnsureProviderCustomerRequest(client_id=client.id))
    return client.id, made.provider_customer.provider_reference


async def everything_about(firm: Firm) -> list[tuple[str, dict[str, object]]]:
    """Events about objects of a firm, of every kind, without its id in their metadata but in that of the payment."""
    _, payment = await firm.paid(20)
    intent = reference_of(payment)
    client_id, customer = await customer_of(firm)
    method = await firm.method(client_id)
    body = payment_intent(
        intent, 2000, "succeeded", {"firm": firm.id, "key": payment.attempts[-1].idempotency_key, "payment": payment.id}
    )
    return [
        ("payment_intent.succeeded", body),
        ("refund.created", refund(f"re_{uuid4().hex}", intent, 100, "succeeded")),
        ("charge.refunded", charge(intent, 2000, 100, refunds={"data": [refund(f"re_{uuid4().hex}", intent, 100, "succeeded")], "has_more": False})),
        ("charge.dispute.created", dispute(f"du_{uuid4().hex}", intent, 1000, "warning_needs_response")),
        ("payment_method.attached", card(f"pm_{uuid4().hex}", customer)),
        ("payment_method.detached", card(method.provider_method_id, customer)),
        ("customer.updated", {"id": customer, "object": "customer", "metadata": {}, "created": 1_700_000_000}),
        ("customer.deleted", {"id": customer, "object": "customer", "metadata": {}, "created": 1_700_000_000, "deleted": True}),
    ]  # fmt: skip


async def waiting_payment(firm: Firm) -> payment_pb2.Payment:
    """A payment of 80 dollars that waits for its client."""
    client_id, invoice_id = await firm.payer(dollars=80)
    [method] = await firm.methods(client_id)
    firm.stripe.behaviour[method.provider_method_id] = "pm_card_threeDSecure2Required"
    request = pay.CreatePaymentRequest(
        client_id=client_id, amount=usd(8000), invoice_ids=[invoice_id], client_present=True
    )
    made: payment_pb2.Payment = (await firm.call(request)).payment
    assert payment_state(made) == "REQUIRES_ACTION"
    return made


@pytest.mark.parametrize("whose", ["firm", "neighbour", "owner"])
async def test_events_of_one_firm_touch_no_other(firms: dict[str, Firm], whose: str) -> None:
    mine, others = firms[whose], [firm for name, firm in firms.items() if name != whose]
    about = await everything_about(mine)
    before = [await mine.house.footprint(other.id) for other in others]
    names = []
    for kind, subject in about:
        told = await mine.told(kind, subject)
        assert event_state(told) == "APPLIED", (kind, told.result, told.last_error)
        names.append(told)
    for other, rows in zip(others, before, strict=True):
        assert await mine.house.footprint(other.id) == rows
        for told in names:
            assert await other.events(event_id=told.event_id) == []
            with pytest.raises(Refused, match="RESOURCE_NOT_FOUND"):
                await other.call(events.GetProviderEventRequest(provider_event_id=told.id))
            with pytest.raises(Refused, match="RESOURCE_NOT_FOUND"):
                await other.call(events.ReplayProviderEventRequest(provider_event_id=told.id))


async def test_a_firm_with_its_own_secret_cannot_speak_of_another(house: House, owner: Firm, firm: Firm) -> None:
    """Signed by its own account, naming another firm, its payment, customer and key: kept with the signer, and nothing more."""
    about = await everything_about(firm)
    open_payment = await waiting_payment(firm)
    claims = {"firm": firm.id, "key": open_payment.attempts[-1].idempotency_key, "payment": open_payment.id}
    about.append(("payment_intent.succeeded", payment_intent(f"pi_{uuid4().hex}", 8000, "succeeded", claims)))
    about.append(("payment_intent.payment_failed", payment_intent("pi_x", 8000, "canceled", claims)))
    theirs, money = await house.footprint(firm.id), await owner.rows_of("ledger_entry")
    for kind, subject in about:
        name = event_id()
        assert (await house.post(event(kind, subject, name=name), OWN_SECRET, owner.path)).status_code == 200
        # Neither the installation's endpoint takes it, nor the firm's own endpoint another account's.
        assert (await house.post(event(kind, subject, name=name), OWN_SECRET)).status_code == 400
        assert (await house.post(event(kind, subject, name=name), PLATFORM_SECRET, owner.path)).status_code == 400
    await asyncio.sleep(1.0)
    assert await house.footprint(firm.id) == theirs
    assert await owner.rows_of("ledger_entry") == money
    assert payment_state(await firm.payment(open_payment.id)) == "REQUIRES_ACTION"


async def test_an_event_of_the_installations_account_cannot_name_the_firm_of_another_ones_object(
    house: House, firm: Firm, neighbour: Firm, owner: Firm
) -> None:
    _, payment = await firm.paid(20)
    intent, name = reference_of(payment), event_id()
    lying = refund(f"re_{uuid4().hex}", intent, 500, "succeeded", metadata={"firm": neighbour.id})
    before = [await house.footprint(each.id) for each in (firm, neighbour, owner)]
    assert (await house.post(event("refund.created", lying, name=name), PLATFORM_SECRET)).status_code == 200
    own = event_id()
    foreign = payment_intent(f"pi_{uuid4().hex}", 100, "succeeded", {"firm": owner.id})
    assert (await house.post(event("payment_intent.succeeded", foreign, name=own), PLATFORM_SECRET)).status_code == 200
    await asyncio.sleep(1.5)
    assert [await house.footprint(each.id) for each in (firm, neighbour, owner)] == before
    for each in (name, own):
        listed = await house.call(events.ListProviderEventsRequest(event_id=each), house.admin_key)
        assert [(event_state(found), found.firm_id) for found in listed.provider_events] == [("RECEIVED", "")]


async def test_an_event_whose_firm_is_found_later(house: House, neighbour: Firm) -> None:
    """The webhook about a customer comes before the customer is known here: it waits, and is routed when it is."""
    client, name = await neighbour.client(), event_id()
    customer = str(
        json.loads((await neighbour.stripe._forward("POST", "/v1/customers", form={"name": "Early"})).body)["id"]
    )
    path = "/v1/payment_methods/pm_card_visa/attach"
    method = str(json.loads((await neighbour.stripe._forward("POST", path, form={"customer": customer})).body)["id"])
    body = event("payment_method.attached", card(method, customer), name=name)
    assert (await house.post(body, PLATFORM_SECRET)).status_code == 200
    assert await neighbour.events(event_id=name) == []
    listed = await house.call(events.ListProviderEventsRequest(event_id=name), house.admin_key)
    assert [event_state(found) for found in listed.provider_events] == ["RECEIVED"]
    await neighbour.call(pay.EnsureProviderCustomerRequest(client_id=client.id, existing_reference=customer))

    async def routed() -> bool:
        return bool(await neighbour.events(event_id=name))

    await until(routed)
    assert event_state(await neighbour.dealt_with(name)) == "APPLIED"
    assert len(await neighbour.methods(client.id)) == 1


async def test_what_operations_do_with_events(house: House, owner: Firm) -> None:
    name = event_id()
    unknown = payment_intent("pi_not_here", 900, "succeeded", {"firm": owner.id, "key": f"v1:{uuid4()}:1"})
    assert (
        await house.post(event("payment_intent.succeeded", unknown, name=name), OWN_SECRET, owner.path)
    ).status_code == 200

    async def tried() -> provider_event_pb2.ProviderEvent | None:
        found = await owner.events(event_id=name)
        return found[0] if found and found[0].attempt_count else None

    waiting = await until(tried)
    assert (event_state(waiting), "not known yet" in waiting.last_error) == ("RECEIVED", True)
    assert waiting.HasField("next_attempt_time")
    assert waiting.object_reference == "pi_not_here"
    assert waiting.body == b""
    read = (await owner.call(events.GetProviderEventRequest(provider_event_id=waiting.id))).provider_event
    assert b"pi_not_here" in read.body
    assert "stripe-signature" not in read.headers
    assert [each.id for each in await owner.events(object_reference="pi_not_here")] == [waiting.id]
    replayed = (await owner.call(events.ReplayProviderEventRequest(provider_event_id=waiting.id))).provider_event
    assert event_state(replayed) == "RECEIVED"
    discarded = await owner.call(
        events.DiscardProviderEventRequest(provider_event_id=waiting.id, note="made by a test")
    )
    assert event_state(discarded.provider_event) == "DISCARDED"
    invoice_id, payment = await owner.paid(20)
    body = payment_intent(reference_of(payment), 2000, "succeeded", {"key": payment.attempts[-1].idempotency_key})
    applied = await owner.told("payment_intent.succeeded", body)
    with pytest.raises(Refused, match="STATE_CONFLICT"):
        await owner.call(events.DiscardProviderEventRequest(provider_event_id=applied.id, note="no"))
    await owner.call(events.ReplayProviderEventRequest(provider_event_id=applied.id))
    assert event_state(await owner.dealt_with(applied.event_id)) == "APPLIED"
    assert (await owner.payment(payment.id)).update_time == payment.update_time
    assert await owner.invoice_state(invoice_id) == "PAID"
    unreadable = b'{"id": "evt_unreadable_%s", "type": "payment_intent.succeeded", "data": 3}' % uuid4().hex.encode()
    assert (await house.post(unreadable, OWN_SECRET, owner.path)).status_code == 200

    async def quarantined() -> list[provider_event_pb2.ProviderEvent]:
        return await owner.events(
            states=[provider_event_pb2.PROVIDER_EVENT_STATE_QUARANTINED], type="payment_intent.succeeded"
        )

    [bad] = await until(quarantined)
    await owner.call(events.ReplayProviderEventRequest(provider_event_id=bad.id))
    await until(quarantined)
    await owner.call(events.DiscardProviderEventRequest(provider_event_id=bad.id, note="nothing can be read in it"))
    assert await quarantined() == []
