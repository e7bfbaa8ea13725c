"""What pages say of money, how money spreads over invoices, when pages are looked at: the pure rules."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.kernel.money import Money
from dunwell_server.payments.evidence import ActionRequired, Declined, Pending, Succeeded, Unknown
from dunwell_server.payments.page_model import SessionState, SetupIntentState
from dunwell_server.payments.reading import ends_page, is_bare, page_evidence
from dunwell_server.payments.service.checkouts import next_look
from dunwell_server.payments.service.one_time import describe
from dunwell_server.payments.service.settling import spread
from dunwell_server.providers.abilities import CheckoutDetails, CheckoutMode, CheckoutState
from dunwell_server.providers.base import (
    DeclineClass,
    FailureCode,
    MethodDetails,
    MethodKind,
    Outcome,
    OutcomeClass,
)

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
PAID = Outcome(outcome=OutcomeClass.SUCCEEDED, provider_reference="py_1", money=Money("USD", 1200))
REFUSED = Outcome(
    outcome=OutcomeClass.DECLINED, failure_code=FailureCode.CARD_DECLINED, decline_class=DeclineClass.SOFT, provider_code="card_declined",
)  # fmt: skip
WAITS = Outcome(outcome=OutcomeClass.PENDING, provider_reference="py_1")


def page(state: CheckoutState, payment: Outcome | None) -> CheckoutDetails:
    return CheckoutDetails(
        provider_reference="cs_1", mode=CheckoutMode.PAYMENT, state=state, payment=payment, url="https://pay.example/1"
    )


@pytest.mark.parametrize("state", list(CheckoutState))
def test_money_is_money_whatever_the_page_says(state: CheckoutState) -> None:
    assert page_evidence(page(state, PAID), NOW) == Succeeded("py_1", 1200, "USD")


@pytest.mark.parametrize("payment", [None, REFUSED, WAITS])
def test_an_open_page_waits_for_its_client_also_after_a_refusal(payment: Outcome | None) -> None:
    assert page_evidence(page(CheckoutState.OPEN, payment), NOW) == ActionRequired(None, "https://pay.example/1", None)


def test_the_end_of_a_page() -> None:
    expired = page_evidence(page(CheckoutState.EXPIRED, REFUSED), NOW)
    assert isinstance(expired, Declined)
    assert ends_page(expired.failure)
    refused = page_evidence(page(CheckoutState.COMPLETED, REFUSED), NOW)
    assert isinstance(refused, Declined)
    assert not ends_page(refused.failure)
    assert isinstance(page_evidence(page(CheckoutState.COMPLETED, WAITS), NOW), Pending)
    assert isinstance(page_evidence(page(CheckoutState.COMPLETED, None), NOW), Unknown)


@dataclass
class Owing:
    """What spreading looks at of an invoice."""

    open_amount: int
    id: UUID
    number: str = "INV-1"


owing: Any = st.builds(Owing, st.integers(0, 500), st.builds(uuid4))


@given(st.lists(owing, max_size=6), st.integers(1, 1000))
def test_money_fills_invoices_in_their_order(invoices: list[Any], amount: int) -> None:
    shares = spread(invoices, amount)
    owed = sum(invoice.open_amount for invoice in invoices)
    assert sum(shares.values()) == min(amount, owed)
    left = amount
    for invoice in invoices:
        assert shares.get(invoice.id, 0) == min(left, invoice.open_amount)
        left -= shares.get(invoice.id, 0)
    assert all(share > 0 for share in shares.values())


@given(st.timedeltas(timedelta(0), timedelta(days=40)), st.none() | st.timedeltas(timedelta(0), timedelta(days=40)))
def test_an_open_page_is_always_looked_at_later_and_by_its_end(elapsed: timedelta, life: timedelta | None) -> None:
    expires = None if life is None else NOW + life
    now = NOW + elapsed
    due = next_look(NOW, expires, now)
    assert due > now
    assert due - now <= timedelta(hours=6)
    if expires is not None:
        assert due <= max(expires, now + timedelta(seconds=5))


def test_descriptions_name_a_few_invoices() -> None:
    many: list[Any] = [Owing(1, uuid4(), f"INV-{number}") for number in range(1, 8)]
    assert describe([]) == "Payment"
    assert describe(many[:1]) == "Invoice INV-1"
    assert describe(many[:2]) == "Invoices INV-1, INV-2"
    assert describe(many) == "Invoices INV-1, INV-2, INV-3, INV-4, INV-5 and 2 more"


def test_bare_methods_and_final_states() -> None:
    assert is_bare(MethodDetails("pm_1", MethodKind.OTHER))
    assert not is_bare(MethodDetails("pm_1", MethodKind.CARD, last4="4242"))
    assert [state for state in SessionState if not state.is_final] == [SessionState.CREATING, SessionState.OPEN]
    assert [state for state in SetupIntentState if not state.is_open] == [
        SetupIntentState.SUCCEEDED,
        SetupIntentState.CANCELLED,
    ]
