"""The gateway's HTTP: routes, authentication, and delivering (or not delivering) the answers."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dunwell_server.sandbox import control, objects, payments
from dunwell_server.sandbox.accounts import Account
from dunwell_server.sandbox.answers import Answer, Delivery, Json, Refusal, dumps, invalid, parse_instant
from dunwell_server.sandbox.gateway import Gateway, clock_answer, set_clock
from dunwell_server.sandbox.instruments import refuse_card_data
from dunwell_server.sandbox.payments import Charge

ABORT_EXTENSION = "dunwell.sandbox.abort"
"""Key of the ASGI scope's extensions under which the server puts a function that cuts the connection."""

MAX_BODY_BYTES = 64 * 1024
_SECRET = re.compile(r"Bearer sk_test_([A-Za-z0-9_-]{1,64})")

Work = Callable[[sqlite3.Connection, Account], Answer]


class Delivered(Response):
    """A Starlette response that plays the faults of delivery."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        headers = {"Idempotent-Replayed": "true"} if answer.replayed else {}
        if answer.retry_after_seconds is not None:
            headers["Retry-After"] = str(answer.retry_after_seconds)
        body, status = answer.body, answer.status
        if answer.delivery is Delivery.GARBLE:
            body, status = '<html><body><h1>upstream</h1>{"id": "pay_', 200
        super().__init__(body, max(status, 200), headers, media_type="application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer
        if answer.delivery is Delivery.HOLD:
            with suppress(TimeoutError):
                async with asyncio.timeout(answer.delay_seconds):
                    while (await receive())["type"] != "http.disconnect":
                        pass
        if answer.delivery is Delivery.DROP:
            scope["extensions"][ABORT_EXTENSION]()
            await receive()  # Returns once the server has noticed, so that it writes no error page.
            return
        await super().__call__(scope, receive, send)


def account_of(request: Request) -> str:
    """The account named by the secret key. The refusal never repeats what was sent."""
    match = _SECRET.fullmatch(request.headers.get("authorization", ""))
    if match is None:
        raise Refusal(401, "authentication_error", "api_key_invalid", "Send Authorization: Bearer sk_test_<account>.")
    return match[1]


async def read_json(request: Request) -> tuple[bytes, Json]:
    """The raw body and the object in it, which holds no card data. An empty body is an empty object."""
    raw = await request.body()
    if len(raw) > MAX_BODY_BYTES:
        raise invalid("body_too_large", f"A body has at most {MAX_BODY_BYTES} bytes.")
    try:
        body = json.loads(raw) if raw else {}
        refuse_card_data(body)
    except (ValueError, RecursionError):
        raise invalid("body_invalid", "The body is not JSON.") from None
    if not isinstance(body, dict):
        raise invalid("body_invalid", "The body is not a JSON object.")
    return raw, body


class Api:
    """The routes over one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def create_payment(self, request: Request) -> Answer:
        name = account_of(request)
        raw, body = await read_json(request)
        charge = Charge.parse(body)
        return await self._gateway.charge(name, request.headers.get("idempotency-key"), b"/v1/payments\n" + raw, charge)

    async def _post(self, request: Request, work: Callable[[sqlite3.Connection, Account, Json], Answer]) -> Answer:
        name = account_of(request)
        raw, body = await read_json(request)
        key = request.headers.get("idempotency-key")
        fingerprint = request.url.path.encode() + b"\n" + raw
        return await self._gateway.post(name, key, fingerprint, lambda c, a: work(c, a, body))

    async def _get(self, request: Request, work: Work) -> Answer:
        name = account_of(request)
        await self._gateway.latency(name)
        return await self._gateway.call(name, work)

    async def create_customer(self, request: Request) -> Answer:
        return await self._post(request, objects.create_customer)

    async def get_customer(self, request: Request) -> Answer:
        return await self._get(request, lambda c, a: objects.get_customer(c, a, request.path_params["id"]))

    async def attach(self, request: Request) -> Answer:
        return await self._post(request, objects.attach_method)

    async def get_method(self, request: Request) -> Answer:
        return await self._get(request, lambda c, a: objects.get_method(c, a, request.path_params["id"]))

    async def detach(self, request: Request) -> Answer:
        return await self._post(request, lambda c, a, _: objects.detach_method(c, a, request.path_params["id"]))

    async def get_payment(self, request: Request) -> Answer:
        def work(connection: sqlite3.Connection, account: Account) -> Answer:
            row = payments.find_payment(connection, account, request.path_params["id"])
            return Answer(200, dumps(payments.payment_object(row)))

        return await self._get(request, work)

    async def list_payments(self, request: Request) -> Answer:
        return await self._get(request, lambda c, a: objects.list_payments(c, a, request.query_params))

    async def cancel(self, request: Request) -> Answer:
        return await self._post(request, lambda c, a, _: payments.cancel(c, a, request.path_params["id"]))

    async def complete_action(self, request: Request) -> Answer:
        return await self._post(
            request, lambda c, a, body: payments.complete_action(c, a, request.path_params["id"], body)
        )

    async def ledger(self, request: Request) -> Answer:
        return await self._get(request, lambda c, a: objects.list_movements(c, a, request.query_params))

    async def events(self, request: Request) -> Answer:
        return await self._get(request, lambda c, a: objects.list_events(c, a, request.query_params))

    async def get_clock(self, request: Request) -> Answer:
        return await self._gateway.call(account_of(request), lambda _, account: clock_answer(account))

    async def set_clock(self, request: Request) -> Answer:
        name = account_of(request)
        to_ms = parse_instant((await read_json(request))[1].get("now"), "now")
        gateway = self._gateway
        return await gateway.call(name, lambda c, account: set_clock(c, gateway.accounts, account, to_ms))

    async def settings(self, request: Request) -> Answer:
        return await control.settings(self._gateway, (await read_json(request))[1])

    async def latency(self, request: Request) -> Answer:
        return await control.latency(self._gateway, (await read_json(request))[1])

    async def faults(self, request: Request) -> Answer:
        return await control.faults(self._gateway, (await read_json(request))[1])

    async def book(self, request: Request) -> Answer:
        return await control.ledger(self._gateway, request.query_params)

    async def reset(self, _: Request) -> Answer:
        return await control.reset(self._gateway)

    async def health(self, _: Request) -> Answer:
        return Answer(200, dumps({"status": "ok"}))


def _endpoint(handler: Callable[[Request], Awaitable[Answer]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return Delivered(await handler(request))
        except Refusal as refusal:
            return Delivered(refusal.answer())

    return endpoint


async def create_app(data_path: Path, *, allow_reset: bool = False) -> Starlette:
    """The gateway as an ASGI application over the book at ``data_path``, which is created if need be.

    Dropped connections need the server of this package (`dunwell_server.sandbox.server`).
    Raises sqlite3.OperationalError when another gateway holds the book.
    """
    gateway = Gateway(data_path, allow_reset=allow_reset)
    api = Api(gateway)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        ticking = asyncio.create_task(gateway.tick())
        try:
            yield
        finally:
            ticking.cancel()
            await gateway.close()

    table: list[tuple[str, str, Callable[[Request], Awaitable[Answer]]]] = [
        ("POST", "/v1/payments", api.create_payment),
        ("GET", "/v1/payments", api.list_payments),
        ("GET", "/v1/payments/{id}", api.get_payment),
        ("POST", "/v1/payments/{id}/cancel", api.cancel),
        ("POST", "/v1/payments/{id}/complete_action", api.complete_action),
        ("POST", "/v1/customers", api.create_customer),
        ("GET", "/v1/customers/{id}", api.get_customer),
        ("POST", "/v1/payment_methods/attach", api.attach),
        ("GET", "/v1/payment_methods/{id}", api.get_method),
        ("POST", "/v1/payment_methods/{id}/detach", api.detach),
        ("GET", "/v1/ledger", api.ledger),
        ("GET", "/v1/events", api.events),
        ("GET", "/v1/clock", api.get_clock),
        ("POST", "/v1/clock", api.set_clock),
        ("POST", "/control/settings", api.settings),
        ("POST", "/control/latency", api.latency),
        ("POST", "/control/faults", api.faults),
        ("GET", "/control/ledger", api.book),
        ("POST", "/control/reset", api.reset),
        ("GET", "/healthz", api.health),
    ]
    routes = [Route(path, _endpoint(handler), methods=[method]) for method, path, handler in table]
    return Starlette(routes=routes, lifespan=lifespan)
