"""Shared converters: every pair round-trips, every wrong value is an error that names its field."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage
from hypothesis import given
from hypothesis import strategies as st

from dunwell.v1 import billing_service_pb2, money_pb2
from dunwell_server.kernel import ids
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money
from dunwell_server.rpc import converters
from dunwell_server.rpc.current import adopt
from tests import support

KEY = b"k" * 32


def reason(call: Any) -> tuple[Reason, str | None]:
    """Why a conversion is refused, and the field it names."""
    with pytest.raises(DunwellError) as caught:
        call()
    violations = caught.value.violations
    return caught.value.reason, violations[0].field if violations else None


@given(st.datetimes(timezones=st.just(UTC)))
def test_instants(moment: datetime) -> None:
    message = converters.timestamp(moment)
    assert message is not None
    assert converters.instant(message, "x") == moment


@given(st.dates())
def test_dates(day: date) -> None:
    message = converters.date_message(day)
    assert message is not None
    assert converters.civil_date(message, "x") == day


def test_none_stays_unset() -> None:
    unset = [
        converters.timestamp(None), converters.date_message(None), converters.money_message(None),
        converters.decimal_message(None),
    ]  # fmt: skip
    assert unset == [None] * 4
    request = billing_service_pb2.ListInvoicesRequest()
    assert converters.optional_instant(request.create_time, "start_time") is None


def test_wrong_values_name_their_field() -> None:
    field_invalid = Reason.FIELD_INVALID
    assert reason(lambda: converters.instant(Timestamp(seconds=2**60), "t")) == (field_invalid, "t")
    assert reason(lambda: converters.civil_date(Date(year=2023, month=2, day=29), "d")) == (field_invalid, "d")
    assert reason(lambda: converters.civil_date(Date(year=2023), "d")) == (field_invalid, "d")
    assert reason(lambda: converters.decimal(DecimalMessage(value="NaN"), "q")) == (field_invalid, "q")
    euro = money_pb2.Money(currency_code="XQZ", amount_minor=1)
    assert reason(lambda: converters.money(euro, "amount")) == (Reason.UNKNOWN_CURRENCY, "amount.currency_code")
    assert reason(lambda: converters.id_value(ids.Prefix.INVOICE, "cli_1", "invoice_id")) == (
        Reason.INVALID_ID,
        "invoice_id",
    )
    good = converters.id_text(ids.Prefix.CLIENT, ids.uuid7())
    assert reason(lambda: converters.id_values(ids.Prefix.CLIENT, [good, "x"], "ids")) == (Reason.INVALID_ID, "ids[1]")


@pytest.mark.parametrize("text", ["", " 1", "1 ", "1_000", "0x1", "inf", "١", "1e1000", "1" * 65, "--1", "."])
def test_what_is_no_decimal(text: str) -> None:
    assert reason(lambda: converters.decimal(DecimalMessage(value=text), "q")) == (Reason.FIELD_INVALID, "q")


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=9))
def test_decimals(value: Decimal) -> None:
    message = converters.decimal_message(value)
    assert message is not None
    assert "e" not in message.value.lower()
    assert converters.decimal(message, "q") == value


def test_money_and_ids() -> None:
    amount = Money("KWD", -(2**63))
    message = converters.money_message(amount)
    assert message is not None
    assert converters.money(message, "amount") == amount
    uuid = ids.uuid7()
    assert converters.optional_id(ids.Prefix.RUN, converters.id_text(ids.Prefix.RUN, uuid), "x") == uuid
    assert converters.optional_id(ids.Prefix.RUN, "", "x") is None
    assert converters.id_text(ids.Prefix.RUN, None) == ""


@pytest.mark.parametrize(
    ("text", "version"),
    [("", None), ("v7", 7), ('"v7"', 7), ('W/"v7"', 7), ("7", -1), ("v07", -1), ("v" + "9" * 30, -1)],
)
def test_etags(text: str, version: int | None) -> None:
    assert converters.expected_version(text) == version


def test_an_etag_round_trips() -> None:
    assert converters.expected_version(converters.etag(12)) == 12


def test_pages() -> None:
    firm = ids.uuid7()
    adopt(support.context(firm, method="BillingService.ListInvoices"))
    pager = converters.Pager(KEY)
    request = billing_service_pb2.ListInvoicesRequest(page_size=2, client_id="cli_1")
    page = pager.read(request)
    assert (page.size, page.limit, page.after) == (2, 3, None)
    shown, token = page.split([1, 2, 3], lambda row: (row,))
    assert list(shown) == [1, 2]
    request.page_token = token
    request.page_size = 5  # may change between pages
    following = pager.read(request)
    assert following.after == (2,)
    assert following.split([3], lambda row: (row,)) == ([3], "")
    request.client_id = "cli_2"
    assert reason(lambda: pager.read(request)) == (Reason.PAGE_TOKEN_MISMATCH, "page_token")
    request.client_id = "cli_1"
    assert reason(lambda: converters.Pager(b"x" * 32).read(request))[0] is Reason.PAGE_TOKEN_INVALID
    adopt(support.context(ids.uuid7(), method="BillingService.ListInvoices"))
    assert reason(lambda: pager.read(request))[0] is Reason.PAGE_TOKEN_MISMATCH
