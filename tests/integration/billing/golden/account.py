"""A client's two years on paper: what each day's run bills, what happens besides, and the account that comes of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

from tests.integration.billing.golden import facts, prices
from tests.integration.billing.golden.arithmetic import major, minor, nearest
from tests.integration.billing.golden.credit import Purse
from tests.integration.billing.golden.fees import ONE_DAY, Charge, Terms, charges, full_periods, shifted
from tests.integration.billing.golden.hours import CAP, TimeBill, TimeLine, TimeSheet
from tests.integration.billing.golden.notes import Left, Part
from tests.integration.billing.golden.prices import Held, Line, Reduction

CLOSED, TOO_MUCH, TOO_LITTLE, MISSING, NOTHING = (
    "STATE_CONFLICT", "CREDIT_NOTE_EXCEEDS_INVOICE", "CREDIT_INSUFFICIENT", "RESOURCE_NOT_FOUND", "FIELD_INVALID",
)  # fmt: skip
"""What the server answers where the paper says that something cannot be done."""


@dataclass
class Paper:
    """An invoice, and what became of it. `engagement` is the term's name where a run billed it."""

    issued: date
    payable: date
    engagement: str
    lines: list[Line]
    reductions: list[Reduction]
    credit_at_issue: list[int]
    times: list[tuple[str, TimeBill]]
    left: Left
    covers: tuple[tuple[date, date], ...] = ()
    credited: int = 0
    noted: int = 0
    received: int = 0
    given_back: int = 0
    void: bool = False

    @property
    def total(self) -> int:
        """What it asks for."""
        return sum(line.reduced + line.tax - line.tax_inside for line in self.lines)

    @property
    def due(self) -> int:
        """What is still owed of it."""
        return 0 if self.void else self.unpaid

    @property
    def unpaid(self) -> int:
        """Its total, less what settled it."""
        return self.total - self.credited - self.noted - (self.received - self.given_back)


@dataclass(frozen=True)
class Note:
    """A credit note: its parts, and what became of its amount."""

    issued: date
    invoice: int
    parts: tuple[Part, ...]
    applied: int
    credit: int
    released: int
    payable: int


@dataclass(frozen=True)
class Movement:
    """A line of the account: on what is owed (positive: more is), or on credit held (positive: more is held)."""

    account: str
    day: date
    word: str
    amount: int


@dataclass
class Term:
    """One term of an agreement. Everything before `billed` has been, but for `gaps`, whose invoices were voided; edges up to `seen` have been
    looked at; `again`: looked at from that day on in any case, for an invoice was voided, or it goes on."""

    name: str
    agreement: facts.Agreement
    terms: Terms
    time: TimeSheet
    billed: date
    seen: date | None = None
    again: date | None = None
    gaps: list[tuple[date, date]] = field(default_factory=list)
    last: date = date.max
    known: tuple[Terms, list[date]] | None = None

    def edges(self, until: date) -> list[date]:
        """The days on which something falls due: the first, the edges of periods, the last."""
        if self.known is None or self.known[0] != self.terms:
            inner: list[date] = []
            if self.terms.interval != "ONE_TIME":
                inner = [low for low, _ in full_periods(self.terms, self.last + ONE_DAY) if low > self.terms.start]
            end = [] if self.terms.end is None else [self.terms.end]
            days = [self.terms.start, *(day for day in inner if not end or day < end[0]), *end]
            self.known = self.terms, days
        return self.known[1][: bisect_right(self.known[1], until)]

    def is_due(self, today: date) -> bool:
        """Whether a run looks at it: an edge has come, an invoice was voided, or time came in after the end."""
        edges = self.edges(today)
        over = self.terms.end is not None and self.terms.end <= today
        is_new = bool(edges) and (self.seen is None or edges[-1] > self.seen)
        return is_new or (self.again is not None and self.again <= today) or (over and bool(self.time.waiting))


@dataclass
class Account:
    """One client."""

    firm: facts.Firm
    scene: facts.Scene
    zone: ZoneInfo
    last: date
    terms: list[Term] = field(default_factory=list)
    papers: list[Paper] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    movements: list[Movement] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
    purse: Purse = field(default_factory=Purse)
    coupons: list[Held] = field(default_factory=list)

    def __post_init__(self) -> None:
        for agreement in self.scene.agreements:
            for number, terms in enumerate(_chain(agreement, self.last)):
                hours = agreement.hours or facts.Hours("0")
                time = TimeSheet(agreement.mode, terms, hours, self.scene.currency)
                self.terms.append(
                    Term(f"{agreement.name}#{number}", agreement, terms, time, terms.start, last=self.last)
                )

    # Days

    def run(self, now: datetime, order: Sequence[str]) -> None:
        """The firm's run of a day. `order` names the terms whose invoices it numbered, in the order of the numbers."""
        today, first = now.date(), len(self.papers)
        due = [term for term in self.terms if term.is_due(today)]
        due.sort(key=lambda term: order.index(term.name) if term.name in order else len(order))
        for term in due:
            self._bill(term, now)
        for number in range(first, len(self.papers)):
            self._move("owed", now, f"Invoice {number}", self.papers[number].total)
        for number in range(first, len(self.papers)):
            for amount in self.papers[number].credit_at_issue:
                self._applied(amount, now)

    def look(self, now: datetime) -> None:
        """The daily marks: credit whose time is over is gone."""
        for amount in self.purse.expire(now):
            self._move("credit", now, "Credit expired", -amount)

    def _bill(self, term: Term, now: datetime) -> None:
        today = now.date()
        term.seen, term.again = today, None
        lines: list[Line] = []
        fees = self._fees(term, today) if term.agreement.mode != "HOURLY" else []
        for charge in fees:
            price = major(charge.amount, self.scene.currency)
            lines.append(Line("PACKAGE", charge.start, charge.end, Fraction(1), price, charge.amount, term.name))
        covers = tuple((charge.start, charge.end) for charge in fees)
        times = []
        over = term.terms.end is not None and term.terms.end <= today
        edges = [day for day in term.edges(today) if day > term.terms.start]
        if term.agreement.mode != "PACKAGE" and (over or edges):
            bill = term.time.bill(edges[-1], everything=over)
            times = [(term.name, bill)] if bill.lines else []
        if lines or times:
            self._issue(now, term.name, lines, times, covers=covers)

    def _fees(self, term: Term, today: date) -> list[Charge]:
        """What of the fees is due: what was given up by voids, then what is new."""
        fees = []
        for begin, end in sorted(term.gaps):
            fees += [one for one in charges(term.terms, today, self.zone, begin) if one.end <= end]
        term.gaps = []
        new = charges(term.terms, today, self.zone, term.billed)
        term.billed = new[-1].end if new else term.billed
        return fees + new

    def _issue(
        self, now: datetime, engagement: str, lines: list[Line], times: list[tuple[str, TimeBill]], *, covers: tuple[tuple[date, date], ...] = (),
        given: Sequence[facts.Discount] = (),
    ) -> None:  # fmt: skip
        """An invoice: fees, then time, then what is given; discounts, taxes, credit."""
        worked = [_time_line(name, line) for name, bill in times for line in bill.lines]
        lines = [*lines, *worked] if engagement else [*worked, *lines]
        # What is above the caps comes off before all else.
        reductions = [Reduction(CAP, number, line.discount) for number, line in enumerate(lines, 1) if line.discount]
        reductions += prices.discount(lines, given, self.coupons, self.scene.currency)
        self._tax(lines, now)
        days = self.firm.payable_after if self.scene.payable_after is None else self.scene.payable_after
        issued = now.date()
        paper = Paper(issued, issued + days * ONE_DAY, engagement, lines, reductions, [], times, Left(lines), covers)
        if self.scene.uses_credit:
            paper.credit_at_issue = self.purse.pay(len(self.papers), paper.total, now)
            paper.credited = sum(paper.credit_at_issue)
        self.papers.append(paper)

    def _tax(self, lines: Sequence[Line], now: datetime) -> None:
        scene = self.scene
        if scene.status == "EXEMPT":
            return
        if scene.status == "REVERSE_CHARGE":
            prices.reverse_charge(lines)
            return
        rules = [
            prices.applicable(self.firm.taxes, scene.country, scene.region, line.category, now.date()) for line in lines
        ]
        if now >= self.firm.by_rate_from:
            prices.tax_by_rate(lines, rules)
            return
        for line, of_line in zip(lines, rules, strict=True):
            prices.tax_by_line(line, of_line)

    # Events

    def happens(self, number: int, event: facts.Event, now: datetime) -> None:
        """One event; what cannot be done is noted with its number."""
        many, about = len(self.papers), facts.Applies | facts.Pays | facts.Notes | facts.Voids
        if isinstance(event, about) and not -many <= event.invoice < many:
            self.refused.append((number, MISSING))
            return
        match event:
            case facts.Redeems():
                coupon = next(one for one in self.firm.coupons if one.code == event.code)
                self.coupons.append(Held(coupon, event.agreement and f"{event.agreement}#0", coupon.times))
            case facts.Grants():
                self.purse.give(event.kind, event.amount, now, event.priority, event.expires)
                self._move("credit", now, "Credit granted", event.amount)
            case facts.TakesBack():
                self._take_back(number, event, now)
            case facts.Invoices():
                self._by_hand(event, now)
            case facts.Applies():
                self._apply(number, event, now)
            case facts.Pays():
                self._pay(event, now)
            case facts.Notes():
                self._note(number, event, now)
            case facts.Voids():
                self._void(number, event, now)
            case facts.Ends():
                self._end(event)
            case facts.Reprices():
                self._term(event.agreement).time.hours = event.hours

    def approve(self, agreement: str, work: facts.Worked) -> None:
        """Time is approved, in the term that it was worked in."""
        mine = [term for term in self.terms if term.agreement.name == agreement]
        term = next(one for one in mine if one.terms.end is None or work.day < one.terms.end)
        term.time.waiting.append(work)

    def _term(self, agreement: str) -> Term:
        return next(term for term in self.terms if term.agreement.name == agreement)

    def _end(self, event: facts.Ends) -> None:
        term = self._term(event.agreement)
        term.terms = term.time.terms = Terms(**{**term.terms.__dict__, "end": event.end})
        if event.end is None and term.agreement.mode != "HOURLY" and term.terms.timing == "IN_ADVANCE":
            term.again = event.day

    def _take_back(self, number: int, event: facts.TakesBack, now: datetime) -> None:
        if self.purse.entries[event.entry].kind in ("OVERPAYMENT", "REFUND_TO_CREDIT"):
            self.refused.append((number, CLOSED))
            return
        taken = self.purse.take_back(event.entry, event.amount, now)
        self._move("credit", now, "Credit reversed", -taken)
        if not taken:
            self.refused.append((number, TOO_LITTLE))

    def _by_hand(self, event: facts.Invoices, now: datetime) -> None:
        currency = self.scene.currency
        lines = [
            Line("ITEM", None, None, Fraction(item.quantity), Fraction(item.price),
                 nearest(minor(Fraction(item.price) * Fraction(item.quantity), currency)), "", item.category, item.discounts)
            for item in event.items
        ]  # fmt: skip
        times = []
        if event.time_through is not None:
            for term in self.terms:
                if term.agreement.mode != "PACKAGE":
                    times.append((term.name, term.time.bill(event.time_through + ONE_DAY)))
        self._issue(now, "", lines, [each for each in times if each[1].lines], given=event.discounts)
        paper = self.papers[-1]
        self._move("owed", now, f"Invoice {len(self.papers) - 1}", paper.total)
        for amount in paper.credit_at_issue:
            self._applied(amount, now)

    def _apply(self, number: int, event: facts.Applies, now: datetime) -> None:
        index, paper = self._paper(event.invoice)
        if paper.void or not paper.due:
            self.refused.append((number, CLOSED))
            return
        amounts = self.purse.pay(index, paper.due, now)
        if not amounts:
            self.refused.append((number, TOO_LITTLE))
        for amount in amounts:
            paper.credited += amount
            self._applied(amount, now)

    def _pay(self, event: facts.Pays, now: datetime) -> None:
        _, paper = self._paper(event.invoice)
        taken = min(event.amount, paper.due)
        paper.received += taken
        self._move("owed", now, "Payment", -taken)
        self._move("credit", now, "Payment", event.amount - taken)
        self.purse.give("OVERPAYMENT", event.amount - taken, now)

    def _note(self, number: int, event: facts.Notes, now: datetime) -> None:
        index, paper = self._paper(event.invoice)
        of = [paper.lines[line - 1].amount for line, _ in event.lines] if not event.by_quantity else []
        asked = [amount * permille // 1000 for amount, (_, permille) in zip(of, event.lines, strict=False)]
        if 0 in asked or (event.permille is not None and paper.total * event.permille // 1000 == 0):
            self.refused.append((number, NOTHING))
            return
        if paper.void:
            self.refused.append((number, CLOSED))
            return
        parts = [part for part in self._parts(paper, event) if part.amount or part.total]
        total = sum(part.total for part in parts)
        if total == 0:
            self.refused.append((number, TOO_MUCH))
            return
        paper.left.take(parts)
        self._settle(index, event, tuple(parts), total, now)

    def _parts(self, paper: Paper, event: facts.Notes) -> list[Part]:
        """What a note is over; nothing where it asks for more than is left."""
        left = paper.left
        if event.by_quantity:
            is_there = all(many <= left.quantity_left(line) for line, many in event.lines)
            return [left.over_quantity(line, Fraction(many)) for line, many in event.lines] if is_there else []
        if event.lines:
            amounts = [(line, paper.lines[line - 1].amount * permille // 1000) for line, permille in event.lines]
            is_there = all(amount <= left.parts[line - 1].amount for line, amount in amounts)
            return [left.over_line(line, amount) for line, amount in amounts] if is_there else []
        if event.permille is None:
            return left.everything()
        wanted = paper.total * event.permille // 1000
        return left.over_total(wanted) if 0 < wanted <= left.total else []

    def _settle(self, index: int, event: facts.Notes, parts: tuple[Part, ...], total: int, now: datetime) -> None:
        """What is still owed goes first; then money that was paid becomes credit, or is to be paid back; then credit goes back."""
        paper = self.papers[index]
        applied = min(total, paper.due)
        money = min(total - applied, paper.received - paper.given_back)
        released = total - applied - money
        credit = money if event.excess == "CREDIT" else 0
        for amount in self.purse.give_back(index, released, now) if released else []:
            self._move("owed", now, "Credit reversed", amount)
            self._move("credit", now, "Credit reversed", amount)
        paper.credited -= released
        paper.noted += total
        paper.given_back += money
        self._move("owed", now, f"Credit note {len(self.notes)}", -(applied + released))
        self._move("credit", now, f"Credit note {len(self.notes)}", credit)
        self.purse.give("REFUND_TO_CREDIT", credit, now)
        self.notes.append(Note(now.date(), index, parts, applied, credit, released, money - credit))

    def _void(self, number: int, event: facts.Voids, now: datetime) -> None:
        """Only what is owed, was never paid and has no credit note; then it is as if it had not been."""
        index, paper = self._paper(event.invoice)
        if paper.void or not paper.due or paper.received or paper.noted:
            self.refused.append((number, CLOSED))
            return
        total = paper.total
        if paper.credited:
            for amount in self.purse.give_back(index, paper.credited, now):
                self._move("owed", now, "Credit reversed", amount)
                self._move("credit", now, "Credit reversed", amount)
        paper.void, paper.credited = True, 0
        self._move("owed", now, f"Invoice {index} voided", -total)
        for reduction in paper.reductions:
            if reduction.held is not None and reduction.held.left is not None:
                reduction.held.left += 1
        by_name = {term.name: term for term in self.terms}
        for name, bill in paper.times:
            by_name[name].time.give_back(bill)
            by_name[name].again = min(by_name[name].time.period(start).end for start in bill.charged)
        for begin, end in reversed(paper.covers):
            term = by_name[paper.engagement]
            term.again = begin
            if end == term.billed:
                term.billed = begin
            else:
                term.gaps.append((begin, end))

    def _paper(self, which: int) -> tuple[int, Paper]:
        index = which if which >= 0 else len(self.papers) + which
        return index, self.papers[index]

    def _applied(self, amount: int, now: datetime) -> None:
        self._move("owed", now, "Credit applied", -amount)
        self._move("credit", now, "Credit applied", -amount)

    def _move(self, account: str, now: datetime, word: str, amount: int) -> None:
        if amount:
            self.movements.append(Movement(account, now.astimezone(self.zone).date(), word, amount))


def _chain(agreement: facts.Agreement, last: date) -> list[Terms]:
    """The agreement's terms: each begins the day the one before ends, its fee dearer, its periods on the same day of month."""
    first, chain = agreement.terms, [agreement.terms]
    if agreement.renewal is None:
        return chain
    while (end := chain[-1].end) is not None and end <= last:
        aim = first.aim or first.start.day
        fee = nearest(chain[-1].fee * Fraction(100 + agreement.renewal.percent, 100))
        following = {"start": end, "end": shifted(end, agreement.renewal.months, aim), "fee": fee, "aim": aim}
        chain.append(Terms(**{**chain[-1].__dict__, **following}))
    return chain


def _time_line(name: str, line: TimeLine) -> Line:
    hours = Fraction(nearest(Fraction(line.minutes, 60) * 10**6), 10**6)
    return Line(line.kind, line.start, line.end, hours, line.price, line.amount, name, discount=line.capped)
