"""`report unbilled` of a real book: table, JSON, CSV and picture."""

from __future__ import annotations

import csv
from datetime import UTC, date, datetime
from pathlib import Path

from dunwell_server.platform.database import Database
from tests import support
from tests.integration.billing.book import Book, Recorder
from tests.integration.billing.timebook import approved, draft, hourly, submitted, worked
from tests.integration.cli.command import Command
from tests.integration.cli.conftest import public_id
from tests.integration.cli.test_bulk import call
from tests.integration.cli.test_finance_reports import cells, check_pictures


async def test_unbilled_work_by_client_engagement_and_age(db: Database, dunwell: Command, tmp_path: Path) -> None:
    book = Book(db, await support.add_firm(db, clock=datetime(2026, 5, 10, 12, tzinfo=UTC)), Recorder())
    bakery, quay = await book.client(name="Harbour Bakery"), await book.client(name="Quay & Sons", currency_code="JPY")
    advice, yen = await hourly(book, bakery), await hourly(book, quay)
    days = (date(2026, 1, 5), date(2026, 3, 1), date(2026, 4, 5), date(2026, 5, 9))
    await approved(book, *(worked(advice, day, 60 * hours) for day, hours in zip(days, (1, 2, 3, 4), strict=True)))
    await submitted(book, worked(advice, days[3], 30))
    await draft(book, worked(advice, days[3], 15), worked(yen, days[2], 90))
    await approved(book, worked(yen, days[3], 45))
    firm = public_id(book.context)
    svg, png, file = tmp_path / "u.svg", tmp_path / "u.png", tmp_path / "u.csv"
    arguments = ("report", "unbilled", "--firm-id", firm)
    result = await call(dunwell, *arguments, "--svg", str(svg), "--png", str(png), "--csv", str(file))
    assert result.code == 0, result.err
    lines = [cells(line) for line in result.out.splitlines()]
    amounts = ["240.00", "180.00", "120.00", "60.00", "600.00", "30.00", "15.00"]
    assert ["Harbour", "Bakery", "Advice", "USD", "10:00", *amounts] in lines
    assert ["Quay", "&", "Sons", "Advice", "JPY", "0:45", "45", "–", "–", "–", "45", "–", "90"] in lines
    assert ["USD", "10:00", "600.00"] in lines
    check_pictures(svg, png, "Harbour Bakery", "USD 600.00", "Over 90", "JPY 45")
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    assert [(row["client"], row["over_90_days"], row["approved"], row["approved_minutes"], row["oldest_work_date"]) for row in rows] == [
        ("Harbour Bakery", "60.00", "600.00", "600", "2026-01-05"), ("Quay & Sons", "0", "45", "45", "2026-05-09"),
    ]  # fmt: skip
    answer = (await call(dunwell, *arguments, "--as-of", "2026-03-31", "--json")).json["firms"][0]
    assert answer["as_of_date"] == "2026-03-31"
    assert answer["approved_totals"] == [{"currency_code": "USD", "entries": 2, "minutes": 180, "amount_minor": 18_000}]
    [engagement] = answer["engagements"]
    assert engagement["approved"]["days_0_to_30"] == {"entries": 1, "minutes": 120, "amount_minor": 12_000}
    assert engagement["approved"]["days_61_to_90"] == {"entries": 1, "minutes": 60, "amount_minor": 6_000}


async def test_nothing_unbilled_is_said(db: Database, dunwell: Command) -> None:
    empty = await support.add_firm(db)
    result = await call(dunwell, "report", "unbilled", "--firm-id", public_id(empty))
    assert (result.code, "Everything is billed." in result.out) == (0, True)
