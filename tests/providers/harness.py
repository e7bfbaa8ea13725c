"""What a provider brings to the contract suite: itself, an account, and the names of its test methods.

A provider joins the suite by adding its harness to `HARNESSES`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from dunwell_server.kernel.money import Money
from dunwell_server.providers.base import (
    AccountMode,
    ChargeReferences,
    ChargeRequest,
    Credentials,
    DeclineClass,
    FailureCode,
    FollowsTestClock,
    Provider,
    ProviderAccount,
    require_ability,
)
from dunwell_server.providers.sandbox import SandboxProvider
from dunwell_server.providers.stripe import StripeProvider
from tests.providers.gateway import start_gateway
from tests.providers.stripe.front import Front
from tests.providers.stripe.localstripe import start_localstripe
from tests.providers.stripe.loopback import serving


@dataclass
class Harness:
    """One provider under the contract suite. ``impatient`` is the same provider with a total timeout under a second."""

    provider: Provider
    impatient: Provider
    unreachable: Provider
    """The same adapter, pointed at a port where nobody listens."""
    account: ProviderAccount
    secret: str
    movements: Callable[[str], int]
    """The provider's independent book: how often money moved for a payment."""
    start_time: datetime
    declines: dict[str, tuple[FailureCode, DeclineClass]]
    """Test method → what its decline must become."""
    good: str = "pm_card_visa"
    needs_action: str = "pm_card_threeDSecure2Required"
    pending_success: str = "pm_sandbox_pendingThenSuccess"
    pending_failure: str = "pm_sandbox_pendingThenFailure"
    accept_then_timeout: str = "pm_sandbox_acceptThenTimeout"
    accept_then_drop: str = "pm_sandbox_acceptThenDrop"
    error_after_accept: str = "pm_sandbox_serverErrorAfterAccept"
    drop_before_accept: str = "pm_sandbox_dropBeforeAccept"
    wrong_amount: str = "pm_sandbox_wrongAmount"
    wrong_currency: str = "pm_sandbox_wrongCurrency"
    unparsable: str = "pm_sandbox_unparsable"
    rate_limited: str = "pm_sandbox_rateLimited"
    refused_attach: str = "pm_sandbox_attachDeclined"
    wrong_secret: str = "sk_live_canary_4711"
    """A key with the word ``canary`` that the provider does not accept."""
    card_country: str = "US"
    amounts: dict[str, int] = field(default_factory=dict)
    """Currency → an amount that can be charged in it, where the suite's own cannot."""
    return_url: str | None = None
    links_expire: bool = True
    """Whether the provider says until when a payer's link holds."""
    cannot: dict[str, str] = field(default_factory=dict)
    """Test → why what stands in for the provider cannot do it."""
    _now: datetime | None = field(default=None)

    def request(
        self, method: str, money: Money | None = None, *, key: str | None = None, off_session: bool = True
    ) -> ChargeRequest:
        """A charge of a payment of its own."""
        payment = str(uuid4())
        return ChargeRequest(
            account=self.account,
            key=key or f"v1:{payment}:1",
            references=ChargeReferences(firm="firm-1", payment=payment),
            money=money or Money("USD", 4999),
            method_reference=method,
            description="Invoice HV-2026-000042",
            off_session=off_session,
            return_url=None if off_session else self.return_url,
        )

    async def advance(self, delta: timedelta) -> None:
        """Moves the account's clock forward."""
        self._now = (self._now or self.start_time) + delta
        clock = require_ability(self.provider, "follows_test_clock", FollowsTestClock)  # type: ignore[type-abstract]
        await clock.set_clock(self.account, self._now)


SANDBOX_DECLINES = {
    "pm_card_chargeDeclined": (FailureCode.CARD_DECLINED, DeclineClass.SOFT),
    "pm_card_visa_chargeDeclined": (FailureCode.CARD_DECLINED, DeclineClass.SOFT),
    "pm_card_chargeCustomerFail": (FailureCode.CARD_DECLINED, DeclineClass.SOFT),
    "pm_card_chargeDeclinedInsufficientFunds": (FailureCode.INSUFFICIENT_FUNDS, DeclineClass.SOFT),
    "pm_card_chargeDeclinedLostCard": (FailureCode.CARD_DECLINED, DeclineClass.HARD),
    "pm_card_chargeDeclinedStolenCard": (FailureCode.CARD_DECLINED, DeclineClass.HARD),
    "pm_card_chargeDeclinedExpiredCard": (FailureCode.EXPIRED_CARD, DeclineClass.CUSTOMER),
    "pm_card_chargeDeclinedIncorrectCvc": (FailureCode.INCORRECT_CVC, DeclineClass.CUSTOMER),
    "pm_card_chargeDeclinedProcessingError": (FailureCode.PROCESSING_ERROR, DeclineClass.TECHNICAL),
    "pm_card_authenticationRequired": (FailureCode.AUTHENTICATION_REQUIRED, DeclineClass.CUSTOMER),
}


@asynccontextmanager
async def sandbox_harness(folder: Path) -> AsyncIterator[Harness]:
    """The sandbox adapter against a gateway process of its own."""
    gateway = start_gateway(folder)
    name = f"contract-{uuid4().hex[:8]}"
    secret = f"sk_test_{name}"
    account = ProviderAccount("account-1", "sandbox", AccountMode.TEST, Credentials({"secret_key": secret}))
    start = datetime.fromisoformat("2026-01-31T12:00:00+00:00")
    providers = [
        SandboxProvider(gateway.url),
        SandboxProvider(gateway.url, total_timeout=0.4),
        SandboxProvider("http://127.0.0.1:9"),
    ]
    await providers[0].set_clock(account, start)
    try:
        yield Harness(
            provider=providers[0],
            impatient=providers[1],
            unreachable=providers[2],
            account=account,
            secret=secret,
            movements=lambda payment: gateway.movements(payment, name),
            start_time=start,
            declines=SANDBOX_DECLINES,
        )
    finally:
        for provider in providers:
            await provider.close()
        gateway.stop()


_NO_CLOCK = "localstripe has no clock that can be set"
STRIPE_CANNOT = {
    "test_what_is_pending_settles_by_the_account_clock": _NO_CLOCK,
    "test_a_link_expires_by_the_account_clock": _NO_CLOCK,
    "test_cancelling_too_late_tells_that_the_money_moved": "localstripe has no method that stays pending for a while",
    "test_the_list_has_every_payment_of_the_span_once_and_in_order": _NO_CLOCK,
}


@asynccontextmanager
async def stripe_harness(folder: Path) -> AsyncIterator[Harness]:
    """The Stripe adapter against localstripe, with a front that adds what localstripe lacks."""
    book = start_localstripe(folder)
    secret = f"sk_test_{uuid4().hex}"
    account = ProviderAccount("account-1", "stripe", AccountMode.TEST, Credentials({"secret_key": secret}))
    front = Front(book.url, secret)
    async with serving(front) as server:
        providers = [
            StripeProvider(server.url),
            StripeProvider(server.url, total_timeout=0.8),
            StripeProvider("http://127.0.0.1:9"),
        ]
        try:
            yield Harness(
                provider=providers[0],
                impatient=providers[1],
                unreachable=providers[2],
                account=account,
                secret=secret,
                movements=book.movements,
                start_time=datetime.now(UTC) - timedelta(seconds=2),
                declines=SANDBOX_DECLINES,
                refused_attach="pm_card_visa_chargeDeclined",
                wrong_secret="sk_test_canary_4711",
                card_country="FR",
                amounts={"KWD": 12_340},
                return_url="https://example.com/back",
                links_expire=False,
                cannot=STRIPE_CANNOT,
            )
        finally:
            for provider in providers:
                await provider.close()
            await front.close()
            book.stop()


HARNESSES: dict[str, Callable[[Path], AbstractAsyncContextManager[Harness]]] = {
    "sandbox": sandbox_harness,
    "stripe": stripe_harness,
}
