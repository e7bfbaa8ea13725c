"""The account's own time, and what is still under way at a moment of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.providers.base import ClockStanding, ProviderAccount, ProviderRefused
from dunwell_server.providers.sandbox.reading import Body, instant
from dunwell_server.providers.sandbox.wire import Wire

WAIT_SECONDS: Final = 1.0


class ClockCalls(Wire):
    """`base.FollowsTestClock`."""

    async def set_clock(self, account: ProviderAccount, now: datetime, *, wait: bool = False) -> ClockStanding:
        body = {"now": now.astimezone(UTC).isoformat()}
        try:
            return await self.read(account, "POST", "/v1/clock", _standing, json=body, params=_params(wait))
        except ProviderRefused as refused:
            if refused.provider_code == "clock_backwards":
                raise DunwellError(Reason.CLOCK_BACKWARDS, "the provider account's clock is later already") from None
            raise

    async def clock(self, account: ProviderAccount, *, wait: bool = False) -> ClockStanding:
        return await self.read(account, "GET", "/v1/clock", _standing, params=_params(wait))


def _params(wait: bool) -> dict[str, float]:
    return {"wait_seconds": WAIT_SECONDS} if wait else {}


def _standing(body: Body) -> ClockStanding:
    undelivered = body["undelivered"]
    if not isinstance(undelivered, int) or isinstance(undelivered, bool) or undelivered < 0:
        raise ValueError("not a count")
    return ClockStanding(None if body["next_due"] is None else instant(body["next_due"]), undelivered)
