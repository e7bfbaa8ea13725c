"""Worked cases of other billing systems' public tests, replayed on the kernel.

Every case is either replayed under its named convention or listed in ``NOT_KERNEL`` with the reason; a new case that
is neither fails the test.
"""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from dunwell_server.kernel.calendar import (
    Interval,
    add_periods,
    day_start,
    first_cycle_date,
    local_date,
    period_containing,
    period_edge,
    periods,
    zone,
)
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.money import distribute, fraction_of_exact, line_amount, round_half_away
from dunwell_server.kernel.proration import (
    EndPolicy,
    ProrationPolicy,
    ProrationUnit,
    fraction,
    prorate,
    service_end,
)

Case = dict[str, Any]

CASES: dict[str, Case] = {
    case["id"]: case for case in json.loads((Path(__file__).parent / "oracles" / "proration.json").read_text())["cases"]
}

NOT_KERNEL = {
    "K17a": "tiered prices belong to the meters of subscriptions",
    "L13a": "tiered prices belong to the meters of subscriptions",
    "L13d": "tiered prices belong to the meters of subscriptions",
    "L13g": "tiered prices belong to the meters of subscriptions",
    "K19a": "what an invoice still owes is billing's arithmetic: replayed there",
    "K19b": "what an invoice still owes is billing's arithmetic: replayed there",
    "K19c": "what an invoice still owes is billing's arithmetic: replayed there",
    "K19d": "what an invoice still owes is billing's arithmetic: replayed there",
    "K19e": "what an invoice still owes is billing's arithmetic: replayed there",
    "L11a": "minimum commitments belong to subscriptions",
    "O09": "minimum commitments belong to subscriptions",
    "M10a": "stacking of coupons belongs to billing: replayed there",
    "M10e": "stacking of coupons belongs to billing: replayed there",
    "P20": "discount before proration is an order of billing's steps: replayed there",
    "P23": "discount before proration is an order of billing's steps: replayed there",
}

INTERVALS = {"week": Interval.WEEK, "month": Interval.MONTH, "year": Interval.YEAR}


def day(text: str) -> date:
    return date.fromisoformat(text)


def interval_of(start: date, end: date) -> Interval:
    length = (end - start).days
    if length == 7:
        return Interval.WEEK
    return Interval.MONTH if length <= 31 else Interval.YEAR


def check_prorate(case: Case) -> None:
    given, expected = case["input"], case["expect"]
    part, period = (day(given["start"]), day(given["end"])), (day(given["period_start"]), day(given["period_end"]))
    price, quantity, digits = Decimal(given["price"]), Decimal(given["qty"]), given["minor_digits"]
    # Yen have no decimals, so counting in 10**-digits of the price makes any precision a minor unit.
    minor = Fraction(expected["amount"]) * 10**digits
    assert prorate(price.scaleb(digits), quantity, part, period, "JPY") == minor
    if digits == 2:
        assert prorate(price, quantity, part, period, "USD") == minor
    # The full period follows from the anchor alone.
    assert period_containing(period[0], interval_of(*period), part[0]) == period
    # Elapsed time between UTC midnights gives the same.
    start, end, period_start, period_end = (
        datetime(edge.year, edge.month, edge.day, tzinfo=UTC) for edge in (*part, *period)
    )
    by_second = ProrationPolicy(unit=ProrationUnit.SECOND)
    assert fraction(start, end, period_start, period_end, by_second) == fraction(*part, *period)
    if given["ratio_scale"] is not None:
        # The peer rounds the ratio before the amount; we never do, and still agree.
        ratio = Fraction(
            round_half_away(fraction(*part, *period) * 10 ** given["ratio_scale"]), 10 ** given["ratio_scale"]
        )
        assert round_half_away(Fraction(price) * Fraction(quantity) * ratio * 10**digits) == minor
        if "ratio" in expected:
            assert ratio == Fraction(expected["ratio"])
    if "inclusive last day" in case["convention"]:
        inclusive = ProrationPolicy(end=EndPolicy.INCLUSIVE)
        one = timedelta(days=1)
        as_given = (
            (part[0], service_end(part[1] - one, inclusive)),
            (period[0], service_end(period[1] - one, inclusive)),
        )
        assert as_given == (part, period)


def check_sequence(case: Case) -> None:
    start = day(case["input"]["start"])
    bills: list[list[str]] = []
    for _, months, price in case["input"]["phases"]:
        count = months if months is not None else len(case["expect"]["bills"]) - len(bills)
        for _ in range(count):
            due = add_periods(start, Interval.MONTH, len(bills))
            following = add_periods(start, Interval.MONTH, len(bills) + 1)
            minor = prorate(Decimal(price), Decimal(1), (due, following), (due, following), "USD")
            bills.append([due.isoformat(), f"{minor // 100}.{minor % 100:02}"])
    assert bills == case["expect"]["bills"]


def check_first_cycle_date(case: Case) -> None:
    given = case["input"]
    found = first_cycle_date(day(given["start"]), given["anchor_day"], INTERVALS[given["unit"]])
    assert found.isoformat() == case["expect"]["date"]


def check_schedule(case: Case) -> None:
    given = case["input"]
    first, interval = day(given["first"]), INTERVALS[given["unit"]]
    dates = [period_edge(first, interval, n, given["anchor_day"]).isoformat() for n in range(given["count"])]
    assert dates == case["expect"]["dates"]


def check_periods(case: Case) -> None:
    expected = case["expect"]["inclusive"]
    first, until = day(case["input"]["first"]), day(expected[-1][1])
    found = [
        [start.isoformat(), (end - timedelta(days=1)).isoformat()]
        for start, end in periods(first, Interval.MONTH, first, until, case["input"]["anchor_day"])
    ]
    assert found == expected


def check_fraction(case: Case) -> None:
    given = case["input"]
    product = Decimal(given["price"]).scaleb(given["minor_digits"])
    amount = fraction_of_exact(product, given["num"], given["den"])
    assert amount == int(case["expect"]["amount"])
    assert round_half_away(Fraction(given["price"] * given["num"], given["den"])) == amount


def check_distribute(case: Case) -> None:
    lines = case["input"]["lines"]
    parts = distribute(case["input"]["discount"], lines)
    assert [line - part for line, part in zip(lines, parts, strict=True)] == case["expect"]["net"]


def check_credit_note(case: Case) -> None:
    """Terminated in arrears on days that were still served: ends are inclusive."""
    inclusive = ProrationPolicy(end=EndPolicy.INCLUSIVE)
    ranges = [("2022-12-15", "2022-12-20"), ("2024-04-24", "2024-04-26")]
    for (price, ratio, tax_percent), (start, end), expected in zip(
        case["input"]["cases"], ranges, case["expect"]["net_tax_total"], strict=True
    ):
        part = (day(start), service_end(day(end), inclusive))
        period = period_containing(day(start).replace(day=1), Interval.MONTH, day(start))
        assert fraction(*part, *period) == Fraction(ratio)
        net = prorate(Decimal(price), Decimal(1), part, period, "JPY")
        tax = round_half_away(Fraction(net) * Fraction(tax_percent) / 100)
        assert [net, tax, net + tax] == expected


def check_invariant(case: Case) -> None:
    INVARIANTS[case["id"]](case)


def no_stub_across_clock_changes(case: Case) -> None:
    tz, price = zone(case["input"]["tz"]), Decimal(case["input"]["price"])
    anchor = date(2023, 9, 1)
    for n in range(case["input"]["months"]):
        start, end = add_periods(anchor, Interval.MONTH, n), add_periods(anchor, Interval.MONTH, n + 1)
        # From instants and back, as a period of the firm's zone is stored and read.
        seen = (local_date(day_start(start, tz), tz), local_date(day_start(end, tz), tz))
        full = period_containing(anchor, Interval.MONTH, seen[0])
        assert Decimal(prorate(price, Decimal(1), seen, full, "USD")) / 100 == Decimal(
            case["expect"]["each_period_amount"]
        )


def one_time_fees_are_whole(case: Case) -> None:
    given, charged_on = case["input"], date(2024, 1, 16)
    fee, quantity = Decimal(given["one_time"]), Decimal(given["qty"])
    only = period_containing(charged_on, Interval.ONE_TIME, charged_on)
    assert prorate(fee, quantity, only, only, "JPY") == line_amount(fee, quantity, "JPY") == case["expect"]["amount"]


def odd_service_periods(_: Case) -> None:
    """A service period longer than the full one costs no more; one of no length costs nothing, not everything."""
    january = (date(2026, 1, 1), date(2026, 2, 1))
    price, one = Decimal(100), Decimal(1)
    assert prorate(price, one, (date(2025, 12, 1), date(2026, 3, 1)), january, "USD") == 10000
    assert prorate(price, one, (date(2026, 1, 9), date(2026, 1, 9)), january, "USD") == 0


INVARIANTS: dict[str, Callable[[Case], None]] = {
    "K20": no_stub_across_clock_changes,
    "M05": one_time_fees_are_whole,
    "O04": odd_service_periods,
}

CHECKS: dict[str, Callable[[Case], None]] = {
    "prorate": check_prorate,
    "sequence": check_sequence,
    "first_cycle_date": check_first_cycle_date,
    "schedule": check_schedule,
    "periods": check_periods,
    "fraction": check_fraction,
    "distribute": check_distribute,
    "credit_note": check_credit_note,
    "invariant": check_invariant,
}


@pytest.mark.parametrize("case_id", [case_id for case_id in CASES if case_id not in NOT_KERNEL])
def test_case(case_id: str) -> None:
    case = CASES[case_id]
    CHECKS[case["kind"]](case)


def test_what_is_left_out_is_left_out_for_a_reason() -> None:
    assert set(NOT_KERNEL) <= set(CASES)
    left_out_kinds = {CASES[case_id]["kind"] for case_id in NOT_KERNEL}
    assert left_out_kinds == {"tier", "balance", "commitment", "coupon", "discount_prorate"}
    assert not left_out_kinds & set(CHECKS)


def test_an_anchor_of_31_springs_back_before_the_stub() -> None:
    """K01b: the peer steps back from the clamped Feb 28 to Jan 28; our full period began on Jan 31."""
    anchored = period_containing(date(2011, 3, 31), Interval.MONTH, date(2011, 2, 14))
    assert anchored == (date(2011, 1, 31), date(2011, 2, 28))
    assert first_cycle_date(date(2011, 2, 14), 31, Interval.MONTH) == anchored[1]
    assert fraction(date(2011, 2, 14), date(2011, 2, 28), *anchored) == Fraction(1, 2)
    assert fraction(date(2011, 2, 14), date(2011, 2, 28), date(2011, 1, 28), date(2011, 2, 28)) == Fraction(14, 31)


def test_a_year_that_holds_a_leap_day_has_366_days() -> None:
    """L04: 243 days of a yearly period from July 2023 are counted against its own length."""
    full = period_containing(date(2020, 7, 19), Interval.YEAR, date(2023, 11, 19))
    assert full == (date(2023, 7, 19), date(2024, 7, 19))
    assert fraction(date(2023, 11, 19), full[1], *full) == Fraction(243, 366)


def test_an_empty_full_period_is_an_error_not_a_full_charge() -> None:
    first = date(2026, 1, 1)
    with pytest.raises(DunwellError):
        prorate(Decimal(100), Decimal(1), (first, first), (first, first), "USD")
