"""The demonstration's cast can be played: names are unique and every payment method is one the gateway knows."""

from __future__ import annotations

import re

import pytest

from dunwell_server.cli.demo.api import request_id
from dunwell_server.cli.demo.story import COUPON_HOLDER, CREDIT, HARBOUR, LANTERN, TAXES, Company
from dunwell_server.kernel.money import is_currency
from dunwell_server.sandbox.instruments import INSTRUMENTS, Behaviour


@pytest.mark.parametrize("company", [HARBOUR, LANTERN], ids=["harbour", "lantern"])
def test_the_cast_can_be_played(company: Company) -> None:
    keys = [person.key for person in company.people]
    deals = [f"{person.key}-{deal.name}" for person in company.people for deal in person.deals]
    assert len(set(keys)) == len(keys)
    assert len(set(deals)) == len(deals)
    for person in company.people:
        assert re.fullmatch(r"[\x21-\x7e]{1,64}", person.key)
        assert is_currency(person.currency)
        assert person.method is None or person.method in INSTRUMENTS
        assert person.cadence is None or person.method is not None
        assert all((deal.fee > 0 or deal.hours) and deal.days_ago >= 0 for deal in person.deals)


def test_the_main_firm_shows_every_kind_of_outcome() -> None:
    people = HARBOUR.people
    played = {INSTRUMENTS[person.method].behaviour for person in people if person.method}
    assert {
        Behaviour.SUCCEED, Behaviour.DECLINE, Behaviour.REQUIRE_ACTION, Behaviour.ACCEPT_THEN_DROP, Behaviour.PENDING_THEN_SUCCESS,
    } <= played  # fmt: skip
    declines = {INSTRUMENTS[person.method].decline for person in people if person.method}
    assert {"generic_decline", "insufficient_funds", "expired_card"} <= declines
    assert {"USD", "EUR", "INR", "JPY"} == {person.currency for person in people}
    assert 12 <= len(people) <= 25


def test_the_main_firm_shows_what_can_be_billed() -> None:
    people = {person.key: person for person in HARBOUR.people}
    deals = [deal for person in HARBOUR.people for deal in person.deals]
    assert {COUPON_HOLDER, CREDIT[0]} <= people.keys()
    assert any(deal.hours and deal.fee and deal.hours.included_minutes for deal in deals)
    assert any(deal.hours and not deal.fee for deal in deals)
    assert {(country, region) for _, _, country, region in TAXES} <= {
        (each.country, each.region) for each in people.values()
    }


def test_request_ids_follow_from_the_step() -> None:
    assert request_id("firm", "client") == request_id("firm", "client")
    assert request_id("firm", "client") != request_id("firm", "method")
