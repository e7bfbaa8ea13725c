"""Clients of the golden firm made by a seeded die, over every kind of agreement and of event."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import count
from random import Random

from tests.integration.billing.golden.facts import (
    Agreement,
    Discount,
    Event,
    Excess,
    Grants,
    Hours,
    Invoices,
    Item,
    Notes,
    Pays,
    Redeems,
    RoleRate,
    Scene,
    TakesBack,
    Voids,
    Worked,
)
from tests.integration.billing.golden.fees import ONE_DAY, Terms

LAST = date(2028, 12, 31)
PLACES = (
    ("DE", "", "TAXABLE"), ("IN", "Karnataka", "TAXABLE"), ("JP", "", "TAXABLE"), ("", "", "TAXABLE"), ("CA", "", "TAXABLE"),
    ("BR", "", "TAXABLE"), ("IN", "Kerala", "TAXABLE"), ("DE", "", "EXEMPT"), ("FR", "", "REVERSE_CHARGE"), ("KW", "", "TAXABLE"),
)  # fmt: skip
CURRENCIES = ("USD", "JPY", "EUR", "KWD", "INR")
SIZE = {"USD": 100, "JPY": 100, "EUR": 100, "KWD": 300, "INR": 7_000}
"""What a thing of one unit of work costs, in minor units."""
STARTS = (
    date(2027, 1, 4), date(2027, 1, 31), date(2027, 2, 28), date(2027, 3, 28), date(2026, 12, 31), date(2027, 5, 15), date(2026, 11, 30),
    date(2028, 2, 29), date(2027, 10, 31),
)  # fmt: skip
ENDS = (None, date(2028, 11, 3), None, date(2028, 2, 29), date(2028, 10, 29), None, date(2028, 8, 31))
STOPS = tuple(date(year, month, day) for year in (2027, 2028) for month in range(1, 13) for day in (7, 17, 27))
"""Days on which things happen; some happen on others besides."""


def thrown(number: int) -> Scene:
    """A client of one or two agreements. What turns with the number turns at different speeds, so that kinds meet in many ways."""
    die = Random(f"golden client {number}")
    currency = CURRENCIES[number % len(CURRENCIES)]
    country, region, status = PLACES[(number * 3 + number // 5) % len(PLACES)]
    first = _agreement(die, number, "first", currency)
    agreements = (first, _agreement(die, number + 7, "second", currency)) if number % 4 == 1 else (first,)
    return Scene(
        f"Client {number:02}", currency, agreements, tuple(sorted(_events(die, number, currency, first), key=lambda each: each.day)),
        country, region, status, "FR40303265045" if status == "REVERSE_CHARGE" else None, payable_after=None if number % 3 else 10 + number,
    )  # fmt: skip


def _agreement(die: Random, number: int, name: str, currency: str) -> Agreement:
    mode = ("HOURLY", "MIXED", "PACKAGE")[number % 3] if number % 5 else "MIXED"
    interval = ("MONTHLY", "QUARTERLY", "MONTHLY", "WEEKLY", "HALF_YEARLY", "MONTHLY", "YEARLY", "ONE_TIME")[number % 8]
    start, end = STARTS[number % len(STARTS)], ENDS[number % len(ENDS)]
    if end is not None and end <= start:
        end = None
    if interval == "ONE_TIME" and end is None:
        end = date(2028, 6, 30)
    anchor = ("CALENDAR", "START_DATE")[number // 2 % 2]
    timing = "IN_ARREARS" if mode == "HOURLY" else ("IN_ADVANCE", "IN_ARREARS")[number // 3 % 2]
    partial = "FULL" if number % 11 == 3 else "PRORATE"
    fixed_30 = number % 6 == 4 and not (anchor == "START_DATE" and start.day > 28)
    unit = "SECOND" if number % 7 == 2 else "DAY"
    fee = 0 if mode == "HOURLY" else SIZE[currency] * die.randrange(200, 900) + die.randrange(100)
    terms = Terms(start, end, interval, anchor, timing, partial, unit, "FIXED_30" if fixed_30 else "ACTUAL", fee)
    if mode == "PACKAGE":
        return Agreement(name, mode, terms)
    return Agreement(name, mode, terms, _hours(die, number, mode, currency), work=tuple(work_of(die, terms)))


def _price(die: Random, currency: str) -> str:
    """An hour's price in major units, often finer than a minor unit."""
    size = SIZE[currency] * die.randrange(400, 2_000) + die.randrange(100)
    decimals = {"JPY": 2, "KWD": 5}.get(currency, 4)
    return f"{size / 10**decimals:.{decimals}f}"


def _hours(die: Random, number: int, mode: str, currency: str) -> Hours:
    change = date(2027, die.randrange(3, 12), die.randrange(2, 28))
    rates = (
        RoleRate("partner", _price(die, currency), None, change),
        RoleRate("partner", _price(die, currency), change, date(2028, 5, 20)),
        RoleRate("junior", _price(die, currency), change, None),
    )
    size = SIZE[currency]
    return Hours(
        _price(die, currency), rates if number % 4 else (),
        increment=(1, 6, 15, 10, 7)[number % 5], rounding=("UP", "NEAREST", "DOWN")[number // 2 % 3],
        grouping=("ROLE", "ENTRY", "PERSON")[number // 3 % 3],
        included=(300, 600, 125)[number % 3] if mode == "MIXED" else 0, rollover=(0, 1, 2, 4)[number // 3 % 4] if mode == "MIXED" else 0,
        period_cap=size * die.randrange(20, 120) if number % 4 == 2 else None,
        total_cap=size * die.randrange(300, 1500) if number % 7 == 5 else None,
    )  # fmt: skip


def work_of(die: Random, terms: Terms) -> Iterator[Worked]:
    """Work under these terms. Some work in most weeks, on any days of them; most is approved soon, some late, some after months."""
    numbers = count(1)
    begin, end = terms.start, min(terms.end or LAST, date(2028, 12, 10))
    work = []
    while begin < end:
        for _ in range(die.choice((0, 1, 1, 2, 3))):
            day = begin + die.randrange(7) * ONE_DAY
            if day >= end:
                continue
            lag = die.choice((0, 0, 2, 5, 12, 12, 30, 75)) * ONE_DAY
            goes_in = next((stop for stop in STOPS if stop >= day + lag), STOPS[-1])
            minutes = die.choice((die.randrange(1, 60), die.randrange(30, 300), 60, 7))
            down = die.choice((0, 0, 0, 0, 0, minutes, minutes // 3))
            price = die.choice((None, None, None, None, "77.7775"))
            work.append(
                Worked(
                    goes_in,
                    0,
                    day,
                    minutes,
                    die.choice(("Ada", "Eve", "Bo")),
                    die.choice((None, "partner", "junior")),
                    price,
                    down,
                )
            )
        begin += 7 * ONE_DAY
    for each in sorted(work, key=lambda one: one.goes_in):
        yield Worked(**{**each.__dict__, "number": next(numbers)})


def _events(die: Random, number: int, currency: str, first: Agreement) -> Iterator[Event]:
    """What happens to a client, in no order."""
    size = SIZE[currency]
    wanted = {
        1: ("EVER", f"OFF-{currency}"),
        2: (f"ALWAYS-{currency}", "THIRD"),
        3: ("TENTH", "EVER"),
        5: ("THIRD",),
    }.get(number % 6, ())
    for code in wanted:
        of = first.name if code == "THIRD" and number % 2 else None
        yield Redeems(die.choice(STOPS[:20]), code, of)
    if number % 3 == 0 or number % 4 == 1:
        yield from _grants(die, size)
    for day in die.sample(STOPS[2:], 5):
        items = tuple(_item(die, size, currency) for _ in range(die.randrange(1, 5)))
        given = tuple(_given(die, size) for _ in range(die.choice((0, 0, 1, 2))))
        through = day - ONE_DAY * die.randrange(20) if die.random() < 0.4 else None
        yield Invoices(day, items, given, through)
    for day in die.sample(STOPS[4:], 4):
        yield Pays(day, -die.choice((1, 1, 2)), size * die.randrange(5, 1_500) + die.randrange(100))
    excesses: tuple[Excess, ...] = ("CREDIT", "REFUND_PAYABLE")
    for day in die.sample(STOPS[6:], 5):
        how = die.randrange(3)
        permille, lines = (
            (die.randrange(1, 600) if how == 0 else None),
            (((1, die.randrange(1, 700)),) if how == 1 else ()),
        )
        yield Notes(day, -1, die.choice(excesses), permille, lines)
    for day in die.sample(STOPS[3:], 2):
        yield Voids(day, -1)


def _grants(die: Random, size: int) -> Iterator[Event]:
    """Credit of every kind that is given, with and without an expiry: at the hour of a run, a second after, at noon."""
    moments = (time(1), time(1, 0, 1), time(0), time(12))
    kinds = ("GOODWILL", "PROMOTION", "PREPAYMENT", "DISPUTE_ADJUSTMENT")
    for day in die.sample(STOPS[:60], 6):
        later = day + timedelta(days=die.choice((10, 45, 100, 300)))
        later = later.replace(day=die.choice((1, later.day)))
        expires = datetime.combine(later, die.choice(moments), UTC) if die.random() < 0.6 and later > day else None
        yield Grants(day, die.choice(kinds), size * die.randrange(10, 700) + 1, die.choice((10, 50, 50, 90)), expires)
    yield TakesBack(STOPS[65], 0)
    yield TakesBack(STOPS[66], 1, 1)


def _item(die: Random, size: int, currency: str) -> Item:
    quantity = die.choice(("1", "3", "2.5", "0.333"))
    category = die.choice(("standard", "standard", "reduced"))
    discounts = tuple(_given(die, size) for _ in range(die.choice((0, 0, 0, 1, 2))))
    return Item(_price(die, currency), quantity, category, discounts)


def _given(die: Random, size: int) -> Discount:
    if die.random() < 0.5:
        return Discount("Part", percent=die.choice(("12.5", "50", "1.234567")))
    return Discount("Amount", fixed=size * die.randrange(1, 60) + 1)
