"""What a provider brings to the contract suite: itself, an account, and the names of its test methods.

A provider joins the suite by adding its harness to `HARNESSES`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
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
from tests.providers.gateway import start_gateway


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


HARNESSES: dict[str, Callable[[Path], AbstractAsyncContextManager[Harness]]] = {"sandbox": sandbox_harness}
