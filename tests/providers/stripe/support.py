"""Accounts and requests for the tests of the Stripe adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

from dunwell_server.kernel.money import Money
from dunwell_server.providers.base import (
    AccountMode,
    ChargeReferences,
    ChargeRequest,
    Credentials,
    ProviderAccount,
)
from dunwell_server.providers.stripe import StripeProvider
from tests.providers.stripe.loopback import Loopback, Reply, Seen, serving

TEST_ACCOUNT = ProviderAccount(
    "account-1",
    "stripe",
    AccountMode.TEST,
    Credentials({"secret_key": "sk_test_4eC39HqLyjWDarjtT1zdp7dc", "publishable_key": "pk_test_1"}),
)


def charge_request(**changes: Any) -> ChargeRequest:
    """A charge of a payment of its own."""
    payment = str(uuid4())
    request = ChargeRequest(
        account=TEST_ACCOUNT,
        key=f"v1:{payment}:1",
        references=ChargeReferences(firm="firm-1", payment=payment),
        money=Money("USD", 4999),
        method_reference="pm_1",
        customer_reference="cus_1",
        description="Invoice HV-2026-000042",
    )
    return replace(request, **changes)


def intent(request: ChargeRequest, **changes: Any) -> dict[str, Any]:
    """The PaymentIntent that Stripe answers a charge with."""
    return {
        "id": "pi_1",
        "object": "payment_intent",
        "amount": request.money.minor,
        "amount_received": request.money.minor,
        "currency": request.money.currency.lower(),
        "created": 1_767_225_600,
        "customer": request.customer_reference,
        "latest_charge": "ch_1",
        "metadata": request.metadata,
        "next_action": None,
        "payment_method": request.method_reference,
        "status": "succeeded",
        **changes,
    }


def refusal(status: int = 400, **fields: Any) -> Reply:
    return Reply.of({"error": {"type": "invalid_request_error", "message": "words", **fields}}, status)


def page(*data: dict[str, Any], more: bool = False) -> Reply:
    return Reply.of({"object": "list", "data": list(data), "has_more": more})


Routes = dict[str, Reply | Callable[[Seen], Reply]]


@asynccontextmanager
async def stripe(routes: Routes) -> AsyncIterator[tuple[StripeProvider, Loopback]]:
    """The adapter against answers by method and path."""

    async def handle(seen: Seen) -> Reply:
        answer = routes.get(f"{seen.method} {seen.path}", refusal(404, code="resource_missing"))
        return answer if isinstance(answer, Reply) else answer(seen)

    async with serving(handle) as server:
        provider = StripeProvider(server.url)
        yield provider, server
        await provider.close()


def error(
    status: int, kind: str = "invalid_request_error", *, headers: dict[str, str] | None = None, **fields: Any
) -> Reply:
    reply = Reply.of({"error": {"type": kind, "message": "words", **fields}}, status)
    return Reply(reply.status, reply.body, headers or {})


@asynccontextmanager
async def stripe_answering(answer: Any, **options: Any) -> Any:
    """The adapter against a server with one answer: a Reply, an exception to raise, or a function of the request."""

    async def handle(seen: Seen) -> Reply:
        if isinstance(answer, Reply):
            return answer
        if isinstance(answer, type):
            raise answer
        reply: Reply = answer(seen)
        return reply

    async with serving(handle) as server:
        provider = StripeProvider(server.url, **options)
        try:
            yield provider, server
        finally:
            await provider.close()
