"""Connections to Stripe through its SDK: one transport, one client per secret, no retries, bounded time.

`ask` awaits one SDK call and gives the answer as plain JSON, or raises one of three: `http.NothingSent` (proof that no
byte left), `http.NoAnswer` (no usable answer), `Refused` (Stripe's answer is an error, with all it says).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import stripe

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.providers import http
from dunwell_server.providers.accounts import AccountMode, ProviderAccount
from dunwell_server.providers.stripe.reading import Body, maybe_obj, maybe_text

if TYPE_CHECKING:
    from stripe._base_address import BaseAddresses

NAME: Final = "stripe"
STRIPE_VERSION: Final = "2026-10-28.endive"
"""The API version all requests name: the SDK's own. Webhook endpoints are to be created with the same."""
MAX_CONNECTIONS: Final = 64
MAX_CLIENTS: Final = 512

# The SDK would measure every request, report it with the next, and keep an id in the home directory of the user.
stripe.enable_telemetry = False


class _NoBodies(logging.Filter):
    """The SDK logs whole request and response bodies at DEBUG: names, e-mails, client secrets."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING


logging.getLogger("stripe").addFilter(_NoBodies())


class _Transport(stripe.HTTPClient):
    """What the SDK sends with: the house's HTTP, which proves what was not sent and bounds the whole exchange."""

    name = "httpx"

    def __init__(self, connect_timeout: float, total_timeout: float) -> None:
        super().__init__()
        self._total_timeout = total_timeout
        self._client = http.new_client("", max_connections=MAX_CONNECTIONS, connect_timeout=connect_timeout)

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        response = await http.exchange(
            self._client, method.upper(), url, total_timeout=self._total_timeout, headers=headers, content=post_data
        )
        return response.content, response.status_code, response.headers

    async def sleep_async(self, secs: float) -> None:
        await asyncio.sleep(secs)

    async def close_async(self) -> None:
        await self._client.aclose()


@dataclass(slots=True, eq=False)
class Refused(Exception):
    """An answer of Stripe's that is an error. ``error`` is its error object; None where the body has none."""

    status: int
    error: Body | None = field(default=None, repr=False)
    retry_after: float | None = None
    should_retry: bool | None = None
    """The header ``Stripe-Should-Retry``: whether the same request with the same key makes sense."""
    replayed: bool = False
    """The header ``Idempotent-Replayed``: this is the stored answer to an earlier sending."""

    def __str__(self) -> str:
        return f"status {self.status}, code {self.code}"

    @property
    def kind(self) -> str | None:
        """The error's type, such as ``card_error``."""
        return maybe_text(self.error or {}, "type")

    @property
    def code(self) -> str | None:
        """The error's code, such as ``resource_missing``."""
        return maybe_text(self.error or {}, "code")

    @property
    def param(self) -> str | None:
        """The parameter it is about."""
        return maybe_text(self.error or {}, "param")

    @property
    def missing(self) -> bool:
        """Whether Stripe says that it has no such object."""
        return self.error is not None and self.status in (400, 404) and self.code == "resource_missing"

    @property
    def rate_limited(self) -> bool:
        """Whether it was turned away before anything was looked at."""
        return self.status == 429 or (self.status == 400 and self.code == "rate_limit")


class Connections:
    """The SDK's clients, by secret, over one transport."""

    def __init__(
        self, api_base: str | None, files_base: str | None, connect_timeout: float, total_timeout: float
    ) -> None:
        self._addresses: BaseAddresses = {}
        if api_base is not None:
            self._addresses["api"] = api_base.rstrip("/")
        if files_base is not None or api_base is not None:
            self._addresses["files"] = (files_base or api_base or "").rstrip("/")
        self._transport = _Transport(connect_timeout, total_timeout)
        self._clients: OrderedDict[str, stripe.StripeClient] = OrderedDict()

    def client(self, account: ProviderAccount) -> stripe.StripeClient:
        """The client of an account. Raises PROVIDER_NOT_CONFIGURED without a key, and refuses one of the other mode."""
        secret = account.credentials["secret_key"]
        check_mode(secret, account.mode)
        client = self._clients.get(secret)
        if client is None:
            client = stripe.StripeClient(
                secret,
                stripe_version=STRIPE_VERSION,
                base_addresses=self._addresses,
                max_network_retries=0,
                http_client=self._transport,
            )
            self._clients[secret] = client
            while len(self._clients) > MAX_CLIENTS:
                self._clients.popitem(last=False)
        else:
            self._clients.move_to_end(secret)
        return client

    async def close(self) -> None:
        """Gives back the connections."""
        self._clients.clear()
        await self._transport.close_async()


def check_mode(secret: str, mode: AccountMode) -> None:
    """Refuses a live key on a TEST account and a test key on a LIVE one."""
    if not secret.isascii() or not secret.isprintable() or not secret.strip():
        raise DunwellError(Reason.PROVIDER_NOT_CONFIGURED, "the account's secret key cannot be one of Stripe's")
    other = "_test_" if mode is AccountMode.LIVE else "_live_"
    if secret[2:8] == other:
        raise DunwellError(
            Reason.PROVIDER_MODE_MISMATCH,
            f"the key of a {mode.value} account is of the other mode",
            metadata={"provider": NAME, "mode": mode.value},
        )


def fresh_key() -> str:
    """A key for a POST that may be repeated freely: it says what shall be, not what to add."""
    return f"once:{uuid4()}"


async def ask(call: Awaitable[Any]) -> Body:
    """The answer to one SDK call as plain JSON."""
    try:
        answer = await call
        plain = answer.to_dict()
    except (http.NothingSent, http.NoAnswer):
        raise
    except stripe.StripeError as error:
        raise _refused(error) from None
    except Exception as error:  # An answer the SDK cannot read. The request has been sent.
        raise http.NoAnswer(f"unparsable answer ({type(error).__name__})") from None
    if not isinstance(plain, dict):
        raise http.NoAnswer("unparsable answer")
    return plain


def _refused(error: stripe.StripeError) -> Exception:
    status = error.http_status
    if not isinstance(status, int) or 200 <= status < 300:
        return http.NoAnswer("unparsable answer")
    body = error.json_body
    problem = body.get("error") if isinstance(body, dict) else None
    documented = isinstance(problem, dict) and isinstance(problem.get("type"), str)
    headers = maybe_obj(error.headers)
    should_retry = {"true": True, "false": False}.get(str(headers.get("stripe-should-retry", "")).lower())
    return Refused(
        status=status,
        error=problem if documented else None,
        retry_after=_seconds(headers.get("retry-after")),
        should_retry=should_retry,
        replayed=str(headers.get("idempotent-replayed", "")).lower() == "true",
    )


def _seconds(value: Any) -> float | None:
    """The seconds of a ``Retry-After`` header; None without one, or for a date."""
    shown = value.strip() if isinstance(value, str) else ""
    return float(shown) if shown.isascii() and shown.isdigit() and len(shown) < 7 else None
