"""One firm over two years, with a leap day, four changes of the clocks and every end of a month: each line of each invoice, credit,
credit note and statement against an independent computation."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from fractions import Fraction
from pathlib import Path
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from dunwell_server.billing.service import recognition
from dunwell_server.platform import audit_chain
from dunwell_server.platform.context import system_context
from dunwell_server.platform.database import Database
from dunwell_server.platform.invariants import run_for_firm
from tests import support
from tests.integration.billing.book import Book, Recorder
from tests.integration.billing.golden import account, facts, hours, packages, scenes, seen
from tests.integration.billing.golden.account import Account
from tests.integration.billing.golden.arithmetic import nearest
from tests.integration.billing.golden.packages import PackageWorld
from tests.integration.billing.golden.seen import Seen
from tests.integration.billing.golden.world import World, entered
from tests.integration.billing.living import live_until
from tests.integration.platform.horizon import past_horizon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BEGIN: Final = datetime(2027, 1, 1, 12, tzinfo=UTC)
END: Final = datetime(2028, 12, 31, 12, tzinfo=UTC)
STATEMENTS: Final = ((date(2027, 1, 1), date(2028, 2, 29)), (date(2028, 2, 29), date(2029, 1, 1)))
SHEET: Final = (
    "account", "arithmetic", "credit", "dice", "facts", "fees", "hours", "notes", "prices", "rare", "scenes",
)  # fmt: skip
"""The modules that compute by themselves."""


@dataclass
class Golden:
    """The firm after its two years, and the same on paper, by client."""

    book: Book
    world: World
    packages: PackageWorld
    seen: Seen
    accounts: dict[str, Account]
    refused: dict[str, list[tuple[int, str]]]

    def each(self) -> list[tuple[facts.Scene, Account, UUID]]:
        """Every client of the scenes with its account on paper and its id."""
        return [(one, self.accounts[one.name], self.world.clients[one.name].id) for one in self.world.firm.clients]


@pytest.fixture(scope="module")
async def golden(db: Database) -> Golden:
    """Two years, lived once for all tests."""
    firm = scenes.firm()
    context = await support.add_firm(db, clock=BEGIN, time_zone=firm.zone)
    recorder = db.bus.port(Recorder)
    recorder.reset()
    world = World(Book(db, context, recorder), firm)
    await world.open()
    of_packages = PackageWorld(world.book)
    await of_packages.open()
    refused = await live(world, of_packages)
    await of_packages.follow_chains()
    while await world.book.do(recognition.recognize):
        recorder.reset()
    await sealed(world.book)
    found, names = await seen.read(world.book), await names_of(world)
    clients = {name: client.id for name, client in world.clients.items()}
    accounts = on_paper(firm, found, clients, names)
    return Golden(world.book, world, of_packages, found, accounts, refused)


async def sealed(book: Book) -> None:
    """Give every audit entry its place in the chain, as a service does every few seconds."""
    await past_horizon(book.db)
    sealer = system_context(book.context.firm_id, "job:seal", upkeep=True)
    while (await book.db.run(sealer, audit_chain.seal_batch)).more:
        pass


def noon(day: date) -> datetime:
    return datetime.combine(day, time(12), UTC)


def stops(firm: facts.Firm) -> list[date]:
    """The days on which something happens."""
    days = {each.goes_in for scene in firm.clients for agreement in scene.agreements for each in agreement.work}
    days |= {event.day for scene in firm.clients for event in scene.events}
    days |= {entered(rule) for rule in firm.taxes if rule.start is not None} | {firm.by_rate_from.date()}
    return sorted(days)


def work_of(firm: facts.Firm, day: date) -> list[tuple[str, str, facts.Worked]]:
    """What is approved on a day, as (client, agreement, work)."""
    return [
        (scene.name, agreement.name, each)
        for scene in firm.clients
        for agreement in scene.agreements
        for each in agreement.work
        if each.goes_in == day
    ]


async def live(world: World, of_packages: PackageWorld) -> dict[str, list[tuple[int, str]]]:
    """Have the server live the two years; the events that it refused, by client."""
    refused: dict[str, list[tuple[int, str]]] = {scene.name: [] for scene in world.firm.clients}
    for day in sorted({*stops(world.firm), *packages.MOVES}):
        await live_until(world.book, noon(day))
        await of_packages.move(day)
        await world.tax(day)
        if day == world.firm.by_rate_from.date():
            await world.round_by_rate()
        await world.approve(work_of(world.firm, day))
        for scene in world.firm.clients:
            for number, event in enumerate(scene.events):
                if event.day == day and (reason := await world.happens(scene, event)) is not None:
                    refused[scene.name].append((number, reason))
    await live_until(world.book, END)
    return refused


async def names_of(world: World) -> dict[UUID, str]:
    """The names of the terms by the ids of their engagements."""
    return {
        term.id: f"{agreement}#{number}"
        for client, agreement in list(world.terms)
        for number, term in enumerate(await world.renewed(client, agreement))
    }


def on_paper(
    firm: facts.Firm, found: Seen, clients: Mapping[str, UUID], names: Mapping[UUID, str]
) -> dict[str, Account]:
    """The same years on paper. All that is taken from the server is in which order it numbered a client's invoices of one day."""
    zone = ZoneInfo(firm.zone)
    accounts = {scene.name: Account(firm, scene, zone, scenes.LAST) for scene in firm.clients}
    special = set(stops(firm)) | set(packages.MOVES) | {scenes.LAST}
    for day in seen.days_of(scenes.FIRST, scenes.LAST):
        run = hours.instant(day, firm.run_hour, zone)
        work = work_of(firm, day) if day in special else []
        for scene in firm.clients:
            one = accounts[scene.name]
            ran = found.runs.get((clients[scene.name], day), [])
            one.run(run, [names[engagement] for engagement in ran])
            one.look(run)
            if day not in special:
                continue
            one.look(noon(day).astimezone(zone))
            for client, agreement, each in work:
                if client == scene.name:
                    one.approve(agreement, each)
            for number, event in enumerate(scene.events):
                if event.day == day:
                    one.happens(number, event, noon(day).astimezone(zone))
    return accounts


async def test_every_period_of_every_package(golden: Golden) -> None:
    await golden.packages.check()


async def test_every_line_of_every_invoice(golden: Golden) -> None:
    count = 0
    for scene, paper, client in golden.each():
        papers, written = [seen.paper(one) for one in paper.papers], golden.seen.invoices[client]
        for number, (ours, theirs) in enumerate(zip(papers, written, strict=False)):
            assert theirs == ours, (scene.name, number)
        assert len(written) == len(papers), scene.name
        count += len(papers)
    assert count > 500


async def test_what_is_refused_is_refused_for_the_same_reason(golden: Golden) -> None:
    for scene, paper, _ in golden.each():
        assert golden.refused[scene.name] == paper.refused, scene.name
    assert {reason for each in golden.refused.values() for _, reason in each} >= {account.CLOSED, account.TOO_MUCH}


async def test_every_entry_of_credit_and_every_use(golden: Golden) -> None:
    kinds = set()
    for scene, paper, client in golden.each():
        assert golden.seen.entries[client] == [seen.entry(one) for one in paper.purse.entries], scene.name
        kinds |= {use.kind for one in paper.purse.entries for use in one.uses}
    assert kinds == {"APPLIED", "RELEASED", "MOVED", "EXPIRED", "REVERSED"}


async def test_every_credit_note(golden: Golden) -> None:
    count = 0
    for scene, paper, client in golden.each():
        assert golden.seen.notes[client] == [seen.note(one) for one in paper.notes], scene.name
        count += len(paper.notes)
    assert count > 50


async def test_time_that_no_invoice_has_is_what_waits(golden: Golden) -> None:
    rows = await golden.book.sql(
        "SELECT client_id, state, count(*) AS entries, sum(minutes - written_down_minutes) AS minutes FROM time_entry GROUP BY 1, 2"
    )
    found = {(row["client_id"], row["state"]): (row["entries"], row["minutes"]) for row in rows}
    for scene, paper, client in golden.each():
        waiting = [each for term in paper.terms for each in term.time.waiting]
        expected = (len(waiting), sum(each.minutes - each.down for each in waiting))
        assert found.pop((client, "APPROVED"), (0, 0)) == expected, scene.name
    assert {state for _, state in found} == {"INVOICED"}


async def test_every_line_of_every_statement(golden: Golden) -> None:
    for scene, paper, client in golden.each():
        numbers = golden.seen.numbers[client], golden.seen.note_numbers[client]
        for start, end in STATEMENTS:
            given = await seen.statement(golden.book, client, start, end)
            expected = seen.stated(paper, start, end, *numbers)
            assert set(given) == set(expected), scene.name
            for title, rows in given.items():
                assert seen.unordered_within_days(rows) == seen.unordered_within_days(expected[title]), (
                    scene.name,
                    title,
                )
                assert rows[-1] == expected[title][-1]


async def test_what_clients_owe_and_hold_is_what_the_books_say(golden: Golden) -> None:
    rows = await golden.book.sql("SELECT client_id, currency_code, receivable_minor, credit_minor FROM client_balance")
    found = {(row["client_id"], row["currency_code"]): (row["receivable_minor"], row["credit_minor"]) for row in rows}
    for scene, paper, client in golden.each():
        owed, held = (
            sum(each.amount for each in paper.movements if each.account == name) for name in ("owed", "credit")
        )
        assert (owed, held) == (sum(one.due for one in paper.papers), paper.purse.balance)
        assert found.get((client, scene.currency), (0, 0)) == (owed, held), scene.name
    assert [check for check in await golden.book.see(run_for_firm) if not check.ok] == []


async def test_the_years_have_everything_in_them(golden: Golden) -> None:
    """A die that is thrown anew must not lose a kind of thing without anybody noticing."""
    papers = [(scene, paper) for scene, one, _ in golden.each() for paper in one.papers]
    lines = [(scene, paper, line) for scene, paper in papers for line in paper.lines]
    assert {line.kind for _, _, line in lines} == {"PACKAGE", "TIME", "OVERAGE", "ITEM"}
    assert {scene.currency for scene, _ in papers} == {"USD", "EUR", "INR", "JPY", "KWD"}
    taxed = {(tax.name, tax.percent) for _, _, line in lines for tax in line.taxes if tax.amount}
    assert taxed == {(rule.name, Fraction(rule.percent)) for rule in golden.world.firm.taxes}
    assert {scene.status for scene, paper in papers if paper.total} == {"TAXABLE", "EXEMPT", "REVERSE_CHARGE"}
    assert {reduction.held.coupon.code for _, paper in papers for reduction in paper.reductions if reduction.held} == {
        coupon.code for coupon in golden.world.firm.coupons
    }
    # By rate, some line bears another tax than by itself; some are capped; some hours come from an earlier period.
    by_itself = [
        (tax.amount, nearest(tax.base * tax.percent / 100))
        for _, _, line in lines
        for tax in line.taxes
        if not tax.inclusive
    ]
    assert any(amount != rounded for amount, rounded in by_itself)
    assert {line.kind for _, paper, line in lines if any(each.name == hours.CAP for each in paper.reductions)} >= {
        "TIME",
        "OVERAGE",
    }
    assert any(len(bill.used) > len(bill.charged) for _, paper in papers for _, bill in paper.times)
    assert sum(paper.void for _, paper in papers) > 20


async def test_numbers_have_no_gaps(golden: Golden) -> None:
    for table in ("invoice", "credit_note"):
        rows = await golden.book.sql(
            f"SELECT series, count(*) AS many, min(series_no) AS first, max(series_no) AS last FROM {table} GROUP BY series"
        )
        assert len(rows) == 2
        assert all((row["first"], row["last"]) == (1, row["many"]) for row in rows)


def test_the_spreadsheet_computes_by_itself() -> None:
    folder = Path(facts.__file__).parent
    for name in SHEET:
        tree = ast.parse((folder / f"{name}.py").read_text())
        imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        inside = {module.rpartition(".")[2] for module in imported if module.startswith("tests.")}
        assert not {module for module in imported if module.startswith("dunwell")}
        assert inside <= {*SHEET, "golden"}, name
