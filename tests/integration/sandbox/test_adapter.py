"""The adapter's abilities over a real gateway process, whose webhooks it verifies and reads."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dunwell_server.kernel.money import Money
from dunwell_server.providers.abilities import (
    CheckoutMode,
    CheckoutRequest,
    CheckoutState,
    ProviderDisputeState,
    RefundOutcomeClass,
    RefundRequest,
    SetupState,
)
from dunwell_server.providers.base import (
    AccountMode,
    ChargeReferences,
    ChargeRequest,
    ClientProfile,
    Credentials,
    Outcome,
    OutcomeClass,
    ProviderAccount,
    ProviderDeclined,
    ProviderRefused,
)
from dunwell_server.providers.events import (
    CheckoutNotice,
    DisputeNotice,
    NormalisedEvent,
    PaymentNotice,
    RefundNotice,
    SetupNotice,
)
from dunwell_server.providers.sandbox import HANDLED, SandboxProvider
from tests.integration.sandbox.account import SandboxAccount
from tests.integration.sandbox.receiver import Receiver
from tests.providers.gateway import GatewayProcess, start_gateway

START = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class World:
    """An account at a gateway that sends its events to a receiver."""

    gateway: GatewayProcess
    provider: SandboxProvider
    impatient: SandboxProvider
    account: ProviderAccount
    http: SandboxAccount
    receiver: Receiver

    async def charge(self, method: str = "pm_card_visa", minor: int = 5000) -> Outcome:
        payment = str(uuid4())
        request = ChargeRequest(
            account=self.account,
            key=f"v1:{payment}:1",
            references=ChargeReferences("firm-1", payment),
            money=Money("USD", minor),
            method_reference=method,
        )
        return await self.provider.charge(request)

    def refund(self, paid: Outcome, minor: int) -> RefundRequest:
        refund = str(uuid4())
        return RefundRequest(
            account=self.account,
            key=f"refund:{refund}",
            firm="firm-1",
            payment="payment-1",
            refund=refund,
            payment_reference=paid.provider_reference or "",
            money=Money("USD", minor),
        )

    def page(self, mode: CheckoutMode, **more: Any) -> CheckoutRequest:
        metadata = {"firm": "firm-1", "client": "c", "checkout": "co", "payment": "p"}
        return CheckoutRequest(
            account=self.account,
            key=f"checkout:{uuid4()}",
            mode=mode,
            metadata=metadata,
            success_url="https://firm.example/done",
            **more,
        )

    async def heard(self) -> list[NormalisedEvent]:
        """Every event that has been sent so far, verified and read."""
        assert (await self.provider.clock(self.account, wait=True)).undelivered == 0
        secrets = [self.account.credentials["webhook_secret"]]
        events = []
        for request in self.receiver.requests:
            now = datetime.now(UTC)
            signed = await self.provider.verify(self.account, secrets, request.body, request.headers, now)
            read = self.provider.normalise(request.body)
            assert (signed.event_id, signed.type, signed.create_time) == (read.event_id, read.type, read.create_time)
            events.append(read)
        return events

    async def notices(self, kind: str) -> list[Any]:
        return [notice for event in await self.heard() if event.type == kind for notice in event.notices]


@pytest.fixture(scope="module")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayProcess]:
    gateway = start_gateway(tmp_path_factory.mktemp("gateway"))
    yield gateway
    assert gateway.stop() == 0


@pytest.fixture
async def world(process: GatewayProcess, receiver: Receiver) -> AsyncIterator[World]:
    name = uuid4().hex[:12]
    secrets = {"secret_key": f"sk_test_{name}", "webhook_secret": f"whsec_{name}"}
    account = ProviderAccount("account-1", "sandbox", AccountMode.TEST, Credentials(secrets))
    provider, impatient = SandboxProvider(process.url), SandboxProvider(process.url, total_timeout=0.4)
    http = SandboxAccount(process.url, name)
    process.control("webhooks", account=name, url=receiver.url)
    await provider.set_clock(account, START)
    yield World(process, provider, impatient, account, http, receiver)
    for closing in (provider, impatient, http):
        await closing.close()


async def test_a_payments_webhook_says_what_the_answer_said(world: World) -> None:
    answers = [await world.charge(method) for method in ("pm_card_visa", "pm_card_chargeDeclinedLostCard")]
    answers.append(await world.charge("pm_sandbox_pendingThenSuccess"))
    answers.append(await world.charge("pm_card_threeDSecure2Required"))
    read = await world.heard()
    notices = [notice for event in read for notice in event.notices]
    assert all(isinstance(notice, PaymentNotice) for notice in notices)
    told = {notice.provider_reference: notice.outcome for notice in notices}  # type: ignore[union-attr]
    assert told == {answer.provider_reference: answer for answer in answers}
    assert {event.firm for event in read} == {"firm-1"}


async def test_what_falls_due_is_told_before_the_clock_is_drained(world: World) -> None:
    await world.charge("pm_sandbox_pendingThenSuccess")
    assert (await world.provider.clock(world.account)).next_due == START + timedelta(hours=1)
    world.gateway.control("webhooks", account=world.http.name, delay_seconds=1.5)
    moved = await world.provider.set_clock(world.account, START + timedelta(hours=1), wait=True)
    assert (moved.next_due, moved.undelivered > 0) == (None, True), "a second is not enough"
    assert (await world.provider.clock(world.account)).undelivered >= 1
    deadline = time.monotonic() + 10
    while (await world.provider.clock(world.account, wait=True)).undelivered:
        assert time.monotonic() < deadline
    assert "payment.succeeded" in world.receiver.types
    (notice,) = await world.notices("payment.succeeded")
    assert notice.outcome.money == Money("USD", 5000)


async def test_lost_events_are_found_in_the_list_as_they_would_have_been_sent(world: World) -> None:
    await world.charge()
    await world.heard()
    world.gateway.control("webhooks", account=world.http.name, loss=1)
    for _ in range(3):
        await world.charge()
    page = await world.provider.list_events(world.account, START, START + timedelta(seconds=1))
    assert len(page.events) == 4
    assert page.next_page is None
    assert page.events[0][1] == world.receiver.requests[0].body, "the very bytes"
    for signed, body in page.events:
        assert world.provider.normalise(body).event_id == signed.event_id
    later = await world.provider.list_events(world.account, START + timedelta(seconds=1), START + timedelta(days=1))
    assert later.events == ()


async def test_refunds_pending_failing_and_undone(world: World) -> None:
    world.gateway.control("settings", account=world.http.name, refund_failure_seconds=7200)
    paid = {name: await world.charge(name) for name in ("pm_card_pendingRefund", "pm_card_refundFail")}
    pending = await world.provider.refund(world.refund(paid["pm_card_pendingRefund"], 2000))
    assert (pending.outcome, pending.money) == (RefundOutcomeClass.PENDING, Money("USD", 2000))
    request = world.refund(paid["pm_card_refundFail"], 2000)
    done = await world.provider.refund(request)
    assert done.outcome is RefundOutcomeClass.SUCCEEDED
    await world.provider.set_clock(world.account, START + timedelta(hours=2))
    (settled,) = await world.notices("refund.updated")
    assert isinstance(settled, RefundNotice)
    assert (settled.refund.provider_reference, settled.refund.outcome.outcome) == (
        pending.provider_reference,
        RefundOutcomeClass.SUCCEEDED,
    )
    (failed,) = await world.notices("refund.failed")
    assert failed.refund.metadata["refund"] == request.refund
    found = await world.provider.lookup_refund(
        world.account, key=request.key, payment_reference=request.payment_reference
    )
    assert found is not None
    assert (found.outcome, found.provider_code) == (RefundOutcomeClass.FAILED, "expired_or_canceled_card")
    assert await world.provider.refund(request) == done, "the key repeats what was answered first"


@pytest.mark.parametrize("method", ["AcceptThenTimeout", "AcceptThenDrop", "ServerErrorAfterAccept", "WrongAmount"])
async def test_a_refund_whose_answer_is_lost_or_wrong_is_unknown_until_looked_up(world: World, method: str) -> None:
    paid = await world.charge(f"pm_sandbox_refund{method}")
    request = world.refund(paid, 2000)
    assert (await world.impatient.refund(request)).outcome is RefundOutcomeClass.UNKNOWN
    found = await world.provider.lookup_refund(
        world.account, key=request.key, payment_reference=request.payment_reference
    )
    assert found is not None
    assert found.outcome is RefundOutcomeClass.SUCCEEDED
    assert found.money == Money("USD", 2001 if method == "WrongAmount" else 2000)
    assert world.gateway.ledger(world.http.name, "payment", "refund")["movements"] == 1


async def test_a_set_up_completes_by_the_browser_and_its_webhook_has_the_method(world: World) -> None:
    client = ClientProfile("client-1", "firm-1", "Ada", None)
    customer = await world.provider.ensure_customer(world.account, client, "customer")
    metadata = {"firm": "firm-1", "client": "client-1", "setup": "setup-1"}
    setup = await world.provider.create_setup_intent(world.account, customer, "setup", metadata)
    assert setup.publishable_key == f"pk_test_{world.http.name}"
    for token, status in (("pm_sandbox_attachDeclined", 402), ("pm_card_mastercard", 200)):
        answer = await world.http.http.post(
            f"/v1/setup_intents/{setup.provider_reference}/confirm",
            json={"payment_method": token, "client_secret": setup.client_secret},
            headers={"Authorization": f"Bearer {setup.publishable_key}"},
        )
        assert answer.status_code == status
    (failed,) = await world.notices("setup_intent.setup_failed")
    assert (failed.details.state, failed.details.failure_code) == (SetupState.FAILED, "card_declined")
    (notice,) = await world.notices("setup_intent.succeeded")
    assert isinstance(notice, SetupNotice)
    assert (notice.details.state, notice.details.customer_reference) == (
        SetupState.SUCCEEDED,
        customer.provider_reference,
    )
    assert notice.details.metadata == metadata | {"key": "setup"}
    assert notice.details.client_secret is None
    assert notice.details.method is not None
    assert notice.details.method.brand == "mastercard"
    known = await world.provider.get_setup_intent(world.account, setup.provider_reference)
    assert known.method == notice.details.method
    assert (await world.provider.cancel_setup_intent(world.account, setup.provider_reference)).state is (
        SetupState.SUCCEEDED
    ), "too late: what it is"


async def test_a_page_that_is_paid_tells_of_the_payment_under_its_key(world: World) -> None:
    request = world.page(CheckoutMode.PAYMENT, money=Money("USD", 4200), description="Invoice 42")
    opened = await world.provider.create_checkout(request)
    assert opened.url is not None
    path = f"/v1/checkout/sessions/{opened.provider_reference}/complete"
    await world.http.post(path, payment_method="pm_card_chargeDeclined")
    tried = await world.provider.get_checkout(world.account, opened.provider_reference)
    assert (tried.state, tried.payment) == (CheckoutState.OPEN, None)
    assert await world.provider.lookup(world.account, key=request.key) is None, "another card may follow"
    await world.http.post(path, payment_method="pm_card_visa")
    (notice,) = await world.notices("checkout.session.completed")
    assert isinstance(notice, CheckoutNotice)
    assert notice.details == await world.provider.get_checkout(world.account, opened.provider_reference)
    assert notice.details.state is CheckoutState.COMPLETED
    paid = notice.details.payment
    assert paid is not None
    assert (paid.outcome, paid.money) == (OutcomeClass.SUCCEEDED, Money("USD", 4200))
    assert await world.provider.lookup(world.account, key=request.key, money=Money("USD", 4200)) == paid
    (declined,) = await world.notices("payment.failed")
    assert declined.key is None
    (payment,) = await world.notices("payment.succeeded")
    assert (payment.key, payment.outcome) == (request.key, paid)
    late = await world.provider.expire_checkout(world.account, opened.provider_reference)
    assert late.state is CheckoutState.COMPLETED


async def test_a_page_expires_when_it_was_told_to(world: World) -> None:
    until = START + timedelta(hours=2)
    request = world.page(CheckoutMode.PAYMENT, money=Money("USD", 4200), expire_time=until)
    opened = await world.provider.create_checkout(request)
    assert opened.expire_time == until == (await world.provider.clock(world.account)).next_due
    await world.provider.set_clock(world.account, until)
    (notice,) = await world.notices("checkout.session.expired")
    assert notice.details.state is CheckoutState.EXPIRED
    assert notice.details.payment is not None
    assert notice.details.payment.ends_unpaid


async def test_pages_for_saving_and_subscribing(world: World) -> None:
    client = ClientProfile("client-1", "firm-1", "Ada", None)
    customer = await world.provider.ensure_customer(world.account, client, "customer")
    reference = customer.provider_reference
    saving = await world.provider.create_checkout(world.page(CheckoutMode.SETUP, customer_reference=reference))
    request = world.page(CheckoutMode.SUBSCRIPTION, customer_reference=reference, price_reference="price_1", quantity=3)
    subscribing = await world.provider.create_checkout(request)
    for page in (saving, subscribing):
        path = f"/v1/checkout/sessions/{page.provider_reference}/complete"
        await world.http.post(path, payment_method="pm_card_visa")
    done = [await world.provider.get_checkout(world.account, page.provider_reference) for page in (saving, subscribing)]
    assert done[0].setup_reference
    assert done[1].subscription_reference
    assert {page.state for page in done} == {CheckoutState.COMPLETED}
    kept = await world.provider.list_methods(world.account, reference)
    assert {page.method for page in done} == set(kept)


async def test_disputes_are_told_answered_and_decided(world: World) -> None:
    paid = await world.charge("pm_card_createDispute")
    (notice,) = await world.notices("dispute.created")
    assert isinstance(notice, DisputeNotice)
    dispute = notice.dispute
    assert (dispute.payment_reference, dispute.state) == (paid.provider_reference, ProviderDisputeState.NEEDS_RESPONSE)
    assert (dispute.money, dispute.fee, dispute.funds_withdrawn) == (Money("USD", 5000), Money("USD", 1500), True)
    assert dispute.metadata["firm"] == "firm-1"
    account, reference = world.account, dispute.provider_reference
    file = await world.provider.upload_evidence_file(account, "a b.pdf", "application/pdf", b"%PDF-1.7", "file")
    assert await world.provider.upload_evidence_file(account, "a b.pdf", "application/pdf", b"%PDF-1.7", "file") == file
    staged = await world.provider.stage_evidence(account, reference, {"receipt": file}, "stage")
    assert staged.submission_count == 0
    evidence = {"uncategorized_text": "winning_evidence"}
    submitted = await world.provider.submit_evidence(account, reference, evidence, "submit")
    assert (submitted.state, submitted.submission_count) == (ProviderDisputeState.UNDER_REVIEW, 1)
    await world.provider.set_clock(account, START + timedelta(days=1))
    won = await world.provider.get_dispute(account, reference)
    assert (won.state, won.funds_withdrawn) == (ProviderDisputeState.WON, False)
    other = await world.charge("pm_card_createDisputeProductNotReceived")
    assert other.provider_reference is not None
    refused = await world.provider.refund(world.refund(other, 5))
    assert (refused.outcome, refused.provider_code) == (RefundOutcomeClass.FAILED, "payment_disputed")
    second = [n.dispute for n in await world.notices("dispute.created") if n.dispute.reason == "product_not_received"]
    lost = await world.provider.accept_dispute(account, second[0].provider_reference, "accept")
    assert lost.state is ProviderDisputeState.LOST


async def test_a_detached_or_foreign_method_is_no_default(world: World) -> None:
    client = ClientProfile("client-1", "firm-1", "Ada", None)
    customer = await world.provider.ensure_customer(world.account, client, "customer")
    method = await world.provider.attach_method(world.account, customer, "pm_card_visa", "attach")
    await world.provider.detach_method(world.account, method.provider_reference)
    with pytest.raises(ProviderDeclined):
        await world.provider.set_default_method(world.account, customer.provider_reference, method.provider_reference)
    with pytest.raises(ProviderRefused):
        await world.provider.set_default_method(world.account, "cus_none", method.provider_reference)


async def test_every_event_the_gateway_sends_is_handled(world: World) -> None:
    source = Path(__file__).parents[3] / "server" / "dunwell_server" / "sandbox"
    written = "".join(path.read_text() for path in source.glob("*.py"))
    fixed = {kind for kind in HANDLED if f'"{kind}"' in written}
    assert HANDLED - fixed == {kind for kind in HANDLED if kind.startswith("payment.")}, "those are made of the status"
