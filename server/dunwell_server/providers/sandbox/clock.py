"""The account's own time, and what is still under way at a moment of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.providers.base import ProviderAccount, ProviderRefused
from dunwell_server.providers.sandbox.reading import Body, instant
from dunwell_server.providers.sandbox.wire import Wire

DRAIN_SECONDS: Final = 1.0


class ClockCalls(Wire):
    """`base.FollowsTestClock`."""

    async def set_clock(self, account: ProviderAccount, now: datetime) -> None:
        try:
            await self.ask(account, "POST", "/v1/clock", json={"now": now.astimezone(UTC).isoformat()})
        except ProviderRefused as refused:
            if refused.provider_code == "clock_backwards":
                raise DunwellError(Reason.CLOCK_BACKWARDS, "the provider account's clock is later already") from None
            raise

    async def next_due(self, account: ProviderAccount) -> datetime | None:
        return await self.read(
            account,
            "GET",
            "/v1/clock",
            lambda body: None if body["next_due"] is None else instant(body["next_due"]),
        )

    async def undelivered(self, account: ProviderAccount) -> int:
        """How many webhooks of the account have not been answered with 2xx yet."""
        return await self.read(account, "GET", "/v1/webhooks", _undelivered)

    async def drained(self, account: ProviderAccount) -> bool:
        params = {"wait_seconds": DRAIN_SECONDS}
        return await self.read(account, "GET", "/v1/webhooks", _undelivered, params=params) == 0


def _undelivered(body: Body) -> int:
    count = body["undelivered"]
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ValueError("not a count")
    return count
