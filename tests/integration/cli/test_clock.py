"""`advance-clock`: the timeline, the result, and what is refused."""

from __future__ import annotations

import asyncio

from dunwell_server.platform.database import Database
from tests import support
from tests.integration.cli.command import Command
from tests.integration.cli.conftest import MakeFirm, public_id


async def test_a_month_goes_by_and_is_told_in_order(dunwell: Command, make_billable: MakeFirm) -> None:
    firm = await make_billable(2)
    result = await asyncio.to_thread(dunwell, "advance-clock", "--firm-id", public_id(firm), "--by", "30d", "--json")
    assert result.code == 0, result.err
    answer = result.json
    assert (answer["ok"], answer["state"], answer["error"]) == (True, "SUCCEEDED", None)
    assert answer["firm_time"] == "2027-04-09T12:00:00+00:00"
    kinds = [event["kind"] for event in answer["events"]]
    # What had been missed since January on the first night, and April's on its first day.
    assert kinds.count("invoice_finalized") == answer["counts"]["invoice_finalized"] == 4
    assert answer["invoiced"] == {"USD": 2 * (300_000 + 100_000)}
    times = [event["time"] for event in answer["events"]]
    assert times == sorted(times)
    assert [event["seq"] for event in answer["events"]] == list(range(1, len(times) + 1))


async def test_the_timeline_names_invoices_and_clients(dunwell: Command, make_billable: MakeFirm) -> None:
    firm = await make_billable(1)
    result = await asyncio.to_thread(dunwell, "advance-clock", "--firm-id", public_id(firm), "--to", "2027-03-12")
    assert result.code == 0, result.err
    line = next(line for line in result.out.splitlines() if "invoice finalized" in line)
    assert line.startswith("2027-03-11 02:00")
    assert "USD 3,000.00" in line
    assert "INV-2027-000001, Client 0" in line
    assert "has come to 2027-03-12 00:00 UTC" in result.out


async def test_what_cannot_be_is_refused(db: Database, dunwell: Command, make_billable: MakeFirm) -> None:
    real = await support.add_firm(db)
    on_clock = await make_billable(1)
    for firm, arguments, reason in (
        (real, ["--by", "1d"], "CLOCK_NOT_TEST"),
        (on_clock, ["--to", "2027-01-01"], "CLOCK_BACKWARDS"),
        (on_clock, ["--by", "300000d"], "FIELD_INVALID"),
    ):
        result = await asyncio.to_thread(dunwell, "advance-clock", "--firm-id", public_id(firm), *arguments)
        assert result.code == 2, result.err
        assert reason in result.err
        assert result.err.count("\n") == 1
