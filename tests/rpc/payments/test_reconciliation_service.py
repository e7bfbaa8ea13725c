"""ReconcilePayments, SyncInvoice and GetPaymentReport over the wire."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from dunwell.v1 import invoice_pb2, payment_failure_pb2, run_pb2
from dunwell.v1 import payment_service_pb2 as pb
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.context import Role
from tests.integration.payments.reconciling import paid, paid_there
from tests.rpc.payments.conftest import Served


def request_for(served: Served, **fields: Any) -> pb.ReconcilePaymentsRequest:
    request = pb.ReconcilePaymentsRequest(request_id=str(uuid4()), **fields)
    request.window.end_time.FromDatetime(served.world.now + timedelta(minutes=1))
    return request


async def stream(
    served: Served, request: pb.ReconcilePaymentsRequest, role: Role = Role.FIRM_ADMIN
) -> tuple[run_pb2.Run, list[run_pb2.RunItem]]:
    items: list[run_pb2.RunItem] = []
    last = None
    async for message in served.stub.ReconcilePayments(request, metadata=served.metadata(role), timeout=30):
        items += message.progress.items
        last = message.progress
    assert last is not None
    assert last.last
    return last.run, items


async def test_a_reconciliation_tells_its_differences_and_a_repeat_finds_it(served: Served) -> None:
    world = served.world
    client, [method] = await world.client("pm_card_visa", autopay=False)
    await paid(world, client)
    reference = await paid_there(world, method, 5000, key="by hand", metadata={})
    request = request_for(served)
    run, [item] = await stream(served, request)
    assert (run.kind, run.state) == (run_pb2.RUN_KIND_RECONCILIATION, run_pb2.RUN_STATE_SUCCEEDED)
    counts = {run_pb2.RunOutcome.Name(each.outcome): each.count for each in run.outcome_counts}
    assert counts == {"RUN_OUTCOME_MATCHED": 1, "RUN_OUTCOME_DIFFERENT": 1}
    assert (item.outcome, item.reason) == (
        run_pb2.RUN_OUTCOME_DIFFERENT, run_pb2.RUN_ITEM_REASON_THEIRS_ONLY,
    )  # fmt: skip
    assert (item.provider_reference, item.amount.amount_minor) == (reference, 5000)
    again, _ = await stream(served, request)
    assert again.id == run.id


async def test_what_is_taken_over_names_payment_and_invoice(served: Served) -> None:
    world = served.world
    client, _ = await world.client("pm_sandbox_acceptThenTimeout", autopay=False)
    invoice = await world.invoice(client)
    view = await world.charge(invoice.id)
    _, [planned] = await stream(served, request_for(served, dry_run=True))
    run, [item] = await stream(served, request_for(served))
    assert planned.outcome == item.outcome == run_pb2.RUN_OUTCOME_ADOPTED
    assert (item.payment_id, item.invoice_id, item.client_id) == (
        encode(Prefix.PAYMENT, view.payment.id), encode(Prefix.INVOICE, invoice.id), encode(Prefix.CLIENT, client.id),
    )  # fmt: skip
    assert [(each.currency_code, each.amount_minor) for each in run.amounts] == [("USD", 12000)]


@pytest.mark.parametrize(
    ("fields", "role", "code", "reason"),
    [
        ({"provider": "stripe"}, Role.FIRM_ADMIN, grpc.StatusCode.FAILED_PRECONDITION, "PROVIDER_NOT_CONFIGURED"),
        ({"all_firms": True}, Role.FIRM_ADMIN, grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
        ({}, Role.ADMIN, grpc.StatusCode.INVALID_ARGUMENT, "FIRM_REQUIRED"),
        ({}, Role.SERVICE, grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
    ],
)
async def test_who_may_reconcile_what(
    served: Served, fields: dict[str, Any], role: Role, code: grpc.StatusCode, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stream(served, request_for(served, **fields), role)
    assert refused.value.code() is code
    assert reason in str(refused.value.trailing_metadata())


async def test_a_window_that_is_too_long_is_refused(served: Served) -> None:
    request = request_for(served)
    request.window.start_time.FromDatetime(served.world.now - timedelta(days=401))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stream(served, request)
    assert "PERIOD_INVALID" in str(refused.value.trailing_metadata())


async def test_all_firms_are_one_run(served: Served) -> None:
    request = pb.ReconcilePaymentsRequest(request_id=str(uuid4()), all_firms=True)
    run, _ = await stream(served, request, Role.ADMIN)
    assert run.id == encode(Prefix.RUN, UUID(str(served.all_firms.started)))


async def test_an_invoice_is_synced_at_once(served: Served) -> None:
    world = served.world
    client, _ = await world.client("pm_sandbox_acceptThenTimeout", autopay=False)
    waiting, _ = await world.client("pm_sandbox_pendingThenSuccess", autopay=False)
    invoice, other = await world.invoice(client), await world.invoice(waiting)
    await world.charge(invoice.id)
    view = await world.charge(other.id)
    answer = await served.call("SyncInvoice", pb.SyncInvoiceRequest(invoice_id=encode(Prefix.INVOICE, invoice.id)))
    assert (answer.invoice.state, list(answer.open_ids)) == (invoice_pb2.INVOICE_STATE_PAID, [])
    answer = await served.call("SyncInvoice", pb.SyncInvoiceRequest(invoice_id=encode(Prefix.INVOICE, other.id)))
    assert list(answer.open_ids) == [encode(Prefix.PAYMENT, view.payment.id)]


async def test_the_report_over_the_wire(served: Served) -> None:
    world = served.world
    good, _ = await world.client("pm_card_visa")
    bad, _ = await world.client("pm_card_chargeDeclinedInsufficientFunds")
    for client in (good, bad):
        await world.invoice(client, "20.00")
    await world.advance(world.now + timedelta(days=1))
    answer = await served.call("GetPaymentReport", pb.GetPaymentReportRequest(), Role.READER)
    report = answer.report
    assert (report.finished_count, report.failed_count, report.failure_rate) == (2, 1, 0.5)
    assert [(each.month, each.failure_rate) for each in report.months] == [("2026-03", 0.5)]
    [code] = report.codes
    assert (code.code, code.count, code.share) == (
        payment_failure_pb2.PAYMENT_FAILURE_CODE_INSUFFICIENT_FUNDS, 1, 1.0,
    )  # fmt: skip
    [slot] = report.slots
    assert (slot.slot_no, slot.recovery_rate, slot.amounts[0].amount_minor) == (0, 0.5, 2000)
    assert (report.invoices_at_risk, report.amounts_at_risk[0].amount_minor) == (1, 2000)
    request = pb.GetPaymentReportRequest()
    request.range.start_time.CopyFrom(Timestamp(seconds=2))
    request.range.end_time.CopyFrom(Timestamp(seconds=1))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await served.call("GetPaymentReport", request, Role.READER)
    assert "PERIOD_INVALID" in str(refused.value.trailing_metadata())
