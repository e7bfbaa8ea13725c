"""How amounts and results are printed, and what goes to which stream."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from uuid import UUID

import pytest

from dunwell_server.cli.output import Output, amounts, money, sum_amounts


def test_amounts_keep_currencies_apart() -> None:
    assert amounts({"USD": 123450, "JPY": 5000}) == "JPY 5,000 + USD 1,234.50"
    assert amounts({}) == "–"


def test_rupees_are_grouped_as_in_india() -> None:
    assert money(12_345_600, "INR") == "INR 1,23,456.00"
    assert money(12_345_600, "USD") == "USD 123,456.00"


def test_sums_per_currency() -> None:
    assert sum_amounts([{"USD": 5}, {"USD": 7, "EUR": 1}, {}]) == {"USD": 12, "EUR": 1}


def test_json_is_alone_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.say("for people")
    output.note("for people too")
    output.result(
        {"time": datetime(2027, 1, 1, tzinfo=UTC), "day": date(2027, 1, 2), "id": UUID(int=1), "name": "Orfèvres"}
    )
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "time": "2027-01-01T00:00:00+00:00", "day": "2027-01-02", "id": str(UUID(int=1)), "name": "Orfèvres",
    }  # fmt: skip
    assert captured.err == ""


def test_text_goes_out_whole_and_notes_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.say("x" * 300)
    output.note("on the way")
    output.result({"ignored": True})
    captured = capsys.readouterr()
    assert captured.out == "x" * 300 + "\n"
    assert captured.err == "on the way\n"
