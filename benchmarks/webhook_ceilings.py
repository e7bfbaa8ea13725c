"""What accepting a webhook costs at the least: its signature is checked and its rows are inserted, behind bare handlers.

    python -m benchmarks.webhook_ceilings RPC_PORT HTTP_PORT FIRM ACCOUNT SECRET

One process that serves the same insert twice: as a bare gRPC method, and as a bare HTTP path on the sidecar's HTTP server. FIRM and
ACCOUNT are UUIDs. The database is that of the environment.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
import time
from contextlib import nullcontext, suppress
from typing import Any, Final
from uuid import UUID

import grpc
import psycopg
import uvicorn
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from benchmarks.ceilings import POOL, Bare, Pool
from benchmarks.stripe_events import HEADER
from dunwell.v1 import provider_event_service_pb2 as pb
from dunwell_server.config import Settings
from dunwell_server.kernel.ids import Prefix, encode, uuid7

INGEST: Final = "/dunwell.v1.ProviderEventService/IngestProviderEvent"
_STORE: Final = """
SELECT bench_store_webhook(%(firm)s, %(account)s, %(id)s, %(event)s, %(type)s, %(body)s, %(hash)s, %(headers)s, %(created)s)
"""
_TOLERANCE: Final = 300
_ACCEPTED: Final = b'{"received":true}'


class _Store:
    """Checks and inserts."""

    def __init__(self, pool: Pool, firm: UUID, account: UUID, secret: str) -> None:
        self._pool = pool
        self._firm = firm
        self._account = account
        self._secret = secret.encode()

    async def accept(self, body: bytes, signature: str) -> UUID:
        """ValueError for a signature that is not right."""
        stamp, _, digest = signature.removeprefix("t=").partition(",v1=")
        expected = hmac.new(self._secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, digest) or abs(time.time() - int(stamp)) > _TOLERANCE:
            raise ValueError("signature")
        event, event_id = json.loads(body), uuid7()
        values = {
            "firm": self._firm, "account": self._account, "id": event_id, "event": event["id"], "type": event["type"], "body": body,
            "hash": hashlib.sha256(body).digest(), "headers": Jsonb({"user-agent": "Stripe/1.0"}), "created": event["created"],
        }  # fmt: skip
        async with self._pool.connection() as connection:
            await connection.execute(_STORE, values)
        return event_id

    async def IngestProviderEvent(self, request: Any, context: Any) -> pb.IngestProviderEventResponse:
        event_id = await self.accept(request.body, request.headers[HEADER])
        return pb.IngestProviderEventResponse(provider_event_id=encode(Prefix.PROVIDER_EVENT, event_id))

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """The bare ASGI application."""
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await self.accept(body, dict(scope["headers"])[HEADER.encode()].decode())
        length = str(len(_ACCEPTED)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": _ACCEPTED})


class _Uvicorn(uvicorn.Server):
    def capture_signals(self) -> Any:
        return nullcontext()


async def serve(rpc_port: int, http_port: int, firm: UUID, account: UUID, secret: str) -> None:
    """Serve until the process is ended."""
    settings = Settings()
    assert settings.database_url is not None

    async def configure(connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.set_autocommit(True)
        connection.prepare_threshold = 2

    url = settings.database_url.get_secret_value()
    async with AsyncConnectionPool(url, min_size=POOL, max_size=POOL, configure=configure) as pool:
        store = _Store(pool, firm, account, secret)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(
            (Bare({INGEST: (store.IngestProviderEvent, pb.IngestProviderEventRequest)}),),
        )
        server.add_insecure_port(f"127.0.0.1:{rpc_port}")
        await server.start()
        config = uvicorn.Config(
            store.app, interface="asgi3", host="127.0.0.1", port=http_port, http="h11", ws="none", lifespan="off", loop="none", log_config=None,
            access_log=False, server_header=False, date_header=False,
        )  # fmt: skip
        await asyncio.gather(_Uvicorn(config).serve(), server.wait_for_termination())


def main() -> None:
    """Serve on uvloop, as the service does."""
    import uvloop

    rpc_port, http_port, firm, account, secret = sys.argv[1:]
    with suppress(KeyboardInterrupt):
        uvloop.run(serve(int(rpc_port), int(http_port), UUID(firm), UUID(account), secret))


if __name__ == "__main__":
    main()
