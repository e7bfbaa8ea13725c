"""The sidecar's one call: IngestProviderEvent, over one channel that is kept, with the sidecar's own credential."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from dunwell.v1.provider_event_service_pb2 import IngestProviderEventRequest
from dunwell.v1.provider_event_service_pb2_grpc import ProviderEventServiceStub
from dunwell_server.platform.logging import get_logger
from dunwell_server.sidecar_config import SidecarSettings

log = get_logger(__name__)

HEALTH_SECONDS: Final = 2.0
SERVICE: Final = "dunwell.v1.ProviderEventService"
_RETRIES: Final = {
    "methodConfig": [
        {
            "name": [{"service": SERVICE}],
            "retryPolicy": {
                "maxAttempts": 3, "initialBackoff": "0.1s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}  # fmt: skip
"""An event is stored once however often it is sent. So a worker that is just being replaced costs no delivery: without this the
provider would come again minutes or hours later."""

_OPTIONS: Final = (
    ("grpc.service_config", json.dumps(_RETRIES)),
    # The server cuts off what pings more than every 30 seconds.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # The server is back as soon as it is: the library's own pauses grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
)


class Verdict(Enum):
    """What became of a webhook, as far as its sender is concerned."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    """The signature or the webhook itself is not right; sent again it would not be either."""
    TOO_LARGE = "too large"
    UNKNOWN = "unknown"
    """There is no such provider or account."""
    LATER = "later"
    """The server cannot at the moment."""
    BROKEN = "broken"
    """Our own trouble, the sidecar's credential included."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook as it came."""

    provider: str
    account: str
    """`pva_…`; empty: the installation's own account."""
    body: bytes
    headers: dict[str, str]
    source: str


_BY_CODE: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: Verdict.REFUSED,
    grpc.StatusCode.NOT_FOUND: Verdict.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE: Verdict.LATER,
    grpc.StatusCode.DEADLINE_EXCEEDED: Verdict.LATER,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Verdict.LATER,
    grpc.StatusCode.ABORTED: Verdict.LATER,
    grpc.StatusCode.CANCELLED: Verdict.LATER,
}
_BY_REASON: Final = {"SIGNATURE_INVALID": Verdict.REFUSED, "MESSAGE_TOO_LARGE": Verdict.TOO_LARGE}
"""Where the reason says more than the code."""


class CredentialError(Exception):
    """There is no credential to call with. The text says what to change."""


class Credential:
    """The sidecar's API key: given, or in a file that may be replaced while the sidecar runs."""

    __slots__ = ("_file", "_text")

    def __init__(self, settings: SidecarSettings) -> None:
        """CredentialError where no key is configured or its file cannot be read."""
        self._file: Path | None = None
        if settings.sidecar_key is not None:
            self._text = settings.sidecar_key.get_secret_value().strip()
        elif settings.sidecar_key_file is not None:
            self._file, self._text = settings.sidecar_key_file, ""
            try:
                self.renew()
            except OSError as error:
                raise CredentialError(f"DUNWELL_SIDECAR_KEY_FILE cannot be read: {error.strerror}") from error
        else:
            raise CredentialError("set DUNWELL_SIDECAR_KEY or DUNWELL_SIDECAR_KEY_FILE to an API key of role SIDECAR")
        if not self._text:
            raise CredentialError("the sidecar's API key is empty")

    def __repr__(self) -> str:
        return "Credential(hidden)"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call carries."""
        return (("authorization", f"Bearer {self._text}"),)

    def renew(self) -> bool:
        """Read the file again; whether there is another key in it than before. OSError."""
        if self._file is None:
            return False
        text = self._file.read_text(encoding="ascii", errors="replace").strip()
        changed, self._text = bool(text) and text != self._text, text or self._text
        return changed


class Forwarder:
    """Calls the RPC server. Made and closed on the event loop that uses it."""

    def __init__(self, settings: SidecarSettings) -> None:
        """CredentialError without a credential; OSError where a TLS file cannot be read."""
        self._deadline = settings.sidecar_deadline
        self._credential = Credential(settings)
        self._channel = _channel(settings)
        # The generated stubs' type is that of the synchronous interface.
        self._ingest: Any = ProviderEventServiceStub(self._channel).IngestProviderEvent
        health: Any = health_pb2_grpc.HealthStub(self._channel)
        self._check: Any = health.Check

    async def forward(self, webhook: Webhook) -> Verdict:
        """Hand the webhook to the server, within the deadline. Raises nothing that a server can do."""
        request = IngestProviderEventRequest(
            provider=webhook.provider, provider_account_id=webhook.account, body=webhook.body, headers=webhook.headers,
            source_address=webhook.source,
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._deadline
        try:
            return await self._call(request, self._deadline)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED or not self._renewed():
                return _verdict(error, webhook)
        try:
            return await self._call(request, max(0.1, deadline - loop.time()))
        except grpc.aio.AioRpcError as error:
            return _verdict(error, webhook)

    async def _call(self, request: IngestProviderEventRequest, timeout: float) -> Verdict:
        answer = await self._ingest(request, timeout=timeout, metadata=self._credential.metadata)
        return Verdict.DUPLICATE if answer.duplicate else Verdict.STORED

    def _renewed(self) -> bool:
        try:
            return self._credential.renew()
        except OSError:
            return False

    async def ready(self) -> bool:
        """Whether the server says that it serves."""
        try:
            answer = await self._check(health_pb2.HealthCheckRequest(), timeout=HEALTH_SECONDS)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


def _channel(settings: SidecarSettings) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = list(_OPTIONS)
    if not settings.calls_over_tls:
        return grpc.aio.insecure_channel(settings.sidecar_server, options=options)
    if settings.sidecar_server_name is not None:
        options.append(("grpc.ssl_target_name_override", settings.sidecar_server_name))
    credentials = grpc.ssl_channel_credentials(
        _read(settings.sidecar_ca_file),
        _read(settings.sidecar_client_key_file),
        _read(settings.sidecar_client_cert_file),
    )
    return grpc.aio.secure_channel(settings.sidecar_server, credentials, options=options)


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _verdict(error: grpc.aio.AioRpcError, webhook: Webhook) -> Verdict:
    code, reason = error.code(), _reason(error)
    verdict = _BY_REASON.get(reason) or _BY_CODE.get(code, Verdict.BROKEN)
    told = {"provider": webhook.provider, "account": webhook.account, "code": code.name, "reason": reason}
    if verdict is Verdict.BROKEN:
        own = code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        what = "webhooks are refused: the server does not accept the sidecar's API key" if own else "the server failed"
        log.error(what, **told, detail=error.details())
    elif verdict is Verdict.LATER:
        log.warning("the server cannot take a webhook now", **told, detail=error.details())
    else:
        log.info("webhook refused", **told, source=webhook.source, bytes=len(webhook.body))
    return verdict


def _reason(error: grpc.aio.AioRpcError) -> str:
    """The machine-readable reason of the server's answer; empty where there is none."""
    call: Any = error
    try:
        status = rpc_status.from_call(call)
    except ValueError:  # details that contradict the status: not one of our servers
        return ""
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return ""
