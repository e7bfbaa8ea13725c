"""What others do at the same Stripe account: told at once from what is ours and not known yet, wherever Stripe can be asked."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from dunwell.v1 import payment_service_pb2
from tests.integration.stripe_house.house import (
    PLATFORM_SECRET,
    Firm,
    House,
    event_state,
    events,
    payment_state,
    reference_of,
    until,
)
from tests.integration.stripe_house.payloads import charge, dispute, event, event_id, payment_intent, refund
from tests.integration.stripe_house.stand_in import StripeAccount

pay = payment_service_pb2


async def taken_elsewhere(stripe: StripeAccount) -> str:
    """A payment that another system has taken at the account: none of ours is written on it."""
    form = {"amount": "900", "currency": "usd", "metadata[order]": "W-17"}
    return str(json.loads((await stripe._forward("POST", "/v1/payment_intents", form=form)).body)["id"])


def about(intent: str) -> list[tuple[str, dict[str, Any]]]:
    """What Stripe tells when money of a payment goes back."""
    return [
        ("refund.created", refund(f"re_{uuid4().hex}", intent, 400, "succeeded")),
        ("charge.refunded", charge(intent, 900, 400)),
        ("charge.dispute.created", dispute(f"du_{uuid4().hex}", intent, 900, "needs_response")),
        ("refund.created", refund(f"re_{uuid4().hex}", intent, 400, "succeeded", payment_intent=None)),
        ("charge.dispute.created", dispute(f"du_{uuid4().hex}", intent, 900, "needs_response", payment_intent=None)),
    ]


def only_charge(stripe: StripeAccount, intent: str, metadata: dict[str, str]) -> str:
    """The charge of a payment, as Stripe answers when asked for it."""
    name = f"ch_{intent[3:]}"
    stripe.charges[name] = charge(intent, 900, 0, metadata=metadata)
    return name


async def test_refunds_and_disputes_of_others_at_a_firms_own_account_do_not_wait(owner: Firm) -> None:
    intent = await taken_elsewhere(owner.stripe)
    only_charge(owner.stripe, intent, {"order": "W-17"})
    for kind, subject in about(intent):
        told = await owner.told(kind, subject)
        assert (event_state(told), told.attempt_count) == ("IGNORED", 1), (kind, told.last_error)
        assert "none of ours" in told.result


async def test_refunds_and_disputes_of_others_at_the_installations_account_do_not_wait(house: House) -> None:
    intent = await taken_elsewhere(house.platform)
    only_charge(house.platform, intent, {"order": "W-17"})
    for kind, subject in about(intent):
        name = event_id()
        assert (await house.post(event(kind, subject, name=name), PLATFORM_SECRET)).status_code == 200

        async def discarded(name: str = name) -> bool:
            listed = await house.call(events.ListProviderEventsRequest(event_id=name), house.admin_key)
            return [event_state(each) for each in listed.provider_events] == ["DISCARDED"]

        await until(discarded)


@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_what_is_written_on_a_payment_of_ours_keeps_its_refund_waiting(
    firms: dict[str, Firm], whose: str
) -> None:
    """The book has lost the payment, as after a restore: what comes of it must not be dropped."""
    firm = firms[whose]
    lost = {"metadata[firm]": firm.id, "metadata[key]": f"v1:{uuid4()}:1", "amount": "900", "currency": "usd"}
    intent = str(json.loads((await firm.stripe._forward("POST", "/v1/payment_intents", form=lost)).body)["id"])
    name = event_id()
    body = event("refund.created", refund(f"re_{uuid4().hex}", intent, 400, "succeeded"), name=name)
    assert (await firm.house.post(body, firm.secret, firm.path)).status_code == 200

    async def tried() -> bool:
        found = await firm.events(event_id=name)
        return bool(found) and found[0].attempt_count > 0

    await until(tried)
    [found] = await firm.events(event_id=name)
    assert (event_state(found), found.last_error) == ("RECEIVED", "the refunded payment is not in the book yet")


@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_a_dispute_and_a_refund_that_name_only_the_charge(firms: dict[str, Firm], whose: str) -> None:
    """As older versions of the API have it, and when Stripe, asked about the dispute, says no more either."""
    firm = firms[whose]
    invoice_id, payment = await firm.paid(20)
    intent = reference_of(payment)
    only_charge(firm.stripe, intent, {"firm": firm.id, "key": payment.attempts[-1].idempotency_key})
    told = await firm.told("refund.created", refund(f"re_{uuid4().hex}", intent, 500, "succeeded", payment_intent=None))
    assert event_state(told) == "APPLIED", told.last_error
    assert (await firm.payment(payment.id)).amount_refunded.amount_minor == 500
    name = f"dp_{uuid4().hex}"
    firm.stripe.disputes[name] = dispute(name, intent, 1500, "needs_response", payment_intent=None)
    told = await firm.told("charge.dispute.created", firm.stripe.disputes[name])
    assert event_state(told) == "APPLIED", told.last_error
    assert await firm.invoice_state(invoice_id) == "DISPUTED"


@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_events_of_connected_accounts_are_kept_and_change_nothing(firms: dict[str, Firm], whose: str) -> None:
    """Whoever has an account connected to ours may write anything on payments there, our keys too: that money is not ours."""
    firm = firms[whose]
    _, invoice_id = await firm.payer("pm_sandbox_acceptThenDrop", 77)
    payment = await firm.charge(invoice_id)
    written = {"firm": firm.id, "key": payment.attempts[-1].idempotency_key, "payment": payment.id}
    lie = payment_intent(f"pi_{uuid4().hex}", 7700, "succeeded", written)
    name = event_id()
    body = event("payment_intent.succeeded", lie, name=name, account="acct_1OfSomebodyElse")
    assert (await firm.house.post(body, firm.secret, firm.path)).status_code == 200
    if whose == "owner":
        assert event_state(await firm.dealt_with(name)) == "IGNORED"
    else:
        listed = await firm.house.call(events.ListProviderEventsRequest(event_id=name), firm.house.admin_key)
        assert [event_state(each) for each in listed.provider_events] == ["DISCARDED"]
    [attempt] = (await firm.payment(payment.id)).attempts
    assert attempt.provider_reference != lie["id"]
    # The same, told of our own account, is taken: it was the account that made the difference.
    told = await firm.told("payment_intent.succeeded", {**lie, "id": attempt.provider_reference or lie["id"]})
    assert event_state(told) == "APPLIED", told.last_error
    assert payment_state(await firm.payment(payment.id)) == "SUCCEEDED"


async def test_money_that_the_book_cannot_hold_is_somebody_elses(owner: Firm) -> None:
    """Coins, fractions of what has none, and refunds of a customer's balance, which are of no payment."""
    intent = f"pi_{uuid4().hex}"
    for kind, subject in (
        ("payment_intent.succeeded", payment_intent(intent, 500, "succeeded", {}, currency="usdc")),
        ("payment_intent.succeeded", payment_intent(intent, 501, "succeeded", {}, currency="isk")),
        ("refund.created", refund(f"re_{uuid4().hex}", intent, 500, "succeeded", payment_intent=None, charge=None)),
    ):
        told = await owner.told(kind, subject)
        assert event_state(told) == "IGNORED", told.last_error


@pytest.mark.parametrize("odd", [r"a\u0000b", r"a\ud800b"])
async def test_texts_that_no_database_holds(owner: Firm, odd: str) -> None:
    """JSON can name characters that are none. The body is kept as it came, and the rest of it counts."""
    name = event_id()
    invoice = {
        "id": f"in_{uuid4().hex}", "object": "invoice", "currency": "usd", "total": 100, "amount_due": 100, "amount_paid": 0, "status": "open",
        "created": 1_700_000_000, "customer": "cus_1", "metadata": {"ODD": "ODD"}, "number": "ODD",
    }  # fmt: skip
    body = event("invoice.created", invoice, name=name).replace(b"ODD", odd.encode())
    assert (await owner.house.post(body, owner.secret, owner.path)).status_code == 200
    told = await owner.dealt_with(name)
    assert event_state(told) == "APPLIED", told.last_error
    read = (await owner.call(events.GetProviderEventRequest(provider_event_id=told.id))).provider_event
    assert read.body == body
    for duplicate in (False, True):
        body = event(f"odd.{odd}", {"id": "x"}, name=f"{name}{odd}").replace(b"\\\\u", b"\\u")
        answer = await owner.house.post(body, owner.secret, owner.path)
        assert (answer.status_code, answer.json()) == (200, {"received": True, "duplicate": duplicate})


@pytest.mark.parametrize(
    "details",
    [
        {
            "type": "sepa_debit",
            "sepa_debit": {"last4": "001S", "country": "MT", "bank_code": "MALT", "fingerprint": "f"},
        },
        {"type": "card", "card": {"brand": "visa", "last4": "4242", "exp_month": 13, "exp_year": 2031}},
        {"type": "card", "card": {"brand": "visa", "last4": "4242", "exp_month": 1, "exp_year": 99_999}},
        {"type": "card", "card": {"brand": "visa", "last4": "424242", "exp_month": None, "exp_year": None}},
    ],
)
async def test_a_method_whose_particulars_the_book_does_not_have_is_attached_all_the_same(
    owner: Firm, details: dict[str, Any]
) -> None:
    client = await owner.client()
    made = await owner.call(pay.EnsureProviderCustomerRequest(client_id=client.id))
    method = {
        "id": f"pm_{uuid4().hex}", "object": "payment_method", "customer": made.provider_customer.provider_reference, "metadata": {},
        "created": 1_700_000_000, "livemode": False, **details,
    }  # fmt: skip
    told = await owner.told("payment_method.attached", method)
    assert event_state(told) == "APPLIED", told.last_error
    assert [each.provider_method_id for each in await owner.methods(client.id)] == [method["id"]]
