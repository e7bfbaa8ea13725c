"""The requests that are built, against the SDK's own types at the pinned version."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NotRequired

import pytest
import stripe.params as params
import stripe.params.checkout as checkout_params
from stripe._api_version import _ApiVersion
from typing_extensions import is_typeddict

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money
from dunwell_server.providers.abilities import CheckoutMode, CheckoutRequest, RefundRequest
from dunwell_server.providers.base import AccountMode, ChargeReferences, ChargeRequest, Credentials, ProviderAccount
from dunwell_server.providers.stripe import HANDLED, STRIPE_VERSION
from dunwell_server.providers.stripe.charges import charge_params
from dunwell_server.providers.stripe.checkout import session_params
from dunwell_server.providers.stripe.disputes import file_name
from dunwell_server.providers.stripe.refunds import refund_params

ACCOUNT = ProviderAccount("a", "stripe", AccountMode.TEST, Credentials({"secret_key": "sk_test_1"}))
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_the_pinned_version_is_the_sdks_own() -> None:
    assert STRIPE_VERSION == _ApiVersion.CURRENT


def test_every_event_that_is_read_is_one_an_endpoint_can_subscribe_to() -> None:
    known = str(hints(params.WebhookEndpointCreateParams)["enabled_events"])
    older = {"payment_method.card_automatically_updated"}
    assert [name for name in sorted(HANDLED - older) if f"'{name}'" not in known] == []


def hints(expected: Any) -> dict[str, Any]:
    """The fields of one of the SDK's types."""
    return typing.get_type_hints(expected, localns={"StripeContext": object, "Mapping": Mapping}, include_extras=True)


def check(value: Any, expected: Any, at: str = "") -> None:
    """Fails for a parameter that the SDK's type has not, at any depth, and for one that is required and missing."""
    origin, inner = typing.get_origin(expected), typing.get_args(expected)
    if is_typeddict(expected):
        fields = hints(expected)
        assert set(value) <= set(fields), f"{at}: {set(value) - set(fields)}"
        assert expected.__required_keys__ <= set(value), f"{at}: {expected.__required_keys__ - set(value)} missing"
        for name, item in value.items():
            check(item, fields[name], f"{at}.{name}")
    elif origin is NotRequired:
        check(value, inner[0], at)
    elif origin is list:
        for item in value:
            check(item, inner[0], at)
    elif origin is typing.Union and isinstance(value, (dict, list)):
        fitting = [one for one in inner if is_typeddict(one) == isinstance(value, dict)]
        fitting = [one for one in fitting if is_typeddict(one) or typing.get_origin(one) in (list, dict)]
        if fitting:
            check(value, fitting[0], at)


def charge(**changes: Any) -> ChargeRequest:
    given: dict[str, Any] = {
        "account": ACCOUNT,
        "key": "v1:1:1",
        "references": ChargeReferences("firm-1", "payment-1"),
        "money": Money("USD", 4999),
        "method_reference": "pm_1",
        "customer_reference": "cus_1",
        "description": "Invoice 42",
    }
    return ChargeRequest(**{**given, **changes})


@pytest.mark.parametrize(
    "changes", [{}, {"off_session": False, "return_url": "https://example.com/"}, {"description": ""}]
)
def test_a_charge(changes: dict[str, Any]) -> None:
    check(charge_params(charge(**changes)), params.PaymentIntentCreateParams)


def test_the_check_can_fail() -> None:
    with pytest.raises(AssertionError):
        check({**charge_params(charge()), "bogus": 1}, params.PaymentIntentCreateParams)
    with pytest.raises(AssertionError):
        check({"amount": 1}, params.PaymentIntentCreateParams)
    with pytest.raises(AssertionError):
        check({**charge_params(charge()), "automatic_payment_methods": {"x": 1}}, params.PaymentIntentCreateParams)


def test_a_refund() -> None:
    for payment, name in (("pi_1", "payment_intent"), ("ch_1", "charge")):
        request = RefundRequest(
            account=ACCOUNT,
            key="k",
            firm="f",
            payment="p",
            refund="r",
            payment_reference=payment,
            money=Money("ISK", 5),
        )
        built = refund_params(request)
        check(built, params.RefundCreateParams)
        assert (built.get(name), built.get("amount")) == (payment, 500)


def page(mode: CheckoutMode, **changes: Any) -> CheckoutRequest:
    given: dict[str, Any] = {
        "account": ACCOUNT,
        "key": "checkout:1",
        "mode": mode,
        "metadata": {"firm": "firm-1", "checkout": "checkout-1", "payment": "payment-1"},
        "success_url": "https://example.com/done",
        "customer_reference": "cus_1",
    }
    return CheckoutRequest(**{**given, **changes})


@pytest.mark.parametrize(
    "request_",
    [
        page(CheckoutMode.PAYMENT, money=Money("USD", 1), description="Invoice 42", save_method=True),
        page(CheckoutMode.PAYMENT, money=Money("USD", 1), customer_reference=None, save_method=True),
        page(CheckoutMode.SETUP, cancel_url="https://example.com/back", expire_time=NOW + timedelta(hours=1)),
        page(CheckoutMode.SUBSCRIPTION, price_reference="price_1", quantity=3),
    ],
    ids=["payment", "payment of a stranger", "set-up", "subscription"],
)
def test_a_hosted_page_marks_its_own_objects_as_ours(request_: CheckoutRequest) -> None:
    built: Any = session_params(request_, NOW)
    check(built, checkout_params.SessionCreateParams)
    holder = {"payment": "payment_intent_data", "setup": "setup_intent_data", "subscription": "subscription_data"}
    ours = built[holder[built["mode"]]]["metadata"]
    assert ours == built["metadata"]
    assert (ours["firm"], ours["key"], ours["checkout"]) == ("firm-1", "checkout:1", "checkout-1")


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        (timedelta(hours=2), timedelta(hours=2)),
        (timedelta(minutes=5), timedelta(minutes=31)),
        (timedelta(days=-3), timedelta(minutes=31)),
        (timedelta(days=2), None),
        (None, None),
    ],
)
def test_a_page_closes_within_stripes_bounds(wanted: timedelta | None, sent: timedelta | None) -> None:
    request = page(CheckoutMode.SETUP, expire_time=None if wanted is None else NOW + wanted)
    expected = None if sent is None else int((NOW + sent).timestamp())
    assert session_params(request, NOW).get("expires_at") == expected


@pytest.mark.parametrize(
    "request_",
    [
        page(CheckoutMode.PAYMENT),
        page(CheckoutMode.PAYMENT, money=Money("KWD", 1)),
        page(CheckoutMode.SUBSCRIPTION),
    ],
)
def test_a_page_without_what_it_needs_is_refused(request_: CheckoutRequest) -> None:
    with pytest.raises(DunwellError) as refused:
        session_params(request_, NOW)
    assert refused.value.reason is Reason.FIELD_INVALID


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("log", "application/pdf", "log.pdf"),
        ("log.pdf", "application/pdf", "log.pdf"),
        ("../../etc/passwd", "text/plain", "passwd"),
        ("C:\\scans\\a.png", "image/png", "a.png"),
        ('x"\r\nEvil: 1', "image/jpeg", 'x"Evil: 1.jpg'),
        ("", "image/png", "evidence.png"),
    ],
)
def test_a_file_is_uploaded_under_a_plain_name(name: str, kind: str, expected: str) -> None:
    assert file_name(name, kind) == expected
