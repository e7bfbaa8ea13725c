"""The sandbox provider, put together from its groups of calls."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from dunwell_server.providers.base import AccountMode, Capabilities, KeySemantics
from dunwell_server.providers.credentials import CredentialRule
from dunwell_server.providers.sandbox.charges import ChargeCalls
from dunwell_server.providers.sandbox.checkout import CheckoutCalls
from dunwell_server.providers.sandbox.clock import ClockCalls
from dunwell_server.providers.sandbox.customers import CustomerCalls
from dunwell_server.providers.sandbox.disputes import DisputeCalls
from dunwell_server.providers.sandbox.refunds import RefundCalls
from dunwell_server.providers.sandbox.setups import SetupCalls
from dunwell_server.providers.sandbox.webhooks import WebhookCalls
from dunwell_server.providers.sandbox.wire import MAX_CONNECTIONS, NAME


class SandboxProvider(
    ChargeCalls,
    CustomerCalls,
    SetupCalls,
    CheckoutCalls,
    RefundCalls,
    DisputeCalls,
    WebhookCalls,
    ClockCalls,
):
    """Adapter of the sandbox gateway at ``base_url``.

    Credentials: ``secret_key`` (``sk_test_<account>``), ``publishable_key`` (for the browser; by default
    ``pk_test_<account>``), ``webhook_secret`` and ``webhook_secret_previous`` (handed to `verify` by the caller; the
    gateway signs with ``whsec_<account>`` unless told otherwise). Only TEST accounts exist.
    """

    name = NAME
    capabilities = Capabilities(
        off_session_charges=True,
        customers=True,
        setup_intents=True,
        checkout=True,
        refunds=True,
        disputes=True,
        webhooks=True,
        follows_test_clock=True,
        max_concurrency=MAX_CONNECTIONS,
        modes=frozenset({AccountMode.TEST}),
    )
    key_semantics = KeySemantics(
        retention=timedelta(hours=24),
        replays_server_errors=True,
        lookup_authoritative=True,
        settle_window=timedelta(minutes=15),
    )

    def credential_rules(self, mode: AccountMode) -> Sequence[CredentialRule]:
        """What the credentials of an account look like."""
        return (
            CredentialRule(
                "secret_key", r"sk_test_[A-Za-z0-9_-]{1,64}", "sk_test_ and the account's name", required=True
            ),
            CredentialRule("publishable_key", r"pk_test_[A-Za-z0-9_-]{1,64}", "pk_test_ and the account's name"),
            CredentialRule("webhook_secret", r"whsec_[A-Za-z0-9_+/=-]{1,128}", "whsec_ and the secret"),
        )
