"""Requests of BillingService that succeed, and ids that nobody has."""

from __future__ import annotations

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import client_pb2, engagement_pb2, invoice_pb2, money_pb2, report_pb2
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from tests.rpc.billing.conftest import Served


def day(year: int, month: int, day_of_month: int) -> Date:
    return Date(year=year, month=month, day=day_of_month)


def usd(minor: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code="USD", amount_minor=minor)


def unknown(prefix: Prefix) -> str:
    return encode(prefix, uuid7())


def mask(*paths: str) -> FieldMask:
    return FieldMask(paths=paths)


def line(price: str = "10", **fields: Any) -> invoice_pb2.InvoiceLine:
    return invoice_pb2.InvoiceLine(**{"description": "Work", "unit_price": Decimal(value=price), **fields})


def exchange_rate(base: str, quote: str, rate: str, from_day: Date | None = None) -> report_pb2.ExchangeRate:
    """A rate, from the first of March 2026 unless told otherwise."""
    return report_pb2.ExchangeRate(
        base_currency_code=base,
        quote_currency_code=quote,
        rate=Decimal(value=rate),
        rate_date=from_day or day(2026, 3, 1),
    )


def client_request(**fields: Any) -> pb.CreateClientRequest:
    return pb.CreateClientRequest(client=client_pb2.Client(**{"name": "Ada Byron", **fields}))


def engagement_request(client_id: str, **fields: Any) -> pb.CreateEngagementRequest:
    """A monthly package of 1,000 dollars from 2026-01-01, in advance."""
    package = engagement_pb2.PackageTerms(fee=usd(100_000), interval=engagement_pb2.BILLING_INTERVAL_MONTHLY)
    terms = {
        "client_id": client_id, "name": "Bookkeeping", "pricing_mode": engagement_pb2.PRICING_MODE_PACKAGE,
        "start_date": day(2026, 1, 1), "package": package,
    }  # fmt: skip
    return pb.CreateEngagementRequest(engagement=engagement_pb2.Engagement(**{**terms, **fields}))


def invoice_request(
    client_id: str, *lines: invoice_pb2.InvoiceLine, finalize: bool, **fields: Any
) -> pb.CreateInvoiceRequest:
    """An invoice with the lines given, or one of ten dollars."""
    invoice = invoice_pb2.Invoice(client_id=client_id, lines=lines or [line()], **fields)
    return pb.CreateInvoiceRequest(invoice=invoice, finalize=finalize)


async def new_client(served: Served, **fields: Any) -> client_pb2.Client:
    made: client_pb2.Client = (await served.call("CreateClient", client_request(**fields))).client
    return made


async def new_engagement(served: Served, client_id: str, **fields: Any) -> engagement_pb2.Engagement:
    made: engagement_pb2.Engagement = (
        await served.call("CreateEngagement", engagement_request(client_id, **fields))
    ).engagement
    return made


async def new_invoice(
    served: Served, client_id: str, *lines: invoice_pb2.InvoiceLine, finalize: bool = True, **fields: Any
) -> invoice_pb2.Invoice:
    made: invoice_pb2.Invoice = (
        await served.call("CreateInvoice", invoice_request(client_id, *lines, finalize=finalize, **fields))
    ).invoice
    return made
