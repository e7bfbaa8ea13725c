"""What credentials look like, and that a refusal never shows one."""

from __future__ import annotations

import pytest

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.providers.accounts import AccountMode
from dunwell_server.providers.credentials import check_credentials
from dunwell_server.providers.sandbox import SandboxProvider
from dunwell_server.providers.stripe import StripeProvider

TEST, LIVE = AccountMode.TEST, AccountMode.LIVE


@pytest.mark.parametrize(
    ("mode", "credentials", "wrong"),
    [
        (TEST, {"secret_key": "sk_test_51Abc"}, None),
        (
            TEST,
            {"secret_key": "rk_test_51Abc", "publishable_key": "pk_test_1aa", "webhook_secret": "whsec_a1+/="},
            None,
        ),
        (LIVE, {"secret_key": "sk_live_51Abc", "rate_limit_per_second": "100"}, None),
        (TEST, {"secret_key": "sk_live_51CANARY"}, "secret_key"),
        (LIVE, {"secret_key": "sk_test_51CANARY"}, "secret_key"),
        (LIVE, {"secret_key": "rk_test_51CANARY"}, "secret_key"),
        (TEST, {"secret_key": "CANARY"}, "secret_key"),
        (TEST, {"secret_key": "sk_test_abc\nCANARY"}, "secret_key"),
        (TEST, {"publishable_key": "pk_test_1aa"}, "secret_key"),
        (TEST, {"secret_key": "sk_test_51Abc", "publishable_key": "pk_live_CANARY"}, "publishable_key"),
        (TEST, {"secret_key": "sk_test_51Abc", "webhook_secret": "CANARY"}, "webhook_secret"),
        (TEST, {"secret_key": "sk_test_51Abc", "rate_limit_per_second": "0"}, "rate_limit_per_second"),
        (TEST, {"secret_key": "sk_test_51Abc", "rate_limit_per_second": "CANARY"}, "rate_limit_per_second"),
        (TEST, {"secret_key": "sk_test_51Abc", "password": "CANARY"}, "password"),
    ],
)
def test_stripes_credentials(mode: AccountMode, credentials: dict[str, str], wrong: str | None) -> None:
    provider = StripeProvider()
    if wrong is None:
        check_credentials(provider, mode, credentials, "stripe")
        return
    with pytest.raises(DunwellError) as refused:
        check_credentials(provider, mode, credentials, "stripe")
    assert refused.value.reason is Reason.CREDENTIAL_INVALID
    assert refused.value.metadata == {"credential": wrong}
    assert refused.value.field == f"credentials.{wrong}"
    assert "CANARY" not in str(refused.value)


def test_the_sandbox_knows_test_keys_only() -> None:
    provider = SandboxProvider("http://127.0.0.1:9")
    check_credentials(provider, TEST, {"secret_key": "sk_test_pva_01"}, "sandbox")
    with pytest.raises(DunwellError):
        check_credentials(provider, TEST, {"secret_key": "sk_live_pva_01"}, "sandbox")


def test_a_provider_without_rules_takes_what_it_is_given() -> None:
    check_credentials(object(), LIVE, {"anything": "at all"}, "toy")
