"""Package runs: how they are asked for, and how a dry run's item shows the invoice it stands for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import money_pb2, run_pb2
from dunwell_server.billing.model import DiscountKind, InvoiceDiscount, InvoiceLine, LineKind, LineTax
from dunwell_server.billing.rpc.messages import line_message
from dunwell_server.billing.rpc.pricing_messages import discount_message
from dunwell_server.billing.service.clients import get_client
from dunwell_server.billing.service.engagements import get_engagement, today
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, uuid7
from dunwell_server.platform import runs
from dunwell_server.platform.context import CallContext, Role
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.runs import RunItem, RunKind
from dunwell_server.rpc.converters import date_message, optional_date, optional_id


class AllFirms(Protocol):
    """What starts runs over all firms, and tells how they go."""

    async def start(self, uow: UnitOfWork, kind: RunKind, params: dict[str, Any], *, dry_run: bool) -> UUID:
        """Queue a run for every active firm that lives in real time, under one run over all; `uow` is firmless."""
        ...

    def tail(self, context: CallContext, run_id: UUID) -> AsyncIterator[run_pb2.RunProgress]:
        """The progress of the run over all until it ends."""
        ...


async def start_package_run(uow: UnitOfWork, request: pb.GeneratePackageInvoicesRequest) -> UUID:
    """Queue the firm's run that the request asks for. Errors: RESOURCE_NOT_FOUND, FIELD_INVALID."""
    as_of = optional_date(request, "as_of_date") or today(uow)
    params = {"as_of": as_of.isoformat()}
    client_id = optional_id(Prefix.CLIENT, request.client_id, "client_id")
    if client_id is not None:
        await get_client(uow, client_id)
        params["client_id"] = str(client_id)
    engagement_id = optional_id(Prefix.ENGAGEMENT, request.engagement_id, "engagement_id")
    if engagement_id is not None:
        engagement = await get_engagement(uow, engagement_id)
        if client_id not in (None, engagement.client_id):
            raise field_invalid("engagement_id", "the engagement is of another client")
        params["engagement_id"] = str(engagement_id)
    run = await runs.create(uow, RunKind.PACKAGES, params, dry_run=request.dry_run, run_id=uuid7())
    return run.id


def all_firms_params(request: pb.GeneratePackageInvoicesRequest) -> dict[str, Any]:
    """The parameters of a run over all firms; without a day each firm's run is as of its own today."""
    as_of = optional_date(request, "as_of_date")
    return {} if as_of is None else {"as_of": as_of.isoformat()}


def check_reach(request: pb.GeneratePackageInvoicesRequest, call: CallContext) -> None:
    """Only an ADMIN who names no firm starts a run over all. Errors: PERMISSION_DENIED, FIELD_INVALID, FIRM_REQUIRED."""
    if request.all_firms and call.actor.role is not Role.ADMIN:
        raise DunwellError(Reason.PERMISSION_DENIED, "Only an ADMIN starts runs over all firms.")
    if request.all_firms and call.firm_id is not None:
        raise field_invalid("all_firms", "a run over all firms names no firm in dunwell-firm")
    if not request.all_firms and call.firm_id is None:
        raise DunwellError(Reason.FIRM_REQUIRED, "Name the firm in the dunwell-firm metadata, or set all_firms.")


def planned_invoice(item: RunItem) -> run_pb2.PlannedInvoice | None:
    """The invoice that a dry run's item stands for; None where the item tells of none. `jobs.planned` writes its detail."""
    detail, currency = item.detail or {}, item.currency_code
    if "lines" not in detail or currency is None or item.amount_minor is None:
        return None

    def money(minor: int) -> money_pb2.Money:
        return money_pb2.Money(currency_code=currency, amount_minor=minor)

    discounts = [_discount(discount) for discount in detail["discounts"]]
    return run_pb2.PlannedInvoice(
        lines=[line_message(_line(line), currency, discounts) for line in detail["lines"]],
        discounts=[discount_message(discount, currency) for discount in discounts if discount.line_no is None],
        subtotal=money(detail["subtotal"]),
        discount_total=money(detail["discount_total"]),
        tax_total=money(detail["tax_total"]),
        tax_included_total=money(detail["tax_included_total"]),
        total=money(item.amount_minor),
        credit_applied=money(detail["credited"]),
        amount_due=money(item.amount_minor - detail["credited"]),
        issue_date=date_message(date.fromisoformat(detail["issue_date"])),
        due_date=date_message(date.fromisoformat(detail["due_date"])),
    )


def _line(line: dict[str, Any]) -> InvoiceLine:
    return InvoiceLine(
        line["line_no"], LineKind(line["kind"]), line["description"], Decimal(line["quantity"]), Decimal(line["unit_price"]),
        line["amount_minor"], date.fromisoformat(line["period_start"]), date.fromisoformat(line["period_end"]),
        UUID(line["engagement_id"]), line["in_advance"], line["unit"], line["tax_category"], line["discount_minor"], line["tax_minor"],
        line["tax_included_minor"], tuple(_tax(tax) for tax in line["taxes"]),
    )  # fmt: skip


def _tax(tax: dict[str, Any]) -> LineTax:
    rate = tax["tax_rate_id"]
    return LineTax(
        **{**tax, "tax_rate_id": None if rate is None else UUID(rate), "percentage": Decimal(tax["percentage"])}
    )


def _discount(discount: dict[str, Any]) -> InvoiceDiscount:
    percent, redemption = discount["percent"], discount["redemption_id"]
    return InvoiceDiscount(**{
        **discount,
        "kind": DiscountKind(discount["kind"]),
        "percent": None if percent is None else Decimal(percent),
        "redemption_id": None if redemption is None else UUID(redemption),
    })  # fmt: skip
