"""Every RPC of PaymentService through a real channel: success, reasons, repeats, another firm, permissions, deadlines."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID, uuid4

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from dunwell.v1 import autopay_pb2, money_pb2, payment_method_pb2, payment_pb2, run_pb2
from dunwell.v1 import payment_service_pb2 as pb
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.context import Role
from tests import support
from tests.rpc.floor.fakes import Failure, failure
from tests.rpc.payments.conftest import Served

RUN = datetime.fromisoformat("2026-03-10T03:00+00:00")
DUE = date(2026, 3, 10)


def text(prefix: Prefix, value: UUID) -> str:
    return encode(prefix, value)


def usd(minor: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code="USD", amount_minor=minor)


async def refused(served: Served, rpc: str, request: Any, role: Role = Role.FIRM_ADMIN, **extra: Any) -> Failure:
    return await failure(served.call(rpc, request, role, **extra))


async def new_client(served: Served, *tokens: str, autopay: bool = False) -> tuple[str, list[str]]:
    client, attached = await served.world.client(*tokens, autopay=autopay)
    return text(Prefix.CLIENT, client.id), [text(Prefix.PAYMENT_METHOD, method.id) for method in attached]


async def owed(served: Served, *tokens: str, autopay: bool = False) -> tuple[str, str]:
    """A client with methods and an invoice of 120 dollars: their ids."""
    client, _ = await served.world.client(*tokens, autopay=autopay)
    invoice = await served.world.invoice(client, due=DUE)
    return text(Prefix.CLIENT, client.id), text(Prefix.INVOICE, invoice.id)


# Payment methods -----------------------------------------------------------------------------------------------------


async def test_attach_list_update_detach(served: Served) -> None:
    client, _ = await new_client(served)
    request = pb.AttachPaymentMethodRequest(
        client_id=client, provider_method_id="pm_card_visa", metadata={"use": "main"}
    )
    request.request_id = str(uuid4())
    first = (await served.call("AttachPaymentMethod", request)).payment_method
    assert (first.is_default, first.card.last4, first.provider, first.metadata["use"]) == (
        True,
        "4242",
        "sandbox",
        "main",
    )
    assert first.state == payment_method_pb2.PAYMENT_METHOD_STATE_ACTIVE
    again = await served.call("AttachPaymentMethod", request)
    assert again.payment_method == first

    second_request = pb.AttachPaymentMethodRequest(
        client_id=client, provider_method_id="pm_card_mastercard", backup_priority=2
    )
    second = (await served.call("AttachPaymentMethod", second_request)).payment_method
    listed = await served.call("ListPaymentMethods", pb.ListPaymentMethodsRequest(client_id=client, page_size=1))
    rest = await served.call(
        "ListPaymentMethods",
        pb.ListPaymentMethodsRequest(client_id=client, page_size=1, page_token=listed.next_page_token),
    )
    assert [m.id for m in (*listed.payment_methods, *rest.payment_methods)] == [first.id, second.id]
    assert rest.next_page_token == ""

    change = pb.UpdatePaymentMethodRequest(
        payment_method=payment_method_pb2.PaymentMethod(id=second.id, is_default=True),
        update_mask=FieldMask(paths=["is_default"]),
        etag=second.etag,
    )
    changed = (await served.call("UpdatePaymentMethod", change)).payment_method
    assert (changed.is_default, changed.backup_priority) == (True, 2)
    gone = (
        await served.call("DetachPaymentMethod", pb.DetachPaymentMethodRequest(payment_method_id=first.id))
    ).payment_method
    assert gone.state == payment_method_pb2.PAYMENT_METHOD_STATE_DETACHED
    failed = await refused(served, "DetachPaymentMethod", pb.DetachPaymentMethodRequest(payment_method_id=first.id))
    assert failed.reason == "STATE_CONFLICT"


async def test_methods_are_refused_with_reasons(served: Served) -> None:
    client, [method] = await new_client(served, "pm_card_visa")
    for token, reason in (
        ("pm_sandbox_attachDeclined", "PAYMENT_METHOD_UNUSABLE"),
        ("4242424242424242", "CARD_NUMBER_REFUSED"),
    ):
        request = pb.AttachPaymentMethodRequest(client_id=client, provider_method_id=token)
        assert (await refused(served, "AttachPaymentMethod", request)).reason == reason
    elsewhere = pb.AttachPaymentMethodRequest(client_id=client, provider="stripe", provider_method_id="pm_card_visa")
    assert (await refused(served, "AttachPaymentMethod", elsewhere)).reason == "PROVIDER_NOT_CONFIGURED"
    mask = pb.UpdatePaymentMethodRequest(
        payment_method=payment_method_pb2.PaymentMethod(id=method), update_mask=FieldMask(paths=["state"])
    )
    assert (await refused(served, "UpdatePaymentMethod", mask)).reason == "UPDATE_MASK_INVALID"
    clear = pb.UpdatePaymentMethodRequest(
        payment_method=payment_method_pb2.PaymentMethod(id=method), update_mask=FieldMask(paths=["is_default"])
    )
    assert (await refused(served, "UpdatePaymentMethod", clear)).reason == "FIELD_INVALID"
    stale = pb.DetachPaymentMethodRequest(payment_method_id=method, etag="v99")
    assert (await refused(served, "DetachPaymentMethod", stale)).reason == "ETAG_MISMATCH"


# Autopay -------------------------------------------------------------------------------------------------------------


async def test_autopay_on_and_off(served: Served) -> None:
    client, invoice = await owed(served, "pm_card_visa")
    on = await served.call(
        "SetAutopay", pb.SetAutopayRequest(client_id=client, enabled=True, enroll_open_invoices=True)
    )
    assert (on.client.autopay.enabled, on.enrolled_invoice_count) == (True, 1)
    off_one = await served.call("SetInvoiceAutopay", pb.SetInvoiceAutopayRequest(invoice_id=invoice, enabled=False))
    assert off_one.invoice.id == invoice
    on_again = pb.SetInvoiceAutopayRequest(
        invoice_id=invoice, enabled=True, cadence=autopay_pb2.AUTOPAY_CADENCE_IMMEDIATE
    )
    await served.call("SetInvoiceAutopay", on_again)
    off = await served.call("SetAutopay", pb.SetAutopayRequest(client_id=client))
    assert (off.client.autopay.enabled, off.cancelled_invoice_count) == (False, 1)
    failed = await refused(served, "SetInvoiceAutopay", pb.SetInvoiceAutopayRequest(invoice_id=invoice, enabled=True))
    assert failed.reason == "AUTOPAY_DISABLED"
    bare, _ = await new_client(served)
    assert (
        await refused(served, "SetAutopay", pb.SetAutopayRequest(client_id=bare, enabled=True))
    ).reason == "PAYMENT_METHOD_MISSING"


# Charging ------------------------------------------------------------------------------------------------------------


async def test_charge_invoice_once_per_request(served: Served) -> None:
    _, invoice = await owed(served, "pm_card_visa")
    request = pb.ChargeInvoiceRequest(invoice_id=invoice, request_id=str(uuid4()))
    payment = (await served.call("ChargeInvoice", request)).payment
    assert payment.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    assert (payment.kind, payment.amount, payment.invoice_id) == (payment_pb2.PAYMENT_KIND_CHARGE, usd(12000), invoice)
    assert [(a.invoice_id, a.amount) for a in payment.allocations] == [(invoice, usd(12000))]
    [attempt] = payment.attempts
    assert (attempt.state, attempt.attempt_no, attempt.send_count) == (payment_pb2.ATTEMPT_STATE_SUCCEEDED, 1, 1)
    assert not payment.HasField("slot_no")
    repeated = await served.call("ChargeInvoice", request)
    assert repeated.payment == payment
    assert served.world.movements == 1
    request.payment_method_id = attempt.payment_method_id
    assert (await refused(served, "ChargeInvoice", request)).reason == "REQUEST_ID_REUSED"
    paid = await refused(served, "ChargeInvoice", pb.ChargeInvoiceRequest(invoice_id=invoice))
    assert (paid.reason, paid.metadata["state"]) == ("STATE_CONFLICT", "PAID")
    assert (await served.call("GetPayment", pb.GetPaymentRequest(payment_id=payment.id))).payment == payment


async def test_a_decline_is_an_answer(served: Served) -> None:
    _, invoice = await owed(served, "pm_card_chargeDeclinedInsufficientFunds")
    payment = (await served.call("ChargeInvoice", pb.ChargeInvoiceRequest(invoice_id=invoice))).payment
    assert payment.state == payment_pb2.PAYMENT_STATE_FAILED
    assert payment.failure.provider_code == "insufficient_funds"
    assert payment.failure.message == "The card has insufficient funds."


async def test_a_callers_deadline_ends_the_call_and_not_the_charge(served: Served) -> None:
    _, invoice = await owed(served, "pm_card_visa")
    served.world.gateway.control("settings", account=served.world.account, latency_ms=1100)
    request = pb.ChargeInvoiceRequest(invoice_id=invoice, request_id=str(uuid4()))
    early = (await served.call("ChargeInvoice", request, timeout=0.9)).payment
    assert early.state == payment_pb2.PAYMENT_STATE_PROCESSING
    busy = await refused(served, "ChargeInvoice", pb.ChargeInvoiceRequest(invoice_id=invoice))
    assert busy.reason == "COLLECTION_IN_PROGRESS"

    async def has_ended() -> bool:
        now = (await served.call("GetPayment", pb.GetPaymentRequest(payment_id=early.id))).payment
        return bool(now.state != early.state)

    await support.eventually(has_ended)
    done = (await served.call("ChargeInvoice", request)).payment
    assert done.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    assert served.world.movements == 1


async def test_watch_payment_tells_changes_until_the_end(served: Served) -> None:
    _, invoice = await owed(served, "pm_card_visa")
    served.world.gateway.control("settings", account=served.world.account, latency_ms=1100)
    started = (await served.call("ChargeInvoice", pb.ChargeInvoiceRequest(invoice_id=invoice), timeout=0.9)).payment
    seen = []
    async for message in served.stub.WatchPayment(
        pb.WatchPaymentRequest(payment_id=started.id), metadata=served.metadata(), timeout=60
    ):
        seen.append((message.payment.state, message.last))
    assert seen[0] == (payment_pb2.PAYMENT_STATE_PROCESSING, False)
    assert seen[-1] == (payment_pb2.PAYMENT_STATE_SUCCEEDED, True)
    unknown = served.stub.WatchPayment(
        pb.WatchPaymentRequest(payment_id=text(Prefix.PAYMENT, uuid7())), metadata=served.metadata()
    )
    assert (await failure(unknown)).reason == "RESOURCE_NOT_FOUND"


# Manual money, lists -------------------------------------------------------------------------------------------------


async def test_manual_payments_and_lists(served: Served) -> None:
    client, invoice = await owed(served, "pm_card_visa")
    request = pb.RecordManualPaymentRequest(
        client_id=client,
        amount=usd(15000),
        method=payment_pb2.MANUAL_PAYMENT_METHOD_CHEQUE,
        reference="no. 7",
        request_id=str(uuid4()),
    )
    payment = (await served.call("RecordManualPayment", request)).payment
    assert (payment.state, payment.amount_credited) == (payment_pb2.PAYMENT_STATE_SUCCEEDED, usd(3000))
    assert (payment.manual.reference, payment.manual.received_date.day, payment.provider) == ("no. 7", 2, "manual")
    assert (await served.call("RecordManualPayment", request)).payment == payment
    for n in range(3):
        extra = pb.RecordManualPaymentRequest(
            client_id=client, amount=usd(100 + n), method=payment_pb2.MANUAL_PAYMENT_METHOD_CASH
        )
        await served.call("RecordManualPayment", extra)

    found, token = [], ""
    while True:
        page = await served.call(
            "ListPayments", pb.ListPaymentsRequest(client_id=client, page_size=2, page_token=token)
        )
        found += [each.id for each in page.payments]
        token = page.next_page_token
        if not token:
            break
    oldest = await served.call(
        "ListPayments", pb.ListPaymentsRequest(client_id=client, order=payment_pb2.PAYMENT_ORDER_CREATE_TIME_ASC)
    )
    assert found == [each.id for each in reversed(oldest.payments)]
    assert len(found) == 4
    of_invoice = await served.call("ListPayments", pb.ListPaymentsRequest(invoice_id=invoice))
    assert [each.id for each in of_invoice.payments] == [payment.id]
    none = await served.call("ListPayments", pb.ListPaymentsRequest(states=[payment_pb2.PAYMENT_STATE_FAILED]))
    assert list(none.payments) == []
    first = await served.call("ListPayments", pb.ListPaymentsRequest(client_id=client, page_size=1))
    mixed = pb.ListPaymentsRequest(page_size=1, page_token=first.next_page_token)
    assert (await refused(served, "ListPayments", mixed)).reason == "PAGE_TOKEN_MISMATCH"


async def test_malformed_manual_payments(served: Served) -> None:
    client, invoice = await owed(served)
    allocation = payment_pb2.PaymentAllocation(
        invoice_id=invoice, amount=money_pb2.Money(currency_code="EUR", amount_minor=5)
    )
    request = pb.RecordManualPaymentRequest(
        client_id=client, amount=usd(100), method=payment_pb2.MANUAL_PAYMENT_METHOD_CASH, allocations=[allocation]
    )
    assert (await refused(served, "RecordManualPayment", request)).reason == "CURRENCY_MISMATCH"
    request.allocations[0].amount.CopyFrom(usd(101))
    assert (await refused(served, "RecordManualPayment", request)).reason == "AMOUNT_OUT_OF_RANGE"
    request.amount.CopyFrom(usd(0))
    failed = await refused(served, "RecordManualPayment", request)
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT


# Resolving -----------------------------------------------------------------------------------------------------------


async def test_resolving_needs_two_named_persons_above_the_limit(served: Served) -> None:
    _, invoice = await owed(served, "pm_sandbox_wrongAmount")
    payment = (await served.call("ChargeInvoice", pb.ChargeInvoiceRequest(invoice_id=invoice))).payment
    [attempt] = payment.attempts
    assert (payment.state, attempt.state) == (payment_pb2.PAYMENT_STATE_PROCESSING, payment_pb2.ATTEMPT_STATE_UNKNOWN)

    def request() -> pb.ResolveAttemptRequest:
        return pb.ResolveAttemptRequest(
            attempt_id=attempt.id,
            resolution=payment_pb2.ATTEMPT_RESOLUTION_SUCCEEDED,
            provider_reference="pay_by_hand",
            note="seen",
        )

    assert (await refused(served, "ResolveAttempt", request())).reason == "PERMISSION_DENIED"
    proposed = await served.call("ResolveAttempt", request(), dunwell_actor="ada@example.com")
    assert (proposed.awaits_approval, proposed.payment.state) == (True, payment_pb2.PAYMENT_STATE_PROCESSING)
    assert (
        await refused(served, "ResolveAttempt", request(), dunwell_actor="ada@example.com")
    ).reason == "APPROVAL_REQUIRED"
    done = await served.call("ResolveAttempt", request(), dunwell_actor="grace@example.com")
    assert (done.awaits_approval, done.payment.state) == (False, payment_pb2.PAYMENT_STATE_SUCCEEDED)
    late = await refused(served, "ResolveAttempt", request(), dunwell_actor="ada@example.com")
    assert late.reason == "ATTEMPT_NOT_RESOLVABLE"


# Runs ----------------------------------------------------------------------------------------------------------------


async def progress(
    served: Served, request: pb.ProcessRecurringChargesRequest, **extra: Any
) -> list[run_pb2.RunProgress]:
    request.request_id = request.request_id or str(uuid4())
    stream = served.stub.ProcessRecurringCharges(request, metadata=served.metadata(**extra), timeout=60)
    return [message.progress async for message in stream]


async def test_a_collection_run_streams_its_progress_and_a_repeat_finds_it(served: Served) -> None:
    await owed(served, "pm_card_visa", autopay=True)
    _, declined = await owed(served, "pm_card_chargeDeclined", autopay=True)
    await served.world.move(RUN)
    preview = await progress(served, pb.ProcessRecurringChargesRequest(dry_run=True))
    assert (preview[-1].run.dry_run, preview[-1].run.done_count, served.world.movements) == (True, 2, 0)
    request = pb.ProcessRecurringChargesRequest(request_id=str(uuid4()))
    seen = await progress(served, request)
    run = seen[-1].run
    assert (seen[-1].last, run.state, run.total_count, run.done_count) == (True, run_pb2.RUN_STATE_SUCCEEDED, 2, 2)
    assert list(run.amounts) == [usd(12000)]
    items = {item.invoice_id: item for message in seen for item in message.items}
    assert items[declined].outcome == run_pb2.RUN_OUTCOME_DECLINED
    assert items[declined].reason == run_pb2.RUN_ITEM_REASON_PROVIDER_DECLINED
    assert items[declined].payment_id.startswith("pay_")
    assert (await progress(served, request))[-1].run.id == run.id
    assert served.world.movements == 1


async def test_a_run_over_all_firms_is_for_admins_who_name_none(served: Served) -> None:
    everyone = pb.ProcessRecurringChargesRequest(all_firms=True)
    [message] = await progress(served, everyone, role=Role.ADMIN)
    assert served.all_firms.started is not None
    assert message.run.id == text(Prefix.RUN, served.all_firms.started)
    for role in (Role.FIRM_ADMIN, Role.OPERATOR):
        request = pb.ProcessRecurringChargesRequest(all_firms=True, request_id=str(uuid4()))
        stream = served.stub.ProcessRecurringCharges(request, metadata=served.metadata(role))
        assert (await failure(stream)).reason == "PERMISSION_DENIED"
    none = served.stub.ProcessRecurringCharges(
        pb.ProcessRecurringChargesRequest(request_id=str(uuid4())), metadata=served.metadata(Role.ADMIN)
    )
    assert (await failure(none)).reason == "FIRM_REQUIRED"


# Everybody's -------------------------------------------------------------------------------------------------------------


def requests(client: str, invoice: str, method: str, payment: str, attempt: str) -> dict[str, Any]:
    """One well-formed request for each unary RPC."""
    return {
        "AttachPaymentMethod": pb.AttachPaymentMethodRequest(client_id=client, provider_method_id="pm_card_visa"),
        "ListPaymentMethods": pb.ListPaymentMethodsRequest(client_id=client),
        "UpdatePaymentMethod": pb.UpdatePaymentMethodRequest(
            payment_method=payment_method_pb2.PaymentMethod(id=method, backup_priority=3), update_mask=FieldMask(paths=["backup_priority"])
        ),
        "DetachPaymentMethod": pb.DetachPaymentMethodRequest(payment_method_id=method),
        "SetAutopay": pb.SetAutopayRequest(client_id=client, enabled=True),
        "SetInvoiceAutopay": pb.SetInvoiceAutopayRequest(invoice_id=invoice),
        "ChargeInvoice": pb.ChargeInvoiceRequest(invoice_id=invoice),
        "GetPayment": pb.GetPaymentRequest(payment_id=payment),
        "RecordManualPayment": pb.RecordManualPaymentRequest(
            client_id=client, amount=usd(1), method=payment_pb2.MANUAL_PAYMENT_METHOD_CASH
        ),
        "ResolveAttempt": pb.ResolveAttemptRequest(
            attempt_id=attempt, resolution=payment_pb2.ATTEMPT_RESOLUTION_NOT_SENT, note="no trace"
        ),
    }  # fmt: skip


async def test_another_firms_objects_are_not_found_and_readers_change_nothing(served: Served) -> None:
    client, invoice = await owed(served, "pm_card_visa")
    listed = await served.call("ListPaymentMethods", pb.ListPaymentMethodsRequest(client_id=client))
    payment = (await served.call("ChargeInvoice", pb.ChargeInvoiceRequest(invoice_id=invoice))).payment
    ids = (client, invoice, listed.payment_methods[0].id, payment.id, payment.attempts[0].id)
    stranger = await support.add_firm(served.world.db)
    for rpc, request in requests(*ids).items():
        failed = await refused(served, rpc, request, firm=stranger.firm_id, dunwell_actor="eve")
        assert (rpc, failed.reason, failed.code) == (rpc, "RESOURCE_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
    for rpc, request in requests(*ids).items():
        if rpc not in ("ListPaymentMethods", "GetPayment"):
            failed = await refused(served, rpc, request, Role.READER, dunwell_actor="eve")
            assert (rpc, failed.reason) == (rpc, "PERMISSION_DENIED")
    assert not (await served.call("ListPayments", pb.ListPaymentsRequest(), firm=stranger.firm_id)).payments
    assert served.world.movements == 1
