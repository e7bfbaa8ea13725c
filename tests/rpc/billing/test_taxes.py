"""Tax rates, taxes and discounts through a real channel."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from google.type.decimal_pb2 import Decimal as DecimalMessage
from grpc import StatusCode

from dunwell.v1 import address_pb2, client_pb2, coupon_pb2, invoice_pb2, money_pb2, tax_pb2
from dunwell.v1 import billing_service_pb2 as pb
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.context import Role
from tests.rpc.billing.conftest import Served
from tests.rpc.billing.requests import client_request, day, line, mask, new_client, new_invoice, unknown, usd

GERMANY = address_pb2.Address(country_code="DE")


def number(text: str) -> DecimalMessage:
    return DecimalMessage(value=text)


def rate_request(**fields: Any) -> pb.CreateTaxRateRequest:
    """German VAT of 19 %."""
    rate = {"name": "VAT", "percentage": number("19"), "country_code": "DE", **fields}
    return pb.CreateTaxRateRequest(tax_rate=tax_pb2.TaxRate(**rate))


async def new_rate(served: Served, **fields: Any) -> tax_pb2.TaxRate:
    made: tax_pb2.TaxRate = (await served.call("CreateTaxRate", rate_request(**fields))).tax_rate
    return made


def share(percent: str, name: str = "Share") -> coupon_pb2.Discount:
    return coupon_pb2.Discount(name=name, percent=number(percent))


def update(rate: tax_pb2.TaxRate, *paths: str, etag: str = "", **fields: Any) -> pb.UpdateTaxRateRequest:
    wanted = tax_pb2.TaxRate(id=rate.id, **fields)
    return pb.UpdateTaxRateRequest(tax_rate=wanted, update_mask=mask(*paths), etag=etag)


# Rates


async def test_a_rate_is_created_listed_changed_and_archived(served: Served) -> None:
    made = await new_rate(
        served, percentage=number("7.5"), tax_category="reduced", behavior=tax_pb2.TAX_BEHAVIOR_INCLUSIVE,
        excluded_regions=["Berlin"], valid_from_date=day(2026, 1, 1),
    )  # fmt: skip
    assert made.id.startswith("tax_")
    assert (made.percentage.value, made.tax_category, list(made.excluded_regions)) == ("7.5", "reduced", ["Berlin"])
    assert (made.state, made.etag, made.valid_from_date) == (tax_pb2.TAX_RATE_STATE_ACTIVE, "v1", day(2026, 1, 1))
    changed = (await served.call("UpdateTaxRate", update(
        made, "name", "valid_until_date", name="MwSt", valid_until_date=day(2026, 7, 1), etag="v1"
    ))).tax_rate  # fmt: skip
    assert (changed.name, changed.valid_until_date, changed.percentage, changed.etag) == (
        "MwSt", day(2026, 7, 1), made.percentage, "v2",
    )  # fmt: skip
    stale = await served.refused("UpdateTaxRate", update(made, "name", name="x", etag="v1"))
    assert (stale.code, stale.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
    archived = (await served.call("UpdateTaxRate", update(made, "archived", archived=True))).tax_rate
    assert (archived.archived, archived.state) == (True, tax_pb2.TAX_RATE_STATE_ARCHIVED)
    other = await new_rate(served)

    async def listed(**filters: Any) -> list[str]:
        reply = await served.call("ListTaxRates", pb.ListTaxRatesRequest(**filters), Role.READER)
        return [rate.id for rate in reply.tax_rates]

    assert await listed() == [other.id]
    assert await listed(include_archived=True) == [other.id, made.id]
    assert await listed(include_archived=True, tax_category="reduced") == [made.id]
    assert await listed(include_archived=True, tax_category="reduced", valid_on_date=day(2026, 7, 1)) == []
    assert await listed(country_code="FR") == []


@pytest.mark.parametrize(
    "path", ["percentage", "country_code", "region", "tax_category", "behavior", "state", "id", "*"]
)
async def test_what_a_rate_is_does_not_change(served: Served, path: str) -> None:
    made = await new_rate(served)
    refused = await served.refused("UpdateTaxRate", update(made, "name", path, name="x"))
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "UPDATE_MASK_INVALID")


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"name": ""}, "tax_rate.name", "name is required"),
        ({"percentage": None}, "tax_rate.percentage", "percentage is required"),
        ({"percentage": number("100.01")}, "tax_rate.percentage", "from 0 to 100"),
        ({"percentage": number("-1")}, "tax_rate.percentage", "from 0 to 100"),
        ({"country_code": ""}, "tax_rate.country_code", "country_code is required"),
        ({"region": "a", "excluded_regions": ["b"]}, "tax_rate.excluded_regions", "excludes none"),
    ],
)
async def test_a_rate_that_is_none_is_refused(served: Served, fields: dict[str, Any], field: str, problem: str) -> None:
    refused = await served.refused("CreateTaxRate", rate_request(**fields))
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    (violation,) = refused.details["BadRequest"].field_violations
    assert violation.field == field
    assert problem in violation.description


async def test_errors_of_rates_are_precise(served: Served) -> None:
    made = await new_rate(served)
    twice = await served.refused("CreateTaxRate", rate_request())
    assert (twice.code, twice.reason) == (StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    ends = rate_request(name="x", valid_from_date=day(2026, 2, 1), valid_until_date=day(2026, 2, 1))
    assert (await served.refused("CreateTaxRate", ends)).reason == "PERIOD_INVALID"
    nobody = tax_pb2.TaxRate(id=unknown(Prefix.TAX_RATE))
    assert (await served.refused("UpdateTaxRate", update(nobody, "name", name="x"))).reason == "RESOURCE_NOT_FOUND"
    assert (await served.refused("UpdateTaxRate", update(made, "name"))).reason == "FIELD_INVALID"
    assert (await served.refused("CreateTaxRate", rate_request(), Role.SERVICE)).reason == "PERMISSION_DENIED"


# Invoices


async def test_an_invoice_shows_its_discounts_and_taxes(served: Served) -> None:
    """200.00 and 10.00 less half of the first, less 10 % of 110.00: 99.00. 19 % of 90.00 and 7 % of 9.00 inside it."""
    await new_rate(served)
    await new_rate(
        served, name="VAT reduced", percentage=number("7"), tax_category="reduced", behavior=tax_pb2.TAX_BEHAVIOR_INCLUSIVE
    )  # fmt: skip
    client = await new_client(served, address=GERMANY)
    lines = [line("200", discounts=[share("50", "Half")]), line("10", tax_category="reduced")]
    made = await new_invoice(served, client.id, *lines, discounts=[share("10")])
    assert (made.subtotal, made.discount_total, made.tax_total) == (usd(21_000), usd(11_100), usd(1_710 + 59))
    assert (made.tax_included_total, made.total) == (usd(59), usd(9_900 + 1_710))
    first, second = made.lines
    assert (first.discount, first.tax, first.tax_included) == (usd(11_000), usd(1_710), usd(0))
    assert (second.discount, second.tax, second.tax_included, second.tax_category) == (
        usd(100), usd(59), usd(59), "reduced",
    )  # fmt: skip
    assert [(one.name, one.discounted) for one in first.discounts] == [("Half", usd(10_000))]
    assert [(one.name, one.percent.value, one.discounted) for one in made.discounts] == [("Share", "10", usd(1_100))]
    assert [(tax.name, tax.percentage.value, tax.inclusive, tax.taxable, tax.tax) for tax in made.tax_summary] == [
        ("VAT", "19", False, usd(9_000), usd(1_710)), ("VAT reduced", "7", True, usd(841), usd(59)),
    ]  # fmt: skip
    assert (await served.call("GetInvoice", pb.GetInvoiceRequest(invoice_id=made.id))).invoice == made
    (listed,) = (await served.call("ListInvoices", pb.ListInvoicesRequest())).invoices
    assert (listed.total, listed.tax_total, list(listed.lines), list(listed.discounts)) == (
        made.total, made.tax_total, [], [],
    )  # fmt: skip


async def test_the_reverse_charge_is_printed(served: Served) -> None:
    await new_rate(served)
    client = await new_client(
        served, address=address_pb2.Address(country_code="FR"), tax_id="FR40303265045",
        tax_status=tax_pb2.TAX_STATUS_REVERSE_CHARGE,
    )  # fmt: skip
    assert client.tax_status == tax_pb2.TAX_STATUS_REVERSE_CHARGE
    made = await new_invoice(served, client.id, line("99.99"))
    assert (made.total, made.tax_total) == (usd(9_999), usd(0))
    (total,) = made.tax_summary
    assert (total.reverse_charge, total.name, total.taxable, total.tax) == (True, "Reverse charge", usd(9_999), usd(0))


async def test_a_client_under_the_reverse_charge_needs_a_valid_tax_id(served: Served) -> None:
    wrong = client_request(address=GERMANY, tax_id="DE136695978", tax_status=tax_pb2.TAX_STATUS_REVERSE_CHARGE)
    refused = await served.refused("CreateClient", wrong)
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert [one.field for one in refused.details["BadRequest"].field_violations] == ["client.tax_id"]
    client = await new_client(served, address=GERMANY, tax_id="DE136695976")
    assert client.tax_status == tax_pb2.TAX_STATUS_TAXABLE
    wanted = client_pb2.Client(id=client.id, tax_status=tax_pb2.TAX_STATUS_REVERSE_CHARGE)
    request = pb.UpdateClientRequest(client=wanted, update_mask=mask("tax_status"))
    assert (await served.call("UpdateClient", request)).client.tax_status == tax_pb2.TAX_STATUS_REVERSE_CHARGE


async def test_a_drafts_discounts_change(served: Served) -> None:
    client = await new_client(served)
    draft = await new_invoice(served, client.id, line("100"), finalize=False, discounts=[share("10")])
    assert draft.total == usd(9_000)
    amount = coupon_pb2.Discount(name="Amount", amount=usd(500))
    wanted = invoice_pb2.Invoice(id=draft.id, discounts=[*draft.discounts, amount])
    request = pb.UpdateInvoiceRequest(invoice=wanted, update_mask=mask("discounts"))
    changed = (await served.call("UpdateInvoice", request)).invoice
    assert (changed.total, len(changed.discounts)) == (usd(8_500), 2)
    bare = pb.UpdateInvoiceRequest(invoice=invoice_pb2.Invoice(id=draft.id), update_mask=mask("discounts"))
    assert (await served.call("UpdateInvoice", bare)).invoice.total == usd(10_000)
    sent = (await served.call("FinalizeInvoice", pb.FinalizeInvoiceRequest(invoice_id=draft.id))).invoice
    assert sent.total == usd(10_000)
    request.request_id = ""
    late = await served.refused("UpdateInvoice", request)
    assert (late.code, late.reason) == (StatusCode.FAILED_PRECONDITION, "STATE_CONFLICT")


@pytest.mark.parametrize(
    ("discount", "reason"),
    [
        (share("0"), "FIELD_INVALID"),
        (share("0.0"), "FIELD_INVALID"),
        (share("100.1"), "FIELD_INVALID"),
        (coupon_pb2.Discount(name="x"), "FIELD_INVALID"),
        (share("1", ""), "FIELD_INVALID"),
        (coupon_pb2.Discount(name="x", amount=usd(0)), "FIELD_INVALID"),
        (
            coupon_pb2.Discount(name="x", amount=money_pb2.Money(currency_code="EUR", amount_minor=1)),
            "CURRENCY_MISMATCH",
        ),
    ],
)
async def test_a_discount_that_is_none_is_refused(served: Served, discount: coupon_pb2.Discount, reason: str) -> None:
    client = await new_client(served)
    on_whole = invoice_pb2.Invoice(client_id=client.id, lines=[line()], discounts=[discount])
    on_line = invoice_pb2.Invoice(client_id=client.id, lines=[line(discounts=[discount])])
    for invoice in (on_whole, on_line):
        refused = await served.refused("CreateInvoice", pb.CreateInvoiceRequest(invoice=invoice))
        assert refused.reason == reason
        assert "discounts[0]" in refused.details["BadRequest"].field_violations[0].field


async def test_a_preview_writes_nothing_and_is_what_is_written(served: Served) -> None:
    await new_rate(served, percentage=number("19.5"))
    client = await new_client(served, address=GERMANY)
    invoice = invoice_pb2.Invoice(client_id=client.id, lines=[line("33.33")], discounts=[share("12.5")])
    shown = (await served.call("PreviewInvoice", pb.PreviewInvoiceRequest(invoice=invoice), Role.READER)).invoice
    made = (await served.call("CreateInvoice", pb.CreateInvoiceRequest(invoice=invoice, finalize=True))).invoice
    assert (list(shown.lines), list(shown.discounts), list(shown.tax_summary), shown.total) == (
        list(made.lines), list(made.discounts), list(made.tax_summary), made.total,
    )  # fmt: skip
    assert Decimal(made.lines[0].taxes[0].percentage.value) == Decimal("19.5")
