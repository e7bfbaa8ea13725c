"""Clients of the golden firm made by hand, for what a die seldom throws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from random import Random

from tests.integration.billing.golden.dice import work_of
from tests.integration.billing.golden.facts import (
    Agreement,
    Applies,
    Discount,
    Ends,
    Grants,
    Hours,
    Invoices,
    Item,
    Notes,
    Pays,
    Redeems,
    Renewal,
    Reprices,
    RoleRate,
    Scene,
    Voids,
)
from tests.integration.billing.golden.fees import Terms


def rare_clients() -> tuple[Scene, ...]:
    """All of them."""
    return (
        *_renewed(), _paused(), _returned(), _leap_year(), _repriced(), _credit_by_hand(), _order_of_credit(), *_credit_that_comes_back(),
    )  # fmt: skip


def _monthly(start: date, fee: int, end: date | None = None, **fields: str) -> Terms:
    """A monthly fee in advance, on the first."""
    terms = Terms(start, end, "MONTHLY", "CALENDAR", "IN_ADVANCE", "PRORATE", "DAY", "ACTUAL", fee)
    return Terms(**{**terms.__dict__, **fields})


def _renewed() -> Iterator[Scene]:
    """Half-years from a month's end, each seven percent dearer; included hours end with each."""
    for name, currency, fee, price, grouping in (
        ("Renewed", "USD", 123_457, "61.3333", "ROLE"),
        ("Renewed in yen", "JPY", 77_777, "5432.1", "PERSON"),
    ):
        terms = _monthly(date(2027, 1, 31), fee, date(2027, 7, 31), anchor="START_DATE")
        hours = Hours(price, increment=6, included=400, rollover=3, grouping=grouping)
        work = tuple(work_of(Random(name), replace(terms, end=None)))
        events = (Redeems(date(2027, 1, 7), "EVER"), Redeems(date(2027, 3, 7), "TENTH"), Voids(date(2027, 4, 7), -1))
        yield Scene(name, currency, (Agreement("care", "MIXED", terms, hours, Renewal(20, 6, 7), work),), events, "CA")


def _paused() -> Scene:
    """It ends in the middle of a period, by the seconds of the day on which the clocks change, and goes on from there."""
    terms = _monthly(date(2027, 1, 12), 700_001, unit="SECOND")
    events = (Ends(date(2027, 10, 17), "paused", date(2027, 10, 31)), Ends(date(2028, 2, 27), "paused", None))
    return Scene("Paused", "KWD", (Agreement("paused", "PACKAGE", terms),), events, "KW")


def _returned() -> Scene:
    """An invoice that is credited piece by piece, until nothing is left and more is refused."""
    items = (
        Item("33.335", "3"), Item("0.005", "7", "reduced"), Item("19.99", "4", discounts=(Discount("Part", "12.5"),)),
    )  # fmt: skip
    return Scene("Returned", "EUR", (), (
        Invoices(date(2027, 2, 7), items, (Discount("Amount", fixed=1_111),)),
        Notes(date(2027, 2, 17), 0, lines=((1, 1), (3, 3)), by_quantity=True),
        Notes(date(2027, 2, 27), 0, lines=((1, 1), (2, 7)), by_quantity=True),
        Notes(date(2027, 3, 7), 0, lines=((1, 9),), by_quantity=True),
        Pays(date(2027, 3, 17), 0, 100_000),
        Notes(date(2027, 3, 27), 0, permille=77),
        Notes(date(2027, 4, 7), 0, "REFUND_PAYABLE"),
        Notes(date(2027, 4, 17), 0),
    ), "CA")  # fmt: skip


def _leap_year() -> Scene:
    """Years from a leap day on, three of them missed when the firm begins."""
    terms = Terms(date(2024, 2, 29), None, "YEARLY", "START_DATE", "IN_ARREARS", "PRORATE", "DAY", "ACTUAL", 9_999_999)
    hours = Hours("1234.5678", increment=15, included=1_500, rollover=1, grouping="ENTRY")
    care = Agreement("years", "MIXED", terms, hours, work=tuple(work_of(Random("leap year"), terms)))
    return Scene("Leap year", "INR", (care,), (Redeems(date(2027, 1, 7), "THIRD"),), "IN", "Karnataka")


def _repriced() -> Scene:
    """New terms of time in the middle of a month, for all that is not billed yet."""
    terms = _monthly(date(2027, 1, 4), 0, timing="IN_ARREARS")
    before = Hours("7.77777", increment=6)
    after = Hours(
        "8.88888", (RoleRate("junior", "5.55555"),), increment=15, rounding="NEAREST", grouping="PERSON", period_cap=20_000
    )  # fmt: skip
    work = tuple(work_of(Random("repriced"), terms))
    events = (Reprices(date(2027, 8, 17), "advice", after), Reprices(date(2028, 5, 7), "advice", before))
    return Scene("Repriced", "KWD", (Agreement("advice", "HOURLY", terms, before, work=work),), events, "KW")


def _credit_by_hand() -> Scene:
    """Nothing of its credit is used unless somebody says so."""
    terms = _monthly(date(2027, 2, 1), 30_000)
    return Scene("Credit by hand", "EUR", (Agreement("fee", "PACKAGE", terms),), (
        Grants(date(2027, 2, 7), "GOODWILL", 50_001),
        Grants(date(2027, 2, 17), "PROMOTION", 20_000, 10),
        Applies(date(2027, 3, 17), 1),
        Applies(date(2027, 3, 27), 1),
        Applies(date(2027, 4, 17), 0),
        Applies(date(2027, 4, 27), 2),
        Voids(date(2027, 5, 7), 2),
        Applies(date(2027, 5, 17), -1),
    ), "DE", uses_credit=False)  # fmt: skip


def _order_of_credit() -> Scene:
    """By priority, then expiry (none last), then age; gone at the very instant of a run, or used a second before."""
    terms = _monthly(date(2027, 2, 1), 10_000)
    given = date(2027, 2, 7)
    return Scene("Order of credit", "USD", (Agreement("fee", "PACKAGE", terms),), (
        Grants(given, "GOODWILL", 4_001, 50),
        Grants(given, "PROMOTION", 4_002, 50, datetime(2027, 8, 1, tzinfo=UTC)),
        Grants(given, "PREPAYMENT", 4_003, 50, datetime(2027, 6, 30, tzinfo=UTC)),
        Grants(given, "PREPAYMENT", 4_004, 50),
        Grants(given, "PROMOTION", 2_005, 1, datetime(2027, 3, 1, 1, tzinfo=UTC)),
        Grants(given, "PROMOTION", 2_006, 1, datetime(2027, 3, 1, 1, 0, 1, tzinfo=UTC)),
        Grants(given, "GOODWILL", 1_007, 90, datetime(2027, 4, 2, tzinfo=UTC)),
        Grants(date(2027, 2, 17), "DISPUTE_ADJUSTMENT", 3_008, 50, datetime(2027, 6, 30, tzinfo=UTC)),
        Grants(date(2027, 2, 17), "GOODWILL", 1_009, 0),
        Notes(date(2027, 3, 7), 1, permille=333),
        Notes(date(2027, 3, 17), 1, permille=333),
        Voids(date(2027, 4, 17), 2),
    ))  # fmt: skip


def _credit_that_comes_back() -> Iterator[Scene]:
    """Credit pays a part of an invoice, expires, and comes back when the invoice is voided, with the days that it had left."""
    for currency, fee, expires in (
        ("JPY", 50_000, date(2027, 3, 10)),
        ("KWD", 900_009, date(2028, 2, 29)),
        ("INR", 4_000_000, date(2027, 3, 1)),
    ):
        given = expires.replace(month=expires.month - 1, day=17 if expires.day == 1 else 7)
        voided = expires.replace(month=3, day=17)
        terms = _monthly(date(2027, 2, 1), fee)
        events = (
            Grants(given, "PROMOTION", fee // 3, 50, datetime(expires.year, expires.month, expires.day, 9, tzinfo=UTC)),
            Grants(given, "GOODWILL", fee // 7, 50),
            Voids(voided, -1),
        )
        yield Scene(f"Back in {currency}", currency, (Agreement("fee", "PACKAGE", terms),), events, "BR")
