"""RefundPayment and ListRefunds through a real channel: success, repeats, reasons, permissions, pages and filters."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

from dunwell.v1 import money_pb2, refund_pb2
from dunwell.v1 import payment_service_pb2 as pb
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.context import Role
from tests import support
from tests.integration.payments.world import START
from tests.rpc.floor.fakes import Failure, failure
from tests.rpc.payments.conftest import Served


def usd(minor: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code="USD", amount_minor=minor)


async def paid(served: Served, amount: str = "120.00") -> tuple[str, str, str]:
    """Ids of a client, an invoice, and the payment that paid it."""
    client, _ = await served.world.client("pm_card_visa", autopay=False)
    invoice = await served.world.invoice(client, amount)
    view = await served.world.charge(invoice.id)
    return encode(Prefix.CLIENT, client.id), encode(Prefix.INVOICE, invoice.id), encode(Prefix.PAYMENT, view.payment.id)


async def refund(served: Served, payment: str, minor: int | None = None, **more: Any) -> refund_pb2.Refund:
    amount = usd(minor) if minor else None
    request = pb.RefundPaymentRequest(payment_id=payment, amount=amount, **more)
    answer = await served.call("RefundPayment", request)
    result: refund_pb2.Refund = answer.refund
    return result


async def refused(
    served: Served, request: Any, role: Role = Role.FIRM_ADMIN, rpc: str = "RefundPayment", **extra: Any
) -> Failure:
    return await failure(served.call(rpc, request, role, **extra))


async def test_a_refund_is_shown_with_all_that_it_did(served: Served) -> None:
    client, invoice, payment = await paid(served)
    done = await refund(
        served, payment, 5000, reason=refund_pb2.REFUND_REASON_SERVICE_ISSUE, note="late",
        destination=refund_pb2.REFUND_DESTINATION_PAYMENT_METHOD,
    )  # fmt: skip
    assert (done.state, done.client_id, done.payment_id) == (refund_pb2.REFUND_STATE_SUCCEEDED, client, payment)
    assert (done.amount, done.reason, done.note) == (usd(5000), refund_pb2.REFUND_REASON_SERVICE_ISSUE, "late")
    [part] = done.allocations
    assert (part.invoice_id, part.amount, part.credit_note_number) == (invoice, usd(5000), "CN-INV-2026-000001")
    assert part.credit_note_id.startswith("crn_")
    assert (done.provider, done.idempotency_key[:10], done.amount_from_credit) == ("sandbox", "v1:refund:", usd(0))
    assert done.provider_reference
    assert done.create_time.ToDatetime(tzinfo=START.tzinfo) == START
    shown = (await served.call("GetPayment", pb.GetPaymentRequest(payment_id=payment))).payment
    assert (shown.amount_refunded, shown.amount_refund_pending) == (usd(5000), usd(0))


async def test_a_repeat_answers_the_refunds_present_state(served: Served) -> None:
    _, _, payment = await paid(served)
    served.world.gateway.control(
        "faults", account=served.world.account, faults=[{"outcome": "pending_then_success", "on": "refund", "count": 1}]
    )
    request = pb.RefundPaymentRequest(payment_id=payment, request_id=str(uuid4()))
    first = (await served.call("RefundPayment", request)).refund
    assert first.state == refund_pb2.REFUND_STATE_PENDING
    shown = (await served.call("GetPayment", pb.GetPaymentRequest(payment_id=payment))).payment
    assert (shown.amount_refunded, shown.amount_refund_pending) == (usd(0), usd(12000))
    again = (await served.call("RefundPayment", request)).refund
    assert again == first
    other = pb.RefundPaymentRequest(payment_id=payment, amount=usd(1), request_id=request.request_id)
    assert (await refused(served, other)).reason == "REQUEST_ID_REUSED"


async def test_every_reason_to_refuse(served: Served) -> None:
    _, _, payment = await paid(served)
    request = pb.RefundPaymentRequest(payment_id=payment, amount=usd(12001))
    too_much = await refused(served, request)
    assert (too_much.reason, too_much.metadata["refundable_minor"]) == ("REFUND_EXCEEDS_PAYMENT", "12000")
    for wrong, reason in (
        (pb.RefundPaymentRequest(payment_id=encode(Prefix.PAYMENT, uuid7())), "RESOURCE_NOT_FOUND"),
        (
            pb.RefundPaymentRequest(payment_id=payment, amount=money_pb2.Money(currency_code="EUR", amount_minor=5)),
            "CURRENCY_MISMATCH",
        ),
        (
            pb.RefundPaymentRequest(payment_id=payment, amount=money_pb2.Money(currency_code="USD", amount_minor=0)),
            "FIELD_INVALID",
        ),
        (
            pb.RefundPaymentRequest(payment_id=payment, reason=refund_pb2.REFUND_REASON_MADE_AT_PROVIDER),
            "FIELD_INVALID",
        ),
        (pb.RefundPaymentRequest(payment_id="pay_x"), "FIELD_INVALID"),
    ):
        assert (await refused(served, wrong)).reason == reason, wrong
    stranger = await support.add_firm(served.world.db)
    theirs = await refused(served, pb.RefundPaymentRequest(payment_id=payment), firm=stranger.firm_id)
    assert theirs.reason == "RESOURCE_NOT_FOUND"
    for role in (Role.READER, Role.SIDECAR):
        assert (await refused(served, pb.RefundPaymentRequest(payment_id=payment), role)).reason == "PERMISSION_DENIED"
    assert (await refused(served, pb.ListRefundsRequest(), Role.SIDECAR, "ListRefunds")).reason == "PERMISSION_DENIED"
    assert (await served.call("ListRefunds", pb.ListRefundsRequest())).refunds == []


async def test_above_the_limit_a_person_is_named_and_a_second_one_awaited(served: Served) -> None:
    _, _, payment = await paid(served)
    async with served.world.db.transaction(support.context(None)) as uow:
        await uow.execute(
            "UPDATE control.firm SET settings = settings || jsonb_build_object('refund_approval_limits', %s::jsonb), version = version + 1 WHERE id = %s",
            ('{"USD": 5000}', served.world.firm_id),
        )
    assert (await refused(served, pb.RefundPaymentRequest(payment_id=payment))).reason == "PERMISSION_DENIED"
    request = pb.RefundPaymentRequest(payment_id=payment)
    waiting = (await served.call("RefundPayment", request, dunwell_actor="ada")).refund
    assert waiting.state == refund_pb2.REFUND_STATE_AWAITING_APPROVAL
    assert waiting.approval_id.startswith("apr_")


async def test_a_caller_who_leaves_stops_nothing(served: Served) -> None:
    _, _, payment = await paid(served)
    served.world.gateway.control("latency", account=served.world.account, ms=1100)
    request = pb.RefundPaymentRequest(payment_id=payment, request_id=str(uuid4()))
    early = (await served.call("RefundPayment", request, timeout=0.9)).refund
    assert early.state == refund_pb2.REFUND_STATE_PROCESSING

    async def succeeded() -> bool:
        [listed] = (await served.call("ListRefunds", pb.ListRefundsRequest(payment_id=payment))).refunds
        return (listed.id, listed.state) == (early.id, refund_pb2.REFUND_STATE_SUCCEEDED)

    await support.eventually(succeeded)
    served.world.gateway.control("latency", account=served.world.account, ms=0)


async def test_refunds_are_listed_by_page_and_filter(served: Served) -> None:
    client, invoice, payment = await paid(served)
    _, other_invoice, other = await paid(served)
    mine = [(await refund(served, payment, 1000)).id for _ in range(3)]
    credit = (await refund(served, other, 500, destination=refund_pb2.REFUND_DESTINATION_CREDIT)).id

    async def listed(**filters: Any) -> list[str]:
        answer = await served.call("ListRefunds", pb.ListRefundsRequest(**filters))
        return [each.id for each in answer.refunds]

    assert await listed() == [credit, *reversed(mine)]
    assert await listed(payment_id=payment) == await listed(client_id=client) == list(reversed(mine))
    assert await listed(invoice_id=invoice) == list(reversed(mine))
    assert await listed(invoice_id=other_invoice) == [credit]
    assert await listed(states=[refund_pb2.REFUND_STATE_FAILED, refund_pb2.REFUND_STATE_PENDING]) == []
    assert len(await listed(states=[refund_pb2.REFUND_STATE_SUCCEEDED])) == 4
    first = await served.call("ListRefunds", pb.ListRefundsRequest(page_size=3))
    rest = await served.call("ListRefunds", pb.ListRefundsRequest(page_size=3, page_token=first.next_page_token))
    assert [each.id for each in (*first.refunds, *rest.refunds)] == [credit, *reversed(mine)]
    assert rest.next_page_token == ""
    request = pb.ListRefundsRequest()
    request.create_time.start_time.FromDatetime(START + timedelta(seconds=1))
    assert (await served.call("ListRefunds", request)).refunds == []
    request.create_time.end_time.FromDatetime(START)
    assert (await refused(served, request, rpc="ListRefunds")).reason in ("PERIOD_INVALID", "FIELD_INVALID")
