"""The connection to the gateway, and what its refusals of calls that move no money become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import httpx

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.providers import http
from dunwell_server.providers.base import (
    CONNECT_TIMEOUT_SECONDS,
    TOTAL_TIMEOUT_SECONDS,
    DeclineClass,
    FailureCode,
    Provider,
    ProviderAccount,
    ProviderDeclined,
    ProviderRefused,
    ProviderUnavailable,
    check_account,
)
from dunwell_server.providers.sandbox.outcomes import declined_outcome, refusal
from dunwell_server.providers.sandbox.reading import MALFORMED, Body, json_of

NAME: Final = "sandbox"
MAX_CONNECTIONS: Final = 256
PAGE_SIZE: Final = 100
T = TypeVar("T")


class Wire:
    """What every group of calls sends with."""

    def __init__(
        self,
        base_url: str,
        *,
        connect_timeout: float = CONNECT_TIMEOUT_SECONDS,
        total_timeout: float = TOTAL_TIMEOUT_SECONDS,
    ) -> None:
        """``base_url`` is the gateway's address; the timeouts are in seconds."""
        self._total_timeout = total_timeout
        self._client = http.new_client(
            base_url,
            max_connections=MAX_CONNECTIONS,
            connect_timeout=connect_timeout,
        )

    def check(self, account: ProviderAccount) -> None:
        """Refuses accounts of another provider or mode, before anything is sent."""
        check_account(cast(Provider, self), account)

    async def close(self) -> None:
        await self._client.aclose()

    async def send(
        self,
        account: ProviderAccount,
        method: str,
        path: str,
        *,
        key: str | None = None,
        content_type: str | None = None,
        **options: Any,
    ) -> httpx.Response:
        """Sends one request. Raises `http.NothingSent` or `http.NoAnswer`."""
        headers = {"Authorization": f"Bearer {account.credentials['secret_key']}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        if content_type is not None:
            headers["Content-Type"] = content_type
        return await http.exchange(
            self._client, method, path, total_timeout=self._total_timeout, headers=headers, **options
        )

    async def ask(
        self, account: ProviderAccount, method: str, path: str, *, key: str | None = None, **options: Any
    ) -> Body:
        """A call that moves no money: the body of a 200, or one of the errors of `Provider`."""
        self.check(account)
        try:
            response = await self.send(account, method, path, key=key, **options)
        except (http.NothingSent, http.NoAnswer) as error:
            raise ProviderUnavailable(NAME, str(error)) from None
        status = response.status_code
        try:
            body = json_of(response)
            if status == 200:
                return body
            error_body = body["error"]
            code, param = error_body["code"], error_body.get("param")
        except MALFORMED:
            raise ProviderUnavailable(NAME, f"unparsable answer with status {status}") from None
        if status in (401, 403):
            raise DunwellError(
                Reason.PROVIDER_NOT_CONFIGURED, f"{NAME} does not accept the account's credentials"
            ) from None
        if status == 402:
            declined = declined_outcome(error_body, None)
            raise ProviderDeclined(*refusal(declined), declined.provider_code)
        if status == 400 and param in ("token", "payment_method", "default_payment_method"):
            raise ProviderDeclined(FailureCode.MISSING_PAYMENT_METHOD, DeclineClass.HARD, code)
        if status in (400, 404, 422):
            raise ProviderRefused(NAME, code)
        raise ProviderUnavailable(NAME, f"answered with status {status}", http.retry_after(response))

    async def read(
        self,
        account: ProviderAccount,
        method: str,
        path: str,
        understand: Callable[[Body], T],
        *,
        key: str | None = None,
        **options: Any,
    ) -> T:
        """As `ask`, with what the answer says; raises `ProviderUnavailable` for one that cannot be understood."""
        body = await self.ask(account, method, path, key=key, **options)
        try:
            return understand(body)
        except MALFORMED:
            raise ProviderUnavailable(NAME, "unparsable answer") from None

    async def answer(self, account: ProviderAccount, method: str, path: str, **options: Any) -> tuple[int, Body]:
        """Status and body of one call. Raises `http.NothingSent`, or `http.NoAnswer` also for what is not JSON."""
        response = await self.send(account, method, path, **options)
        try:
            return response.status_code, json_of(response)
        except MALFORMED:
            raise http.NoAnswer("unparsable answer") from None
