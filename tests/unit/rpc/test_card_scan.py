"""The quick look at raw bytes never misses a card number that the slow look finds."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dunwell.v1 import billing_service_pb2
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.luhn import contains_card_number
from dunwell_server.rpc.interceptors.validation import RequestValidator, may_hold_card_number

CARDS = ("4242424242424242", "378282246310005", "6011111111111117", "5555555555554444", "4222222222222")
SEPARATORS = st.sampled_from(["", " ", "-", "\u00a0"])
SCRIPTS = st.sampled_from([0x30, 0x660, 0x966, 0xFF10])


@given(st.sampled_from(CARDS), st.lists(SEPARATORS, min_size=19, max_size=19), SCRIPTS, st.text(), st.text())
def test_no_card_is_missed(card: str, separators: list[str], zero: int, before: str, after: str) -> None:
    digits = "".join(chr(zero + int(digit)) + gap for digit, gap in zip(card, separators, strict=False))
    text = f"{before} {digits} {after}"
    assume(contains_card_number(text))
    message = billing_service_pb2.CreateClientRequest(request_id=str(uuid.uuid4()))
    message.client.name = text.encode("utf-8", "ignore").decode()
    assert may_hold_card_number(message.SerializeToString())


def test_ordinary_requests_need_no_slow_look() -> None:
    message = billing_service_pb2.CreateClientRequest(request_id="0197b6a0-6a3c-7c11-9d3e-0c9a4d1c2f10")
    message.client.name = "Müller & Söhne"
    message.client.email = "ada@example.com"
    assert not may_hold_card_number(message.SerializeToString())


def test_fields_whose_form_excludes_cards_are_exempt() -> None:
    message = billing_service_pb2.CreateClientRequest(request_id="42424242-4242-4242-8242-424242424242")
    message.client.name = "Ada"
    validator = RequestValidator(billing_service_pb2.CreateClientRequest.DESCRIPTOR)
    validator.check(message, message.SerializeToString())
    message.client.tax_id = "4242 4242 4242 4242"
    with pytest.raises(DunwellError) as caught:
        validator.check(message, message.SerializeToString())
    assert caught.value.reason is Reason.CARD_NUMBER_REFUSED
    assert caught.value.metadata == {"field": "client.tax_id"}
