"""Billing runs through a real channel: dry and real, narrowed, over all firms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import (
    invoice_pb2,
    run_pb2,
)
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.context import Role
from dunwell_server.platform.runs import RunKind
from tests.rpc.billing.conftest import Served
from tests.rpc.billing.requests import (
    day,
    new_client,
    new_engagement,
    unknown,
    usd,
)


async def stream(
    served: Served, request: pb.GeneratePackageInvoicesRequest, **options: Any
) -> list[run_pb2.RunProgress]:
    replies: AsyncIterator[Any] = served.start("GeneratePackageInvoices", request, **options)
    return [reply.progress async for reply in replies]


async def test_a_dry_run_tells_what_the_real_run_then_writes(served: Served) -> None:
    client = await new_client(served)
    made = await new_engagement(served, client.id)
    dry = await stream(served, pb.GeneratePackageInvoicesRequest(dry_run=True))
    assert dry[-1].last
    (item,) = [item for progress in dry for item in progress.items]
    assert (item.engagement_id, item.amount, len(item.planned_invoice.lines)) == (made.id, usd(300_000), 3)
    request = pb.GeneratePackageInvoicesRequest(request_id=str(uuid4()))
    real = await stream(served, request)
    assert real[-1].run.state == run_pb2.RUN_STATE_SUCCEEDED
    (listed,) = (await served.call("ListInvoices", pb.ListInvoicesRequest(client_id=client.id))).invoices
    invoice = (await served.call("GetInvoice", pb.GetInvoiceRequest(invoice_id=listed.id))).invoice
    planned = item.planned_invoice
    assert list(invoice.lines) == list(planned.lines)
    assert (invoice.total, invoice.issue_date, invoice.due_date) == (
        planned.total,
        planned.issue_date,
        planned.due_date,
    )
    again = await stream(served, request)
    assert again[-1].run.id == real[-1].run.id
    assert len((await served.call("ListInvoices", pb.ListInvoicesRequest())).invoices) == 1


async def test_a_voided_package_is_billed_again_by_the_next_run(served: Served) -> None:
    made = await new_engagement(served, (await new_client(served)).id, end_date=day(2026, 2, 11))
    await stream(served, pb.GeneratePackageInvoicesRequest())
    (first,) = (await served.call("ListInvoices", pb.ListInvoicesRequest())).invoices
    await served.call("VoidInvoice", pb.VoidInvoiceRequest(invoice_id=first.id))
    shown = pb.PreviewInvoiceRequest(engagement=pb.EngagementPreview(engagement_id=made.id))
    preview = (await served.call("PreviewInvoice", shown)).invoice
    await stream(served, pb.GeneratePackageInvoicesRequest())
    states = [invoice_pb2.INVOICE_STATE_SENT]
    (second,) = (await served.call("ListInvoices", pb.ListInvoicesRequest(states=states))).invoices
    assert second.id != first.id
    written = (await served.call("GetInvoice", pb.GetInvoiceRequest(invoice_id=second.id))).invoice
    assert (list(written.lines), written.total, written.due_date) == (
        list(preview.lines),
        preview.total,
        preview.due_date,
    )
    assert [one.amount.amount_minor for one in written.lines] == [100_000, 35_714]


async def test_runs_are_narrowed_to_what_exists(served: Served) -> None:
    one, two = await new_client(served), await new_client(served)
    made = await new_engagement(served, one.id)
    await new_engagement(served, two.id)
    narrowed = await stream(served, pb.GeneratePackageInvoicesRequest(engagement_id=made.id))
    assert narrowed[-1].run.done_count == 1
    for field, prefix in (("client_id", Prefix.CLIENT), ("engagement_id", Prefix.ENGAGEMENT)):
        request = pb.GeneratePackageInvoicesRequest()
        setattr(request, field, unknown(prefix))
        assert (await served.refused("GeneratePackageInvoices", request)).reason == "RESOURCE_NOT_FOUND"
    request = pb.GeneratePackageInvoicesRequest(client_id=two.id, engagement_id=made.id)
    assert (await served.refused("GeneratePackageInvoices", request)).reason == "FIELD_INVALID"


async def test_only_an_admin_without_a_firm_runs_over_all(served: Served) -> None:
    request = pb.GeneratePackageInvoicesRequest(all_firms=True, dry_run=True, as_of_date=day(2026, 1, 31))
    assert (await served.refused("GeneratePackageInvoices", request)).reason == "PERMISSION_DENIED"
    request.request_id = str(uuid4())
    assert (await stream(served, request, role=Role.ADMIN))[-1].last
    assert served.all_firms.started == [(RunKind.PACKAGES, {"as_of": "2026-01-31"}, True)]
    firmless = pb.GeneratePackageInvoicesRequest()
    assert (await served.refused("GeneratePackageInvoices", firmless, Role.ADMIN)).reason == "FIRM_REQUIRED"
