"""Refunds that were asked for and not sent, and money that leaves their payment otherwise meanwhile: what has happened counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from dunwell.v1 import (
    admin_service_pb2,
    billing_service_pb2,
    firm_pb2,
    payment_pb2,
    payment_service_pb2,
    provider_event_pb2,
    refund_pb2,
)
from tests.integration.stripe_house.conftest import new_firm
from tests.integration.stripe_house.house import Firm, House, event_state, reference_of, until, usd
from tests.integration.stripe_house.payloads import dispute, event, event_id, refund

admin = admin_service_pb2
pay = payment_service_pb2
CREDIT = refund_pb2.REFUND_DESTINATION_CREDIT
METHOD = refund_pb2.REFUND_DESTINATION_PAYMENT_METHOD


@pytest.fixture
async def careful(house: House) -> AsyncIterator[Firm]:
    """A firm in which every refund of more than a dollar waits for a second person."""
    firm = await new_firm(house, "Careful")
    limited = firm_pb2.Firm(id=firm.id, refund_approval_limits=[usd(100)])
    mask = FieldMask(paths=["refund_approval_limits"])
    await house.call(admin.UpdateFirmRequest(firm=limited, update_mask=mask), house.admin_key)
    yield firm
    answer = await firm.call(admin.VerifyLedgerRequest())
    assert answer.ok, [check for check in answer.checks if not check.ok]


async def waiting(
    firm: Firm, payment: payment_pb2.Payment, destination: refund_pb2.RefundDestination.ValueType, minor: int = 0
) -> refund_pb2.Refund:
    """A refund that waits for its approval; all that is left where `minor` is 0."""
    request = pay.RefundPaymentRequest(
        payment_id=payment.id, destination=destination, amount=usd(minor) if minor else None,
        reason=refund_pb2.REFUND_REASON_REQUESTED_BY_CLIENT,
    )  # fmt: skip
    made: refund_pb2.Refund = (await firm.call(request, actor="ada")).refund
    assert made.state == refund_pb2.REFUND_STATE_AWAITING_APPROVAL
    return made


async def states(firm: Firm, payment: payment_pb2.Payment) -> dict[str, str]:
    """The payment's refunds."""
    found = (await firm.call(pay.ListRefundsRequest(payment_id=payment.id))).refunds
    return {each.id: refund_pb2.RefundState.Name(each.state).removeprefix("REFUND_STATE_") for each in found}


async def pending(firm: Firm) -> int:
    """How many approvals are awaited."""
    return len((await firm.call(admin.ListPendingApprovalsRequest())).approvals)


async def money_of(firm: Firm, payment: payment_pb2.Payment) -> tuple[int, int, int]:
    """Refunded, kept back, charged back."""
    found = await firm.payment(payment.id)
    return (
        found.amount_refunded.amount_minor,
        found.amount_refund_pending.amount_minor,
        found.amount_charged_back.amount_minor,
    )


@pytest.mark.parametrize("destination", [CREDIT, METHOD])
@pytest.mark.parametrize("disputed", [2000, 1500])
async def test_a_lost_chargeback_ends_refunds_that_wait_for_their_approval(
    careful: Firm, destination: refund_pb2.RefundDestination.ValueType, disputed: int
) -> None:
    """The bank has given the money back already: approving the refund would give it a second time, at the firm's loss."""
    invoice_id, payment = await careful.paid(20)
    made = await waiting(careful, payment, destination)
    name, intent = f"du_{uuid4().hex}", reference_of(payment)
    await careful.told("charge.dispute.created", dispute(name, intent, disputed, "needs_response"))
    assert await states(careful, payment) == {made.id: "AWAITING_APPROVAL"}, "it may yet be won"
    told = await careful.told("charge.dispute.closed", dispute(name, intent, disputed, "lost"))
    assert event_state(told) == "APPLIED", told.last_error
    assert await careful.invoice_state(invoice_id) == "CHARGED_BACK"
    assert await money_of(careful, payment) == (0, 0, disputed)
    assert (await states(careful, payment), await pending(careful)) == ({made.id: "REJECTED"}, 0)


async def test_a_lost_chargeback_leaves_refunds_that_have_room_beside_it(careful: Firm) -> None:
    _, payment = await careful.paid(20)
    older, newer = await waiting(careful, payment, METHOD, 400), await waiting(careful, payment, METHOD, 500)
    name, intent = f"du_{uuid4().hex}", reference_of(payment)
    await careful.told("charge.dispute.closed", dispute(name, intent, 1500, "lost"))
    assert await states(careful, payment) == {older.id: "AWAITING_APPROVAL", newer.id: "REJECTED"}
    assert await money_of(careful, payment) == (0, 400, 1500)


@pytest.mark.parametrize("destination", [CREDIT, METHOD])
async def test_a_refund_made_at_stripe_instead_of_an_approval_is_taken_over_at_once(
    careful: Firm, destination: refund_pb2.RefundDestination.ValueType
) -> None:
    """Whoever was asked to approve it has made it in Stripe's dashboard."""
    _, payment = await careful.paid(20)
    made = await waiting(careful, payment, destination, 1200)
    body = refund(f"re_{uuid4().hex}", reference_of(payment), 1200, "succeeded")
    told = await careful.told("refund.created", body)
    assert event_state(told) == "APPLIED", told.last_error
    found = await states(careful, payment)
    assert found.pop(made.id) == "REJECTED"
    assert list(found.values()) == ["SUCCEEDED"]
    assert (await money_of(careful, payment), await pending(careful)) == ((1200, 0, 0), 0)


@pytest.mark.parametrize("end", ["failed", "succeeded"])
@pytest.mark.parametrize("disputed", [2000, 1500])
async def test_a_refund_on_its_way_decides_who_bears_a_lost_chargeback(careful: Firm, disputed: int, end: str) -> None:
    """While it may still succeed its part is the firm's loss; once it has come to nothing the client owes that again."""
    invoice_id, payment = await careful.paid(20)
    name, intent, sent = f"du_{uuid4().hex}", reference_of(payment), f"re_{uuid4().hex}"
    assert event_state(await careful.told("refund.created", refund(sent, intent, 800, "pending"))) == "APPLIED"
    await careful.told("charge.dispute.created", dispute(name, intent, disputed, "needs_response"))
    told = await careful.told("charge.dispute.closed", dispute(name, intent, disputed, "lost"))
    assert event_state(told) == "APPLIED", told.last_error
    assert await money_of(careful, payment) == (0, 800, 1200)
    told = await careful.told("refund.updated", refund(sent, intent, 800, end))
    assert event_state(told) == "APPLIED", told.last_error
    lost = disputed if end == "failed" else 1200
    assert await money_of(careful, payment) == (0 if end == "failed" else 800, 0, lost)
    invoice = (await careful.call(billing_service_pb2.GetInvoiceRequest(invoice_id=invoice_id))).invoice
    assert invoice.amount_due.amount_minor == lost
    assert await careful.invoice_state(invoice_id) == "CHARGED_BACK"
    [row] = await careful.house.rows(
        careful.id, "SELECT loss_minor FROM dispute WHERE provider_reference = %s", name
    )  # fmt: skip
    assert row["loss_minor"] == disputed - lost


@pytest.mark.parametrize("amount", [0, -500])
async def test_a_refund_or_dispute_of_no_money_is_quarantined_at_once(careful: Firm, amount: int) -> None:
    """It is none, and will not become one in three days."""
    invoice_id, payment = await careful.paid(20)
    intent = reference_of(payment)
    for kind, body in (
        ("refund.created", refund(f"re_{uuid4().hex}", intent, amount, "succeeded")),
        ("charge.dispute.created", dispute(f"du_{uuid4().hex}", intent, amount, "needs_response")),
    ):
        name = event_id()
        answer = await careful.house.post(event(kind, body, name=name), careful.secret, careful.path)
        assert answer.status_code == 200, answer.text

        async def tried(name: str = name) -> provider_event_pb2.ProviderEvent | None:
            found = await careful.events(event_id=name)
            return found[0] if found and found[0].last_error else None

        told = await until(tried)
        assert event_state(told) == "QUARANTINED", told.last_error
        assert "no money" in told.last_error
    assert await careful.invoice_state(invoice_id) == "PAID"
    assert await money_of(careful, payment) == (0, 0, 0)
