"""The sidecar's HTTP surface.

==========================================  ===========================================================================
POST /webhooks/{provider}                   a webhook for the installation's own account at the provider
POST /webhooks/{provider}/{account}         a webhook for the account `pva_…`
GET /healthz                                200 while the process runs
GET /readyz                                 200 while the RPC server serves; 503 otherwise, and while stopping
==========================================  ===========================================================================

A webhook's answer says only what its sender needs: 200 it is stored (or was before), 400 it is not right, 404 there is no such
provider or account, 408 its body did not come, 413 it is too large, 503 come again, 500 our trouble. Providers repeat what is not
answered with 2xx; nothing is answered so before the server has made it durable.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dunwell_server.platform.logging import get_logger
from dunwell_server.webhooks.forwarding import Verdict, Webhook
from dunwell_server.webhooks.metrics import SidecarMetrics
from dunwell_server.webhooks.requests import ACCOUNT, PROVIDER, BodyTooLarge, headers_for, read_body, source_of

log = get_logger(__name__)

BODY_SECONDS: Final = 10.0
"""How long a body may take to arrive."""
RETRY_SECONDS: Final = 5
DISCONNECTED: Final = 499
"""The usual number, in metrics, for a client that left before its answer."""

_ANSWERS: Final = {
    Verdict.REFUSED: (400, "refused"),
    Verdict.UNKNOWN: (404, "not_found"),
    Verdict.TOO_LARGE: (413, "too_large"),
    Verdict.LATER: (503, "unavailable"),
    Verdict.BROKEN: (500, "internal"),
}
_KNOWN: Final = frozenset({Verdict.STORED, Verdict.DUPLICATE, Verdict.REFUSED})
"""Verdicts that only a provider known to the server gets."""


class ForwardsWebhooks(Protocol):
    """What the surface stands on: see `forwarding.Forwarder`."""

    async def forward(self, webhook: Webhook) -> Verdict:
        """Hand the webhook over and tell what became of it."""
        ...

    async def ready(self) -> bool:
        """Whether the server serves."""
        ...


class Surface:
    """The routes and what they share. `app` is the ASGI application."""

    def __init__(self, forwarder: ForwardsWebhooks, metrics: SidecarMetrics, *, max_concurrent: int) -> None:
        self._forwarder = forwarder
        self._metrics = metrics
        self._max_concurrent = max_concurrent
        self._in_progress = 0
        self.stopping = False
        """Set when the process is about to end: load balancers are told to go elsewhere, webhooks are still taken."""
        metrics.in_progress.set_function(lambda: self._in_progress)
        self.app = Starlette(
            routes=[
                Route("/webhooks/{provider}", self._webhook, methods=["POST"]),
                Route("/webhooks/{provider}/{account}", self._webhook, methods=["POST"]),
                Route("/healthz", self._healthz, methods=["GET"]),
                Route("/readyz", self._readyz, methods=["GET"]),
            ],
            exception_handlers={Exception: _unexpected},
        )
        self.app.router.redirect_slashes = False

    async def _healthz(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _readyz(self, _: Request) -> Response:
        if self.stopping:
            return JSONResponse({"status": "stopping"}, 503)
        if not await self._forwarder.ready():
            return JSONResponse({"status": "server unavailable"}, 503)
        return JSONResponse({"status": "ready"})

    async def _webhook(self, request: Request) -> Response:
        began = time.perf_counter()
        known: str | None = None
        status = 500
        try:
            if self._in_progress >= self._max_concurrent:
                response = _refusal(503, "busy", unread=True)
            else:
                self._in_progress += 1
                try:
                    response, known = await self._take(request)
                finally:
                    self._in_progress -= 1
            status = response.status_code
            return response
        finally:
            self._metrics.answered(known, status, time.perf_counter() - began)

    async def _take(self, request: Request) -> tuple[Response, str | None]:
        """The answer, and the provider if the server knows it."""
        provider, account = request.path_params["provider"], request.path_params.get("account", "")
        if not PROVIDER.fullmatch(provider) or (account and not ACCOUNT.fullmatch(account)):
            return _refusal(404, "not_found", unread=True), None
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await read_body(request)
        except BodyTooLarge:
            log.info("webhook refused", reason="too large", source=source_of(request))
            return _refusal(413, "too_large", unread=True), None
        except TimeoutError:
            return _refusal(408, "timeout", unread=True), None
        except ClientDisconnect:
            return Response(status_code=DISCONNECTED), None
        if not body:
            return _refusal(400, "empty"), None
        webhook = Webhook(provider, account, body, headers_for(provider, request.headers.items()), source_of(request))
        verdict = await self._forwarder.forward(webhook)
        known = provider if verdict in _KNOWN else None
        if verdict in (Verdict.STORED, Verdict.DUPLICATE):
            duplicate = verdict is Verdict.DUPLICATE
            self._metrics.stored(provider, len(body), duplicate=duplicate)
            return JSONResponse({"received": True, "duplicate": duplicate}), known
        return _refusal(*_ANSWERS[verdict]), known


def _refusal(status: int, error: str, *, unread: bool = False) -> Response:
    """`unread`: the body was left where it is, so that nothing more can come over this connection."""
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else {}
    if unread:
        headers["Connection"] = "close"
    return JSONResponse({"received": False, "error": error}, status, headers)


async def _unexpected(_: Request, error: Exception) -> Response:
    log.error("webhook failed", error=type(error).__name__)
    return _refusal(500, "internal")
