"""The golden firm: its taxes, its coupons, its clients."""

from __future__ import annotations

from datetime import UTC, date, datetime

from tests.integration.billing.golden.dice import LAST, SIZE, thrown
from tests.integration.billing.golden.facts import Coupon, Firm, TaxRule
from tests.integration.billing.golden.rare import rare_clients

__all__ = ["COUPONS", "FIRST", "LAST", "TAXES", "firm"]

FIRST = date(2027, 1, 2)
SUMMER, SPRING = date(2027, 7, 1), date(2028, 4, 1)
"""When tax rates change: with the year's half, and in the second year."""

TAXES = (
    TaxRule("VAT", "19", "DE"),
    TaxRule("VAT", "7", "DE", category="reduced"),
    TaxRule("CGST", "9", "IN", region="Karnataka"),
    TaxRule("SGST", "9", "IN", region="Karnataka"),
    TaxRule("IGST", "18", "IN", excluded=("Karnataka",)),
    TaxRule("Consumption tax", "10", "JP", inclusive=True),
    TaxRule("Consumption tax", "8", "JP", category="reduced", inclusive=True),
    TaxRule("GST", "5", "CA"),
    TaxRule("PST", "7.35", "CA"),
    TaxRule("ISS", "9.25", "BR", inclusive=True),
    TaxRule("ICMS", "17.5", "BR", inclusive=True),
    TaxRule("Fee", "3.125", "BR"),
    TaxRule("VAT", "5.5", "KW"),
    TaxRule("VAT", "21.5", "DE", start=SUMMER),
    TaxRule("Consumption tax", "12.5", "JP", inclusive=True, start=SUMMER),
    TaxRule("GST", "6.015", "CA", start=SPRING),
    TaxRule("IGST", "12", "IN", excluded=("Karnataka",), start=SPRING),
)
COUPONS = (
    Coupon("TENTH", percent="10"),
    Coupon("THIRD", percent="33.333333", times=3),
    Coupon("EVER", percent="2.5", times=None),
    *(Coupon(f"OFF-{code}", fixed=size * 37 + 1, currency=code, times=4) for code, size in SIZE.items()),
    *(Coupon(f"ALWAYS-{code}", fixed=size * 3 + 1, currency=code, times=None) for code, size in SIZE.items()),
)


def firm() -> Firm:
    """The firm with all its clients."""
    by_rate_from = datetime(2027, 12, 27, 12, tzinfo=UTC)
    clients = (*rare_clients(), *(thrown(number) for number in range(36)))
    return Firm("Europe/Berlin", _ended(TAXES), COUPONS, by_rate_from, clients=clients)


def _ended(rules: tuple[TaxRule, ...]) -> tuple[TaxRule, ...]:
    """A rate ends where the next one of its name, place and category begins."""
    result = []
    for rule in rules:
        place = (rule.name, rule.country, rule.region, rule.category)
        later = [
            other.start
            for other in rules
            if (other.name, other.country, other.region, other.category) == place and other.start is not None
        ]
        end = next((start for start in later if rule.start is None or start > rule.start), None)
        result.append(TaxRule(**{**rule.__dict__, "end": end}))
    return tuple(result)
