"""Clients, engagements and invoices through a real channel."""

from __future__ import annotations

from typing import Any

import pytest
from google.type.decimal_pb2 import Decimal
from grpc import StatusCode

from dunwell.v1 import (
    address_pb2,
    autopay_pb2,
    client_pb2,
    engagement_pb2,
    invoice_pb2,
    proration_pb2,
    run_pb2,
)
from dunwell.v1 import billing_service_pb2 as pb
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.context import Role
from tests.rpc.billing.conftest import Served
from tests.rpc.billing.requests import (
    client_request,
    day,
    engagement_request,
    invoice_request,
    line,
    mask,
    new_client,
    new_engagement,
    new_invoice,
    unknown,
    usd,
)

# Clients


async def test_a_client_is_created_read_changed_and_listed(served: Served) -> None:
    address = address_pb2.Address(lines=["1 Quay Street"], city="Galway", country_code="IE")
    made = await new_client(
        served, external_id="c-1", email="ada@example.com", phone="+4915112345678", address=address, tax_id="DE 123",
        locale="de-DE", currency_code="EUR", payment_terms_days=0, metadata={"tier": "gold"},
    )  # fmt: skip
    assert made.id.startswith("cli_")
    assert made.firm_id.startswith("firm_")
    assert (made.currency_code, made.payment_terms_days, made.address, made.etag) == ("EUR", 0, address, "v1")
    assert made.create_time.ToJsonString() == "2026-03-10T12:00:00Z"
    assert made.autopay == autopay_pb2.AutopaySettings(cadence=autopay_pb2.AUTOPAY_CADENCE_ON_DUE)
    read = (await served.call("GetClient", pb.GetClientRequest(client_id=made.id))).client
    assert read == made
    wanted = client_pb2.Client(id=made.id, address=address_pb2.Address(city="Cork"), email="", metadata={"a": "b"})
    request = pb.UpdateClientRequest(
        client=wanted, update_mask=mask("address.city", "email", "metadata", "payment_terms_days"), etag="v1"
    )
    changed = (await served.call("UpdateClient", request)).client
    assert (changed.address.city, list(changed.address.lines), changed.email) == ("Cork", ["1 Quay Street"], "")
    assert (dict(changed.metadata), changed.HasField("payment_terms_days"), changed.etag) == ({"a": "b"}, False, "v2")
    assert (changed.name, changed.phone, changed.locale) == ("Ada Byron", "+4915112345678", "de-DE")
    listed = await served.call("ListClients", pb.ListClientsRequest(external_id="c-1"))
    assert [client.id for client in listed.clients] == [made.id]


async def test_a_client_shows_what_it_owes(served: Served) -> None:
    client = await new_client(served)
    await new_invoice(served, client.id)
    read = (await served.call("GetClient", pb.GetClientRequest(client_id=client.id))).client
    assert list(read.balances) == [client_pb2.ClientBalance(receivable=usd(1000), credit=usd(0))]


async def test_pages_of_clients_follow_the_order(served: Served) -> None:
    for name in ("b", "c", "a"):
        await new_client(served, name=name)
    found: list[str] = []
    request = pb.ListClientsRequest(page_size=2, order=client_pb2.CLIENT_ORDER_NAME_ASC)
    while True:
        reply = await served.call("ListClients", request)
        found += [client.name for client in reply.clients]
        if not reply.next_page_token:
            break
        request.page_token = reply.next_page_token
    assert found == ["a", "b", "c"]
    request.order = client_pb2.CLIENT_ORDER_CREATE_TIME_ASC
    assert (await served.refused("ListClients", request)).reason == "PAGE_TOKEN_MISMATCH"
    request.page_token = "forged"
    assert (await served.refused("ListClients", request)).reason == "PAGE_TOKEN_INVALID"


async def test_pages_go_on_behind_the_longest_names(served: Served) -> None:
    names = ["\u9577" * 200, "\U0001f600" * 199, "\U0001f600" * 200]
    for name in names:
        await new_client(served, name=name)
    found: list[str] = []
    request = pb.ListClientsRequest(page_size=1, order=client_pb2.CLIENT_ORDER_NAME_ASC)
    while not found or request.page_token:
        reply = await served.call("ListClients", request)
        found += [client.name for client in reply.clients]
        request.page_token = reply.next_page_token
    assert sorted(found) == names


async def test_client_errors_are_precise(served: Served) -> None:
    await new_client(served, external_id="c-1")
    taken = await served.refused("CreateClient", client_request(external_id="c-1"))
    assert (taken.code, taken.reason) == (StatusCode.ALREADY_EXISTS, "EXTERNAL_ID_TAKEN")
    odd = await served.refused("CreateClient", client_request(currency_code="QQQ"))
    assert (odd.code, odd.reason) == (StatusCode.INVALID_ARGUMENT, "UNKNOWN_CURRENCY")
    assert odd.details["BadRequest"].field_violations[0].field == "client.currency_code"
    card = await served.refused("CreateClient", client_request(name="4242 4242 4242 4242"))
    assert card.reason == "CARD_NUMBER_REFUSED"
    nameless = await served.refused("CreateClient", client_request(name=""))
    assert (nameless.code, nameless.reason) == (StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")


@pytest.mark.parametrize("path", ["*", "", "nonsense", "id", "state", "etag", "autopay", "balances", "metadata.a"])
async def test_bad_mask_paths_are_refused(served: Served, path: str) -> None:
    client = await new_client(served)
    request = pb.UpdateClientRequest(client=client_pb2.Client(id=client.id, name="x"), update_mask=mask("name", path))
    assert (await served.refused("UpdateClient", request)).reason == "UPDATE_MASK_INVALID"


async def test_a_stale_etag_is_aborted(served: Served) -> None:
    client = await new_client(served)
    wanted = client_pb2.Client(id=client.id, name="x")
    for etag in ("v2", "garbage"):
        request = pb.UpdateClientRequest(client=wanted, update_mask=mask("name"), etag=etag)
        stale = await served.refused("UpdateClient", request)
        assert (stale.code, stale.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")


async def test_a_clients_currency_is_kept_while_it_is_in_use(served: Served) -> None:
    client = await new_client(served)
    await new_invoice(served, client.id)
    wanted = client_pb2.Client(id=client.id, currency_code="EUR")
    refused = await served.refused(
        "UpdateClient", pb.UpdateClientRequest(client=wanted, update_mask=mask("currency_code"))
    )
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "STATE_CONFLICT")


# Engagements


async def test_an_engagement_is_created_read_changed_listed_and_ended(served: Served) -> None:
    client = await new_client(served)
    made = await new_engagement(served, client.id, external_id="e-1", payment_terms_days=5, description="All of it")
    assert (made.currency_code, made.package.fee, made.package.line_description) == ("USD", usd(100_000), "Bookkeeping")
    assert made.package.anchor == engagement_pb2.BILLING_ANCHOR_START_DATE
    assert made.package.timing == engagement_pb2.BILLING_TIMING_IN_ADVANCE
    assert made.package.proration.day_count == proration_pb2.PRORATION_DAY_COUNT_ACTUAL
    assert (made.next_bill_date, made.billed_through_date) == (day(2026, 1, 1), day(2026, 1, 1))
    assert made.state == engagement_pb2.ENGAGEMENT_STATE_ACTIVE
    read = await served.call("GetEngagement", pb.GetEngagementRequest(engagement_id=made.id))
    assert read.engagement == made
    wanted = engagement_pb2.Engagement(id=made.id, package=engagement_pb2.PackageTerms(fee=usd(5)))
    wanted.package.proration.day_count = proration_pb2.PRORATION_DAY_COUNT_FIXED_30
    request = pb.UpdateEngagementRequest(
        engagement=wanted, update_mask=mask("package.fee", "package.proration.day_count", "description")
    )
    changed = (await served.call("UpdateEngagement", request)).engagement
    assert (changed.package.fee, changed.description, changed.payment_terms_days) == (usd(5), "", 5)
    assert changed.package.proration.day_count == proration_pb2.PRORATION_DAY_COUNT_FIXED_30
    assert changed.package.interval == made.package.interval
    listed = await served.call("ListEngagements", pb.ListEngagementsRequest(client_id=client.id, page_size=1))
    assert ([one.id for one in listed.engagements], listed.next_page_token) == ([made.id], "")
    end = pb.EndEngagementRequest(engagement_id=made.id, end_date=day(2026, 3, 10))
    ended = (await served.call("EndEngagement", end)).engagement
    assert (ended.state, ended.end_date) == (engagement_pb2.ENGAGEMENT_STATE_ENDED, day(2026, 3, 10))
    again = await served.refused("EndEngagement", pb.EndEngagementRequest(engagement_id=made.id))
    assert (again.code, again.reason) == (StatusCode.FAILED_PRECONDITION, "STATE_CONFLICT")
    assert again.metadata["state"] == "ENDED"
    states = pb.ListEngagementsRequest(states=[engagement_pb2.ENGAGEMENT_STATE_ENDED])
    assert len((await served.call("ListEngagements", states)).engagements) == 1


@pytest.mark.parametrize(
    "path", ["package", "package.interval", "start_date", "end_date", "client_id", "next_bill_date"]
)
async def test_what_was_agreed_for_good_does_not_change(served: Served, path: str) -> None:
    made = await new_engagement(served, (await new_client(served)).id)
    request = pb.UpdateEngagementRequest(engagement=made, update_mask=mask(path))
    refused = await served.refused("UpdateEngagement", request)
    assert refused.reason == "UPDATE_MASK_INVALID"
    assert path in refused.details["BadRequest"].field_violations[0].description


async def test_engagement_errors_are_precise(served: Served) -> None:
    client = await new_client(served)

    async def refused(**fields: Any) -> tuple[str, str]:
        error = await served.refused("CreateEngagement", engagement_request(client.id, **fields))
        found = error.details.get("BadRequest")
        return error.reason, found.field_violations[0].field if found else ""

    euros = engagement_request(client.id).engagement.package
    euros.fee.currency_code = "EUR"
    assert await refused(package=euros) == ("CURRENCY_MISMATCH", "engagement.package.fee.currency_code")
    euros.fee.currency_code = "QQQ"
    assert (await refused(package=euros))[0] == "UNKNOWN_CURRENCY"
    assert await refused(end_date=day(2026, 1, 1)) == ("PERIOD_INVALID", "engagement.end_date")
    hourly = engagement_pb2.Engagement(
        client_id=client.id, name="x", pricing_mode=engagement_pb2.PRICING_MODE_HOURLY, start_date=day(2026, 1, 1)
    )
    error = await served.refused("CreateEngagement", pb.CreateEngagementRequest(engagement=hourly))
    assert error.reason == "FIELD_INVALID"
    await new_engagement(served, client.id, external_id="e")
    assert (await refused(external_id="e"))[0] == "EXTERNAL_ID_TAKEN"
    assert (await refused(start_date=day(2026, 2, 30)))[0] == "FIELD_INVALID"


# Invoices


async def test_an_invoice_lives_from_draft_to_void(served: Served) -> None:
    client = await new_client(served)
    period = line(
        "2.505", quantity=Decimal(value="2"), period_start_date=day(2026, 3, 1), period_end_date=day(2026, 4, 1)
    )
    draft = await new_invoice(served, client.id, line("10.00"), period, finalize=False, memo="Thanks")
    assert (draft.state, draft.number, draft.etag) == (invoice_pb2.INVOICE_STATE_DRAFT, "", "v1")
    assert [(one.line_no, one.amount, one.quantity.value) for one in draft.lines] == [
        (1, usd(1000), "1"),
        (2, usd(501), "2"),
    ]
    assert draft.lines[0].unit_price.value == "10.00"
    assert (draft.lines[1].period_start_date, draft.lines[1].period_end_date) == (day(2026, 3, 1), day(2026, 4, 1))
    assert (draft.total, draft.subtotal, draft.amount_due) == (usd(1501), usd(1501), usd(1501))
    wanted = invoice_pb2.Invoice(id=draft.id, lines=[line("7")], due_date=day(2026, 5, 1))
    update = pb.UpdateInvoiceRequest(invoice=wanted, update_mask=mask("lines", "due_date"), etag="v1")
    changed = (await served.call("UpdateInvoice", update)).invoice
    assert (changed.total, changed.due_date, changed.memo, len(changed.lines)) == (
        usd(700),
        day(2026, 5, 1),
        "Thanks",
        1,
    )
    shown = (await served.call("PreviewInvoice", pb.PreviewInvoiceRequest(invoice_id=draft.id))).invoice
    finalize = pb.FinalizeInvoiceRequest(invoice_id=draft.id, etag=changed.etag)
    sent = (await served.call("FinalizeInvoice", finalize)).invoice
    assert (sent.number, sent.state, sent.issue_date) == (
        "INV-2026-000001",
        invoice_pb2.INVOICE_STATE_SENT,
        day(2026, 3, 10),
    )
    known_later = ("id", "etag", "number", "create_time", "update_time")
    expected = invoice_pb2.Invoice.FromString(sent.SerializeToString())
    for name in known_later:
        expected.ClearField(name)  # type: ignore[arg-type]
    assert shown == expected
    read = (await served.call("GetInvoice", pb.GetInvoiceRequest(invoice_id=draft.id))).invoice
    assert read == sent
    void = (await served.call("VoidInvoice", pb.VoidInvoiceRequest(invoice_id=draft.id, reason="mistake"))).invoice
    assert (void.state, void.number) == (invoice_pb2.INVOICE_STATE_VOID, sent.number)


async def test_an_invoice_finalised_at_once_is_written_off(served: Served) -> None:
    client = await new_client(served, payment_terms_days=3)
    sent = await new_invoice(served, client.id)
    assert (sent.due_date, sent.origin) == (day(2026, 3, 13), invoice_pb2.INVOICE_ORIGIN_MANUAL)
    off = (await served.call("WriteOffInvoice", pb.WriteOffInvoiceRequest(invoice_id=sent.id))).invoice
    assert (off.state, off.amount_due) == (invoice_pb2.INVOICE_STATE_UNCOLLECTIBLE, usd(1000))
    again = await served.refused("WriteOffInvoice", pb.WriteOffInvoiceRequest(invoice_id=sent.id))
    assert (again.code, again.reason, again.metadata["state"]) == (
        StatusCode.FAILED_PRECONDITION,
        "STATE_CONFLICT",
        "UNCOLLECTIBLE",
    )


async def test_a_draft_is_deleted_and_nothing_else(served: Served) -> None:
    client = await new_client(served)
    draft, sent = await new_invoice(served, client.id, finalize=False), await new_invoice(served, client.id)
    await served.call("DeleteInvoice", pb.DeleteInvoiceRequest(invoice_id=draft.id))
    gone = await served.refused("GetInvoice", pb.GetInvoiceRequest(invoice_id=draft.id))
    assert (gone.code, gone.reason) == (StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    kept = await served.refused("DeleteInvoice", pb.DeleteInvoiceRequest(invoice_id=sent.id))
    assert (kept.reason, kept.metadata["allowed"]) == ("STATE_CONFLICT", "VoidInvoice,WriteOffInvoice")


async def test_invoices_are_listed_without_lines(served: Served) -> None:
    client, other = await new_client(served), await new_client(served)
    made = [await new_invoice(served, client.id, external_id=f"i-{no}") for no in range(3)]
    await new_invoice(served, other.id)
    request = pb.ListInvoicesRequest(client_id=client.id, page_size=2)
    first = await served.call("ListInvoices", request)
    request.page_token = first.next_page_token
    rest = await served.call("ListInvoices", request)
    found = [*first.invoices, *rest.invoices]
    assert [one.id for one in found] == [one.id for one in reversed(made)]
    assert not any(one.lines for one in found)
    by_number = await served.call("ListInvoices", pb.ListInvoicesRequest(number="INV-2026-000002"))
    assert [one.external_id for one in by_number.invoices] == ["i-1"]
    paid = pb.ListInvoicesRequest(states=[invoice_pb2.INVOICE_STATE_PAID])
    assert not (await served.call("ListInvoices", paid)).invoices
    backwards = pb.ListInvoicesRequest()
    backwards.due_date.start_date.CopyFrom(day(2026, 2, 1))
    backwards.due_date.end_date.CopyFrom(day(2026, 1, 1))
    assert (await served.refused("ListInvoices", backwards)).reason == "PERIOD_INVALID"


async def test_invoice_errors_are_precise(served: Served) -> None:
    client = await new_client(served)

    async def refused(*lines: invoice_pb2.InvoiceLine, **fields: Any) -> tuple[str, str]:
        request = invoice_request(client.id, *lines, finalize=True, **fields)
        error = await served.refused("CreateInvoice", request)
        found = error.details.get("BadRequest")
        return error.reason, found.field_violations[0].field if found else ""

    assert await refused(currency_code="EUR") == ("CURRENCY_MISMATCH", "invoice.currency_code")
    assert await refused(line("-1")) == ("FIELD_INVALID", "invoice.lines[0].unit_price")
    huge = line("999999999999.99", quantity=Decimal(value="999999999999"))
    assert await refused(line(), huge) == ("AMOUNT_OUT_OF_RANGE", "invoice.lines[1].unit_price")
    upside_down = line(period_start_date=day(2026, 2, 1), period_end_date=day(2026, 2, 1))
    assert await refused(upside_down) == ("PERIOD_INVALID", "invoice.lines[0].period_end_date")
    assert await refused(due_date=day(2026, 3, 9)) == ("PERIOD_INVALID", "invoice.due_date")
    assert (await refused(due_date=day(2026, 4, 9), payment_terms_days=3))[0] == "FIELD_INVALID"
    assert (await refused(engagement_id=unknown(Prefix.ENGAGEMENT)))[0] == "RESOURCE_NOT_FOUND"
    empty = pb.CreateInvoiceRequest(invoice=invoice_pb2.Invoice(client_id=client.id), finalize=True)
    error = await served.refused("CreateInvoice", empty)
    assert (error.code, error.reason) == (StatusCode.FAILED_PRECONDITION, "INVOICE_EMPTY")


async def test_a_preview_writes_nothing(served: Served) -> None:
    client = await new_client(served)
    made = await new_engagement(served, client.id)
    sources = [
        pb.PreviewInvoiceRequest(invoice=invoice_pb2.Invoice(client_id=client.id, lines=[line()])),
        pb.PreviewInvoiceRequest(engagement=pb.EngagementPreview(engagement_id=made.id)),
    ]
    totals = [(await served.call("PreviewInvoice", source, Role.READER)).invoice.total for source in sources]
    assert totals == [usd(1000), usd(300_000)]
    early = pb.EngagementPreview(engagement_id=made.id, as_of_date=day(2025, 12, 31))
    nothing = await served.call("PreviewInvoice", pb.PreviewInvoiceRequest(engagement=early))
    assert not nothing.HasField("invoice")
    assert nothing.skip_reason == run_pb2.RUN_ITEM_REASON_NOTHING_TO_BILL
    assert not (await served.call("ListInvoices", pb.ListInvoicesRequest())).invoices
