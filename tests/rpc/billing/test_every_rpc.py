"""What holds of every RPC of BillingService: once per request id, for whom, of which firm, with ids of the right kind."""

from __future__ import annotations

from typing import Any

from google.type.decimal_pb2 import Decimal
from grpc import StatusCode

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import (
    client_pb2,
    credit_pb2,
    engagement_pb2,
    error_reason_pb2,
    invoice_pb2,
    tax_pb2,
    time_entry_pb2,
)
from dunwell.v1.billing_service_pb2 import DESCRIPTOR
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.context import Role
from tests import support
from tests.rpc.billing.conftest import Served
from tests.rpc.billing.requests import (
    client_request,
    day,
    engagement_request,
    exchange_rate,
    invoice_request,
    mask,
    new_client,
    new_engagement,
    new_invoice,
    unknown,
    usd,
)


async def mutations(served: Served) -> list[tuple[str, Any]]:
    """A request of every changing RPC that would succeed."""
    client = await new_client(served)
    made = await new_engagement(served, client.id)
    term = await new_engagement(served, client.id, end_date=day(2027, 1, 1))
    draft, other = (
        await new_invoice(served, client.id, finalize=False),
        await new_invoice(served, client.id, finalize=False),
    )
    sent, late = await new_invoice(served, client.id), await new_invoice(served, client.id)
    vat = tax_pb2.TaxRate(name="VAT", percentage=Decimal(value="19"), country_code="DE")
    lapsed = tax_pb2.TaxRate(name="GST", percentage=Decimal(value="19"), country_code="DE")
    rate = (await served.call("CreateTaxRate", pb.CreateTaxRateRequest(tax_rate=lapsed))).tax_rate
    return [
        ("CreateClient", client_request()),
        (
            "UpdateClient",
            pb.UpdateClientRequest(client=client_pb2.Client(id=client.id, name="y"), update_mask=mask("name")),
        ),
        ("CreateEngagement", engagement_request(client.id)),
        (
            "UpdateEngagement",
            pb.UpdateEngagementRequest(
                engagement=engagement_pb2.Engagement(id=made.id, name="y"), update_mask=mask("name")
            ),
        ),
        ("EndEngagement", pb.EndEngagementRequest(engagement_id=made.id)),
        ("ReopenEngagement", pb.ReopenEngagementRequest(engagement_id=made.id)),
        ("RenewEngagement", pb.RenewEngagementRequest(engagement_id=term.id)),
        ("CreateInvoice", invoice_request(client.id, finalize=True)),
        ("UpdateInvoice", pb.UpdateInvoiceRequest(invoice=invoice_pb2.Invoice(id=draft.id), update_mask=mask("memo"))),
        ("FinalizeInvoice", pb.FinalizeInvoiceRequest(invoice_id=draft.id)),
        ("DeleteInvoice", pb.DeleteInvoiceRequest(invoice_id=other.id)),
        ("VoidInvoice", pb.VoidInvoiceRequest(invoice_id=sent.id)),
        ("CreateTaxRate", pb.CreateTaxRateRequest(tax_rate=vat)),
        ("UpdateTaxRate", pb.UpdateTaxRateRequest(tax_rate=tax_pb2.TaxRate(id=rate.id), update_mask=mask("archived"))),
        ("WriteOffInvoice", pb.WriteOffInvoiceRequest(invoice_id=late.id)),
        ("SetExchangeRates", pb.SetExchangeRatesRequest(rates=[exchange_rate("EUR", "USD", "1.1")])),
        *await credit_mutations(served),
        *await time_mutations(served, client.id),
    ]


async def credit_mutations(served: Served) -> list[tuple[str, Any]]:
    """Those of credit and credit notes, in an order in which each succeeds."""
    client = await new_client(served)
    invoice = await new_invoice(served, client.id)
    given = pb.GrantCreditRequest(client_id=client.id, kind=credit_pb2.CREDIT_KIND_GOODWILL, amount=usd(500))
    await served.call("GrantCredit", given)
    given.request_id = ""
    return [
        ("GrantCredit", given),
        ("ApplyCredit", pb.ApplyCreditRequest(invoice_id=invoice.id, amount=usd(300))),
        ("ReverseCredit", pb.ReverseCreditRequest(invoice_id=invoice.id)),
        ("CreateCreditNote", pb.CreateCreditNoteRequest(invoice_id=invoice.id, amount=usd(100))),
    ]


BULK = ("SubmitTimeEntries", "ApproveTimeEntries", "WriteDownTimeEntries", "UnapproveTimeEntries", "RejectTimeEntries")
"""What answers for each item, also where it is somebody else's."""


async def time_mutations(served: Served, client_id: str) -> list[tuple[str, Any]]:
    """Those of time, in an order in which each succeeds."""
    terms = engagement_pb2.HourlyTerms(
        default_rate=Decimal(value="60"), interval=engagement_pb2.BILLING_INTERVAL_MONTHLY
    )
    hourly = engagement_pb2.PRICING_MODE_HOURLY
    timed = await new_engagement(served, client_id, pricing_mode=hourly, package=None, hourly=terms)
    entry = time_entry_pb2.TimeEntry(engagement_id=timed.id, person="Ada", work_date=day(2026, 1, 5), minutes=60)
    made = (await served.call("CreateTimeEntry", pb.CreateTimeEntryRequest(time_entry=entry))).time_entry
    down = time_entry_pb2.TimeWriteDown(time_entry_id=made.id, minutes=5)
    return [
        ("CreateTimeEntry", pb.CreateTimeEntryRequest(time_entry=entry)),
        ("UpdateTimeEntry", pb.UpdateTimeEntryRequest(time_entry=made, update_mask=mask("role"))),
        ("SubmitTimeEntries", pb.SubmitTimeEntriesRequest(time_entry_ids=[made.id])),
        ("ApproveTimeEntries", pb.ApproveTimeEntriesRequest(time_entry_ids=[made.id])),
        ("WriteDownTimeEntries", pb.WriteDownTimeEntriesRequest(write_downs=[down], reason="why")),
        ("UnapproveTimeEntries", pb.UnapproveTimeEntriesRequest(time_entry_ids=[made.id])),
        ("RejectTimeEntries", pb.RejectTimeEntriesRequest(time_entry_ids=[made.id], reason="why")),
    ]


async def test_every_change_happens_once_per_request_id(served: Served) -> None:
    todo = await mutations(served)
    service = DESCRIPTOR.services_by_name["BillingService"]
    changing = {method.name for method in service.methods if "request_id" in method.input_type.fields_by_name}
    assert {rpc for rpc, _ in todo} | {"GeneratePackageInvoices"} == changing
    for rpc, request in todo:
        first = await served.call(rpc, request)
        assert rpc not in BULK or first.results[0].HasField("time_entry"), first
        repeat = served.start(rpc, request)
        assert await repeat == first, rpc
        assert ("dunwell-replayed", "true") in [(key, value) for key, value in await repeat.trailing_metadata()], rpc
    invoices = (await served.call("ListInvoices", pb.ListInvoicesRequest(page_size=100))).invoices
    assert len([one for one in invoices if one.number]) == 5
    rpc, request = todo[0]
    request.client.name = "somebody else"
    assert (await served.refused(rpc, request)).reason == "REQUEST_ID_REUSED"


async def test_every_change_is_refused_to_readers_sidecars_and_strangers(served: Served) -> None:
    other = await support.add_firm(served.db)
    for rpc, request in await mutations(served):
        for role in (Role.READER, Role.SIDECAR):
            denied = await served.refused(rpc, request, role)
            assert (denied.code, denied.reason) == (StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"), rpc
        if rpc in BULK:
            (item,) = (await served.call(rpc, request, firm=other.firm_id)).results
            assert item.error.reason == error_reason_pb2.ERROR_REASON_RESOURCE_NOT_FOUND
        elif rpc not in ("CreateClient", "CreateTaxRate", "SetExchangeRates"):
            hidden = await served.refused(rpc, request, firm=other.firm_id)
            assert (hidden.code, hidden.reason) == (StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND"), rpc
        late = await served.refused(rpc, request, timeout=0.001)
        assert late.code is StatusCode.DEADLINE_EXCEEDED, rpc


async def test_another_firms_objects_are_not_found_and_lists_are_empty(served: Served) -> None:
    other = await support.add_firm(served.db)
    client = await new_client(served)
    made, sent = await new_engagement(served, client.id), await new_invoice(served, client.id)
    reads = [
        ("GetClient", pb.GetClientRequest(client_id=client.id)),
        ("GetEngagement", pb.GetEngagementRequest(engagement_id=made.id)),
        ("GetInvoice", pb.GetInvoiceRequest(invoice_id=sent.id)),
        ("PreviewInvoice", pb.PreviewInvoiceRequest(invoice_id=sent.id)),
        ("GetClient", pb.GetClientRequest(client_id=unknown(Prefix.CLIENT))),
        ("GetEngagement", pb.GetEngagementRequest(engagement_id=unknown(Prefix.ENGAGEMENT))),
        ("GetInvoice", pb.GetInvoiceRequest(invoice_id=unknown(Prefix.INVOICE))),
    ]
    seen = set()
    for rpc, request in reads:
        hidden = await served.refused(rpc, request, Role.READER, firm=other.firm_id)
        seen.add((hidden.code, hidden.reason, hidden.message.rpartition(" ")[0]))
    assert seen == {(StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", "No such")}
    for rpc, request in (
        ("ListClients", pb.ListClientsRequest()),
        ("ListEngagements", pb.ListEngagementsRequest()),
        ("ListInvoices", pb.ListInvoicesRequest()),
    ):
        reply = await served.call(rpc, request, Role.READER, firm=other.firm_id)
        assert not reply.ListFields(), rpc
        assert (await served.call(rpc, request, Role.READER)).ListFields(), rpc


async def test_ids_of_another_kind_name_their_field(served: Served) -> None:
    wrong = pb.GetInvoiceRequest(invoice_id=unknown(Prefix.CLIENT))
    refused = await served.refused("GetInvoice", wrong)
    assert refused.code is StatusCode.INVALID_ARGUMENT
    assert refused.details["BadRequest"].field_violations[0].field == "invoice_id"
