"""The golden firm on the server: opened, and everything that happens done by the use cases of production."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.billing.coupons import CouponDuration
from dunwell_server.billing.discounts import DiscountInput
from dunwell_server.billing.lines import LineInput
from dunwell_server.billing.model import (
    AutoRenew,
    BillingAnchor,
    BillingInterval,
    BillingTiming,
    Client,
    Engagement,
    HourlyTerms,
    PartialPeriods,
    PricingMode,
    RoleRate,
    TaxStatus,
    TimeGrouping,
    TimeRounding,
)
from dunwell_server.billing.model.credit import CreditKind
from dunwell_server.billing.model.credit_notes import Excess
from dunwell_server.billing.service import (
    closing,
    coupons,
    credit,
    credit_notes,
    engagements,
    invoices,
    renewals,
    tax_rates,
    time_entries,
)
from dunwell_server.billing.service.credit_notes import LineOrder, NoteOrder
from dunwell_server.billing.service.time_billing import TimeSource
from dunwell_server.billing.store.coupons import NewCoupon
from dunwell_server.billing.store.tax_rates import NewTaxRate, StoredTaxRate
from dunwell_server.billing.taxes import TaxBehavior
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.ids import uuid7
from dunwell_server.kernel.money import Money
from dunwell_server.kernel.proration import DayCount, ProrationPolicy, ProrationUnit
from dunwell_server.payments.model import Allocation
from dunwell_server.payments.service.manual import record_manual
from tests import support
from tests.integration.billing.book import Book
from tests.integration.billing.golden import facts
from tests.integration.billing.golden.fees import ONE_DAY, Terms
from tests.integration.billing.timebook import as_person, entries, ids


@dataclass
class World:
    """A firm and what was opened in it. Terms of an agreement are named `name#0`, `name#1` and so on."""

    book: Book
    firm: facts.Firm
    clients: dict[str, Client] = field(default_factory=dict)
    terms: dict[tuple[str, str], list[Engagement]] = field(default_factory=lambda: defaultdict(list))
    rates: dict[tuple[str, str, str, str], StoredTaxRate] = field(default_factory=dict)

    async def open(self) -> None:
        """The firm as it is on its first day."""
        await self.tax(None)
        for coupon in self.firm.coupons:
            await self.book.do(coupons.create_coupon, _coupon(coupon))
        for scene in self.firm.clients:
            address = {"country_code": scene.country, "region": scene.region} if scene.country else None
            client = self.clients[scene.name] = await self.book.client(
                name=scene.name, currency_code=scene.currency, address=address, tax_id=scene.tax_id, locale="en",
                tax_status=TaxStatus(scene.status), auto_apply_credit=scene.uses_credit, payment_terms_days=scene.payable_after,
            )  # fmt: skip
            for agreement in scene.agreements:
                made = await self.book.engagement(client, **_engagement(agreement))
                self.terms[scene.name, agreement.name] = [made]

    async def tax(self, day: date | None) -> None:
        """The rates that the firm has from the beginning; or those that it enters on a day, ten days before they begin."""
        for rule in self.firm.taxes:
            if day is None if rule.start is not None else day is not None:
                continue
            if rule.start is not None and day != entered(rule):
                continue
            key = rule.name, rule.country, rule.region, rule.category
            if key in self.rates:
                ending = {"valid_until_date": rule.start}
                await self.book.do(tax_rates.update_tax_rate, self.rates[key].rate.id, ending)
            self.rates[key] = await self.book.do(tax_rates.create_tax_rate, NewTaxRate(
                rule.name, Decimal(rule.percent), rule.country, rule.region, rule.excluded, rule.category,
                TaxBehavior.INCLUSIVE if rule.inclusive else None, rule.start,
            ))  # fmt: skip

    async def round_by_rate(self) -> None:
        """From now on taxes are rounded once for each rate."""
        async with self.book.db.transaction(support.context(None)) as uow:
            await uow.execute(
                "UPDATE control.firm SET settings = jsonb_set(settings, '{tax,rounding}', %s), version = version + 1 WHERE id = %s",
                (Jsonb("RATE"), self.book.context.firm_id),
            )

    async def approve(self, work: Sequence[tuple[str, str, facts.Worked]]) -> None:
        """Time of (client, agreement): entered, submitted, approved by somebody else, written down."""
        if not work:
            return
        new = []
        for client, agreement, each in work:
            engagement = await self._term_on(client, agreement, each.day)
            rate = None if each.price is None else Decimal(each.price)
            new.append(time_entries.NewTimeEntry(
                engagement.id, each.person, each.day, each.minutes, role=each.role, rate=rate
            ))  # fmt: skip
        made = entries(await self.book.do(time_entries.create_time_entries, new))
        entries(await as_person(self.book, "ada").do(time_entries.submit_time_entries, ids(made)))
        entries(await as_person(self.book, "eve").do(time_entries.approve_time_entries, ids(made)))
        down = {entry.id: each.down for entry, (_, _, each) in zip(made, work, strict=True) if each.down}
        if down:
            entries(await self.book.do(time_entries.write_down_time_entries, down, "too long"))

    async def happens(self, scene: facts.Scene, event: facts.Event) -> str | None:
        """One event; the reason where it is refused."""
        try:
            await self._happens(scene, event)
        except DunwellError as error:
            return error.reason.value
        except IndexError:
            return "RESOURCE_NOT_FOUND"  # There is no such invoice yet.
        except _NothingError:
            return "FIELD_INVALID"  # The contract's rules do not let amounts of zero in.
        return None

    async def _happens(self, scene: facts.Scene, event: facts.Event) -> None:
        do, client, currency = self.book.do, self.clients[scene.name], scene.currency
        match event:
            case facts.Redeems():
                of = self.terms[scene.name, event.agreement][0].id if event.agreement else None
                await do(coupons.redeem_coupon, event.code, client.id, of)
            case facts.Grants():
                amount = Money(currency, event.amount)
                await do(
                    credit.grant, credit.Grant(client.id, CreditKind(event.kind), amount, event.priority, event.expires)
                )
            case facts.TakesBack():
                rows = await self.book.sql(
                    "SELECT id FROM credit_entry WHERE client_id = %s ORDER BY create_time, id", client.id
                )
                taken = None if event.amount is None else Money(currency, event.amount)
                await do(credit.reverse_grant, rows[event.entry]["id"], taken)
            case facts.Invoices():
                await do(invoices.create_invoice, _by_hand(client, event, currency), finalize=True)
            case facts.Applies():
                await do(credit.apply, (await self._papers(client))[event.invoice])
            case facts.Pays():
                paid = replace(self.book, context=replace(self.book.context, request_id=uuid7()))
                part = Allocation((await self._papers(client))[event.invoice], event.amount)
                await paid.do(
                    record_manual, client.id, event.amount, currency, method="BANK_TRANSFER", allocations=[part]
                )
            case facts.Notes():
                await do(credit_notes.create_credit_note, await self._note(client, event, currency))
            case facts.Voids():
                await do(closing.void_invoice, (await self._papers(client))[event.invoice])
            case facts.Ends():
                engagement = self.terms[scene.name, event.agreement][0]
                verb = renewals.reopen_engagement if event.end is None else engagements.end_engagement
                await do(verb, engagement.id, event.end)
            case facts.Reprices():
                engagement = self.terms[scene.name, event.agreement][0]
                await do(engagements.update_engagement, engagement.id, {"hourly": _hours(event.hours)})

    async def _papers(self, client: Client) -> list[UUID]:
        """The client's invoices in the order of their numbers."""
        rows = await self.book.sql(
            "SELECT id FROM invoice WHERE client_id = %s ORDER BY issue_date, series_no", client.id
        )
        return [row["id"] for row in rows]

    async def _note(self, client: Client, event: facts.Notes, currency: str) -> NoteOrder:
        invoice = await self.book.get((await self._papers(client))[event.invoice])
        amount = None if event.permille is None else Money(currency, invoice.total * event.permille // 1000)
        if event.by_quantity:
            lines = [LineOrder(number, quantity=Decimal(many)) for number, many in event.lines]
        else:
            amounts = [(number, invoice.lines[number - 1].amount_minor * of // 1000) for number, of in event.lines]
            lines = [LineOrder(number, Money(currency, minor)) for number, minor in amounts]
        if 0 in [given.minor for given in (amount, *(line.amount for line in lines)) if given is not None]:
            raise _NothingError
        return NoteOrder(invoice.id, amount, lines, Excess(event.excess))

    async def _term_on(self, client: str, agreement: str, day: date) -> Engagement:
        """The term that a day lies in."""
        chain = self.terms[client, agreement]
        if chain[0].auto_renew is not None:
            chain = await self.renewed(client, agreement)
        return next(term for term in chain if term.end_date is None or day < term.end_date)

    async def renewed(self, client: str, agreement: str) -> list[Engagement]:
        """All terms of an agreement, in order."""
        chain = self.terms[client, agreement]
        while True:
            last = await self.book.see(engagements.get_engagement, chain[-1].id)
            chain[-1] = last
            if last.renewed_to_id is None:
                return chain
            chain.append(await self.book.see(engagements.get_engagement, last.renewed_to_id))


class _NothingError(Exception):
    """A credit note over nothing."""


def entered(rule: facts.TaxRule) -> date:
    """The day on which the firm enters a rate that begins later."""
    assert rule.start is not None
    return rule.start - 10 * ONE_DAY


def _coupon(coupon: facts.Coupon) -> NewCoupon:
    durations = {None: CouponDuration.FOREVER, 1: CouponDuration.ONCE}
    duration = durations.get(coupon.times, CouponDuration.REPEATING)
    return NewCoupon(
        coupon.code, coupon.code, duration, None if coupon.percent is None else Decimal(coupon.percent), coupon.fixed,
        coupon.currency, coupon.times if duration is CouponDuration.REPEATING else None,
    )  # fmt: skip


def package(terms: Terms) -> dict[str, Any]:
    """What an engagement with these terms is created with."""
    return {
        "start_date": terms.start, "end_date": terms.end, "fee_minor": terms.fee,
        "billing_interval": BillingInterval(terms.interval), "anchor": BillingAnchor(terms.anchor),
        "timing": BillingTiming(terms.timing), "partial_periods": PartialPeriods(terms.partial),
        "proration": ProrationPolicy(ProrationUnit(terms.unit), DayCount(terms.day_count)),
    }  # fmt: skip


def _engagement(agreement: facts.Agreement) -> dict[str, Any]:
    fields = package(agreement.terms)
    fields["pricing_mode"] = PricingMode(agreement.mode)
    if agreement.mode == "HOURLY":
        fields["fee_currency"] = None
    if agreement.hours is not None:
        fields["hourly"] = _hours(agreement.hours)
    if agreement.renewal is not None:
        renewal = agreement.renewal
        fields["auto_renew"] = AutoRenew(renewal.days_ahead, renewal.months, Decimal(renewal.percent))
    return fields


def _hours(hours: facts.Hours) -> HourlyTerms:
    rates = tuple(RoleRate(rate.role, Decimal(rate.price), rate.start, rate.end) for rate in hours.rates)
    return HourlyTerms(
        Decimal(hours.price), rates, hours.increment, TimeRounding(hours.rounding), TimeGrouping(hours.grouping),
        hours.included, hours.rollover, hours.period_cap, hours.total_cap,
    )  # fmt: skip


def _by_hand(client: Client, event: facts.Invoices, currency: str) -> invoices.NewInvoice:
    def given(discounts: Sequence[facts.Discount]) -> tuple[DiscountInput, ...]:
        return tuple(
            DiscountInput(one.name, Decimal(one.percent)) if one.percent is not None
            else DiscountInput(one.name, fixed=Money(currency, one.fixed or 0))
            for one in discounts
        )  # fmt: skip

    lines = tuple(
        LineInput(f"Item {number}", Decimal(item.price), Decimal(item.quantity), tax_category=item.category, discounts=given(item.discounts))
        for number, item in enumerate(event.items, 1)
    )  # fmt: skip
    time = () if event.time_through is None else (TimeSource(None, event.time_through),)
    return invoices.NewInvoice(client.id, lines=lines, discounts=given(event.discounts), time=time)
