"""The contract every provider adapter keeps, run against the real thing (for the sandbox: a gateway process)."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money
from dunwell_server.providers.base import (
    ABILITIES,
    AccountMode,
    ClientProfile,
    Credentials,
    CustomerRef,
    FailureCode,
    MethodKind,
    OutcomeClass,
    Provider,
    ProviderDeclined,
    ProviderPayment,
    ProviderRefused,
    ProviderUnavailable,
)
from tests import support
from tests.providers.harness import HARNESSES, SANDBOX_DECLINES, Harness

CLIENT = ClientProfile(client_id="client-1", firm_id="firm-1", name="Hollis & Varga", email="pay@example.com")


@pytest.fixture(scope="module", params=sorted(HARNESSES))
async def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    async with HARNESSES[request.param](tmp_path_factory.mktemp(request.param)) as ready:
        yield ready


@pytest.fixture(autouse=True)
def _what_the_stand_in_can(request: pytest.FixtureRequest, harness: Harness) -> None:
    reason = harness.cannot.get(getattr(request.node, "originalname", ""))
    if reason is not None:
        pytest.skip(reason)


async def attached(harness: Harness, token: str) -> tuple[CustomerRef, str]:
    customer = await harness.provider.ensure_customer(harness.account, CLIENT, f"customer:{uuid4()}")
    method = await harness.provider.attach_method(harness.account, customer, token, f"attach:{uuid4()}")
    return customer, method.provider_reference


def test_keeps_the_interface_and_every_ability_it_claims(harness: Harness) -> None:
    provider = harness.provider
    assert isinstance(provider, Provider)
    for flag, protocol in ABILITIES.items():
        assert getattr(provider.capabilities, flag) == isinstance(provider, protocol)
    assert provider.capabilities.modes
    assert provider.key_semantics.settle_window < provider.key_semantics.retention


async def test_a_good_card_is_charged_once(harness: Harness) -> None:
    customer, method = await attached(harness, harness.good)
    request = replace(harness.request(method), customer_reference=customer.provider_reference)
    outcome = await harness.provider.charge(request)
    assert outcome.outcome is OutcomeClass.SUCCEEDED
    assert outcome.money == request.money
    assert outcome.provider_reference
    assert outcome.provider_time is not None
    assert outcome.provider_time >= harness.start_time
    assert harness.movements(request.references.payment) == 1


async def test_a_customer_is_created_once_per_key(harness: Harness) -> None:
    key = f"customer:{uuid4()}"
    first = await harness.provider.ensure_customer(harness.account, CLIENT, key)
    assert await harness.provider.ensure_customer(harness.account, CLIENT, key) == first
    assert await harness.provider.ensure_customer(harness.account, CLIENT, key + "b") != first


async def test_an_attached_method_shows_what_may_be_shown(harness: Harness) -> None:
    customer = await harness.provider.ensure_customer(harness.account, CLIENT, f"customer:{uuid4()}")
    method = await harness.provider.attach_method(harness.account, customer, harness.good, f"attach:{uuid4()}")
    assert method.kind is MethodKind.CARD
    assert (method.brand, method.last4, method.country) == ("visa", "4242", harness.card_country)
    assert method.exp_month is not None
    assert 1 <= method.exp_month <= 12
    assert method.fingerprint


@pytest.mark.parametrize("token", sorted(SANDBOX_DECLINES))
async def test_each_decline_is_classified(harness: Harness, token: str) -> None:
    request = harness.request(token)
    outcome = await harness.provider.charge(request)
    assert outcome.outcome is OutcomeClass.DECLINED
    assert (outcome.failure_code, outcome.decline_class) == harness.declines[token]
    assert outcome.executed
    assert outcome.provider_code
    for word in ("lost", "stolen", "fraud", "block"):
        assert word not in outcome.message.lower()
    assert harness.movements(request.references.payment) == 0
    again = await harness.provider.lookup(harness.account, key=request.key, money=request.money)
    assert again is not None
    assert (again.outcome, again.decline_class) == (outcome.outcome, outcome.decline_class)


async def test_a_refused_attach_is_a_decline(harness: Harness) -> None:
    customer = await harness.provider.ensure_customer(harness.account, CLIENT, f"customer:{uuid4()}")
    with pytest.raises(ProviderDeclined) as declined:
        await harness.provider.attach_method(harness.account, customer, harness.refused_attach, f"attach:{uuid4()}")
    assert declined.value.reason is Reason.PAYMENT_METHOD_UNUSABLE
    assert declined.value.failure_code is FailureCode.CARD_DECLINED
    with pytest.raises(ProviderDeclined):
        await harness.provider.attach_method(harness.account, customer, "pm_no_such_token", f"attach:{uuid4()}")


async def test_a_detached_method_is_dead_and_detaching_twice_is_harmless(harness: Harness) -> None:
    customer, method = await attached(harness, harness.good)
    await harness.provider.detach_method(harness.account, method)
    await harness.provider.detach_method(harness.account, method)
    await harness.provider.detach_method(harness.account, "pm_that_never_was")
    request = replace(harness.request(method), customer_reference=customer.provider_reference)
    outcome = await harness.provider.charge(request)
    assert outcome.outcome is OutcomeClass.DECLINED
    assert outcome.failure_code is FailureCode.MISSING_PAYMENT_METHOD
    assert not outcome.executed
    assert harness.movements(request.references.payment) == 0


async def test_the_same_key_gives_the_same_answer_and_moves_money_once(harness: Harness) -> None:
    request = harness.request(harness.good)
    first = await harness.provider.charge(request)
    assert await harness.provider.charge(request) == first
    assert harness.movements(request.references.payment) == 1


async def test_concurrent_sendings_of_one_key_move_money_once(harness: Harness) -> None:
    request = harness.request(harness.good)
    outcomes = await asyncio.gather(*(harness.provider.charge(request) for _ in range(50)))
    assert {outcome.outcome for outcome in outcomes} <= {OutcomeClass.SUCCEEDED, OutcomeClass.UNKNOWN}
    assert any(outcome.outcome is OutcomeClass.SUCCEEDED for outcome in outcomes)
    assert harness.movements(request.references.payment) == 1


async def test_a_changed_payload_under_a_used_key_is_unknown_and_moves_nothing(harness: Harness) -> None:
    request = harness.request(harness.good)
    await harness.provider.charge(request)
    outcome = await harness.provider.charge(replace(request, money=Money("USD", 5000)))
    assert outcome.outcome is OutcomeClass.UNKNOWN
    assert harness.movements(request.references.payment) == 1


async def test_lookup_finds_by_key_and_by_reference_and_says_none_with_authority(harness: Harness) -> None:
    request = harness.request(harness.good)
    assert await harness.provider.lookup(harness.account, key=request.key, money=request.money) is None
    charged = await harness.provider.charge(request)
    by_key = await harness.provider.lookup(harness.account, key=request.key, money=request.money)
    assert by_key == charged
    by_reference = await harness.provider.lookup(
        harness.account, key="no-such-key", money=request.money, provider_reference=charged.provider_reference
    )
    assert by_reference == charged
    other = await harness.provider.lookup(harness.account, key=request.key, money=Money("USD", 1))
    assert other is not None
    assert other.outcome is OutcomeClass.UNKNOWN


@pytest.mark.parametrize("scenario", ["accept_then_timeout", "accept_then_drop", "unparsable"])
async def test_an_answer_that_never_arrives_is_unknown_until_replay_or_lookup_tells(
    harness: Harness, scenario: str
) -> None:
    request = harness.request(getattr(harness, scenario))
    assert (await harness.impatient.charge(request)).outcome is OutcomeClass.UNKNOWN
    found = await harness.provider.lookup(harness.account, key=request.key, money=request.money)
    assert found is not None
    assert found.outcome is OutcomeClass.SUCCEEDED
    assert await harness.provider.charge(request) == found
    assert harness.movements(request.references.payment) == 1


async def test_a_stored_server_error_is_replayed_and_only_lookup_tells(harness: Harness) -> None:
    request = harness.request(harness.error_after_accept)
    for _ in range(3):
        assert (await harness.provider.charge(request)).outcome is OutcomeClass.UNKNOWN
    assert harness.provider.key_semantics.replays_server_errors
    found = await harness.provider.lookup(harness.account, key=request.key, money=request.money)
    assert found is not None
    assert found.outcome is OutcomeClass.SUCCEEDED
    assert harness.movements(request.references.payment) == 1


async def test_a_connection_cut_before_acceptance_is_unknown_too(harness: Harness) -> None:
    request = harness.request(harness.drop_before_accept)
    assert (await harness.provider.charge(request)).outcome is OutcomeClass.UNKNOWN
    assert await harness.provider.lookup(harness.account, key=request.key, money=request.money) is None
    assert harness.movements(request.references.payment) == 0


async def test_a_refused_connection_is_proof_that_nothing_was_sent(harness: Harness) -> None:
    request = harness.request(harness.good)
    outcome = await harness.unreachable.charge(request)
    assert outcome.outcome is OutcomeClass.NOT_SENT
    assert not outcome.executed
    assert outcome.failure_code is FailureCode.NETWORK_ERROR
    assert (await harness.provider.charge(request)).outcome is OutcomeClass.SUCCEEDED


async def test_a_lookup_that_fails_is_unknown_never_none(harness: Harness) -> None:
    found = await harness.unreachable.lookup(harness.account, key="any", money=Money("USD", 1))
    assert found is not None
    assert found.outcome is OutcomeClass.UNKNOWN
    canceled = await harness.unreachable.cancel(harness.account, "pay_any")
    assert canceled.outcome is OutcomeClass.UNKNOWN
    with pytest.raises(ProviderUnavailable):
        await harness.unreachable.ensure_customer(harness.account, CLIENT, "key")


async def test_a_rate_limit_is_not_sent_and_the_same_key_goes_again(harness: Harness) -> None:
    request = harness.request(harness.rate_limited)
    outcome = await harness.provider.charge(request)
    assert outcome.outcome is OutcomeClass.NOT_SENT
    assert outcome.retry_after_seconds == 1.0
    assert (await harness.provider.charge(request)).outcome is OutcomeClass.SUCCEEDED
    assert harness.movements(request.references.payment) == 1


@pytest.mark.parametrize("scenario", ["wrong_amount", "wrong_currency"])
async def test_other_money_than_asked_is_never_a_success(harness: Harness, scenario: str) -> None:
    request = harness.request(getattr(harness, scenario))
    outcome = await harness.provider.charge(request)
    assert outcome.outcome is OutcomeClass.UNKNOWN
    assert outcome.evidence["why"] == "money mismatch"
    assert outcome.money is not None
    assert outcome.money != request.money
    found = await harness.provider.lookup(harness.account, key=request.key, money=request.money)
    assert found is not None
    assert found.outcome is OutcomeClass.UNKNOWN


@pytest.mark.parametrize(("currency", "minor"), [("JPY", 5000), ("KWD", 12_345), ("INR", 79_900), ("USD", 1)])
async def test_amounts_travel_in_minor_units_of_any_currency(harness: Harness, currency: str, minor: int) -> None:
    money = Money(currency, harness.amounts.get(currency, minor))
    outcome = await harness.provider.charge(harness.request(harness.good, money))
    assert outcome.outcome is OutcomeClass.SUCCEEDED
    assert outcome.money == money


async def test_what_is_pending_settles_by_the_account_clock(harness: Harness) -> None:
    good, bad = harness.request(harness.pending_success), harness.request(harness.pending_failure)
    assert (await harness.provider.charge(good)).outcome is OutcomeClass.PENDING
    assert (await harness.provider.charge(bad)).outcome is OutcomeClass.PENDING
    assert harness.movements(good.references.payment) == 0
    await harness.advance(timedelta(minutes=59))
    waiting = await harness.provider.lookup(harness.account, key=good.key, money=good.money)
    assert waiting is not None
    assert waiting.outcome is OutcomeClass.PENDING
    await harness.advance(timedelta(minutes=2))
    settled = await harness.provider.lookup(harness.account, key=good.key, money=good.money)
    failed = await harness.provider.lookup(harness.account, key=bad.key, money=bad.money)
    assert settled is not None
    assert failed is not None
    assert (settled.outcome, failed.outcome) == (OutcomeClass.SUCCEEDED, OutcomeClass.DECLINED)
    assert harness.movements(good.references.payment) == 1
    assert harness.movements(bad.references.payment) == 0


async def test_a_payment_that_waits_for_its_payer_has_a_link_and_can_be_cancelled(harness: Harness) -> None:
    request = harness.request(harness.needs_action, off_session=False)
    waiting = await harness.provider.charge(request)
    assert waiting.outcome is OutcomeClass.REQUIRES_ACTION
    assert waiting.action_url
    assert waiting.action_url.startswith(("https://", "http://127.0.0.1:"))  # Loopback: the sandbox's own page.
    assert (waiting.action_expire_time is not None) == harness.links_expire
    assert waiting.provider_reference
    canceled = await harness.provider.cancel(harness.account, waiting.provider_reference)
    assert canceled.ends_unpaid
    assert (await harness.provider.cancel(harness.account, waiting.provider_reference)).ends_unpaid
    assert harness.movements(request.references.payment) == 0


async def test_a_link_expires_by_the_account_clock(harness: Harness) -> None:
    request = harness.request(harness.needs_action, off_session=False)
    assert (await harness.provider.charge(request)).outcome is OutcomeClass.REQUIRES_ACTION
    await harness.advance(timedelta(hours=25))
    found = await harness.provider.lookup(harness.account, key=request.key, money=request.money)
    assert found is not None
    assert found.ends_unpaid
    assert found.provider_code == "expired"


async def test_cancelling_too_late_tells_that_the_money_moved(harness: Harness) -> None:
    charged = await harness.provider.charge(harness.request(harness.good))
    assert charged.provider_reference
    late = await harness.provider.cancel(harness.account, charged.provider_reference)
    assert late.outcome is OutcomeClass.SUCCEEDED
    pending = await harness.provider.charge(harness.request(harness.pending_success))
    assert pending.provider_reference
    assert (await harness.provider.cancel(harness.account, pending.provider_reference)).outcome is OutcomeClass.PENDING
    gone = await harness.provider.cancel(harness.account, "pay_that/../never?was")
    assert gone.outcome is OutcomeClass.UNKNOWN


async def test_the_list_has_every_payment_of_the_span_once_and_in_order(harness: Harness) -> None:
    await harness.advance(timedelta(days=40))
    since = harness.start_time + timedelta(days=40)
    requests = [harness.request(harness.good) for _ in range(130)]
    await asyncio.gather(*(harness.provider.charge(request) for request in requests))
    until = since + timedelta(days=2)
    listed: list[ProviderPayment] = []
    page: str | None = None
    while True:
        found = await harness.provider.list_payments(harness.account, since, until, page)
        listed += found.payments
        page = found.next_page
        if page is None:
            break
    assert sorted(p.key or "" for p in listed) == sorted(request.key for request in requests)
    assert {p.metadata["payment"] for p in listed} == {request.references.payment for request in requests}
    assert [p.created_time for p in listed] == sorted(p.created_time for p in listed)
    assert all(p.outcome.outcome is OutcomeClass.SUCCEEDED and p.money == Money("USD", 4999) for p in listed)
    before = await harness.provider.list_payments(harness.account, since - timedelta(days=30), since)
    assert not {p.key for p in before.payments} & {request.key for request in requests}


async def test_accounts_of_another_provider_or_mode_are_refused_before_sending(harness: Harness) -> None:
    request = harness.request(harness.good)
    other = replace(harness.account, provider="elsewhere")
    with pytest.raises(DunwellError) as refused:
        await harness.provider.charge(replace(request, account=other))
    assert refused.value.reason is Reason.PROVIDER_NOT_CONFIGURED
    for mode in set(AccountMode) - harness.provider.capabilities.modes:
        with pytest.raises(DunwellError) as refused:
            await harness.provider.charge(replace(request, account=replace(harness.account, mode=mode)))
        assert refused.value.reason is Reason.PROVIDER_MODE_MISMATCH
    assert harness.movements(request.references.payment) == 0


async def test_wrong_credentials_send_nothing_and_say_so(harness: Harness) -> None:
    wrong = replace(harness.account, credentials=Credentials({"secret_key": harness.wrong_secret}))
    outcome = await harness.provider.charge(replace(harness.request(harness.good), account=wrong))
    assert outcome.outcome is OutcomeClass.NOT_SENT
    assert "canary" not in repr(outcome)
    with pytest.raises(DunwellError) as refused:
        await harness.provider.ensure_customer(wrong, CLIENT, "key")
    assert refused.value.reason is Reason.PROVIDER_NOT_CONFIGURED
    assert "canary" not in str(refused.value)
    with pytest.raises(DunwellError) as missing:
        await harness.provider.charge(
            replace(harness.request(harness.good), account=replace(harness.account, credentials=Credentials({})))
        )
    assert missing.value.reason is Reason.PROVIDER_NOT_CONFIGURED


async def test_a_call_for_an_unknown_customer_is_refused(harness: Harness) -> None:
    with pytest.raises(ProviderRefused) as refused:
        await harness.provider.attach_method(harness.account, CustomerRef("cus_none"), harness.good, f"k{uuid4()}")
    assert refused.value.provider_code == "resource_missing"


async def test_secrets_appear_in_no_repr_log_or_error(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    request = harness.request(harness.good)
    with caplog.at_level(logging.DEBUG):
        outcome = await harness.provider.charge(request)
        unsent = await harness.unreachable.charge(request)
        lost = await harness.impatient.charge(harness.request(harness.accept_then_timeout))
        with pytest.raises(ProviderUnavailable) as failure:
            await harness.unreachable.ensure_customer(harness.account, CLIENT, "key")
    shown = [repr(value) for value in (harness.account, request, outcome, unsent, lost, harness.account.credentials)]
    shown += [str(harness.account.credentials), str(failure.value), repr(failure.value), repr(failure.value.metadata)]
    shown += [record.getMessage() for record in caplog.records]
    assert caplog.records, "the HTTP client logs at DEBUG; nothing captured proves nothing"
    assert not [text for text in shown if harness.secret in text]
    assert failure.value.__cause__ is None
    for copier in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            copier(harness.account.credentials)


async def test_cancelling_the_caller_is_not_swallowed(harness: Harness) -> None:
    request = harness.request(harness.accept_then_timeout)
    task = asyncio.create_task(harness.provider.charge(request))
    await support.eventually(lambda: harness.movements(request.references.payment) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert harness.movements(request.references.payment) == 1
