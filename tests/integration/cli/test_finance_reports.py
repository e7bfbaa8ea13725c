"""`report ageing`, `report revenue` and `report trial-balance`: tables, JSON, CSV and pictures of a real book."""

from __future__ import annotations

import csv
import io
import struct
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dunwell_server.billing.exchange import Rate
from dunwell_server.billing.lines import LineInput
from dunwell_server.billing.service.clients import NewClient, create_client
from dunwell_server.billing.service.exchange import set_rates
from dunwell_server.billing.service.invoices import NewInvoice, create_invoice
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from tests import support
from tests.integration.cli.command import Command
from tests.integration.cli.conftest import public_id
from tests.integration.cli.test_bulk import call

MakeBook = Callable[[], Awaitable[CallContext]]
# client, currency, price, day of issue, days until due
SENT = (
    ("Harbour Bakery", "USD", "1200.50", date(2026, 11, 3), 10),
    ("Nakamura [K.K.]", "JPY", "98000", date(2026, 12, 1), 30),
    ("Harbour Bakery", "USD", "300", date(2027, 1, 15), 30),
    ("Gulf Trading", "KWD", "12.345", date(2027, 2, 1), 0),
    ("Quay & Sons", "USD", "75.25", date(2027, 2, 20), 10),
    ("Nakamura [K.K.]", "JPY", "45000", date(2027, 3, 1), 30),
    ("Quay & Sons", "USD", "640", date(2027, 3, 9), 30),
)


@pytest.fixture
def make_book(db: Database) -> MakeBook:
    """A firm on 2027-03-10 that has sent invoices in three currencies since November, and has set rates."""

    async def make() -> CallContext:
        context = await support.add_firm(db, clock=datetime(2026, 10, 1, 12, tzinfo=UTC))
        assert context.firm_id is not None
        clients = {}
        for name, currency, price, issued, days in SENT:
            await support.set_clock(db, context.firm_id, datetime.combine(issued, time(12), UTC))
            async with db.transaction(context) as uow:
                if name not in clients:
                    clients[name] = await create_client(uow, NewClient(name=name, currency_code=currency))
                lines = (LineInput("Work", Decimal(price)),)
                new = NewInvoice(clients[name].id, lines=lines, payment_terms_days=days)
                await create_invoice(uow, new, finalize=True)
        await support.set_clock(db, context.firm_id, datetime(2027, 3, 10, 12, tzinfo=UTC))
        async with db.transaction(context) as uow:
            day = date(2026, 11, 1)
            await set_rates(uow, [Rate("USD", "JPY", day, Decimal(150)), Rate("KWD", "USD", day, Decimal("3.25"))])
        return context

    return make


def cells(line: str) -> list[str]:
    return line.split()


def check_pictures(svg: Path, png: Path, *words: str) -> None:
    """An SVG that is XML and a PNG that is one, neither of them small; the drawing's text is drawn as shapes, named in comments."""
    text = svg.read_text()
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    for word in words:
        assert f"<!-- {word} -->" in text, word
    head = png.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", head[16:24])
    assert width == 1600
    assert height > 500


async def test_ageing_in_tables_files_and_pictures(dunwell: Command, make_book: MakeBook, tmp_path: Path) -> None:
    firm = public_id(await make_book())
    svg, png, file = tmp_path / "a.svg", tmp_path / "a.png", tmp_path / "a.csv"
    result = await call(
        dunwell, "report", "ageing", "--firm-id", firm, "--svg", str(svg), "--png", str(png), "--csv", str(file)
    )
    assert result.code == 0, result.err
    lines = [cells(line) for line in result.out.splitlines()]
    assert ["JPY", "45,000", "–", "–", "98,000", "–", "143,000", "2"] in lines
    assert ["KWD", "–", "–", "12.345", "–", "–", "12.345", "1"] in lines
    assert ["USD", "640.00", "375.25", "–", "–", "1,200.50", "2,215.75", "4"] in lines
    assert "receivables as of 2027-03-10" in result.out
    assert "Nakamura [K.K.]" in result.out
    check_pictures(svg, png, "USD", "JPY", "KWD", "Over 90", "USD 1,200.50", "KWD 12.345", "JPY 98,000")
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    assert [(row["client"], row["currency_code"], row["current"], row["over_90_days"], row["total"], row["invoices"]) for row in rows] == [
        ("Harbour Bakery", "USD", "0.00", "1200.50", "1500.50", "2"),
        ("Nakamura [K.K.]", "JPY", "45000", "0", "143000", "2"),
        ("Gulf Trading", "KWD", "0.000", "0.000", "12.345", "1"),
        ("Quay & Sons", "USD", "640.00", "0.00", "715.25", "2"),
    ]  # fmt: skip
    past = await call(dunwell, "report", "ageing", "--firm-id", firm, "--as-of", "2026-12-31", "--json")
    [answer] = past.json["firms"]
    assert (past.json["command"], answer["as_of_date"]) == ("report ageing", "2026-12-31")
    assert [(each["currency_code"], each["current_minor"], each["days_31_to_60_minor"]) for each in answer["totals"]] == [
        ("JPY", 98_000, 0), ("USD", 0, 120_050),
    ]  # fmt: skip
    assert [each["client_name"] for each in answer["clients"]] == ["Harbour Bakery", "Nakamura [K.K.]"]


async def test_ageing_is_converted_with_the_firms_rates(dunwell: Command, make_book: MakeBook) -> None:
    firm = public_id(await make_book())
    result = await call(dunwell, "report", "ageing", "--firm-id", firm, "--convert-to", "USD")
    assert result.code == 0, result.err
    lines = [cells(line) for line in result.out.splitlines()]
    assert ["all", "in", "USD", "940.00", "375.25", "40.12", "653.33", "1,200.50", "3,209.20", "7"] in lines
    assert "1 KWD = 3.25 USD from 2026-11-01" in result.out
    missing = await call(dunwell, "report", "ageing", "--firm-id", firm, "--convert-to", "EUR")
    assert missing.code == 1
    assert "no exchange rate between JPY and EUR on or before 2027-03-10. (EXCHANGE_RATE_MISSING)" in missing.err


async def test_revenue_in_tables_files_and_pictures(dunwell: Command, make_book: MakeBook, tmp_path: Path) -> None:
    firm = public_id(await make_book())
    svg, png = tmp_path / "r.svg", tmp_path / "r.png"
    arguments = ("report", "revenue", "--firm-id", firm, "--from", "2026-11-01", "--convert-to", "USD")
    result = await call(dunwell, *arguments, "--svg", str(svg), "--png", str(png))
    assert result.code == 0, result.err
    assert "revenue from 2026-11-01 to 2027-03-10" in result.out
    lines = [cells(line) for line in result.out.splitlines()]
    assert ["2027-03", "45,000", "–", "–", "45,000", "–", "–"] in lines
    assert ["Sum", "143,000", "–", "–", "143,000", "–", "–"] in lines
    assert ["2027-03", "940.00", "–", "–", "940.00", "–", "–"] in lines
    assert ["Sum", "3,209.20", "–", "–", "3,209.20", "–", "–"] in lines
    check_pictures(svg, png, "billed", "collected", "recognised", "USD", "2026-11", "2027-03")
    listed = await call(dunwell, "report", "revenue", "--firm-id", firm, "--csv", "-", "--currency", "KWD")
    [row] = csv.DictReader(io.StringIO(listed.out))
    assert (row["month"], row["currency_code"], row["billed"], row["recognized"]) == (
        "2027-02",
        "KWD",
        "12.345",
        "12.345",
    )
    answer = (await call(dunwell, *arguments, "--json")).json["firms"][0]
    assert [each["month"] for each in answer["months"]] == [
        "2026-11",
        "2026-12",
        "2027-01",
        "2027-02",
        "2027-02",
        "2027-03",
        "2027-03",
    ]
    assert answer["converted"][-1]["billed_minor"] == 320_920
    assert [each["rate"] for each in answer["rates"]] == ["3.25", "150"]


async def test_the_trial_balance_in_tables_files_and_pictures(
    dunwell: Command, make_book: MakeBook, tmp_path: Path
) -> None:
    firm = public_id(await make_book())
    svg, png = tmp_path / "t.svg", tmp_path / "t.png"
    result = await call(dunwell, "report", "trial-balance", "--firm-id", firm, "--svg", str(svg), "--png", str(png))
    assert result.code == 0, result.err
    lines = [cells(line) for line in result.out.splitlines()]
    assert ["receivable", "143,000", "–", "143,000"] in lines
    assert ["revenue", "–", "2,215.75", "-2,215.75"] in lines
    assert ["Sum", "12.345", "12.345", "–"] in lines
    check_pictures(svg, png, "receivable", "revenue", "JPY 143,000")
    past = await call(dunwell, "report", "trial-balance", "--firm-id", firm, "--as-of", "2026-11-30", "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(past.out)))
    assert [(row["account"], row["debit"], row["credit"], row["balance"]) for row in rows] == [
        ("receivable", "1200.50", "0.00", "1200.50"), ("revenue", "0.00", "1200.50", "-1200.50"),
    ]  # fmt: skip


async def test_csv_files_have_the_converted_sums(dunwell: Command, make_book: MakeBook) -> None:
    firm = public_id(await make_book())

    async def rows(*arguments: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        result = await call(dunwell, "report", *arguments, "--firm-id", firm, "--convert-to", "USD", "--csv", "-")
        assert result.code == 0, result.err
        found = list(csv.DictReader(io.StringIO(result.out)))
        return [row for row in found if row["converted"] == "no"], [row for row in found if row["converted"] == "yes"]

    clients, [owed] = await rows("ageing")
    assert len(clients) == 4
    assert (owed["client"], owed["currency_code"], owed["days_31_to_60"], owed["total"], owed["invoices"]) == (
        "", "USD", "40.12", "3209.20", "7",
    )  # fmt: skip
    months, converted = await rows("revenue", "--from", "2026-11-01")
    assert len(months) == 7
    assert [(row["month"], row["currency_code"]) for row in converted] == [
        (month, "USD") for month in ("2026-11", "2026-12", "2027-01", "2027-02", "2027-03")
    ]
    assert sum(Decimal(row["billed"]) for row in converted) == Decimal("3209.20")
    accounts, converted = await rows("trial-balance")
    assert len(accounts) == 6
    assert [(row["account"], row["currency_code"], row["balance"]) for row in converted] == [
        ("receivable", "USD", "3209.20"), ("revenue", "USD", "-3209.20"),
    ]  # fmt: skip


async def test_what_cannot_be_is_said_in_a_line(
    db: Database, dunwell: Command, make_book: MakeBook, tmp_path: Path
) -> None:
    firm = public_id(await make_book())
    await make_book()
    picture = ("--svg", str(tmp_path / "x.svg"))
    for arguments, code, text in (
        (("ageing", *picture), 2, "a picture is of one firm: name it with --firm-id"),
        (("ageing", "--json", "--csv", "-"), 2, "give either --json or --csv -"),
        (("ageing", "--firm-id", firm, "--as-of", "2027-03-11"), 2, "The day is to come: today is 2027-03-10. (PERIOD_INVALID)"),
        (("revenue", "--firm-id", firm, "--from", "2027-03-10", "--until", "2027-03-10"), 2, "(PERIOD_INVALID)"),
        (("revenue", "--firm-id", firm, "--from", "2026-10-01", "--until", "2026-10-05", *picture), 2, "there is nothing to draw"),
        (("trial-balance", "--firm-id", firm, "--convert-to", "XXX"), 2, "(UNKNOWN_CURRENCY)"),
        (("ageing", "--firm-id", firm, "--csv", str(tmp_path / "no" / "such.csv")), 1, "No such file or directory"),
        (("ageing", "--firm-id", firm, "--png", str(tmp_path / "no" / "such.png")), 1, "No such file or directory"),
    ):  # fmt: skip
        result = await call(dunwell, "report", *arguments)
        assert (result.code, text in result.err) == (code, True), (arguments, result)
    empty = await support.add_firm(db)
    nothing = await call(dunwell, "report", "ageing", "--firm-id", public_id(empty))
    assert (nothing.code, "Nobody owes anything." in nothing.out) == (0, True)
