"""Approved time on invoices: at once and by the run, with included hours and caps, and given back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import uuid4

import pytest

from dunwell_server.billing.discounts import DiscountInput
from dunwell_server.billing.lines import LineInput
from dunwell_server.billing.model import (
    BillingTiming,
    Engagement,
    InvoiceState,
    LineKind,
    RoleRate,
    TimeGrouping,
    TimeRounding,
)
from dunwell_server.billing.service import closing, engagements, invoices, preview, time_entries, unbilled
from dunwell_server.billing.service.time_billing import TimeSource
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.billing.store.unbilled import UnbilledQuery
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money
from tests.integration.billing.book import Book, field_of, new_invoice
from tests.integration.billing.conftest import MakeBook
from tests.integration.billing.timebook import (
    APRIL,
    FEBRUARY,
    JANUARY,
    MARCH,
    TERMS,
    approved,
    bill,
    hourly,
    mixed,
    run_as_of,
    states,
    submitted,
    worked,
)

MID_JANUARY = date(2026, 1, 15)


async def agreed_now(book: Book, engagement: Engagement) -> Engagement:
    return await book.see(engagements.get_engagement, engagement.id)


# At once


async def test_approved_time_is_billed_at_once(book: Book) -> None:
    client = await book.client()
    terms = replace(
        TERMS, role_rates=(RoleRate("senior", Decimal("99.99"), None, None),), increment_minutes=6, rounding=TimeRounding.UP
    )  # fmt: skip
    agreed = await hourly(book, client, terms)
    made = await approved(
        book, worked(agreed, JANUARY, 50, role="senior"), worked(agreed, MID_JANUARY, 25), worked(agreed, FEBRUARY, 5)
    )
    await submitted(book, worked(agreed, JANUARY, 500))
    invoice = await bill(book, client, TimeSource(agreed.id, date(2026, 1, 31)))
    assert [(line.description, line.quantity, line.unit, line.amount_minor, line.kind) for line in invoice.lines] == [
        ("Advice (2026-01-01 to 2026-01-31)", Decimal("0.5"), "hour", 3000, LineKind.TIME),
        ("Advice: senior (2026-01-01 to 2026-01-31)", Decimal("0.9"), "hour", 8999, LineKind.TIME),
    ]
    assert (invoice.total, invoice.state) == (11_999, InvoiceState.SENT)
    assert invoice == replace(await book.get(invoice), version=invoice.version)
    assert await book.trial() == {"receivable": 11_999, "revenue": -11_999}
    assert await states(book) == ["INVOICED", "SUBMITTED", "INVOICED", "APPROVED"]
    assert (await book.see(time_entries.get_time_entry, made[0].id)).invoice_id == invoice.id
    assert (await agreed_now(book, agreed)).next_bill_date == FEBRUARY


async def test_without_a_day_it_bills_through_today_and_all_of_the_clients_engagements(book: Book) -> None:
    client, other = await book.client(), await book.client()
    first, second, foreign = await hourly(book, client), await mixed(book, client), await hourly(book, other)
    await approved(
        book, worked(first, date(2026, 3, 10), 10), worked(first, date(2026, 3, 11), 20), worked(second, JANUARY, 700),
        worked(foreign, JANUARY, 40),
    )  # fmt: skip
    invoice = await bill(book, client)
    assert sorted(line.amount_minor for line in invoice.lines) == [0, 1000, 10_000]
    assert {line.engagement_id for line in invoice.lines} == {first.id, second.id}


async def test_time_comes_before_the_lines_given_and_their_discounts_stay_theirs(book: Book) -> None:
    client = await book.client()
    agreed = await hourly(book, client, replace(TERMS, period_cap_minor=50_00))
    await approved(book, worked(agreed, JANUARY, 60))
    given = LineInput("Fees", Decimal(10), discounts=(DiscountInput("Half", Decimal(50)),))
    invoice = await bill(book, client, lines=(given,), finalize=False)
    assert [(line.line_no, line.amount_minor, line.discount_minor) for line in invoice.lines] == [
        (1, 6000, 1000),
        (2, 1000, 500),
    ]
    assert {(one.name, one.line_no, one.amount_minor) for one in invoice.discounts} == {
        ("Not-to-exceed cap", 1, 1000),
        ("Half", 2, 500),
    }
    assert invoice.total == 5500


async def test_a_draft_holds_its_time_and_gives_it_back_when_it_is_deleted(book: Book) -> None:
    client = await book.client()
    agreed = await hourly(book, client, replace(TERMS, period_cap_minor=50_00))
    (entry,) = await approved(book, worked(agreed, JANUARY, 60))
    draft = await bill(book, client, finalize=False)
    assert (draft.state, draft.total) == (InvoiceState.DRAFT, 5000)
    (refused,) = await book.do(time_entries.unapprove_time_entries, [entry.id])
    assert refused.error is not None
    with pytest.raises(DunwellError) as caught:
        await bill(book, client)
    assert caught.value.reason is Reason.INVOICE_EMPTY
    changed = await book.do(
        invoices.update_invoice, draft.id,
        {"lines": [LineInput("Fees", Decimal(1))], "discounts": [DiscountInput("Off", fixed=Money("USD", 100))]},
    )  # fmt: skip
    assert [(line.kind, line.amount_minor) for line in changed.lines] == [("TIME", 6000), ("ITEM", 100)]
    assert changed.total == 5000
    await book.do(invoices.delete_invoice, draft.id)
    assert await states(book) == ["APPROVED"]
    assert await book.sql("SELECT 1 FROM invoice_time UNION ALL SELECT 1 FROM invoice_time_period") == []
    again = await bill(book, client, finalize=False)
    sent = await book.do(invoices.finalize_invoice, again.id)
    assert (sent.total, await states(book)) == (5000, ["INVOICED"])


async def test_a_void_gives_time_grants_and_caps_back(book: Book) -> None:
    client = await book.client()
    agreed = await mixed(book, client, replace(TERMS, included_minutes=60, total_cap_minor=3000))
    made = await approved(book, worked(agreed, JANUARY, 120))
    first = await bill(book, client)
    assert (first.subtotal, first.total) == (6000, 3000)
    assert (await book.sql("SELECT sum(minutes) AS used FROM allowance_use"))[0]["used"] == 60
    await book.do(closing.void_invoice, first.id)
    assert await states(book) == ["APPROVED"]
    assert await book.trial() == {}
    await book.do(time_entries.write_down_time_entries, {made[0].id: 20}, "less")
    second = await bill(book, client)
    assert (second.subtotal, second.total) == (4000, 3000)
    live = await book.sql("SELECT invoice_id FROM invoice_time WHERE release_time IS NULL")
    assert live == [{"invoice_id": second.id}]
    assert len(await book.sql("SELECT 1 FROM invoice_time")) == 2


async def test_sources_are_checked(book: Book) -> None:
    client, other = await book.client(), await book.client()
    agreed, package, foreign = await hourly(book, client), await book.engagement(client), await hourly(book, other)
    for sources, reason, field in (
        ([TimeSource(uuid4())], Reason.RESOURCE_NOT_FOUND, None),
        ([TimeSource(package.id)], Reason.STATE_CONFLICT, None),
        ([TimeSource(foreign.id)], Reason.FIELD_INVALID, "time[0].engagement_id"),
        ([TimeSource(agreed.id), TimeSource(agreed.id)], Reason.FIELD_INVALID, "time[1].engagement_id"),
        ([TimeSource(agreed.id), TimeSource()], Reason.FIELD_INVALID, "time[1].engagement_id"),
    ):
        new = invoices.NewInvoice(client.id, time=sources)
        error = await book.refused(invoices.create_invoice, new, finalize=True)
        assert (error.reason, field_of(error)) == (reason, field)


async def test_a_preview_is_what_is_billed_and_writes_nothing(book: Book) -> None:
    client = await book.client()
    agreed = await hourly(book, client, replace(TERMS, period_cap_minor=50_00))
    await approved(book, worked(agreed, JANUARY, 60), worked(agreed, FEBRUARY, 7))
    new = invoices.NewInvoice(client.id, time=(TimeSource(),))
    before = await book.rows()
    shown = await book.see(preview.preview_new, new)
    by_run = await book.see(preview.preview_engagement, agreed.id, FEBRUARY)
    assert await book.rows() == before
    assert by_run is not None
    assert (by_run.total, len(by_run.lines)) == (5000, 1)
    real = await book.do(invoices.create_invoice, new, finalize=True)
    assert (shown.lines, shown.discounts, shown.total) == (real.lines, real.discounts, real.total)


# By the run


async def test_the_run_bills_hourly_periods_that_have_ended(book: Book) -> None:
    client = await book.client()
    agreed = await hourly(book, client, end_date=date(2026, 3, 16))
    await approved(
        book, worked(agreed, JANUARY, 60), worked(agreed, date(2026, 1, 31), 30), worked(agreed, FEBRUARY, 10),
        worked(agreed, date(2026, 3, 15), 5),
    )  # fmt: skip
    assert await run_as_of(book, date(2026, 1, 31)) == []
    (january,) = await run_as_of(book, FEBRUARY)
    assert [(line.quantity, line.period_end) for line in january.lines] == [(Decimal("1.5"), FEBRUARY)]
    now = await agreed_now(book, agreed)
    assert (now.billed_through_date, now.next_bill_date) == (FEBRUARY, MARCH)
    await approved(book, worked(agreed, MID_JANUARY, 20))
    assert await run_as_of(book, FEBRUARY) == []
    (rest,) = await run_as_of(book, APRIL)
    assert [(line.period_start, line.amount_minor) for line in rest.lines] == [
        (JANUARY, 2000), (FEBRUARY, 1000), (MARCH, 500),
    ]  # fmt: skip
    assert (await agreed_now(book, agreed)).next_bill_date is None
    await approved(book, worked(agreed, MARCH, 7))
    assert (await agreed_now(book, agreed)).next_bill_date == date(2026, 3, 16)
    assert [invoice.total for invoice in await run_as_of(book, APRIL)] == [700]


async def test_a_voided_run_invoice_is_billed_again(book: Book) -> None:
    client = await book.client()
    agreed = await hourly(book, client)
    await approved(book, worked(agreed, JANUARY, 60), worked(agreed, FEBRUARY, 10))
    (first,) = await run_as_of(book, APRIL)
    assert (await agreed_now(book, agreed)).next_bill_date == date(2026, 5, 1)
    await book.do(closing.void_invoice, first.id)
    now = await agreed_now(book, agreed)
    assert (now.billed_through_date, now.next_bill_date, now.void_count) == (JANUARY, FEBRUARY, 1)
    (again,) = await run_as_of(book, APRIL)
    assert (again.total, again.lines) == (first.total, first.lines)
    assert again.id != first.id


async def test_the_run_bills_package_and_overage_on_one_invoice(book: Book) -> None:
    client = await book.client()
    agreed = await mixed(book, client, replace(TERMS, rollover_periods=1), end_date=MARCH)
    await approved(book, worked(agreed, JANUARY, 500), worked(agreed, FEBRUARY, 750))
    (january,) = await run_as_of(book, JANUARY)
    assert [(line.kind, line.amount_minor) for line in january.lines] == [("PACKAGE", 100_000)]
    (february,) = await run_as_of(book, FEBRUARY)
    assert [(line.kind, line.amount_minor, line.quantity) for line in february.lines] == [
        ("PACKAGE", 100_000, 1),
        ("TIME", 0, Decimal("8.333333")),
    ]
    assert (await agreed_now(book, agreed)).next_bill_date == MARCH
    (last,) = await run_as_of(book, MARCH)
    assert [(line.kind, line.amount_minor) for line in last.lines] == [("TIME", 0), ("OVERAGE", 5000)]
    assert (await agreed_now(book, agreed)).next_bill_date is None
    assert await run_as_of(book, APRIL) == []
    assert (await book.see(preview.preview_engagement, agreed.id, APRIL)) is None


async def test_period_by_period_and_all_at_once_come_to_the_same(book: Book) -> None:
    terms = replace(
        TERMS, rollover_periods=2, increment_minutes=15, period_cap_minor=30_000, total_cap_minor=50_000,
        grouping=TimeGrouping.PERSON,
    )  # fmt: skip
    totals = []
    for days in ((FEBRUARY, MARCH, APRIL, date(2026, 5, 1)), (date(2026, 5, 1),)):
        agreed = await mixed(book, await book.client(), terms, timing=BillingTiming.IN_ARREARS)
        await approved(
            book, *(worked(agreed, date(2026, month, day), 97 * day) for month in (1, 2, 3, 4) for day in (1, 9, 17))
        )
        made = [invoice for day in days for invoice in await run_as_of(book, day)]
        totals.append([(line.description, line.amount_minor, line.discount_minor) for invoice in made for line in invoice.lines
                       if line.kind is not LineKind.PACKAGE])  # fmt: skip
        assert sum(invoice.total for invoice in made) == 400_000 + 50_000
    assert sorted(totals[0]) == sorted(totals[1])


# Caps


async def test_caps_are_told_of_once_at_80_and_at_100_percent(book: Book) -> None:
    client = await book.client()
    agreed = await hourly(book, client, replace(TERMS, period_cap_minor=10_000, total_cap_minor=16_000))

    async def alerts() -> list[tuple[str, str, int, int]]:
        rows = await book.sql(
            "SELECT a.metadata, a.severity, e.type FROM audit_event a JOIN event e ON e.payload = a.metadata AND e.object_id = a.object_id"
            " WHERE a.action = 'engagement_cap_reached' ORDER BY a.sequence"
        )
        assert {(row["severity"], row["type"]) for row in rows} <= {("WARNING", "engagement.cap_reached")}
        return [
            (one["scope"], one["period_start_date"], one["percent"], one["amount_minor"])
            for one in (row["metadata"] for row in rows)
        ]

    await approved(book, worked(agreed, JANUARY, 79))
    assert await alerts() == []
    await approved(book, worked(agreed, JANUARY, 1))
    assert await alerts() == [("PERIOD", "2026-01-01", 80, 8000)]
    await approved(book, worked(agreed, JANUARY, 5))
    await bill(book, client)
    assert len(await alerts()) == 1
    await approved(book, worked(agreed, JANUARY, 15))
    assert (await alerts())[1:] == [("PERIOD", "2026-01-01", 100, 10_000)]
    await approved(book, worked(agreed, FEBRUARY, 60))
    assert (await alerts())[2:] == [("TOTAL", "2026-01-01", 80, 16_000), ("TOTAL", "2026-01-01", 100, 16_000)]


async def test_a_cap_that_changes_is_told_of_anew(book: Book) -> None:
    client = await book.client()
    agreed = await hourly(book, client, replace(TERMS, total_cap_minor=10_000))

    async def alerts() -> list[tuple[int, int, int]]:
        rows = await book.sql(
            "SELECT metadata FROM audit_event WHERE action = 'engagement_cap_reached' ORDER BY sequence"
        )
        return [
            (one["percent"], one["amount_minor"], one["cap_minor"]) for one in (row["metadata"] for row in rows)
        ]  # fmt: skip

    async def change(**terms: object) -> None:
        nonlocal agreed
        assert agreed.hourly is not None
        hourly_terms = replace(agreed.hourly, **terms)  # type: ignore[arg-type]
        agreed = await book.do(engagements.update_engagement, agreed.id, {"hourly": hourly_terms})

    await approved(book, worked(agreed, JANUARY, 80))
    told = [(80, 8000, 10_000)]
    assert await alerts() == told
    await change(total_cap_minor=20_000)
    assert await alerts() == told, "40 percent of the new cap"
    await approved(book, worked(agreed, JANUARY, 80))
    told.append((80, 16_000, 20_000))
    assert await alerts() == told, "the cap of 200.00 is near for the first time"
    await change(default_rate=Decimal(75))
    told.append((100, 20_000, 20_000))
    assert await alerts() == told, "the same hours cost more"
    await change(total_cap_minor=21_000)
    told.append((80, 20_000, 21_000))
    assert await alerts() == told
    await change(total_cap_minor=None)
    await book.do(engagements.update_engagement, agreed.id, {"name": "Counsel"})
    assert await alerts() == told


# Unbilled work


async def test_unbilled_work_is_listed_by_client_engagement_and_age(make_book: MakeBook) -> None:
    book = await make_book(datetime(2026, 5, 15, 12, tzinfo=UTC))
    one, two = await book.client(), await book.client(currency_code="JPY")
    terms = replace(TERMS, role_rates=(RoleRate("senior", Decimal("90.50"), date(2026, 3, 1), None),))
    first, second, third = await hourly(book, one, terms), await mixed(book, one), await hourly(book, two)
    await approved(
        book, worked(first, date(2026, 5, 15), 10), worked(first, date(2026, 4, 15), 10, role="senior"),
        worked(first, date(2026, 4, 14), 20, role="senior"), worked(first, date(2026, 2, 14), 7, role="senior"),
        worked(first, date(2026, 2, 13), 5), worked(second, date(2026, 5, 1), 60), worked(third, date(2026, 5, 1), 90),
    )  # fmt: skip
    await submitted(book, worked(first, JANUARY, 30))
    await book.do(time_entries.create_time_entries, [worked(first, JANUARY, 45)])
    rows, totals = await book.see(unbilled.list_unbilled_work, UnbilledQuery(), PageRequest())
    found = {row.engagement_id: row for row in rows}
    assert [(row.client_id, row.engagement_id) for row in rows] == sorted(
        (row.client_id, row.engagement_id) for row in rows
    )
    work = found[first.id]
    assert [(part.entries, part.minutes, part.amount_minor) for part in work.approved] == [
        (2, 20, 1000 + 1508), (1, 20, 3017), (1, 7, 700), (1, 5, 500),
    ]  # fmt: skip
    assert (work.approved_total.minutes, work.oldest_work_date) == (52, date(2026, 2, 13))
    assert (work.submitted.amount_minor, work.draft.amount_minor) == (3000, 4500)
    assert found[third.id].approved_total.amount_minor == 90
    assert {currency: (total.entries, total.amount_minor) for currency, total in totals.items()} == {
        "USD": (6, work.approved_total.amount_minor + 6000), "JPY": (1, 90),
    }  # fmt: skip
    (only,), _ = await book.see(unbilled.list_unbilled_work, UnbilledQuery(engagement_id=second.id), PageRequest())
    assert only == found[second.id]
    early = UnbilledQuery(client_id=one.id, as_of=date(2026, 2, 13))
    (then,), _ = await book.see(unbilled.list_unbilled_work, early, PageRequest())
    assert [part.minutes for part in then.approved] == [5, 0, 0, 0]
    seen = []
    after = None
    while True:
        page, _ = await book.see(unbilled.list_unbilled_work, UnbilledQuery(), PageRequest(1, after))
        if not page:
            break
        seen += page
        after = (page[-1].client_id, page[-1].engagement_id)
    assert seen == rows
    await bill(book, one)
    rest, totals = await book.see(unbilled.list_unbilled_work, UnbilledQuery(client_id=one.id), PageRequest())
    assert [row.approved_total.entries for row in rest] == [0]
    assert totals == {}


async def test_ending_an_hourly_engagement_bills_its_last_part_at_its_end(book: Book) -> None:
    client = await book.client()
    agreed = await hourly(book, client)
    await approved(book, worked(agreed, JANUARY, 60), worked(agreed, date(2026, 2, 9), 5), worked(agreed, MARCH, 3))
    ended = await book.do(engagements.end_engagement, agreed.id, date(2026, 2, 10))
    assert ended.next_bill_date == FEBRUARY
    (invoice,) = await run_as_of(book, date(2026, 2, 10))
    assert [(line.period_end, line.amount_minor) for line in invoice.lines] == [
        (FEBRUARY, 6000), (date(2026, 2, 10), 800),
    ]  # fmt: skip
    assert (await agreed_now(book, agreed)).next_bill_date is None


async def test_an_invoice_without_time_holds_none(book: Book) -> None:
    client = await book.client()
    sent = await book.do(invoices.create_invoice, new_invoice(client, "1"), finalize=True)
    await book.do(closing.void_invoice, sent.id)
    assert await book.sql("SELECT 1 FROM invoice_time_period") == []
