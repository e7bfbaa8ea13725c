"""Worked cases of other billing systems' public tests that are about discounts, replayed on billing's rules."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dunwell_server.billing.discounts import DiscountTerms, apply_discounts
from dunwell_server.billing.model import InvoiceLine, LineKind
from dunwell_server.kernel.money import distribute, round_ratio

Case = dict[str, Any]

_FILE = Path(__file__).parents[1] / "kernel" / "oracles" / "proration.json"
CASES: dict[str, Case] = {case["id"]: case for case in json.loads(_FILE.read_text())["cases"]}


def of_kind(kind: str) -> list[str]:
    found = [case_id for case_id, case in CASES.items() if case["kind"] == kind]
    assert found
    return found


def terms(kind: str, value: Any) -> DiscountTerms:
    """A discount as the cases write it: ["pct", "25"] or ["fix", 5000]."""
    if kind == "pct":
        return DiscountTerms("off", percent=Decimal(value))
    assert kind == "fix"
    return DiscountTerms("off", fixed_minor=value)


def lines(*amounts: int) -> list[InvoiceLine]:
    return [
        InvoiceLine(number, LineKind.ITEM, "Work", Decimal(1), Decimal(amount), amount)
        for number, amount in enumerate(amounts, 1)
    ]


@pytest.mark.parametrize("case_id", of_kind("coupon"))
def test_percentages_come_before_amounts(case_id: str) -> None:
    case = CASES[case_id]
    wanted = [terms(*coupon) for coupon in case["input"]["coupons"]]
    for order in (wanted, wanted[::-1]):
        (taken,) = apply_discounts(lines(case["input"]["base"]), order).parts
        assert taken == case["expect"]["discount"]


@pytest.mark.parametrize("case_id", of_kind("discount_prorate"))
def test_the_discount_comes_before_proration(case_id: str) -> None:
    given = CASES[case_id]["input"]
    price = given["price"]
    (taken,) = apply_discounts(lines(price), [terms(*given["discount"])]).parts
    assert round_ratio((price - taken) * given["num"], given["den"]) == CASES[case_id]["expect"]["amount"]


@pytest.mark.parametrize("case_id", of_kind("distribute"))
def test_a_discount_is_divided_by_largest_remainder(case_id: str) -> None:
    given, expected = CASES[case_id]["input"], CASES[case_id]["expect"]
    found = apply_discounts(lines(*given["lines"]), [terms("fix", given["discount"])])
    assert [line - part for line, part in zip(given["lines"], found.parts, strict=True)] == expected["net"]
    assert list(found.parts) == distribute(given["discount"], given["lines"])
