"""The gateway as an ASGI application: its routes, and what runs beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dunwell_server.sandbox.accounts import DEFAULT_PUBLIC_URL, Home
from dunwell_server.sandbox.answers import Answer, Refusal, dumps
from dunwell_server.sandbox.api import Api, Handler
from dunwell_server.sandbox.control import Control
from dunwell_server.sandbox.exchange import Delivered
from dunwell_server.sandbox.failpoints import Failpoints
from dunwell_server.sandbox.gateway import Gateway
from dunwell_server.sandbox.pages import Pages
from dunwell_server.sandbox.webhooks import Sender


async def _health(_: Request) -> Answer:
    return Answer(200, dumps({"status": "ok"}))


BROWSER_CALLS = "/v1/setup_intents/"
"""Calls that a page of another origin makes, with a publishable key."""

CROSS_ORIGIN = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key",
    "Access-Control-Max-Age": "600",
}


def _endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        headers = CROSS_ORIGIN if request.url.path.startswith(BROWSER_CALLS) else None
        try:
            return Delivered(await handler(request), headers)
        except Refusal as refusal:
            return Delivered(refusal.answer(), headers)

    return endpoint


async def _preflight(_: Request) -> Response:
    return Response(status_code=204, headers=CROSS_ORIGIN)


def _page(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except Refusal as refusal:
            return Delivered(refusal.answer())

    return endpoint


async def create_app(
    data_path: Path,
    *,
    allow_reset: bool = False,
    public_url: str = DEFAULT_PUBLIC_URL,
    webhook_url: str = "",
) -> Starlette:
    """The gateway as an ASGI application over the book at ``data_path``, which is created if need be.

    ``public_url`` is where browsers find the hosted pages, ``webhook_url`` where events go (see `Home`).
    Dropped connections need the server of this package (`dunwell_server.sandbox.server`).
    Raises sqlite3.OperationalError when another gateway holds the book, ValueError for failpoints that are none.
    """
    failpoints = Failpoints.from_environment()
    gateway = Gateway(data_path, allow_reset=allow_reset, home=Home(public_url.rstrip("/"), webhook_url))
    sender = Sender(gateway.book, gateway.accounts, failpoints)
    pages = Pages(gateway)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        beside = [asyncio.create_task(gateway.tick()), asyncio.create_task(sender.run())]
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            await sender.close()
            await gateway.close()

    table = [*Api(gateway, sender).table, *Control(gateway, sender).table, ("GET", "/healthz", _health)]
    routes = [Route(path, _endpoint(handler), methods=[method]) for method, path, handler in table]
    routes += [
        Route(f"{BROWSER_CALLS}{{path:path}}", _preflight, methods=["OPTIONS"]),
        Route("/checkout/{id}", _page(pages.checkout), methods=["GET", "POST"]),
        Route("/authenticate/{id}", _page(pages.authenticate), methods=["GET", "POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)
