"""Other teams' services while the house dies around them: they call over the network, and repeat under the same request id until answered."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import httpx
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from dunwell.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    api_key_pb2,
    autopay_pb2,
    billing_service_pb2,
    billing_service_pb2_grpc,
    checkout_pb2,
    client_pb2,
    firm_pb2,
    invoice_pb2,
    money_pb2,
    options_pb2,
    payment_pb2,
    payment_service_pb2,
    payment_service_pb2_grpc,
    provider_pb2,
)

TOKENS = (
    ("pm_card_visa",),
    ("pm_card_mastercard",),
    ("pm_sandbox_acceptThenTimeout",),
    ("pm_sandbox_serverErrorAfterAccept",),
    ("pm_sandbox_rateLimited",),
    ("pm_card_chargeDeclinedInsufficientFunds",),
    ("pm_card_chargeDeclinedLostCard", "pm_card_visa"),
)
"""Payment methods of a firm's clients, one client each; the later of two is the backup."""

AGAIN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
}
EXPECTED = {
    "COLLECTION_IN_PROGRESS", "STATE_CONFLICT", "REFUND_EXCEEDS_PAYMENT", "PAYMENT_METHOD_UNUSABLE", "PAYMENT_METHOD_MISSING", "ALREADY_EXISTS",
}  # fmt: skip
"""Refusals that a caller who acts at random runs into."""
PATIENCE = 60.0


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The contract's reason for a refusal."""
    call: Any = error
    status = rpc_status.from_call(call)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return error.code().name


class Caller:
    """One credential's calls, each repeated until the service has answered."""

    def __init__(self, address: str, key: str, dice: random.Random, *, firm_id: str = "") -> None:
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        self._channel = grpc.aio.insecure_channel(address, options=options)
        self._metadata = (
            ("authorization", f"Bearer {key}"), ("dunwell-actor", "operator@example.com"), *((("dunwell-firm", firm_id),) if firm_id else ()),
        )  # fmt: skip
        self._dice = dice
        self.admin: Any = admin_service_pb2_grpc.AdminServiceStub(self._channel)
        self.billing: Any = billing_service_pb2_grpc.BillingServiceStub(self._channel)
        self.payments: Any = payment_service_pb2_grpc.PaymentServiceStub(self._channel)

    async def close(self) -> None:
        """Give the channel back."""
        await self._channel.close()

    def request_id(self) -> str:
        """A fresh one, by the caller's dice."""
        return str(UUID(int=self._dice.getrandbits(128), version=4))

    async def ask(self, method: Callable[..., Awaitable[Any]], request: Any) -> Any:
        """The answer; None for a refusal that random acts run into. Whatever says "try again" is tried again, under the same request id."""
        if "request_id" in request.DESCRIPTOR.fields_by_name:
            request.request_id = request.request_id or self.request_id()
        until = asyncio.get_running_loop().time() + PATIENCE
        while True:
            try:
                return await method(request, metadata=self._metadata, timeout=8)
            except grpc.aio.AioRpcError as error:
                reason = reason_of(error)
                if reason in EXPECTED:
                    return None
                if error.code() not in AGAIN or asyncio.get_running_loop().time() > until:
                    raise AssertionError(f"{type(request).__name__}: {reason}: {error.details()}") from error
            await asyncio.sleep(self._dice.uniform(0.02, 0.2))

    async def drain(self, method: Callable[..., Any], request: Any) -> None:
        """A run's stream to its last message, watched again when it breaks."""
        request.request_id = self.request_id()
        until = asyncio.get_running_loop().time() + PATIENCE
        while asyncio.get_running_loop().time() < until:
            try:
                async for answer in method(request, metadata=self._metadata, timeout=20):
                    if answer.progress.last:
                        return
            except grpc.aio.AioRpcError as error:
                if error.code() not in AGAIN:
                    raise AssertionError(f"{type(request).__name__}: {reason_of(error)}") from error
            await asyncio.sleep(0.1)
        raise AssertionError(f"{type(request).__name__} did not end in {PATIENCE} s")


class Traffic:
    """What one firm's people and services do, at random."""

    def __init__(self, caller: Caller, gateway: str, account: str, clients: list[str], dice: random.Random) -> None:
        self.caller, self.gateway, self.account, self.clients, self.dice = caller, gateway, account, clients, dice
        self.acts = itertools.cycle(
            [
                self.charge,
                self.refund,
                self.pay_on_a_page,
                self.save_a_method,
                self.pay_once,
                self.collect,
                self.leave_a_page,
                self.update_a_card,
                self.become_customer,
            ]
        )

    async def run(self, stop: Path) -> None:
        """One act after the other until the file `stop` is there."""
        count = 0
        while not stop.exists():  # noqa: ASYNC240 - a look at a file in a test
            await next(self.acts)()
            count += 1
            if count % 12 == 0:
                await self.caller.drain(
                    self.caller.payments.ReconcilePayments,
                    payment_service_pb2.ReconcilePaymentsRequest(omit_items=True),
                )

    async def invoice(self, client: str | None = None) -> Any:
        """A finalised invoice that is due now."""
        line = invoice_pb2.InvoiceLine(description="Advice")
        line.quantity.value, line.unit_price.value = (
            "1",
            f"{self.dice.randrange(20, 900)}.{self.dice.randrange(10, 99)}",
        )
        made = invoice_pb2.Invoice(
            client_id=client or self.dice.choice(self.clients), lines=[line], payment_terms_days=0
        )
        answer = await self.caller.ask(
            self.caller.billing.CreateInvoice, billing_service_pb2.CreateInvoiceRequest(invoice=made, finalize=True)
        )
        return answer.invoice

    async def charge(self) -> None:
        invoice = await self.invoice()
        await self.caller.ask(
            self.caller.payments.ChargeInvoice, payment_service_pb2.ChargeInvoiceRequest(invoice_id=invoice.id)
        )

    async def collect(self) -> None:
        """Autopay finds it by itself."""
        invoice = await self.invoice()
        request = payment_service_pb2.SetInvoiceAutopayRequest(invoice_id=invoice.id, enabled=True)
        await self.caller.ask(self.caller.payments.SetInvoiceAutopay, request)

    async def refund(self) -> None:
        request = payment_service_pb2.ListPaymentsRequest(page_size=20, states=[payment_pb2.PAYMENT_STATE_SUCCEEDED])
        found = (await self.caller.ask(self.caller.payments.ListPayments, request)).payments
        if not found:
            return
        payment = self.dice.choice(found)
        left = (
            payment.amount.amount_minor
            - payment.amount_refunded.amount_minor
            - payment.amount_refund_pending.amount_minor
        )
        if left <= 1:
            return
        amount = money_pb2.Money(currency_code=payment.amount.currency_code, amount_minor=self.dice.randrange(1, left))
        wanted = payment_service_pb2.RefundPaymentRequest(
            payment_id=payment.id, amount=amount, reopen_invoice=self.dice.random() < 0.2
        )
        await self.caller.ask(self.caller.payments.RefundPayment, wanted)

    async def pay_once(self) -> None:
        invoice = await self.invoice()
        amount = money_pb2.Money(
            currency_code="USD", amount_minor=invoice.amount_due.amount_minor + self.dice.randrange(0, 500)
        )
        request = payment_service_pb2.CreatePaymentRequest(
            client_id=invoice.client_id, amount=amount, invoice_ids=[invoice.id]
        )
        await self.caller.ask(self.caller.payments.CreatePayment, request)

    async def page(self) -> Any:
        invoice = await self.invoice()
        request = payment_service_pb2.CreateCheckoutSessionRequest(
            purpose=checkout_pb2.CHECKOUT_PURPOSE_INVOICE,
            invoice_id=invoice.id,
            success_url="https://example.com/thanks",
        )
        answer = await self.caller.ask(self.caller.payments.CreateCheckoutSession, request)
        return answer.checkout_session if answer is not None else None

    async def pay_on_a_page(self) -> None:
        """The client pays; a page that is not open yet is left alone."""
        page = await self.page()
        if page is not None and page.provider_reference:
            await self.post(
                f"/v1/checkout/sessions/{page.provider_reference}/complete", {"payment_method": "pm_card_visa"}
            )

    async def leave_a_page(self) -> None:
        page = await self.page()
        if page is not None:
            request = payment_service_pb2.ExpireCheckoutSessionRequest(checkout_session_id=page.id)
            await self.caller.ask(self.caller.payments.ExpireCheckoutSession, request)

    async def save_a_method(self) -> None:
        request = payment_service_pb2.CreateSetupIntentRequest(
            client_id=self.dice.choice(self.clients), backup_priority=self.dice.randrange(0, 5)
        )
        answer = await self.caller.ask(self.caller.payments.CreateSetupIntent, request)
        if answer is not None and answer.setup_intent.provider_reference:
            await self.post(
                f"/v1/setup_intents/{answer.setup_intent.provider_reference}/confirm",
                {"payment_method": "pm_card_visa"},
            )

    async def update_a_card(self) -> None:
        """On a page that the firm has sent a link to."""
        request = payment_service_pb2.CreateHostedLinkRequest(
            purpose=checkout_pb2.HOSTED_LINK_PURPOSE_UPDATE_CARD, client_id=self.dice.choice(self.clients)
        )
        answer = await self.caller.ask(self.caller.payments.CreateHostedLink, request)
        if answer is None or not answer.hosted_link.checkout_session_id:
            return
        look = payment_service_pb2.GetCheckoutSessionRequest(checkout_session_id=answer.hosted_link.checkout_session_id)
        page = (await self.caller.ask(self.caller.payments.GetCheckoutSession, look)).checkout_session
        if page.provider_reference:
            await self.post(
                f"/v1/checkout/sessions/{page.provider_reference}/complete", {"payment_method": "pm_card_visa"}
            )

    async def become_customer(self) -> None:
        """A client who has no method yet."""
        made = await self.caller.ask(
            self.caller.billing.CreateClient,
            billing_service_pb2.CreateClientRequest(client=client_pb2.Client(name="Newcomer", currency_code="USD")),
        )
        request = payment_service_pb2.EnsureProviderCustomerRequest(client_id=made.client.id)
        await self.caller.ask(self.caller.payments.EnsureProviderCustomer, request)

    async def post(self, path: str, body: dict[str, Any]) -> None:
        """Play the client at the provider. What has ended there in the meantime is none of our business."""
        headers = {"Authorization": f"Bearer sk_test_{self.account}"}
        async with httpx.AsyncClient(base_url=self.gateway, headers=headers, trust_env=False, timeout=20) as client:
            await client.post(path, json=body)


@asynccontextmanager
async def firms(address: str, gateway: str, admin_key: str, seed: int, count: int) -> AsyncIterator[list[Traffic]]:
    """Firms with their clients and methods, made through the service; while it dies."""
    callers: list[Caller] = []
    found: list[Traffic] = []
    try:
        for number in range(count):
            dice = random.Random(seed + number)
            admin = Caller(address, admin_key, dice)
            callers.append(admin)
            traffic = await _found(admin, address, gateway, dice, number)
            callers.append(traffic.caller)
            found.append(traffic)
        yield found
    finally:
        for caller in callers:
            await caller.close()


async def _found(admin: Caller, address: str, gateway: str, dice: random.Random, number: int) -> Traffic:
    firm = firm_pb2.Firm(
        display_name=f"Storm {number}",
        currency_code="USD",
        time_zone="UTC",
        mode=provider_pb2.ACCOUNT_MODE_TEST,
        payment_terms_days=0,
    )
    made = (await admin.ask(admin.admin.CreateFirm, admin_service_pb2.CreateFirmRequest(firm=firm))).firm
    inside = Caller(address, admin._metadata[0][1].removeprefix("Bearer "), dice, firm_id=made.id)
    key = api_key_pb2.ApiKey(display_name="Storm", role=options_pb2.ROLE_FIRM_ADMIN, may_name_actor=True)
    secret = (await inside.ask(inside.admin.CreateApiKey, admin_service_pb2.CreateApiKeyRequest(api_key=key))).secret
    await inside.close()
    caller = Caller(address, secret, dice)
    clients = [await _client(caller, tokens) for tokens in TOKENS]
    account = await _account(caller, gateway, clients[0])
    return Traffic(caller, gateway, account, clients, dice)


async def _client(caller: Caller, tokens: tuple[str, ...]) -> str:
    new = client_pb2.Client(name="Harbour Bakery", currency_code="USD")
    client = (await caller.ask(caller.billing.CreateClient, billing_service_pb2.CreateClientRequest(client=new))).client
    for place, token in enumerate(tokens):
        request = payment_service_pb2.AttachPaymentMethodRequest(
            client_id=client.id, provider_method_id=token, backup_priority=place
        )
        await caller.ask(caller.payments.AttachPaymentMethod, request)
    switch = payment_service_pb2.SetAutopayRequest(
        client_id=client.id, enabled=True, cadence=autopay_pb2.AUTOPAY_CADENCE_IMMEDIATE
    )
    await caller.ask(caller.payments.SetAutopay, switch)
    return str(client.id)


async def _account(caller: Caller, gateway: str, client: str) -> str:
    """The sandbox account's name: the secret is not to be had, but a set-up intent's publishable key has it."""
    request = payment_service_pb2.CreateSetupIntentRequest(client_id=client)
    answer = await caller.ask(caller.payments.CreateSetupIntent, request)
    return str(answer.setup_intent.publishable_key).removeprefix("pk_test_")


async def live(address: str, gateway: str, admin_key: str, seed: int, count: int, folder: Path) -> None:
    """The caller's life: firms are founded, `ready` is written, acts follow until `stop` is there."""
    async with firms(address, gateway, admin_key, seed, count) as found:
        (folder / "accounts").write_text("\n".join(traffic.account for traffic in found))
        (folder / "ready").touch()
        await asyncio.gather(*(traffic.run(folder / "stop") for traffic in found))
