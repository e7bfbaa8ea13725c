"""A firm that was billed by the use cases themselves, with time, taxes, coupons, credit and deferred revenue, moves and goes on."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from dunwell_server.admin.service import offboarding
from dunwell_server.admin.service.offboarding import Standing, Step
from dunwell_server.billing.coupons import CouponDuration
from dunwell_server.billing.model.credit import CreditKind
from dunwell_server.billing.service import closing, coupons, credit, recognition, tax_rates
from dunwell_server.billing.store.coupons import NewCoupon
from dunwell_server.billing.store.tax_rates import NewTaxRate
from dunwell_server.kernel.errors import Reason
from dunwell_server.kernel.money import Money
from dunwell_server.platform.context import Actor, CallContext, Role
from dunwell_server.platform.database import Database, UnitOfWork
from tests import support
from tests.integration.admin.books import INSTALLATION, exported, imported, tables_of, without
from tests.integration.admin.test_firm_exit import changed, dropped, refused, resealed
from tests.integration.billing.book import Book
from tests.integration.billing.conftest import book, db, make_book
from tests.integration.billing.living import live_until
from tests.integration.billing.timebook import approved, bill, hourly, mixed, worked

__all__ = ["book", "db", "make_book"]


@pytest.fixture
async def elsewhere(cluster_url: str, db: Database) -> AsyncIterator[Database]:
    """Another installation, wired alike."""
    with support.fresh_database(cluster_url) as urls:
        database = await Database.open(urls.application, bus=db.bus, max_size=4)
        yield database
        await database.close()


async def live(book: Book) -> None:
    """Some months of a firm's life, with something of everything that billing knows."""
    await book.do(tax_rates.create_tax_rate, NewTaxRate("VAT", Decimal(19), "DE"))
    client = await book.client(address={"country_code": "DE"}, external_id="c-1")
    new = NewCoupon(
        code="SPRING", name="Spring", duration=CouponDuration.REPEATING, percent=Decimal(10), duration_periods=3
    )
    await book.do(coupons.create_coupon, new)
    await book.do(coupons.redeem_coupon, "SPRING", client.id)
    await book.do(credit.grant, credit.Grant(client.id, CreditKind.GOODWILL, Money("USD", 2_500)))
    await book.engagement(client, start_date=date(2026, 3, 5))
    work, retainer = await hourly(book, client), await mixed(book, client)
    await approved(book, worked(work, date(2026, 3, 9), 95), worked(retainer, date(2026, 3, 9), 700))
    await bill(book, client)
    other = await book.sent(client, "100")
    await book.do(closing.void_invoice, other.id)
    await live_until(book, datetime(2026, 5, 10, 12, tzinfo=UTC))
    while await book.do(recognition.recognize):
        pass


async def test_what_was_billed_moves_and_goes_on(book: Book, elsewhere: Database) -> None:
    await live(book)
    firm = book.context.firm_id
    assert firm is not None
    file, _ = await exported(book.db, firm)
    before = tables_of(file)
    rich = {
        "invoice_line_tax", "invoice_discount", "coupon_redemption", "credit_use", "time_entry", "invoice_time", "revenue_schedule", "coverage", "run_item",
    }  # fmt: skip
    assert {name for name in rich if not before[name]} == set()
    result = await imported(elsewhere, firm, file, piece=100_000)
    assert [check.name for check in result.report.checks if not check.ok] == []
    after = tables_of((await exported(elsewhere, firm))[0])
    same = set(before) - {"control.firm", "control.provider_account", "audit_seal", "audit_event", "event"}
    numbered = ("xact", "sequence", "ordinal")
    for name in sorted(same):
        assert [without(row, *numbered) for row in after[name]] == [without(row, *numbered) for row in before[name]], (
            name
        )

    async def resume(uow: UnitOfWork) -> Standing:
        return await offboarding.take(uow, Step.RESUME, INSTALLATION.vault)

    actor = Actor("key", Role.ADMIN, "api_key", "ana@example.com")
    await elsewhere.run(CallContext(firm, actor, "AdminService.OffboardFirm", upkeep=True), resume)
    # Both go on alike: the same invoices under the same derived ids, the same numbers, the same books.
    there = Book(elsewhere, book.context, book.recorder)
    for each in (book, there):
        await live_until(each, datetime(2026, 8, 1, 12, tzinfo=UTC))
    mine, theirs = [tables_of((await exported(each.db, firm))[0]) for each in (book, there)]
    facts = ("id", "number", "total", "tax_total", "discount_total", "amount_due", "issue_date", "state")
    assert len(mine["invoice"]) > len(before["invoice"])
    assert [{name: row[name] for name in facts} for row in theirs["invoice"]] == [
        {name: row[name] for name in facts} for row in mine["invoice"]
    ]
    assert theirs["coverage"] == mine["coverage"]
    assert theirs["invoice_line"] == mine["invoice_line"]


async def test_what_the_database_checks_last_is_refused_by_name_too(book: Book, elsewhere: Database) -> None:
    await live(book)
    firm = book.context.firm_id
    assert firm is not None
    file, _ = await exported(book.db, firm)
    settings = b'"settings":' + json.dumps(tables_of(file)["control.firm"][0]["settings"]).encode()
    [long_id] = {
        b'"external_id":"%s"' % row["external_id"].encode() for row in tables_of(file)["client"] if row["external_id"]
    }
    text = b'"external_id":"%s"' % base64.b64encode(random.Random(3).randbytes(9000))
    cases = [
        (dropped(file, "invoice_line_tax"), "invoice_line_tax"), (dropped(file, "invoice_discount"), "invoice_discount"),
        (file.replace(long_id, text), "client"), (changed(file, settings, b'"settings":"none"'), "control.firm"),
    ]  # fmt: skip
    for damaged, about in cases:
        error = await refused(elsewhere, firm, resealed(damaged))
        assert (error.reason, error.metadata["cause"]) == (Reason.IMPORT_DAMAGED, "refused"), error.__cause__
        assert about in error.message or about == error.metadata["table"], (error.message, error.metadata)
    assert (await imported(elsewhere, firm, file)).session.state == "FINISHED"
