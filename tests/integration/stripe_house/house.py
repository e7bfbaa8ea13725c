"""A house that takes its money at Stripe: RPC server, job worker, routing loop and sidecar, two firms on the installation's account, one on its own.

What tests do goes over the wire: gRPC with API keys, webhooks over HTTP to the sidecar. Only what no call shows is read from the database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

import grpc
import httpx
from google.rpc import error_details_pb2
from google.type.decimal_pb2 import Decimal
from grpc_status import rpc_status

from dunwell.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    billing_service_pb2,
    billing_service_pb2_grpc,
    client_pb2,
    invoice_pb2,
    money_pb2,
    payment_method_pb2,
    payment_pb2,
    payment_service_pb2,
    payment_service_pb2_grpc,
    provider_event_pb2,
    provider_event_service_pb2,
    provider_event_service_pb2_grpc,
)
from dunwell_server.kernel.ids import Prefix, decode
from dunwell_server.platform.database import Database
from tests import support
from tests.integration.stripe_house.payloads import event, event_id, signature
from tests.integration.stripe_house.stand_in import StripeAccount

PLATFORM_SECRET = "whsec_of_the_installation_0123456789"
OWN_SECRET = "whsec_of_the_firm_with_its_own_account"
PLATFORM_KEY = "sk_test_of_the_installation_0123456789"
OWN_KEY = "sk_test_of_the_firm_with_its_own_0123"
PATIENCE = 60.0
T = TypeVar("T")

admin = admin_service_pb2
billing = billing_service_pb2
pay = payment_service_pb2
events = provider_event_service_pb2

SERVICES = {
    "AdminService": (admin, admin_service_pb2_grpc.AdminServiceStub),
    "BillingService": (billing, billing_service_pb2_grpc.BillingServiceStub),
    "PaymentService": (pay, payment_service_pb2_grpc.PaymentServiceStub),
    "ProviderEventService": (events, provider_event_service_pb2_grpc.ProviderEventServiceStub),
}


class Refused(Exception):
    """A call that failed, by its machine-readable reason."""

    def __init__(self, reason: str, details: str) -> None:
        super().__init__(f"{reason}: {details}")
        self.reason = reason


def _reason(error: grpc.aio.AioRpcError) -> str:
    call: Any = error
    status = rpc_status.from_call(call)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return error.code().name


@dataclass
class Firm:
    """One firm, called with a key of its own."""

    house: House
    id: str
    key: str
    stripe: StripeAccount
    path: str
    secret: str

    async def call(self, request: Any, **fields: Any) -> Any:
        """The RPC of a request, as the firm's admin."""
        return await self.house.call(request, self.key, **fields)

    async def client(self, **fields: Any) -> client_pb2.Client:
        """A new client."""
        values = {"name": "Ada Byron", "email": "ada@example.com", **fields}
        made = await self.call(billing.CreateClientRequest(client=client_pb2.Client(**values)))
        found: client_pb2.Client = made.client
        return found

    async def invoice(self, client_id: str, dollars: int = 50) -> str:
        """A finalised invoice that is due at once."""
        line = invoice_pb2.InvoiceLine(description="Work", unit_price=Decimal(value=str(dollars)))
        invoice = invoice_pb2.Invoice(client_id=client_id, lines=[line], payment_terms_days=0)
        made = await self.call(billing.CreateInvoiceRequest(invoice=invoice, finalize=True))
        name: str = made.invoice.id
        return name

    async def method(self, client_id: str, token: str = "pm_card_visa") -> payment_method_pb2.PaymentMethod:
        """An attached method."""
        made = await self.call(pay.AttachPaymentMethodRequest(client_id=client_id, provider_method_id=token))
        found: payment_method_pb2.PaymentMethod = made.payment_method
        return found

    async def payer(self, token: str = "pm_card_visa", dollars: int = 50) -> tuple[str, str]:
        """A client with a method, and an invoice of theirs."""
        client = await self.client()
        await self.method(client.id, token)
        return client.id, await self.invoice(client.id, dollars)

    async def charge(self, invoice_id: str) -> payment_pb2.Payment:
        """ChargeInvoice, as it answers."""
        made: payment_pb2.Payment = (await self.call(pay.ChargeInvoiceRequest(invoice_id=invoice_id))).payment
        return made

    async def paid(self, dollars: int = 50) -> tuple[str, payment_pb2.Payment]:
        """An invoice that a card has paid."""
        _, invoice_id = await self.payer(dollars=dollars)
        payment = await self.charge(invoice_id)
        assert payment_state(payment) == "SUCCEEDED"
        return invoice_id, payment

    async def run_charges(self, client_id: str) -> None:
        """ProcessRecurringCharges for one client, to its end."""
        request = pay.ProcessRecurringChargesRequest(client_id=client_id, request_id=str(uuid4()))
        stub = payment_service_pb2_grpc.PaymentServiceStub(self.house.channel)
        metadata = (("authorization", f"Bearer {self.key}"),)
        progress = [each async for each in stub.ProcessRecurringCharges(request, metadata=metadata, timeout=30)]
        assert progress[-1].progress.last

    async def payment(self, payment_id: str) -> payment_pb2.Payment:
        found: payment_pb2.Payment = (await self.call(pay.GetPaymentRequest(payment_id=payment_id))).payment
        return found

    async def invoice_state(self, invoice_id: str) -> str:
        found = await self.call(billing.GetInvoiceRequest(invoice_id=invoice_id))
        return invoice_pb2.InvoiceState.Name(found.invoice.state).removeprefix("INVOICE_STATE_")

    async def methods(self, client_id: str) -> list[payment_method_pb2.PaymentMethod]:
        found = await self.call(pay.ListPaymentMethodsRequest(client_id=client_id, include_detached=True))
        return list(found.payment_methods)

    async def events(self, **wanted: Any) -> list[provider_event_pb2.ProviderEvent]:
        """ListProviderEvents."""
        return list((await self.call(events.ListProviderEventsRequest(**wanted))).provider_events)

    async def rows_of(self, table: str) -> list[Any]:
        """Every row of a table, as the firm's transactions see it."""
        return await self.house.rows(self.id, f"SELECT t::text AS row FROM {table} t ORDER BY 1")

    async def told(self, kind: str, subject: dict[str, Any], **more: Any) -> provider_event_pb2.ProviderEvent:
        """A webhook at the firm's own endpoint, or the installation's, and what became of it once it is dealt with."""
        name = event_id()
        answer = await self.house.post(event(kind, subject, name=name, **more), self.secret, self.path)
        assert answer.status_code == 200, answer.text
        return await self.dealt_with(name)

    async def dealt_with(self, name: str) -> provider_event_pb2.ProviderEvent:
        """The event by Stripe's id, once it is RECEIVED no longer."""

        async def look() -> provider_event_pb2.ProviderEvent | None:
            found = await self.events(event_id=name)
            return found[0] if found and event_state(found[0]) != "RECEIVED" else None

        return await until(look)


@dataclass
class House:
    """The installation."""

    channel: grpc.aio.Channel
    admin_key: str
    http: httpx.AsyncClient
    database: Database
    platform: StripeAccount
    own: StripeAccount
    stubs: dict[str, Any] = field(default_factory=dict)

    async def call(self, request: Any, key: str, *, firm: str = "", actor: str = "") -> Any:
        """The RPC of a request; a mutating one gets a request id. Raises Refused."""
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = str(uuid4())
        name = type(request).__name__.removesuffix("Request")
        service = next(each for each, (module, _) in SERVICES.items() if hasattr(module, f"{name}Request"))
        if service not in self.stubs:
            self.stubs[service] = SERVICES[service][1](self.channel)
        metadata = [("authorization", f"Bearer {key}")]
        metadata += [("dunwell-firm", firm)] if firm else []
        metadata += [("dunwell-actor", actor)] if actor else []
        try:
            return await getattr(self.stubs[service], name)(request, metadata=metadata, timeout=60)
        except grpc.aio.AioRpcError as error:
            raise Refused(_reason(error), error.details() or "") from error

    async def post(
        self, body: bytes, secret: str | None, path: str = "/webhooks/stripe", **headers: str
    ) -> httpx.Response:
        """A webhook as Stripe sends it; without a secret: with the headers given only."""
        sent = {
            "content-type": "application/json; charset=utf-8",
            "user-agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }
        if secret is not None:
            sent["stripe-signature"] = signature(body, secret)
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(path, content=body, headers=sent)

    async def rows(self, firm: str, statement: str, *values: Any) -> list[Any]:
        """What the database has for a firm."""
        async with self.database.transaction(support.context(decode(Prefix.FIRM, firm, "firm")), write=False) as uow:
            return list(await uow.fetch_all(statement, values))

    async def footprint(self, firm: str) -> dict[str, list[str]]:
        """Every row of a firm that money or events could touch, as text: equal before and after what must not touch it."""
        own = decode(Prefix.FIRM, firm, "firm")
        # Tries count themselves; what is tried must not get anywhere.
        shown = {"attempt": "(id, state, provider_reference)", "provider_event": "(id, state, result)"}
        found = {}
        for table in ("payment", "attempt", "refund", "dispute", "payment_method", "provider_customer", "invoice", "client", "provider_event",
                      "provider_mirror", "ledger_entry", "ledger_posting", "checkout_session", "setup_intent"):  # fmt: skip
            columns = shown.get(table, "t")
            rows = await self.rows(
                firm, f"SELECT {columns}::text AS row FROM {table} t WHERE firm_id = %s ORDER BY 1", own
            )
            found[table] = [row["row"] for row in rows]
        return found


async def until(look: Callable[[], Awaitable[T | None]], seconds: float = PATIENCE) -> T:
    """What `look` finds in the end."""
    deadline = time.monotonic() + seconds
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < deadline, f"still nothing: {found!r}"
        await asyncio.sleep(0.05)


def usd(minor: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code="USD", amount_minor=minor)


def payment_state(payment: payment_pb2.Payment) -> str:
    return payment_pb2.PaymentState.Name(payment.state).removeprefix("PAYMENT_STATE_")


def method_state(method: payment_method_pb2.PaymentMethod) -> str:
    return payment_method_pb2.PaymentMethodState.Name(method.state).removeprefix("PAYMENT_METHOD_STATE_")


def event_state(found: provider_event_pb2.ProviderEvent) -> str:
    return provider_event_pb2.ProviderEventState.Name(found.state).removeprefix("PROVIDER_EVENT_STATE_")


def reference_of(payment: payment_pb2.Payment) -> str:
    """Stripe's id of what the last attempt made."""
    return str(payment.attempts[-1].provider_reference)
