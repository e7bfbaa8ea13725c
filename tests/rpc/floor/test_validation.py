"""The contract's rules, unknown enum values and card numbers, through a real channel."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal
from grpc import StatusCode

from dunwell.v1 import billing_service_pb2, engagement_pb2, invoice_pb2
from dunwell_server.platform.context import Role
from dunwell_server.platform.logging import configure_logging, default_logging
from tests.rpc.floor import requests
from tests.rpc.floor.fakes import Served, failure, serve

CARD = "4242 4242 4242 4242"


async def test_every_violation_is_reported_with_its_path(served: Served) -> None:
    request = requests.create_client(email="nobody", locale="?", metadata={"note": "x" * 300})
    request.request_id = "not a uuid"
    failed = await failure(served.billing.CreateClient(request, metadata=served.metadata()))
    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    fields = {violation.field for violation in failed.details["BadRequest"].field_violations}
    assert {"client.email", "client.locale", 'client.metadata["note"]', "request_id"} <= fields
    assert failed.metadata["violations"] == str(len(failed.details["BadRequest"].field_violations))
    assert not served.script.requests


@pytest.mark.parametrize(
    ("rpc", "request_", "fields"),
    [
        ("CreateClient", requests.create_client(name=""), {"client.name"}),
        (
            "CreateEngagement",
            billing_service_pb2.CreateEngagementRequest(
                engagement=engagement_pb2.Engagement(
                    client_id="cli_01m7z884p0fm2rs0bt6q6pr0t4",
                    start_date=Date(year=2027, month=1, day=1),
                    pricing_mode=engagement_pb2.PRICING_MODE_PACKAGE,
                    package=engagement_pb2.PackageTerms(interval=engagement_pb2.BILLING_INTERVAL_MONTHLY),
                ),
                request_id=str(uuid4()),
            ),
            {"engagement.name", "engagement.package.fee"},
        ),
        (
            "CreateInvoice",
            billing_service_pb2.CreateInvoiceRequest(
                invoice=invoice_pb2.Invoice(
                    client_id="cli_01m7z884p0fm2rs0bt6q6pr0t4",
                    lines=[
                        invoice_pb2.InvoiceLine(description="Work", unit_price=Decimal(value="1")),
                        invoice_pb2.InvoiceLine(
                            description="Work",
                            unit_price=Decimal(value="1"),
                            period_start_date=Date(year=2027, month=1, day=1),
                        ),
                    ],
                ),
                request_id=str(uuid4()),
            ),
            {"invoice.lines[1].period_end_date"},
        ),
    ],
)
async def test_a_rule_about_a_message_names_the_field_that_it_wants(
    served: Served, rpc: str, request_: Any, fields: set[str]
) -> None:
    failed = await failure(getattr(served.billing, rpc)(request_, metadata=served.metadata()))
    assert failed.reason == "FIELD_INVALID"
    assert {violation.field for violation in failed.details["BadRequest"].field_violations} == fields


async def test_streams_are_validated_too(served: Served) -> None:
    request = requests.watch_run()
    request.run_id = "inv_1"
    failed = await failure(served.admin.WatchRun(request, metadata=served.metadata()))
    assert failed.reason == "FIELD_INVALID"
    assert not served.script.seen


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": f"Ada {CARD}"}, "client.name"),
        ({"name": "Ada 4242424242424242"}, "client.name"),
        ({"external_id": "4242-4242-4242-4242"}, "client.external_id"),
        ({"metadata": {"note": f"pay with {CARD}"}}, 'client.metadata["note"]'),
        ({"name": "Ada ٤٢٤٢٤٢٤٢٤٢٤٢٤٢٤٢"}, "client.name"),
        ({"name": "Ada 4242\u00a04242\u00a04242\u00a04242"}, "client.name"),
    ],
)
async def test_card_numbers_are_refused_and_never_logged(tmp_path: Path, fields: dict[str, Any], path: str) -> None:
    log = io.StringIO()
    configure_logging(form="json", level="DEBUG", stream=log)
    try:
        async with serve(tmp_path) as served:
            request = requests.create_client(**fields)
            failed = await failure(served.billing.CreateClient(request, metadata=served.metadata()))
    finally:
        default_logging()
    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "CARD_NUMBER_REFUSED")
    assert failed.metadata == {"field": path}
    assert failed.details["BadRequest"].field_violations[0].field == path
    assert "4242" not in str(failed)
    assert '"call"' in log.getvalue()
    # Twice, because a time stamp may end in 4242.
    assert not re.search("4242.?4242", log.getvalue())


async def test_a_card_number_as_a_key_is_not_echoed(served: Served) -> None:
    request = requests.create_client(metadata={"4242424242424242": "x"})
    failed = await failure(served.billing.CreateClient(request, metadata=served.metadata()))
    assert failed.code is StatusCode.INVALID_ARGUMENT
    assert "4242424242424242" not in str(failed)


async def test_long_digits_that_are_no_card_pass(served: Served) -> None:
    request = requests.create_client(name="Invoice 4242424242424241", metadata={"iban": "DE89370400440532013000"})
    await served.billing.CreateClient(request, metadata=served.metadata())
    assert served.script.requests == [request]


async def test_unknown_enum_value(served: Served) -> None:
    request = billing_service_pb2.ListInvoicesRequest()
    request.states.append(99)  # type: ignore[arg-type]
    failed = await failure(served.billing.ListInvoices(request, metadata=served.metadata(Role.READER)))
    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert "states[0]" in failed.details["BadRequest"].field_violations[0].field


async def test_unspecified_enum_value_in_a_filter(served: Served) -> None:
    request = billing_service_pb2.ListInvoicesRequest()
    request.states.append(0)  # type: ignore[arg-type]
    failed = await failure(served.billing.ListInvoices(request, metadata=served.metadata(Role.READER)))
    assert failed.reason == "FIELD_INVALID"


async def test_the_request_id_reaches_the_context(served: Served) -> None:
    request = requests.create_client()
    await served.billing.CreateClient(request, metadata=served.metadata())
    assert str(served.script.seen[0].request_id) == request.request_id
    assert served.script.seen[0].method == "BillingService.CreateClient"
