"""Billing's objects as the contract shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from google.type.decimal_pb2 import Decimal as DecimalMessage

from dunwell.v1 import (
    address_pb2,
    autopay_pb2,
    client_pb2,
    engagement_pb2,
    invoice_pb2,
    money_pb2,
    payment_failure_pb2,
    proration_pb2,
    tax_pb2,
)
from dunwell_server.billing.model import (
    AutoRenew,
    Client,
    CollectionColumns,
    Engagement,
    Invoice,
    InvoiceDiscount,
    InvoiceLine,
    PricingMode,
)
from dunwell_server.billing.rpc.pricing_messages import discount_message, tax_messages, tax_totals
from dunwell_server.billing.service import clients, invoices
from dunwell_server.billing.service.preview import NO_ID
from dunwell_server.kernel.calendar import local_date
from dunwell_server.kernel.ids import Prefix
from dunwell_server.kernel.proration import ProrationPolicy
from dunwell_server.ledger.service import ClientBalance
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.converters import date_message, decimal_message, etag, id_text, timestamp


def _numbers(enum: Any, prefix: str) -> dict[str | None, Any]:
    """The enum's numbers by stored name; None is UNSPECIFIED."""
    found = {name.removeprefix(prefix): number for name, number in enum.items()}
    return {**found, None: found["UNSPECIFIED"]}


CADENCES: Final = _numbers(autopay_pb2.AutopayCadence, "AUTOPAY_CADENCE_")
STATUSES: Final = _numbers(autopay_pb2.AutopayStatus, "AUTOPAY_STATUS_")
INVOICE_STATES: Final = _numbers(invoice_pb2.InvoiceState, "INVOICE_STATE_")
ORIGINS: Final = _numbers(invoice_pb2.InvoiceOrigin, "INVOICE_ORIGIN_")
LINE_KINDS: Final = _numbers(invoice_pb2.InvoiceLineKind, "INVOICE_LINE_KIND_")
TAX_STATUSES: Final = _numbers(tax_pb2.TaxStatus, "TAX_STATUS_")
ENGAGEMENT_STATES: Final = _numbers(engagement_pb2.EngagementState, "ENGAGEMENT_STATE_")
MODES: Final = _numbers(engagement_pb2.PricingMode, "PRICING_MODE_")
INTERVALS: Final = _numbers(engagement_pb2.BillingInterval, "BILLING_INTERVAL_")
ANCHORS: Final = _numbers(engagement_pb2.BillingAnchor, "BILLING_ANCHOR_")
TIMINGS: Final = _numbers(engagement_pb2.BillingTiming, "BILLING_TIMING_")
ROUNDINGS: Final = _numbers(engagement_pb2.TimeRounding, "TIME_ROUNDING_")
GROUPINGS: Final = _numbers(engagement_pb2.TimeGrouping, "TIME_GROUPING_")
PARTIALS: Final = _numbers(engagement_pb2.PartialPeriods, "PARTIAL_PERIODS_")
UNITS: Final = _numbers(proration_pb2.ProrationUnit, "PRORATION_UNIT_")
DAY_COUNTS: Final = _numbers(proration_pb2.ProrationDayCount, "PRORATION_DAY_COUNT_")
PRORATION_ANCHORS: Final = _numbers(proration_pb2.ProrationAnchor, "PRORATION_ANCHOR_")
CHANGE_DAYS: Final = _numbers(proration_pb2.ProrationChangeDay, "PRORATION_CHANGE_DAY_")
ENDS: Final = _numbers(proration_pb2.ProrationEnd, "PRORATION_END_")
FAILURE_CODES: Final = _numbers(payment_failure_pb2.PaymentFailureCode, "PAYMENT_FAILURE_CODE_")


async def present_client(uow: UnitOfWork, client: Client) -> client_pb2.Client:
    """A client with its balances."""
    return client_message(uow, client, await clients.client_balances(uow, client.id))


async def present_invoice(uow: UnitOfWork, invoice: Invoice) -> invoice_pb2.Invoice:
    """An invoice with its lines, also where only its facts were loaded."""
    if len(invoice.lines) != invoice.line_count:
        invoice = await invoices.get_invoice(uow, invoice.id)
    return invoice_message(uow, invoice)


def client_message(uow: UnitOfWork, client: Client, balances: Sequence[ClientBalance] = ()) -> client_pb2.Client:
    """A client; lists leave the balances out."""
    return client_pb2.Client(
        id=id_text(Prefix.CLIENT, client.id),
        firm_id=id_text(Prefix.FIRM, uow.firm_id),
        external_id=client.external_id or "",
        name=client.name,
        email=client.email or "",
        phone=client.phone or "",
        address=None if client.address is None else address_pb2.Address(**client.address),
        tax_id=client.tax_id or "",
        locale=client.locale or "",
        currency_code=client.currency_code,
        payment_terms_days=client.payment_terms_days,
        metadata=client.metadata,
        default_provider=client.default_provider or "",
        tax_status=TAX_STATUSES[client.tax_status],
        auto_apply_credit=client.auto_apply_credit,
        autopay=_autopay(uow, client),
        balances=[_balance(balance) for balance in balances],
        etag=etag(client.version),
        create_time=timestamp(client.create_time),
        update_time=timestamp(client.update_time),
    )


def _autopay(uow: UnitOfWork, client: Client) -> autopay_pb2.AutopaySettings:
    day = 0
    if client.autopay_enabled and client.autopay_enable_time is not None:
        day = local_date(client.autopay_enable_time, uow.firm.settings.zone).day
    return autopay_pb2.AutopaySettings(
        enabled=client.autopay_enabled,
        payment_method_id=id_text(Prefix.PAYMENT_METHOD, client.autopay_method_id),
        cadence=CADENCES[client.autopay_cadence],
        enable_time=timestamp(client.autopay_enable_time),
        collection_day=day,
    )


def _balance(balance: ClientBalance) -> client_pb2.ClientBalance:
    return client_pb2.ClientBalance(
        receivable=_money(balance.currency_code, balance.receivable_minor),
        credit=_money(balance.currency_code, balance.credit_minor),
    )


def engagement_message(uow: UnitOfWork, engagement: Engagement) -> engagement_pb2.Engagement:
    """An engagement. Its end date is shown as stored: exclusive, whatever the policy that it was entered under."""
    return engagement_pb2.Engagement(
        id=id_text(Prefix.ENGAGEMENT, engagement.id),
        firm_id=id_text(Prefix.FIRM, uow.firm_id),
        client_id=id_text(Prefix.CLIENT, engagement.client_id),
        external_id=engagement.external_id or "",
        name=engagement.name,
        description=engagement.description or "",
        pricing_mode=MODES[engagement.pricing_mode],
        currency_code=engagement.currency_code,
        start_date=date_message(engagement.start_date),
        end_date=date_message(engagement.end_date),
        package=None
        if engagement.pricing_mode is PricingMode.HOURLY
        else engagement_pb2.PackageTerms(
            fee=_money(engagement.currency_code, engagement.fee_minor),
            interval=INTERVALS[engagement.billing_interval],
            anchor=ANCHORS[engagement.anchor],
            timing=TIMINGS[engagement.timing],
            partial_periods=PARTIALS[engagement.partial_periods],
            proration=_proration(engagement.proration),
            line_description=engagement.line_description,
        ),
        hourly=_hourly(engagement),
        payment_terms_days=engagement.payment_terms_days,
        metadata=engagement.metadata,
        state=ENGAGEMENT_STATES[engagement.state],
        billed_through_date=date_message(engagement.billed_through_date),
        next_bill_date=date_message(engagement.next_bill_date),
        auto_renew=_auto_renew(engagement.auto_renew),
        renewed_from_id=id_text(Prefix.ENGAGEMENT, engagement.renewed_from_id),
        renewed_to_id=id_text(Prefix.ENGAGEMENT, engagement.renewed_to_id),
        renewal_notice_time=timestamp(engagement.renewal_notice_time),
        etag=etag(engagement.version),
        create_time=timestamp(engagement.create_time),
        update_time=timestamp(engagement.update_time),
    )


def _auto_renew(terms: AutoRenew | None) -> engagement_pb2.AutoRenew | None:
    if terms is None:
        return None
    percent = decimal_message(terms.uplift_percent) if terms.uplift_percent else None
    return engagement_pb2.AutoRenew(days_ahead=terms.days_ahead, months=terms.months or 0, uplift_percent=percent)


def _hourly(engagement: Engagement) -> engagement_pb2.HourlyTerms | None:
    terms, currency = engagement.hourly, engagement.currency_code
    if terms is None:
        return None
    alone = engagement.pricing_mode is PricingMode.HOURLY
    return engagement_pb2.HourlyTerms(
        default_rate=decimal_message(terms.default_rate),
        role_rates=[
            engagement_pb2.RoleRate(
                role=rate.role,
                rate=decimal_message(rate.rate),
                start_date=date_message(rate.start),
                end_date=date_message(rate.end),
            )
            for rate in terms.role_rates
        ],
        billing_increment_minutes=terms.increment_minutes,
        rounding=ROUNDINGS[terms.rounding],
        grouping=GROUPINGS[terms.grouping],
        interval=INTERVALS[engagement.billing_interval if alone else None],
        anchor=ANCHORS[engagement.anchor if alone else None],
        included_minutes=terms.included_minutes,
        rollover_periods=terms.rollover_periods,
        period_cap=None if terms.period_cap_minor is None else _money(currency, terms.period_cap_minor),
        total_cap=None if terms.total_cap_minor is None else _money(currency, terms.total_cap_minor),
    )


def _proration(policy: ProrationPolicy) -> proration_pb2.ProrationPolicy:
    return proration_pb2.ProrationPolicy(
        unit=UNITS[policy.unit],
        day_count=DAY_COUNTS[policy.day_count],
        anchor=PRORATION_ANCHORS[policy.anchor],
        change_day=CHANGE_DAYS[policy.change_day],
        end=ENDS[policy.end],
    )


def invoice_message(uow: UnitOfWork, invoice: Invoice) -> invoice_pb2.Invoice:
    """An invoice, with as many lines as were loaded. A preview has no id and no etag."""
    currency, exists = invoice.currency_code, invoice.id != NO_ID
    return invoice_pb2.Invoice(
        id=id_text(Prefix.INVOICE, invoice.id) if exists else "",
        firm_id=id_text(Prefix.FIRM, uow.firm_id),
        external_id=invoice.external_id or "",
        client_id=id_text(Prefix.CLIENT, invoice.client_id),
        engagement_id=id_text(Prefix.ENGAGEMENT, invoice.engagement_id),
        currency_code=currency,
        lines=[line_message(line, currency, invoice.discounts) for line in invoice.lines],
        discounts=[discount_message(part, currency) for part in invoice.discounts if part.line_no is None],
        due_date=date_message(invoice.due_date),
        payment_terms_days=invoice.payment_terms_days,
        memo=invoice.memo or "",
        metadata=invoice.metadata,
        number=invoice.number or "",
        state=INVOICE_STATES[invoice.state],
        origin=ORIGINS[invoice.origin],
        run_id=id_text(Prefix.RUN, invoice.run_id),
        issue_date=date_message(invoice.issue_date),
        etag=etag(invoice.version) if exists else "",
        create_time=timestamp(invoice.create_time) if exists else None,
        update_time=timestamp(invoice.update_time) if exists else None,
        finalize_time=timestamp(invoice.finalize_time),
        paid_time=timestamp(invoice.paid_time),
        overdue_time=timestamp(invoice.overdue_time),
        void_time=timestamp(invoice.void_time),
        write_off_time=timestamp(invoice.write_off_time),
        subtotal=_money(currency, invoice.subtotal),
        discount_total=_money(currency, invoice.discount_total),
        tax_total=_money(currency, invoice.tax_total),
        tax_included_total=_money(currency, invoice.tax_included_total),
        tax_summary=tax_totals(invoice.lines, currency),
        total=_money(currency, invoice.total),
        amount_received=_money(currency, invoice.amount_received),
        amount_refunded=_money(currency, invoice.amount_refunded),
        amount_charged_back=_money(currency, invoice.amount_charged_back),
        amount_paid=_money(currency, invoice.amount_paid),
        amount_credited=_money(currency, invoice.amount_credited),
        amount_due=_money(currency, invoice.amount_due),
        collection=_collection(invoice.collection),
    )


def line_message(
    line: InvoiceLine, currency: str, discounts: Sequence[InvoiceDiscount] = ()
) -> invoice_pb2.InvoiceLine:
    """One line; `discounts` are all of its invoice's."""
    return invoice_pb2.InvoiceLine(
        line_no=line.line_no,
        kind=LINE_KINDS[line.kind],
        description=line.description,
        quantity=DecimalMessage(value=format(line.quantity, "f")),
        unit_price=DecimalMessage(value=format(line.unit_price, "f")),
        amount=_money(currency, line.amount_minor),
        period_start_date=date_message(line.period_start),
        period_end_date=date_message(line.period_end),
        engagement_id=id_text(Prefix.ENGAGEMENT, line.engagement_id),
        tax_category=line.tax_category,
        discounts=[discount_message(part, currency) for part in discounts if part.line_no == line.line_no],
        discount=_money(currency, line.discount_minor),
        tax=_money(currency, line.tax_minor),
        tax_included=_money(currency, line.tax_included_minor),
        taxes=tax_messages(line, currency),
        unit=line.unit,
    )


def _collection(columns: CollectionColumns) -> autopay_pb2.InvoiceCollection:
    failure = None
    if columns.failure_code is not None:
        failure = payment_failure_pb2.PaymentFailure(
            code=FAILURE_CODES[columns.failure_code.upper()],
            provider_code=columns.failure_provider_code or "",
            message=columns.failure_message or "",
            failure_time=timestamp(columns.failure_time),
        )
    return autopay_pb2.InvoiceCollection(
        autopay_enabled=columns.autopay_enabled,
        status=STATUSES[columns.autopay_status],
        cadence=CADENCES[columns.autopay_cadence],
        payment_method_id=id_text(Prefix.PAYMENT_METHOD, columns.autopay_method_id),
        next_charge_time=timestamp(columns.autopay_next_charge_time),
        failure_count=columns.failure_count,
        last_failure=failure,
        last_retry_time=timestamp(columns.last_retry_time),
        retry_pending=columns.retry_pending,
        retries_exhausted=columns.retries_exhausted,
    )


def _money(currency: str, minor: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code=currency, amount_minor=minor)
