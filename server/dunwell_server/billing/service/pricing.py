"""The prices of invoices: discounts, then taxes, for any number of invoices at once.

`load` reads what the prices of some clients' invoices follow from, in one statement; `price` takes any number of invoices through it. Its
steps are `discount`, the calculator's taxes, and `priced`: a run takes them one by one, so that an invoice that breaks harms no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

from dunwell_server.billing.coupons import HeldCoupon
from dunwell_server.billing.discounts import Discounted, DiscountTerms, apply_discounts
from dunwell_server.billing.lines import PricedLines
from dunwell_server.billing.model import Client, Invoice, InvoiceDiscount, InvoiceLine, TaxStatus
from dunwell_server.billing.ports import TaxCalculator
from dunwell_server.billing.store import pricing as store
from dunwell_server.billing.taxes import (
    LineTaxes,
    TaxableLine,
    TaxBehavior,
    TaxPlace,
    TaxRequest,
    TaxRounding,
    TaxTable,
)
from dunwell_server.kernel.money import check_int64
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.firms import FirmSettings


class ClientFacts(NamedTuple):
    """What prices follow from of a client. `country_code` empty: none in its address."""

    id: UUID
    tax_status: TaxStatus = TaxStatus.TAXABLE
    country_code: str = ""
    region: str = ""
    tax_id: str | None = None


@dataclass(frozen=True, slots=True)
class PricingFacts:
    """What the prices of some clients' invoices follow from.

    `uses_left` of redemptions that are limited goes down as invoices are priced, so that a coupon for one invoice is on one of a set only:
    price each invoice once, in the order in which they are written, and load again for another set.
    """

    table: TaxTable
    firm_place: TaxPlace
    coupons: dict[UUID, list[HeldCoupon]] = field(default_factory=dict)
    uses_left: dict[UUID, int] = field(default_factory=dict)


class PriceRequest(NamedTuple):
    """An invoice to be priced. What `lines` have of discounts and taxes is not read. `discounts` are those that a caller gave."""

    client: ClientFacts
    engagement_id: UUID | None
    currency_code: str
    issue_date: date
    lines: Sequence[InvoiceLine]
    discounts: Sequence[DiscountTerms] = ()


def client_facts(client: Client) -> ClientFacts:
    """What prices follow from of a client."""
    address = client.address or {}
    return ClientFacts(
        client.id, client.tax_status, address.get("country_code") or "", address.get("region") or "", client.tax_id
    )


async def load(uow: UnitOfWork, clients: Collection[UUID]) -> PricingFacts:
    """Read what the prices of the clients' invoices follow from: one statement, however many. The clients are locked by those who write."""
    rates, coupons = await store.load(uow, clients)
    settings = uow.firm.settings
    table = TaxTable(tuple(rates), TaxRounding(settings.tax.rounding), TaxBehavior(settings.tax.behavior))
    facts = PricingFacts(table, firm_place(settings))
    for coupon in coupons:
        facts.coupons.setdefault(coupon.client_id, []).append(coupon)
        if coupon.uses_left is not None:
            facts.uses_left[coupon.redemption_id] = coupon.uses_left
    return facts


def firm_place(settings: FirmSettings) -> TaxPlace:
    """Where the firm is, as far as its address says."""
    address: dict[str, Any] = settings.document.get("address") or {}
    return TaxPlace(address.get("country_code") or "", address.get("region") or "")


async def price(
    uow: UnitOfWork, wanted: Sequence[PriceRequest], facts: PricingFacts | None = None
) -> list[PricedLines]:
    """The prices of invoices, in their order. One statement without `facts`, none with them, whatever the number of invoices.

    Errors: AMOUNT_OUT_OF_RANGE.
    """
    if facts is None:
        facts = await load(uow, {request.client.id for request in wanted})
    discounted = [discount(facts, request) for request in wanted]
    requests = [tax_request(facts, request, parts) for request, parts in zip(wanted, discounted, strict=True)]
    calculator = uow.bus.port(TaxCalculator)  # type: ignore[type-abstract]
    taxes = await calculator.calculate(uow, facts.table, requests)
    return [priced(*parts) for parts in zip(wanted, discounted, taxes, strict=True)]


def discount(facts: PricingFacts, wanted: PriceRequest) -> Discounted:
    """The discounts of one invoice: the given ones, and those of the client's coupons, whose uses are taken from the facts."""
    held = facts.coupons.get(wanted.client.id)
    if held is None:
        return apply_discounts(wanted.lines, wanted.discounts, wanted.engagement_id)
    uses_left = facts.uses_left
    usable = [
        coupon.terms()
        for coupon in held
        if coupon.currency_code in (None, wanted.currency_code) and uses_left.get(coupon.redemption_id, 1) > 0
    ]
    discounted = apply_discounts(wanted.lines, [*wanted.discounts, *usable], wanted.engagement_id)
    for taken in discounted.discounts:
        if taken.redemption_id in uses_left:
            uses_left[taken.redemption_id] -= 1
    return discounted


def uses(discounts: Iterable[InvoiceDiscount]) -> Counter[UUID]:
    """How often each redemption is used by the discounts of any number of invoices."""
    return Counter(discount.redemption_id for discount in discounts if discount.redemption_id is not None)


def given_terms(discounts: Iterable[InvoiceDiscount]) -> list[DiscountTerms]:
    """What callers asked for among the discounts of an invoice."""
    return [
        DiscountTerms(discount.name, discount.percent, discount.fixed_minor, discount.line_no)
        for discount in discounts
        if discount.redemption_id is None
    ]


def request_for(draft: Invoice, client: Client, issue_date: date) -> PriceRequest:
    """The request that prices a draft anew: its lines, and the discounts that callers gave it."""
    given = given_terms(draft.discounts)
    return PriceRequest(
        client_facts(client), draft.engagement_id, draft.currency_code, issue_date, draft.lines, given
    )  # fmt: skip


def on_invoice(draft: Invoice, priced: PricedLines) -> Invoice:
    """The draft with these prices."""
    return replace(
        draft,
        lines=priced.lines,
        discounts=priced.discounts,
        line_count=len(priced.lines),
        discount_count=len(priced.discounts),
        subtotal=priced.subtotal,
        discount_total=priced.discount_total,
        tax_total=priced.tax_total,
        tax_included_total=priced.tax_included_total,
        total=priced.total,
        amount_due=priced.total,
    )


def tax_request(facts: PricingFacts, wanted: PriceRequest, discounted: Discounted) -> TaxRequest:
    """What a calculator is asked about an invoice: its lines' prices after discounts, and where tax is due."""
    client = wanted.client
    place = TaxPlace(client.country_code, client.region) if client.country_code else facts.firm_place
    lines = [
        TaxableLine(line.line_no, line.amount_minor - part, line.tax_category)
        for line, part in zip(wanted.lines, discounted.parts, strict=True)
    ]
    return TaxRequest(
        client.id, wanted.currency_code, wanted.issue_date, place, client.tax_status, lines, client.tax_id
    )


def priced(wanted: PriceRequest, discounted: Discounted, taxes: Sequence[LineTaxes]) -> PricedLines:
    """An invoice's lines with the discounts and taxes found for them, and its totals. Errors: AMOUNT_OUT_OF_RANGE."""
    lines = tuple(
        _priced_line(line, part, of_line)
        for line, part, of_line in zip(wanted.lines, discounted.parts, taxes, strict=True)
    )
    priced = PricedLines(
        lines,
        discounted.discounts,
        check_int64(sum(line.amount_minor for line in lines), "invoice.lines"),
        sum(discounted.parts),
        check_int64(sum(line.tax_minor for line in lines), "invoice.lines"),
        sum(line.tax_included_minor for line in lines),
    )
    check_int64(priced.total, "invoice.lines")
    return priced


def _priced_line(line: InvoiceLine, discount_minor: int, taxes: LineTaxes) -> InvoiceLine:
    if not taxes and not discount_minor and not line.taxes and not line.discount_minor:
        return line
    tax_minor = included = 0
    for tax in taxes:
        tax_minor += tax.tax_minor
        if tax.inclusive:
            included += tax.tax_minor
    check_int64(tax_minor, "invoice.lines")
    return line._replace(
        discount_minor=discount_minor, tax_minor=tax_minor, tax_included_minor=included, taxes=tuple(taxes)
    )  # fmt: skip
