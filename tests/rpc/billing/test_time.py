"""Time entries and hourly engagements through a real channel."""

from __future__ import annotations

from typing import Any

import pytest
from google.type.decimal_pb2 import Decimal

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import engagement_pb2, error_reason_pb2, invoice_pb2, time_entry_pb2
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.context import Role
from tests.rpc.billing.conftest import Served
from tests.rpc.billing.requests import (
    day,
    engagement_request,
    line,
    mask,
    new_client,
    new_engagement,
    new_invoice,
    unknown,
    usd,
)

HOURLY, MIXED = engagement_pb2.PRICING_MODE_HOURLY, engagement_pb2.PRICING_MODE_MIXED
STATE = time_entry_pb2.TimeEntryState
REASON = error_reason_pb2.ErrorReason


def terms(**fields: Any) -> engagement_pb2.HourlyTerms:
    """60 dollars an hour, by the month."""
    standard = {"default_rate": Decimal(value="60"), "interval": engagement_pb2.BILLING_INTERVAL_MONTHLY}
    return engagement_pb2.HourlyTerms(**{**standard, **fields})


async def hourly(served: Served, client_id: str, **fields: Any) -> engagement_pb2.Engagement:
    return await new_engagement(served, client_id, pricing_mode=HOURLY, package=None, hourly=terms(**fields))


def entry(engagement_id: str, minutes: int = 60, **fields: Any) -> time_entry_pb2.TimeEntry:
    return time_entry_pb2.TimeEntry(
        engagement_id=engagement_id, **{"person": "Ada", "work_date": day(2026, 1, 5), "minutes": minutes, **fields}
    )


async def approved(served: Served, *entries: time_entry_pb2.TimeEntry) -> list[str]:
    """The ids of entries that Ada has submitted and Eve approved."""
    made = await served.call("CreateTimeEntry", pb.CreateTimeEntryRequest(time_entries=entries))
    ids = [result.time_entry.id for result in made.results]
    await served.call("SubmitTimeEntries", pb.SubmitTimeEntriesRequest(time_entry_ids=ids))
    await served.call("ApproveTimeEntries", pb.ApproveTimeEntriesRequest(time_entry_ids=ids))
    return ids


async def test_hourly_terms_go_there_and_back(served: Served) -> None:
    client = await new_client(served)
    rates = [
        engagement_pb2.RoleRate(role="senior", rate=Decimal(value="99.5"), end_date=day(2026, 2, 1)),
        engagement_pb2.RoleRate(role="senior", rate=Decimal(value="110"), start_date=day(2026, 2, 1)),
    ]
    made = await hourly(
        served, client.id, role_rates=rates, billing_increment_minutes=6, period_cap=usd(100), total_cap=usd(0),
        rounding=engagement_pb2.TIME_ROUNDING_NEAREST, grouping=engagement_pb2.TIME_GROUPING_ENTRY,
        anchor=engagement_pb2.BILLING_ANCHOR_CALENDAR,
    )  # fmt: skip
    assert not made.HasField("package")
    assert list(made.hourly.role_rates) == rates
    assert (made.hourly.billing_increment_minutes, made.hourly.period_cap, made.hourly.total_cap) == (
        6,
        usd(100),
        usd(0),
    )
    assert made.next_bill_date == day(2026, 2, 1)
    request = pb.UpdateEngagementRequest(
        engagement=engagement_pb2.Engagement(id=made.id, hourly=terms(default_rate=Decimal(value="70"))),
        update_mask=mask("hourly.default_rate", "hourly.period_cap", "hourly.role_rates"),
    )
    changed = (await served.call("UpdateEngagement", request)).engagement
    assert changed.hourly.default_rate.value == "70"
    assert (changed.hourly.HasField("period_cap"), list(changed.hourly.role_rates)) == (False, [])
    assert changed.hourly.total_cap == usd(0)
    got = (await served.call("GetEngagement", pb.GetEngagementRequest(engagement_id=made.id))).engagement
    assert got.hourly == changed.hourly


async def test_a_mixed_engagement_has_a_package_with_hours(served: Served) -> None:
    client = await new_client(served)
    with_hours = engagement_pb2.HourlyTerms(default_rate=Decimal(value="60"), included_minutes=600, rollover_periods=2)
    made = await new_engagement(served, client.id, pricing_mode=MIXED, hourly=with_hours)
    assert (made.package.fee, made.hourly.included_minutes, made.hourly.rollover_periods) == (usd(100_000), 600, 2)
    assert made.hourly.interval == engagement_pb2.BILLING_INTERVAL_UNSPECIFIED


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"pricing_mode": HOURLY, "hourly": terms()}, "package.none"),
        ({"pricing_mode": HOURLY, "package": None}, "hourly.required"),
        ({"hourly": terms()}, "hourly.required"),
        ({"pricing_mode": MIXED}, "hourly.required"),
        ({"pricing_mode": MIXED, "hourly": terms()}, "hourly.interval.required"),
        ({"pricing_mode": MIXED, "package": None, "hourly": terms(interval=0)}, "package.required"),
        ({"pricing_mode": HOURLY, "package": None, "hourly": terms(interval=0)}, "hourly.interval.required"),
        ({"pricing_mode": HOURLY, "package": None, "hourly": terms(default_rate=None)}, "hourly.default_rate.required"),
        ({"pricing_mode": HOURLY, "package": None, "hourly": terms(included_minutes=1)}, "hourly.included_minutes.mixed"),
    ],
)  # fmt: skip
async def test_terms_fit_how_the_work_is_priced(served: Served, fields: dict[str, Any], rule: str) -> None:
    error = await served.refused("CreateEngagement", engagement_request(unknown(Prefix.CLIENT), **fields))
    assert error.reason == "FIELD_INVALID"
    messages = {
        "package.none": "HOURLY has no package", "hourly.required": "hourly is required", "package.required": "package is required",
        "hourly.interval.required": "hourly.interval is required", "hourly.default_rate.required": "default_rate is required",
        "hourly.included_minutes.mixed": "only MIXED includes minutes",
    }  # fmt: skip
    described = [violation.description for violation in error.details["BadRequest"].field_violations]
    assert any(messages[rule] in text for text in described), described


async def test_only_the_terms_that_an_engagement_has_may_change(served: Served) -> None:
    client = await new_client(served)
    package, timed = await new_engagement(served, client.id), await hourly(served, client.id)
    for engagement_id, path in (
        (package.id, "hourly.default_rate"),
        (timed.id, "package.line_description"),
        (timed.id, "hourly"),
        (timed.id, "hourly.interval"),
    ):
        engagement = engagement_pb2.Engagement(id=engagement_id, hourly=terms())
        request = pb.UpdateEngagementRequest(engagement=engagement, update_mask=mask(path))
        assert (await served.refused("UpdateEngagement", request)).reason == "UPDATE_MASK_INVALID", path
    capped = pb.UpdateEngagementRequest(
        engagement=engagement_pb2.Engagement(
            id=timed.id, hourly=terms(total_cap={"currency_code": "EUR", "amount_minor": 1})
        ),
        update_mask=mask("hourly.total_cap"),
    )
    assert (await served.refused("UpdateEngagement", capped)).reason == "CURRENCY_MISMATCH"


async def test_an_entry_goes_its_way(served: Served) -> None:
    client = await new_client(served)
    timed = await hourly(served, client.id)
    request = pb.CreateTimeEntryRequest(
        time_entry=entry(timed.id, role="senior", description="Call", rate=Decimal(value="75.125"), external_id="t-1")
    )
    made = (await served.call("CreateTimeEntry", request)).time_entry
    assert (made.state, made.client_id, made.rate.value) == (STATE.TIME_ENTRY_STATE_DRAFT, client.id, "75.125")
    changed = await served.call(
        "UpdateTimeEntry",
        pb.UpdateTimeEntryRequest(
            time_entry=time_entry_pb2.TimeEntry(id=made.id, minutes=90),
            update_mask=mask("minutes", "rate"),
            etag=made.etag,
        ),
    )
    assert (changed.time_entry.minutes, changed.time_entry.HasField("rate")) == (90, False)
    ids = [made.id]
    for rpc, verb, state in (
        ("SubmitTimeEntries", pb.SubmitTimeEntriesRequest(time_entry_ids=ids), STATE.TIME_ENTRY_STATE_SUBMITTED),
        ("RejectTimeEntries", pb.RejectTimeEntriesRequest(time_entry_ids=ids, reason="no"), STATE.TIME_ENTRY_STATE_REJECTED),
    ):  # fmt: skip
        (result,) = (await served.call(rpc, verb)).results
        assert (result.time_entry_id, result.time_entry.state) == (made.id, state)
    assert result.time_entry.reject_reason == "no"
    listed = await served.call(
        "ListTimeEntries", pb.ListTimeEntriesRequest(client_id=client.id, states=[STATE.TIME_ENTRY_STATE_REJECTED])
    )
    assert [one.id for one in listed.time_entries] == ids


async def test_bulk_calls_answer_for_each(served: Served) -> None:
    client = await new_client(served)
    timed = await hourly(served, client.id)
    created = await served.call(
        "CreateTimeEntry",
        pb.CreateTimeEntryRequest(
            time_entries=[entry(timed.id), entry(unknown(Prefix.ENGAGEMENT)), entry(timed.id, 30)]
        ),
    )
    first, missing, second = created.results
    assert missing.error.reason == REASON.ERROR_REASON_RESOURCE_NOT_FOUND
    assert not missing.time_entry_id
    ids = [first.time_entry.id, unknown(Prefix.TIME_ENTRY), second.time_entry.id]
    results = (await served.call("SubmitTimeEntries", pb.SubmitTimeEntriesRequest(time_entry_ids=ids))).results
    assert [result.WhichOneof("outcome") for result in results] == ["time_entry", "error", "time_entry"]
    assert [result.time_entry_id for result in results] == ids
    downs = [
        time_entry_pb2.TimeWriteDown(time_entry_id=ids[0], minutes=15),
        time_entry_pb2.TimeWriteDown(time_entry_id=ids[2], minutes=31),
    ]
    down, too_much = (
        await served.call("WriteDownTimeEntries", pb.WriteDownTimeEntriesRequest(write_downs=downs, reason="goodwill"))
    ).results
    assert (down.time_entry.written_down_minutes, down.time_entry.minutes) == (15, 60)
    assert (too_much.error.reason, too_much.error.field) == (REASON.ERROR_REASON_FIELD_INVALID, "minutes")


async def test_a_person_does_not_approve_what_he_submitted(served: Served) -> None:
    client = await new_client(served)
    timed = await hourly(served, client.id)
    made = (await served.call("CreateTimeEntry", pb.CreateTimeEntryRequest(time_entry=entry(timed.id)))).time_entry
    metadata = served.metadata(Role.OPERATOR, None)
    ids: dict[str, Any] = {"time_entry_ids": [made.id]}
    await served.stub.SubmitTimeEntries(
        pb.SubmitTimeEntriesRequest(**ids, request_id="0197b6a0-6a3c-7c11-9d3e-0c9a4d1c2f10"), metadata=metadata
    )
    own = await served.stub.ApproveTimeEntries(
        pb.ApproveTimeEntriesRequest(**ids, request_id="0197b6a0-6a3c-7c11-9d3e-0c9a4d1c2f11"), metadata=metadata
    )
    assert own.results[0].error.reason == REASON.ERROR_REASON_SELF_APPROVAL_REFUSED
    assert own.results[0].error.metadata["submit_actor"]
    (other,) = (await served.call("ApproveTimeEntries", pb.ApproveTimeEntriesRequest(**ids))).results
    assert other.time_entry.state == STATE.TIME_ENTRY_STATE_APPROVED
    (back,) = (await served.call("UnapproveTimeEntries", pb.UnapproveTimeEntriesRequest(**ids))).results
    assert back.time_entry.state == STATE.TIME_ENTRY_STATE_SUBMITTED


async def test_time_is_previewed_billed_and_given_back(served: Served) -> None:
    client = await new_client(served)
    timed = await hourly(served, client.id, period_cap=usd(5000))
    ids = await approved(served, entry(timed.id, 60), entry(timed.id, 30, work_date=day(2026, 2, 5)))
    source = time_entry_pb2.TimeToBill(engagement_id=timed.id, through_date=day(2026, 1, 31))
    invoice = invoice_pb2.Invoice(client_id=client.id, lines=[line("10")])
    shown = (await served.call("PreviewInvoice", pb.PreviewInvoiceRequest(invoice=invoice, time=[source]))).invoice
    real = (
        await served.call("CreateInvoice", pb.CreateInvoiceRequest(invoice=invoice, time=[source], finalize=True))
    ).invoice
    assert list(shown.lines) == list(real.lines)
    assert [(one.kind, one.amount.amount_minor, one.quantity.value) for one in real.lines] == [
        (invoice_pb2.INVOICE_LINE_KIND_TIME, 6000, "1"),
        (invoice_pb2.INVOICE_LINE_KIND_ITEM, 1000, "1"),
    ]
    assert real.total == usd(6000)
    on_it = await served.call("ListTimeEntries", pb.ListTimeEntriesRequest(invoice_id=real.id))
    assert [(one.id, one.state, one.invoice_id) for one in on_it.time_entries] == [
        (ids[0], STATE.TIME_ENTRY_STATE_INVOICED, real.id)
    ]
    await served.call("VoidInvoice", pb.VoidInvoiceRequest(invoice_id=real.id))
    work = await served.call("ListUnbilledWork", pb.ListUnbilledWorkRequest(client_id=client.id))
    (row,) = work.work
    assert (row.engagement_id, row.approved_total.minutes, row.approved_total.amount) == (timed.id, 90, usd(9000))
    assert [(part.from_days, part.to_days, part.minutes) for part in row.approved] == [
        (0, 30, 0), (31, 60, 30), (61, 90, 60), (91, 0, 0),
    ]  # fmt: skip
    assert [total.amount for total in work.approved_totals] == [usd(9000)]


async def test_a_draft_that_was_read_is_changed_without_doubling_its_time(served: Served) -> None:
    client = await new_client(served)
    timed = await hourly(served, client.id)
    await approved(served, entry(timed.id))
    source = time_entry_pb2.TimeToBill(engagement_id=timed.id)
    request = pb.CreateInvoiceRequest(
        invoice=invoice_pb2.Invoice(client_id=client.id, lines=[line("1")]), time=[source]
    )
    draft = (await served.call("CreateInvoice", request)).invoice
    draft.lines[1].description = "Other work"
    changed = (
        await served.call(
            "UpdateInvoice", pb.UpdateInvoiceRequest(invoice=draft, update_mask=mask("lines"), etag=draft.etag)
        )
    ).invoice
    assert [(one.kind, one.description) for one in changed.lines] == [
        (invoice_pb2.INVOICE_LINE_KIND_TIME, draft.lines[0].description),
        (invoice_pb2.INVOICE_LINE_KIND_ITEM, "Other work"),
    ]


async def test_the_run_bills_hours(served: Served) -> None:
    client = await new_client(served)
    timed = await hourly(served, client.id)
    await approved(served, entry(timed.id))
    call = served.start("GeneratePackageInvoices", pb.GeneratePackageInvoicesRequest(engagement_id=timed.id))
    items = [item async for reply in call for item in reply.progress.items]
    assert len(items) == 1
    listed = await served.call("ListInvoices", pb.ListInvoicesRequest(engagement_id=timed.id))
    assert [invoice.total for invoice in listed.invoices] == [usd(6000)]


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("CreateTimeEntry", pb.CreateTimeEntryRequest()),
        ("CreateTimeEntry", pb.CreateTimeEntryRequest(time_entry=entry(unknown(Prefix.ENGAGEMENT), 0))),
        ("CreateTimeEntry", pb.CreateTimeEntryRequest(time_entry=entry(unknown(Prefix.ENGAGEMENT), person=""))),
        ("SubmitTimeEntries", pb.SubmitTimeEntriesRequest()),
        ("SubmitTimeEntries", pb.SubmitTimeEntriesRequest(time_entry_ids=[unknown(Prefix.TIME_ENTRY) for _ in range(1001)])),
        ("RejectTimeEntries", pb.RejectTimeEntriesRequest(time_entry_ids=[unknown(Prefix.TIME_ENTRY)])),
    ],
)  # fmt: skip
async def test_what_is_malformed_is_refused(served: Served, rpc: str, request_: Any) -> None:
    assert (await served.refused(rpc, request_)).reason == "FIELD_INVALID"


async def test_alone_an_entry_is_refused_as_a_status(served: Served) -> None:
    client = await new_client(served)
    timed, package = await hourly(served, client.id), await new_engagement(served, client.id)
    for one, reason in (
        (entry(unknown(Prefix.ENGAGEMENT)), "RESOURCE_NOT_FOUND"),
        (entry(package.id), "STATE_CONFLICT"),
        (entry(timed.id, work_date=day(2025, 12, 31)), "PERIOD_INVALID"),
    ):
        error = await served.refused("CreateTimeEntry", pb.CreateTimeEntryRequest(time_entry=one))
        assert error.reason == reason
    sent = await new_invoice(served, client.id)
    assert sent.lines[0].kind == invoice_pb2.INVOICE_LINE_KIND_ITEM


@pytest.mark.parametrize("rpc", ["CreateTimeEntry", "ApproveTimeEntries"])
async def test_a_reader_changes_nothing(served: Served, rpc: str) -> None:
    requests = {
        "CreateTimeEntry": pb.CreateTimeEntryRequest(time_entry=entry(unknown(Prefix.ENGAGEMENT))),
        "ApproveTimeEntries": pb.ApproveTimeEntriesRequest(time_entry_ids=[unknown(Prefix.TIME_ENTRY)]),
    }
    assert (await served.refused(rpc, requests[rpc], Role.READER)).reason == "PERMISSION_DENIED"


async def test_an_entry_without_what_it_needs_harms_no_other(served: Served) -> None:
    timed = await hourly(served, (await new_client(served)).id)
    good, bad = entry(timed.id), {
        "engagement_id": entry(""),
        "person": entry(timed.id, person=""),
        "work_date": entry(timed.id, work_date=None),
        "minutes": entry(timed.id, 0),
    }  # fmt: skip
    many = pb.CreateTimeEntryRequest(time_entries=[*bad.values(), good])
    results = (await served.call("CreateTimeEntry", many)).results
    assert [(each.error.reason, each.error.field) for each in results[:-1]] == [
        (REASON.ERROR_REASON_FIELD_INVALID, f"time_entry.{name}") for name in bad
    ]
    assert results[-1].time_entry.state == STATE.TIME_ENTRY_STATE_DRAFT
    none = (await served.call("CreateTimeEntry", pb.CreateTimeEntryRequest(time_entries=list(bad.values())))).results
    assert all(each.HasField("error") for each in none)
    assert len((await served.call("ListTimeEntries", pb.ListTimeEntriesRequest())).time_entries) == 1
