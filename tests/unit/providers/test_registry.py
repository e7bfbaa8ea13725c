"""One module and one registration make a provider; and the manual one does nothing, loudly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money
from dunwell_server.providers.base import (
    ABILITIES,
    AccountMode,
    Capabilities,
    ChargeReferences,
    ChargeRequest,
    ClientProfile,
    Credentials,
    CustomerRef,
    FollowsTestClock,
    KeySemantics,
    LookupResult,
    MethodDetails,
    MethodKind,
    Outcome,
    OutcomeClass,
    PaymentPage,
    Provider,
    ProviderAccount,
    require_ability,
)
from dunwell_server.providers.manual import ManualProvider
from dunwell_server.providers.registry import ProviderRegistry

NOW = datetime(2026, 1, 31, tzinfo=UTC)


class ToyProvider:
    """A whole provider: what a new module has to bring."""

    name = "toy"
    capabilities = Capabilities(off_session_charges=True, modes=frozenset({AccountMode.TEST}))
    key_semantics = KeySemantics(
        retention=timedelta(hours=24),
        replays_server_errors=False,
        lookup_authoritative=True,
        settle_window=timedelta(minutes=15),
    )

    def __init__(self, fails_to_close: bool = False) -> None:
        self.closed = False
        self._fails_to_close = fails_to_close
        self._outcomes: dict[str, Outcome] = {}

    async def ensure_customer(self, account: ProviderAccount, client: ClientProfile, key: str) -> CustomerRef:
        return CustomerRef(f"toy_{client.client_id}")

    async def attach_method(
        self, account: ProviderAccount, customer: CustomerRef, token: str, key: str
    ) -> MethodDetails:
        return MethodDetails(token, MethodKind.CARD)

    async def detach_method(self, account: ProviderAccount, method_reference: str) -> None:
        return None

    async def charge(self, request: ChargeRequest) -> Outcome:
        success = Outcome(outcome=OutcomeClass.SUCCEEDED, provider_reference="toy_1", money=request.money)
        return self._outcomes.setdefault(request.key, success)

    async def lookup(
        self,
        account: ProviderAccount,
        *,
        key: str,
        money: Money | None = None,
        provider_reference: str | None = None,
        customer_reference: str | None = None,
        since: datetime | None = None,
    ) -> LookupResult:
        return self._outcomes.get(key)

    async def cancel(self, account: ProviderAccount, provider_reference: str) -> Outcome:
        return self._outcomes[provider_reference]

    async def list_payments(
        self, account: ProviderAccount, since: datetime, until: datetime, page: str | None = None
    ) -> PaymentPage:
        return PaymentPage((), None)

    async def close(self) -> None:
        if self._fails_to_close:
            raise OSError("stuck")
        self.closed = True


def request_for(provider: str) -> ChargeRequest:
    account = ProviderAccount("a1", provider, AccountMode.TEST, Credentials({}))
    references = ChargeReferences("firm-1", "p")
    return ChargeRequest(
        account=account, key="v1:p:1", references=references, money=Money("USD", 1), method_reference="pm"
    )


async def test_one_registration_makes_a_provider() -> None:
    registry = ProviderRegistry()
    registry.register("toy", ToyProvider)
    provider = registry.get("toy")
    assert isinstance(provider, Provider)
    assert registry.get("toy") is provider
    assert (await provider.charge(request_for("toy"))).outcome is OutcomeClass.SUCCEEDED
    await registry.close()
    assert isinstance(provider, ToyProvider)
    assert provider.closed


def test_an_unknown_provider_is_refused_by_naming_the_known() -> None:
    registry = ProviderRegistry()
    registry.register("toy", ToyProvider)
    registry.register("manual", ManualProvider)
    with pytest.raises(DunwellError) as refused:
        registry.get("strpie")
    assert refused.value.reason is Reason.PROVIDER_NOT_CONFIGURED
    assert "manual, toy" in refused.value.message
    with pytest.raises(DunwellError, match="configured: none"):
        ProviderRegistry().get("toy")


def test_names_are_taken_once_and_must_be_the_providers_own() -> None:
    registry = ProviderRegistry()
    registry.register("toy", ToyProvider)
    with pytest.raises(ValueError, match="already"):
        registry.register("toy", ToyProvider)
    registry.register("other", ToyProvider)
    with pytest.raises(ValueError, match="registered as"):
        registry.get("other")


def test_providers_are_made_only_when_asked_for() -> None:
    made: list[ToyProvider] = []

    def factory() -> ToyProvider:
        made.append(ToyProvider())
        return made[-1]

    registry = ProviderRegistry()
    registry.register("toy", factory)
    assert registry.names == ("toy",)
    assert not made
    registry.get("toy")
    registry.get("toy")
    assert len(made) == 1


async def test_one_that_fails_to_close_keeps_no_other_open() -> None:
    class Stuck(ToyProvider):
        name = "stuck"

        def __init__(self) -> None:
            super().__init__(fails_to_close=True)

    registry = ProviderRegistry()
    registry.register("stuck", Stuck)
    registry.register("toy", ToyProvider)
    registry.get("stuck")
    toy = registry.get("toy")
    with pytest.raises(ExceptionGroup):
        await registry.close()
    assert isinstance(toy, ToyProvider)
    assert toy.closed


async def test_the_manual_provider_offers_nothing_and_says_so() -> None:
    manual = ManualProvider()
    assert isinstance(manual, Provider)
    flags = (
        "off_session_charges",
        "setup_intents",
        "customers",
        "managed_subscriptions",
        "checkout",
        "refunds",
        "disputes",
        "qr",
        "webhooks",
    )
    assert not any(getattr(manual.capabilities, flag) for flag in (*flags, *ABILITIES))
    request = request_for("manual")
    account = request.account
    calls = [
        manual.charge(request),
        manual.lookup(account, key="k"),
        manual.cancel(account, "x"),
        manual.list_payments(account, NOW, NOW),
        manual.ensure_customer(account, ClientProfile("c", "f"), "k"),
        manual.attach_method(account, CustomerRef("c"), "t", "k"),
        manual.detach_method(account, "m"),
    ]
    for call in calls:
        with pytest.raises(DunwellError) as refused:
            await call
        assert refused.value.reason is Reason.PROVIDER_NOT_CONFIGURED
    await manual.close()


def test_an_ability_is_given_only_where_it_is_promised() -> None:
    with pytest.raises(DunwellError, match="follows_test_clock"):
        require_ability(ManualProvider(), "follows_test_clock", FollowsTestClock)  # type: ignore[type-abstract]
