"""The Stripe provider."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from dunwell_server.providers.base import (
    CONNECT_TIMEOUT_SECONDS,
    TOTAL_TIMEOUT_SECONDS,
    AccountMode,
    Capabilities,
    KeySemantics,
)
from dunwell_server.providers.credentials import CredentialRule
from dunwell_server.providers.stripe.charges import ChargeCalls
from dunwell_server.providers.stripe.checkout import CheckoutCalls
from dunwell_server.providers.stripe.client import MAX_CONNECTIONS, NAME, Connections
from dunwell_server.providers.stripe.customers import CustomerCalls
from dunwell_server.providers.stripe.disputes import DisputeCalls
from dunwell_server.providers.stripe.refunds import RefundCalls
from dunwell_server.providers.stripe.setups import SetupCalls
from dunwell_server.providers.stripe.subscriptions import SubscriptionCalls
from dunwell_server.providers.stripe.tracing import TraceCalls
from dunwell_server.providers.stripe.webhooks import WebhookCalls


class StripeProvider(
    ChargeCalls,
    CustomerCalls,
    SetupCalls,
    CheckoutCalls,
    RefundCalls,
    SubscriptionCalls,
    DisputeCalls,
    TraceCalls,
    WebhookCalls,
):
    """Adapter of Stripe's API.

    Credentials: ``secret_key`` (``sk_test_…``, ``sk_live_…``, or restricted keys), ``publishable_key`` (for the
    browser; optional), ``webhook_secret`` and ``webhook_secret_previous`` (handed to `verify` by the caller).
    """

    name = NAME
    capabilities = Capabilities(
        off_session_charges=True,
        customers=True,
        setup_intents=True,
        checkout=True,
        refunds=True,
        managed_subscriptions=True,
        disputes=True,
        webhooks=True,
        # What Stripe allows a test account; live accounts have four times as much.
        rate_limit_per_second=25.0,
        max_concurrency=MAX_CONNECTIONS,
    )
    key_semantics = KeySemantics(
        retention=timedelta(hours=24),
        replays_server_errors=True,
        lookup_authoritative=True,
        settle_window=timedelta(minutes=15),
    )

    def __init__(
        self,
        api_base: str | None = None,
        files_base: str | None = None,
        *,
        connect_timeout: float = CONNECT_TIMEOUT_SECONDS,
        total_timeout: float = TOTAL_TIMEOUT_SECONDS,
    ) -> None:
        """``api_base`` is another address than Stripe's own, for stand-ins; ``files_base`` the one for uploads, by
        default the same. The timeouts are in seconds."""
        self._connections = Connections(api_base, files_base, connect_timeout, total_timeout)

    def credential_rules(self, mode: AccountMode) -> Sequence[CredentialRule]:
        """What the credentials of an account look like."""
        kind = mode.value.lower()
        keys = f"a secret or restricted key, sk_{kind}_… or rk_{kind}_…"
        return (
            CredentialRule("secret_key", rf"(sk|rk)_{kind}_[A-Za-z0-9_]{{3,}}", keys, required=True),
            CredentialRule("publishable_key", rf"pk_{kind}_[A-Za-z0-9_]{{3,}}", f"a publishable key, pk_{kind}_…"),
            CredentialRule("webhook_secret", r"whsec_[A-Za-z0-9_+/=-]{3,}", "a webhook signing secret, whsec_…"),
        )

    async def close(self) -> None:
        await self._connections.close()
