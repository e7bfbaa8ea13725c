"""What callers ask for, as billing's use cases take it. Errors name the field as the caller wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final

from dunwell.v1 import (
    address_pb2,
    client_pb2,
    coupon_pb2,
    engagement_pb2,
    invoice_pb2,
    proration_pb2,
    range_pb2,
    tax_pb2,
)
from dunwell.v1 import billing_service_pb2 as pb
from dunwell_server.billing.discounts import DiscountInput
from dunwell_server.billing.lines import LineInput
from dunwell_server.billing.model import (
    STANDARD_TAX_CATEGORY,
    AutoRenew,
    BillingAnchor,
    BillingInterval,
    BillingTiming,
    PartialPeriods,
    PricingMode,
    TaxStatus,
)
from dunwell_server.billing.rpc import messages
from dunwell_server.billing.rpc.time_messages import cap_currencies, hourly_terms
from dunwell_server.billing.service.clients import NewClient
from dunwell_server.billing.service.engagements import NewEngagement
from dunwell_server.billing.service.invoices import NewInvoice
from dunwell_server.billing.store.clients import ClientQuery
from dunwell_server.billing.store.engagements import EngagementQuery
from dunwell_server.billing.store.invoices import InvoiceQuery
from dunwell_server.billing.store.rows import TimeRange
from dunwell_server.kernel.errors import DunwellError, FieldViolation, Reason
from dunwell_server.kernel.ids import Prefix
from dunwell_server.kernel.proration import (
    AnchorPolicy,
    ChangeDay,
    DayCount,
    EndPolicy,
    ProrationPolicy,
    ProrationUnit,
)
from dunwell_server.rpc.converters import (
    civil_date,
    enum_name,
    id_value,
    metadata_map,
    money,
    optional_currency,
    optional_date,
    optional_decimal,
    optional_id,
    optional_instant,
    optional_value,
)


def _names(numbers: dict[str | None, Any]) -> dict[int, str]:
    """Stored names by the enum's numbers."""
    return {number: name for name, number in numbers.items() if name is not None}


_STATUSES: Final = _names(messages.STATUSES)
_INVOICE_STATES: Final = _names(messages.INVOICE_STATES)
_ENGAGEMENT_STATES: Final = _names(messages.ENGAGEMENT_STATES)
_MODES: Final = _names(messages.MODES)
_CLIENT_ORDERS: Final = {
    client_pb2.CLIENT_ORDER_CREATE_TIME_ASC: "CREATE_TIME_ASC",
    client_pb2.CLIENT_ORDER_NAME_ASC: "NAME_ASC",
}


# Clients


def new_client(message: client_pb2.Client) -> NewClient:
    """The client to create."""
    return NewClient(**client_changes(message, _CLIENT_FIELDS))


def client_changes(message: client_pb2.Client, fields: Iterable[str]) -> dict[str, Any]:
    """The columns of the named fields, from a message that has their new values."""
    readers: dict[str, Callable[[Any, str], Any]] = {name: _CLIENT_READERS.get(name, _text) for name in fields}
    return {name: read(message, name) for name, read in readers.items()}


def _text(message: Any, name: str) -> str | None:
    return getattr(message, name) or None


def _required(message: Any, name: str) -> str:
    text: str = getattr(message, name)
    return text


def _labels(message: Any, name: str) -> dict[str, str]:
    return metadata_map(getattr(message, name))


def _address(message: client_pb2.Client, name: str) -> dict[str, Any] | None:
    if not message.HasField("address"):
        return None
    address: address_pb2.Address = message.address
    parts = {part: getattr(address, part) for part in ("city", "region", "postal_code", "country_code")}
    return {"lines": list(address.lines), **parts}


def _unless_refused(message: client_pb2.Client, name: str) -> bool:
    return optional_value(message, name) is not False


def _tax_status(message: client_pb2.Client, name: str) -> TaxStatus:
    if not message.tax_status:
        return TaxStatus.TAXABLE
    return TaxStatus(enum_name(tax_pb2.TaxStatus, message.tax_status, "TAX_STATUS_"))


_CLIENT_FIELDS: Final = (
    "name", "external_id", "email", "phone", "address", "tax_id", "locale", "currency_code", "payment_terms_days",
    "metadata", "default_provider", "tax_status", "auto_apply_credit",
)  # fmt: skip
_CLIENT_READERS: Final[dict[str, Callable[[Any, str], Any]]] = {
    "name": _required,
    "address": _address,
    "payment_terms_days": optional_value,
    "metadata": _labels,
    "tax_status": _tax_status,
    "auto_apply_credit": _unless_refused,
}


def client_query(request: pb.ListClientsRequest) -> ClientQuery:
    """The filters and the order of a list of clients."""
    return ClientQuery(
        external_id=request.external_id or None,
        email=request.email or None,
        autopay_enabled=optional_value(request, "autopay_enabled"),
        create_time=_time_range(request.create_time),
        order=_CLIENT_ORDERS.get(request.order, "CREATE_TIME_DESC"),
    )


# Engagements


def new_engagement(message: engagement_pb2.Engagement) -> NewEngagement:
    """The engagement to create. One that is HOURLY has no fee, and its periods in the terms of its time."""
    package, alone = message.package, message.pricing_mode == engagement_pb2.PRICING_MODE_HOURLY
    periods = message.hourly if alone else package
    fee = money(package.fee, "engagement.package.fee") if package.HasField("fee") else None
    return NewEngagement(
        client_id=id_value(Prefix.CLIENT, message.client_id, "engagement.client_id"),
        name=message.name,
        pricing_mode=PricingMode(_MODES[message.pricing_mode]),
        start_date=civil_date(message.start_date, "engagement.start_date"),
        end_date=optional_date(message, "end_date", "engagement.end_date"),
        fee_minor=fee.minor if fee else 0,
        fee_currency=fee.currency if fee else None,
        billing_interval=_chosen(BillingInterval, messages.INTERVALS, periods.interval, BillingInterval.ONE_TIME),
        anchor=_chosen(BillingAnchor, messages.ANCHORS, periods.anchor, BillingAnchor.START_DATE),
        timing=BillingTiming.IN_ARREARS
        if alone
        else _chosen(BillingTiming, messages.TIMINGS, package.timing, BillingTiming.IN_ADVANCE),
        partial_periods=_partial_periods(package),
        proration=_proration(package.proration),
        line_description=package.line_description,
        external_id=message.external_id or None,
        description=message.description or None,
        currency_code=message.currency_code or None,
        payment_terms_days=optional_value(message, "payment_terms_days"),
        metadata=metadata_map(message.metadata),
        auto_renew=_auto_renew(message),
        hourly=hourly_terms(message.hourly) if message.HasField("hourly") else None,
        cap_currencies=cap_currencies(message.hourly),
    )


def refuse_whole_package(paths: Iterable[str]) -> None:
    """UPDATE_MASK_INVALID for the paths `package` and `hourly`: they would replace what never changes."""
    for path in sorted({"package", "hourly"}.intersection(paths)):
        raise _mask_invalid(path, "name its fields one by one")


def _mask_invalid(path: str, problem: str) -> DunwellError:
    violation = FieldViolation("update_mask", f"{path}: {problem}")
    return DunwellError(
        Reason.UPDATE_MASK_INVALID,
        f"update_mask: {violation.description}",
        violations=[violation],
        metadata={"paths": path},
    )


_TERMS_MISSING: Final[dict[int, str]] = {
    engagement_pb2.PRICING_MODE_PACKAGE: "hourly",
    engagement_pb2.PRICING_MODE_HOURLY: "package",
}
"""The terms that an engagement does not have, by how it is priced."""


def engagement_changes(message: engagement_pb2.Engagement, paths: Iterable[str]) -> dict[str, Any]:
    """The columns that the paths are about, from a message that has their new values."""
    changes: dict[str, Any] = {}
    for path in paths:
        name, _, rest = path.partition(".")
        part = rest.partition(".")[0]
        if name == _TERMS_MISSING.get(message.pricing_mode):
            raise _mask_invalid(path, "an engagement so priced has none")
        if name == "hourly":
            changes.update(hourly=hourly_terms(message.hourly), cap_currencies=cap_currencies(message.hourly))
        elif name == "package":
            changes.update(_package_change(message.package, part))
        elif name == "auto_renew":
            changes[name] = _auto_renew(message)
        elif name == "payment_terms_days":
            changes[name] = optional_value(message, name)
        elif name == "metadata":
            changes[name] = metadata_map(message.metadata)
        else:
            changes[name] = getattr(message, name) or None
    return changes


def _auto_renew(message: engagement_pb2.Engagement) -> AutoRenew | None:
    if not message.HasField("auto_renew"):
        return None
    terms = message.auto_renew
    percent = optional_decimal(terms, "uplift_percent", "engagement.auto_renew.uplift_percent")
    return AutoRenew(terms.days_ahead, terms.months or None, percent or Decimal(0))


def _package_change(package: engagement_pb2.PackageTerms, part: str) -> dict[str, Any]:
    match part:
        case "fee":
            fee = money(package.fee, "engagement.package.fee")
            return {"fee_minor": fee.minor, "fee_currency": fee.currency}
        case "partial_periods":
            return {"partial_periods": _partial_periods(package)}
        case "proration":
            return {"proration": _proration(package.proration)}
        case _:
            return {part: getattr(package, part)}


def _partial_periods(package: engagement_pb2.PackageTerms) -> PartialPeriods:
    chosen: PartialPeriods = _chosen(PartialPeriods, messages.PARTIALS, package.partial_periods, PartialPeriods.PRORATE)
    return chosen


def _proration(policy: proration_pb2.ProrationPolicy) -> ProrationPolicy:
    return ProrationPolicy(
        unit=_chosen(ProrationUnit, messages.UNITS, policy.unit, ProrationUnit.DAY),
        day_count=_chosen(DayCount, messages.DAY_COUNTS, policy.day_count, DayCount.ACTUAL),
        anchor=_chosen(AnchorPolicy, messages.PRORATION_ANCHORS, policy.anchor, AnchorPolicy.KEEP),
        change_day=_chosen(ChangeDay, messages.CHANGE_DAYS, policy.change_day, ChangeDay.CHARGE_NEW),
        end=_chosen(EndPolicy, messages.ENDS, policy.end, EndPolicy.HALF_OPEN),
    )


def _chosen(kind: Any, numbers: dict[str | None, Any], number: int, default: Any) -> Any:
    """The member that the enum's number stands for; the default for UNSPECIFIED."""
    return next(kind(name) for name, value in numbers.items() if value == number) if number else default


def engagement_query(request: pb.ListEngagementsRequest) -> EngagementQuery:
    """The filters and the order of a list of engagements."""
    return EngagementQuery(
        client_id=optional_id(Prefix.CLIENT, request.client_id, "client_id"),
        external_id=request.external_id or None,
        states=[_ENGAGEMENT_STATES[state] for state in request.states],
        pricing_modes=[_MODES[mode] for mode in request.pricing_modes],
        next_bill_date_until=optional_date(request, "next_bill_date_until"),
        create_time=_time_range(request.create_time),
        descending=request.order != engagement_pb2.ENGAGEMENT_ORDER_CREATE_TIME_ASC,
    )


# Invoices

_TIME_LINES: Final = (invoice_pb2.INVOICE_LINE_KIND_TIME, invoice_pb2.INVOICE_LINE_KIND_OVERAGE)


def new_invoice(message: invoice_pb2.Invoice) -> NewInvoice:
    """The invoice to create or preview."""
    return NewInvoice(
        client_id=id_value(Prefix.CLIENT, message.client_id, "invoice.client_id"),
        engagement_id=optional_id(Prefix.ENGAGEMENT, message.engagement_id, "invoice.engagement_id"),
        external_id=message.external_id or None,
        currency_code=message.currency_code or None,
        lines=_lines(message),
        discounts=_discounts(message.discounts, "invoice.discounts"),
        due_date=optional_date(message, "due_date", "invoice.due_date"),
        payment_terms_days=optional_value(message, "payment_terms_days"),
        memo=message.memo or None,
        metadata=metadata_map(message.metadata),
    )


def _lines(message: invoice_pb2.Invoice) -> tuple[LineInput, ...]:
    return tuple(_line(line, f"invoice.lines[{index}]") for index, line in enumerate(message.lines))


def _line(line: invoice_pb2.InvoiceLine, path: str) -> LineInput:
    quantity = optional_decimal(line, "quantity", f"{path}.quantity")
    price = optional_decimal(line, "unit_price", f"{path}.unit_price")
    return LineInput(
        description=line.description,
        unit_price=Decimal(0) if price is None else price,
        quantity=Decimal(1) if quantity is None else quantity,
        period_start=optional_date(line, "period_start_date", f"{path}.period_start_date"),
        period_end=optional_date(line, "period_end_date", f"{path}.period_end_date"),
        engagement_id=optional_id(Prefix.ENGAGEMENT, line.engagement_id, f"{path}.engagement_id"),
        tax_category=line.tax_category or STANDARD_TAX_CATEGORY,
        discounts=_discounts(line.discounts, f"{path}.discounts"),
    )


def _discounts(given: Sequence[coupon_pb2.Discount], path: str) -> tuple[DiscountInput, ...]:
    """What callers give; the discounts of coupons are the server's, and come back with an invoice that was read."""
    return tuple(
        DiscountInput(
            discount.name,
            optional_decimal(discount, "percent", f"{path}[{index}].percent"),
            money(discount.amount, f"{path}[{index}].amount") if discount.HasField("amount") else None,
        )
        for index, discount in enumerate(given)
        if not discount.coupon_redemption_id
    )


def invoice_changes(message: invoice_pb2.Invoice, fields: Iterable[str]) -> dict[str, Any]:
    """The named fields, from a message that has their new values; the currency's never change."""
    lines = [line for line in message.lines if line.kind not in _TIME_LINES]
    if len(lines) != len(message.lines):
        # The lines of time stay as they are; they come back from a caller who read them.
        del message.lines[:]
        message.lines.extend(lines)
    new = new_invoice(message)
    return {name: getattr(new, name) for name in fields}


def invoice_query(request: pb.ListInvoicesRequest) -> InvoiceQuery:
    """The filters and the order of a list of invoices."""
    return InvoiceQuery(
        client_id=optional_id(Prefix.CLIENT, request.client_id, "client_id"),
        engagement_id=optional_id(Prefix.ENGAGEMENT, request.engagement_id, "engagement_id"),
        external_id=request.external_id or None,
        number=request.number or None,
        states=[_INVOICE_STATES[state] for state in request.states],
        autopay_statuses=[_STATUSES[status] for status in request.autopay_statuses],
        run_id=optional_id(Prefix.RUN, request.run_id, "run_id"),
        currency_code=optional_currency(request.currency_code, "currency_code"),
        issue_date=_date_range(request.issue_date, "issue_date"),
        due_date=_date_range(request.due_date, "due_date"),
        create_time=_time_range(request.create_time),
        descending=request.order != invoice_pb2.INVOICE_ORDER_CREATE_TIME_ASC,
    )


def _date_range(given: range_pb2.DateRange, field: str) -> tuple[date | None, date | None]:
    start = optional_date(given, "start_date", f"{field}.start_date")
    end = optional_date(given, "end_date", f"{field}.end_date")
    if start is not None and end is not None and end < start:
        raise _ends_before(f"{field}.end_date")
    return start, end


def _time_range(given: range_pb2.TimeRange) -> TimeRange:
    start = optional_instant(given, "start_time", "create_time.start_time")
    end = optional_instant(given, "end_time", "create_time.end_time")
    if start is not None and end is not None and end < start:
        raise _ends_before("create_time.end_time")
    return TimeRange(start, end)


def _ends_before(field: str) -> DunwellError:
    return DunwellError(Reason.PERIOD_INVALID, "the range ends before it starts", field=field)
