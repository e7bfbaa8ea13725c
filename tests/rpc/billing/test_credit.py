"""Credit and credit notes through a real channel."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.decimal_pb2 import Decimal
from grpc import StatusCode

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import client_pb2, credit_note_pb2, credit_pb2, invoice_pb2, money_pb2
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.context import Role
from tests.rpc.billing.conftest import NOON, Served
from tests.rpc.billing.requests import line, mask, new_client, new_invoice, unknown, usd

LATER = Timestamp()
LATER.FromDatetime(NOON + timedelta(days=3))


def grant_request(client_id: str, minor: int = 5000, **fields: Any) -> pb.GrantCreditRequest:
    values = {"client_id": client_id, "kind": credit_pb2.CREDIT_KIND_GOODWILL, "amount": usd(minor), **fields}
    return pb.GrantCreditRequest(**values)


async def granted(served: Served, client_id: str, minor: int = 5000, **fields: Any) -> credit_pb2.CreditEntry:
    made: credit_pb2.CreditEntry = (await served.call("GrantCredit", grant_request(client_id, minor, **fields))).entry
    return made


async def test_credit_from_grant_to_statement(served: Served) -> None:
    client = await new_client(served)
    assert client.auto_apply_credit
    entry = await granted(served, client.id, expire_time=LATER, priority=3, reason="sorry")
    assert (entry.amount, entry.remaining, entry.priority, entry.reason) == (usd(5000), usd(5000), 3, "sorry")
    assert (entry.expire_time, entry.grant_time.ToDatetime(), entry.WhichOneof("source")) == (
        LATER,
        NOON.replace(tzinfo=None),
        None,
    )
    invoice = await new_invoice(served, client.id, line("30"))
    assert (invoice.state, invoice.amount_credited, invoice.amount_due) == (
        invoice_pb2.INVOICE_STATE_PAID,
        usd(3000),
        usd(0),
    )
    [balance] = (await served.call("GetCreditBalance", pb.GetCreditBalanceRequest(client_id=client.id))).balances
    assert (balance.balance, balance.available, balance.expiring, balance.next_expire_time) == (
        usd(2000),
        usd(2000),
        usd(2000),
        LATER,
    )
    reply = await served.call("ListCreditEntries", pb.ListCreditEntriesRequest(client_id=client.id))
    [shown] = reply.entries
    assert (shown.remaining, shown.balance_after, reply.next_page_token) == (usd(2000), usd(5000), "")
    [use] = shown.uses
    assert (use.kind, use.amount, use.invoice_id, use.balance_after) == (
        credit_pb2.CREDIT_USE_KIND_APPLIED,
        usd(3000),
        invoice.id,
        usd(2000),
    )
    assert use.credit_id == entry.id


async def test_credit_by_hand_and_back(served: Served) -> None:
    client = await new_client(served, auto_apply_credit=False)
    entry = await granted(served, client.id, 700)
    invoice = await new_invoice(served, client.id)
    assert invoice.amount_credited == usd(0)
    applied = await served.call(
        "ApplyCredit", pb.ApplyCreditRequest(invoice_id=invoice.id, amount=usd(400), etag=invoice.etag)
    )
    assert (applied.invoice.amount_due, [use.amount for use in applied.uses], len(applied.invoice.lines)) == (
        usd(600),
        [usd(400)],
        1,
    )
    back = await served.call("ReverseCredit", pb.ReverseCreditRequest(invoice_id=invoice.id, reason="wrong invoice"))
    assert (back.invoice.amount_due, [each.remaining for each in back.entries]) == (usd(1000), [usd(700)])
    gone = await served.call("ReverseCredit", pb.ReverseCreditRequest(credit_id=entry.id, amount=usd(200)))
    assert ([each.remaining for each in gone.entries], gone.HasField("invoice")) == ([usd(500)], False)
    failed = await served.refused("ApplyCredit", pb.ApplyCreditRequest(invoice_id=invoice.id, amount=usd(501)))
    assert (failed.code, failed.reason) == (StatusCode.FAILED_PRECONDITION, "CREDIT_INSUFFICIENT")
    assert failed.metadata["available_minor"] == "500"


async def test_a_client_may_keep_its_credit(served: Served) -> None:
    client = await new_client(served)
    changed = client_pb2.Client(id=client.id, auto_apply_credit=False)
    kept = (
        await served.call("UpdateClient", pb.UpdateClientRequest(client=changed, update_mask=mask("auto_apply_credit")))
    ).client
    assert kept.HasField("auto_apply_credit")
    assert not kept.auto_apply_credit
    await granted(served, client.id)
    assert (await new_invoice(served, client.id)).amount_credited == usd(0)


async def test_a_repeated_grant_is_one_grant(served: Served) -> None:
    client = await new_client(served)
    request = grant_request(client.id, request_id=str(uuid4()))
    first, again = await served.call("GrantCredit", request), await served.call("GrantCredit", request)
    assert first == again
    assert len((await served.call("ListCreditEntries", pb.ListCreditEntriesRequest(client_id=client.id))).entries) == 1


async def test_entries_come_in_pages(served: Served) -> None:
    client = await new_client(served)
    made = [(await granted(served, client.id, each)).id for each in (1, 2, 3)]
    request = pb.ListCreditEntriesRequest(client_id=client.id, page_size=2, kinds=[credit_pb2.CREDIT_KIND_GOODWILL])
    first = await served.call("ListCreditEntries", request)
    request.page_token = first.next_page_token
    second = await served.call("ListCreditEntries", request)
    assert [entry.id for entry in (*first.entries, *second.entries)] == made[::-1]
    assert second.next_page_token == ""
    request.only_open = True
    assert (await served.refused("ListCreditEntries", request)).reason == "PAGE_TOKEN_MISMATCH"


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"kind": credit_pb2.CREDIT_KIND_UNSPECIFIED}, "FIELD_INVALID", "kind"),
        ({"kind": credit_pb2.CREDIT_KIND_OVERPAYMENT}, "FIELD_INVALID", "kind"),
        ({"amount": usd(0)}, "FIELD_INVALID", "amount"),
        ({"amount": usd(-1)}, "FIELD_INVALID", "amount"),
        ({"amount": None}, "FIELD_INVALID", "amount"),
        ({"amount": money_pb2.Money(currency_code="XXX", amount_minor=1)}, "UNKNOWN_CURRENCY", "amount.currency_code"),
        ({"priority": 101}, "FIELD_INVALID", "priority"),
        ({"expire_time": Timestamp(seconds=1)}, "PERIOD_INVALID", "expire_time"),
    ],
)
async def test_a_grant_is_checked(served: Served, fields: dict[str, Any], reason: str, field: str) -> None:
    client = await new_client(served)
    failed = await served.refused("GrantCredit", grant_request(client.id, **fields))
    assert (failed.reason, failed.fields[:1]) == (reason, [field])


async def test_a_credit_note_by_amount_and_by_lines(served: Served) -> None:
    client = await new_client(served)
    invoice = await new_invoice(served, client.id, line("10", quantity=Decimal(value="4")), line("20"))
    half = pb.CreateCreditNoteRequest(invoice_id=invoice.id, amount=usd(3000), reason="late", etag=invoice.etag)
    reply = await served.call("CreateCreditNote", half)
    note = reply.credit_note
    assert (note.number, note.total, note.amount_applied, note.reason) == (
        "CN-INV-2026-000001",
        usd(3000),
        usd(3000),
        "late",
    )
    assert [(each.line_no, each.total, each.description) for each in note.lines] == [
        (1, usd(2000), "Work"),
        (2, usd(1000), "Work"),
    ]
    assert (reply.invoice.amount_due, len(reply.invoice.lines)) == (usd(3000), 2)
    asked = [
        credit_note_pb2.CreditNoteLineInput(line_no=1, quantity=Decimal(value="1")),
        credit_note_pb2.CreditNoteLineInput(line_no=2),
    ]
    reply = await served.call("CreateCreditNote", pb.CreateCreditNoteRequest(invoice_id=invoice.id, lines=asked))
    assert [(each.line_no, each.total, each.quantity.value) for each in reply.credit_note.lines] == [
        (1, usd(1000), "1"),
        (2, usd(1000), ""),
    ]
    reply = await served.call("CreateCreditNote", pb.CreateCreditNoteRequest(invoice_id=invoice.id))
    assert (reply.invoice.state, reply.credit_note.total) == (invoice_pb2.INVOICE_STATE_PAID, usd(1000))
    failed = await served.refused("CreateCreditNote", pb.CreateCreditNoteRequest(invoice_id=invoice.id))
    assert (failed.code, failed.reason) == (StatusCode.FAILED_PRECONDITION, "CREDIT_NOTE_EXCEEDS_INVOICE")
    assert failed.metadata == {"creditable_minor": "0", "currency_code": "USD"}
    listed = await served.call("ListCreditNotes", pb.ListCreditNotesRequest(invoice_id=invoice.id, page_size=2))
    assert [each.total for each in listed.credit_notes] == [usd(1000), usd(2000)]
    rest = await served.call(
        "ListCreditNotes",
        pb.ListCreditNotesRequest(invoice_id=invoice.id, page_size=2, page_token=listed.next_page_token),
    )
    assert [each.id for each in rest.credit_notes] == [note.id]


async def test_what_credit_paid_goes_back_by_a_note(served: Served) -> None:
    client = await new_client(served)
    await granted(served, client.id, 800)
    invoice = await new_invoice(served, client.id)
    request = pb.CreateCreditNoteRequest(invoice_id=invoice.id)
    failed = await served.refused("CreateCreditNote", request)
    assert (failed.reason, failed.fields) == ("FIELD_INVALID", ["excess"])
    request.excess = credit_note_pb2.CREDIT_NOTE_EXCESS_REFUND_PAYABLE
    note = (await served.call("CreateCreditNote", request)).credit_note
    assert (note.amount_applied, note.amount_released, note.amount_payable, note.amount_credited) == (
        usd(200),
        usd(800),
        usd(0),
        usd(0),
    )
    voided = await served.refused("VoidInvoice", pb.VoidInvoiceRequest(invoice_id=invoice.id))
    assert voided.reason == "STATE_CONFLICT"


async def test_requests_that_make_no_sense(served: Served) -> None:
    invoice = await new_invoice(served, (await new_client(served)).id)
    both = pb.CreateCreditNoteRequest(
        invoice_id=invoice.id, amount=usd(1), lines=[credit_note_pb2.CreditNoteLineInput(line_no=1)]
    )
    assert (await served.refused("CreateCreditNote", both)).reason == "FIELD_INVALID"
    nothing = pb.CreateCreditNoteRequest(invoice_id=invoice.id, lines=[credit_note_pb2.CreditNoteLineInput()])
    assert (await served.refused("CreateCreditNote", nothing)).reason == "FIELD_INVALID"
    assert (await served.refused("ReverseCredit", pb.ReverseCreditRequest())).reason == "FIELD_INVALID"
    for rpc, request in (
        ("CreateCreditNote", pb.CreateCreditNoteRequest(invoice_id=unknown(Prefix.INVOICE))),
        ("ApplyCredit", pb.ApplyCreditRequest(invoice_id=unknown(Prefix.INVOICE))),
        ("ReverseCredit", pb.ReverseCreditRequest(invoice_id=unknown(Prefix.INVOICE))),
        ("ReverseCredit", pb.ReverseCreditRequest(credit_id=unknown(Prefix.CREDIT))),
        ("GrantCredit", grant_request(unknown(Prefix.CLIENT))),
        ("GetCreditBalance", pb.GetCreditBalanceRequest(client_id=unknown(Prefix.CLIENT))),
        ("ListCreditEntries", pb.ListCreditEntriesRequest(client_id=unknown(Prefix.CLIENT))),
    ):
        assert (await served.refused(rpc, request)).code is StatusCode.NOT_FOUND, rpc


@pytest.mark.parametrize("role", [Role.READER, Role.SERVICE])
async def test_only_people_who_bill_change_credit(served: Served, role: Role) -> None:
    client = await new_client(served)
    invoice = await new_invoice(served, client.id)
    for rpc, request in (
        ("GrantCredit", grant_request(client.id)),
        ("ApplyCredit", pb.ApplyCreditRequest(invoice_id=invoice.id)),
        ("ReverseCredit", pb.ReverseCreditRequest(invoice_id=invoice.id)),
        ("CreateCreditNote", pb.CreateCreditNoteRequest(invoice_id=invoice.id)),
    ):
        assert (await served.refused(rpc, request, role)).reason == "PERMISSION_DENIED"
    await served.call("ListCreditNotes", pb.ListCreditNotesRequest(client_id=client.id), role)
    await served.call("ListCreditEntries", pb.ListCreditEntriesRequest(client_id=client.id), role)
