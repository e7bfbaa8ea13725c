"""A preview shows what finalising writes, save id and number, and writes nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from uuid import uuid4

import pytest

from dunwell_server.billing.model import Invoice
from dunwell_server.billing.service import collection, engagements, invoices, preview
from dunwell_server.kernel.errors import Reason
from tests.integration.billing.book import Book, new_invoice


def as_preview(invoice: Invoice) -> Invoice:
    """What a preview may not know."""
    return replace(invoice, id=preview.NO_ID, series_no=None, number=None, version=1)


@pytest.mark.parametrize("prices", [("10", "2.505"), ("0",)])
async def test_a_new_invoice(book: Book, prices: tuple[str, ...]) -> None:
    client = await book.client(payment_terms_days=3)
    await book.do(collection.set_autopay, client.id, True, None, "MONTHLY", datetime(2026, 1, 20, tzinfo=UTC))
    new = new_invoice(client, *prices, memo="x", metadata={"a": "b"})
    before = await book.rows()
    shown = await book.see(preview.preview_new, new)
    assert await book.rows() == before
    assert shown == as_preview(await book.do(invoices.create_invoice, new, finalize=True))


async def test_a_draft(book: Book) -> None:
    draft = await book.draft(await book.client(), "10")
    shown = await book.see(preview.preview_draft, draft.id)
    assert shown == as_preview(await book.do(invoices.finalize_invoice, draft.id))
    with_error = await book.refused(preview.preview_draft, draft.id)
    assert (with_error.reason, with_error.metadata["state"]) == (Reason.STATE_CONFLICT, "SENT")


async def test_previews_are_refused_as_the_real_thing_is(book: Book) -> None:
    client = await book.client()
    assert (await book.refused(preview.preview_new, new_invoice(client))).reason is Reason.INVOICE_EMPTY
    stale = new_invoice(client, "1", due_date=date(2026, 1, 1))
    assert (await book.refused(preview.preview_new, stale)).reason is Reason.PERIOD_INVALID
    assert (await book.refused(preview.preview_draft, uuid4())).reason is Reason.RESOURCE_NOT_FOUND
    assert (await book.refused(preview.preview_engagement, uuid4())).reason is Reason.RESOURCE_NOT_FOUND


async def test_an_engagement_as_of_a_day(book: Book) -> None:
    agreed = await book.engagement(await book.client(), end_date=date(2026, 4, 11))
    shown = await book.see(preview.preview_engagement, agreed.id, date(2026, 4, 1))
    assert shown is not None
    assert [(line.period_start, line.period_end, line.amount_minor) for line in shown.lines] == [
        (date(2026, 1, 1), date(2026, 2, 1), 100_000),
        (date(2026, 2, 1), date(2026, 3, 1), 100_000),
        (date(2026, 3, 1), date(2026, 4, 1), 100_000),
        (date(2026, 4, 1), date(2026, 4, 11), 33_333),
    ]
    assert (shown.total, shown.subtotal, shown.line_count, shown.state) == (333_333, 333_333, 4, "SENT")
    assert (shown.issue_date, shown.due_date) == (date(2026, 3, 10), date(2026, 4, 9))
    today = await book.see(preview.preview_engagement, agreed.id)
    assert today is not None
    assert today.line_count == 3
    await book.billed(agreed, date(2026, 1, 1), date(2026, 3, 1))
    rest = await book.see(preview.preview_engagement, agreed.id)
    assert rest is not None
    assert [line.period_start for line in rest.lines] == [date(2026, 3, 1)]


async def test_nothing_to_bill(book: Book) -> None:
    agreed = await book.engagement(await book.client(), start_date=date(2026, 4, 1))
    assert await book.see(preview.preview_engagement, agreed.id) is None
    assert (await book.see(engagements.get_engagement, agreed.id)).next_bill_date == date(2026, 4, 1)
