"""The records of the interface: secrets, digests, requests."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money
from dunwell_server.providers.base import (
    AccountMode,
    ChargeReferences,
    ChargeRequest,
    Credentials,
    ProviderAccount,
)

ACCOUNT = ProviderAccount("a1", "sandbox", AccountMode.TEST, Credentials({"secret_key": "sk_canary"}), "firm-1")
REQUEST = ChargeRequest(
    account=ACCOUNT,
    key="v1:p:1",
    references=ChargeReferences("firm-1", "p"),
    money=Money("USD", 100),
    method_reference="pm_1",
)


def test_credentials_are_read_by_name_and_shown_never() -> None:
    credentials = ACCOUNT.credentials
    assert credentials["secret_key"] == "sk_canary"
    assert credentials.get("secret_key") == "sk_canary"
    assert credentials.get("other", "none") == "none"
    assert "other" not in credentials
    assert list(credentials) == ["secret_key"]
    for shown in (repr(credentials), str(credentials), f"{credentials}", repr(ACCOUNT), repr(REQUEST)):
        assert "canary" not in shown
    with pytest.raises(DunwellError) as missing:
        credentials["webhook_secret"]
    assert missing.value.reason is Reason.PROVIDER_NOT_CONFIGURED


def test_the_digest_tells_every_change_the_provider_would_see() -> None:
    changes = [
        replace(REQUEST, key="v1:p:2"),
        replace(REQUEST, money=Money("USD", 101)),
        replace(REQUEST, money=Money("EUR", 100)),
        replace(REQUEST, method_reference="pm_2"),
        replace(REQUEST, customer_reference="cus_1"),
        replace(REQUEST, description="x"),
        replace(REQUEST, off_session=False),
        replace(REQUEST, references=ChargeReferences("firm-2", "p")),
        replace(REQUEST, references=ChargeReferences("firm-1", "q")),
        replace(REQUEST, account=replace(ACCOUNT, id="a2")),
    ]
    digests = {change.digest for change in changes}
    assert len(digests) == len(changes)
    assert REQUEST.digest not in digests
    rotated = replace(REQUEST, account=replace(ACCOUNT, credentials=Credentials({"secret_key": "new"})))
    assert rotated.digest == REQUEST.digest


def test_a_request_carries_firm_payment_and_key() -> None:
    assert REQUEST.metadata == {"firm": "firm-1", "payment": "p", "key": "v1:p:1"}


@pytest.mark.parametrize("change", [{"money": Money("USD", 0)}, {"money": Money("USD", -1)}, {"key": ""}])
def test_requests_that_cannot_be_sent_cannot_be_made(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"positive|characters"):
        replace(REQUEST, **change)  # type: ignore[arg-type]


def test_requests_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        REQUEST.key = "other"  # type: ignore[misc]
