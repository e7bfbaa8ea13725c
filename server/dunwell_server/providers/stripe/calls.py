"""What all groups of calls share: the account's client, keys, and pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from math import ceil
from typing import Any, Final, cast

import stripe

from dunwell_server.providers.base import Provider, ProviderAccount, ProviderRefused, check_account
from dunwell_server.providers.stripe.client import NAME, Connections
from dunwell_server.providers.stripe.reading import Body, is_reference, items, reference

PAGE_SIZE: Final = 100
MAX_PAGES: Final = 200
"""Where a search gives up: 20,000 objects. Giving up is never "there is none"."""


class TooMany(Exception):
    """A list was longer than a search may be."""


class Calls:
    """The part of the adapter that knows its connections."""

    _connections: Connections

    def _client(self, account: ProviderAccount) -> stripe.StripeClient:
        """The account's client; refuses accounts of another provider or mode, before anything is sent."""
        check_account(cast(Provider, self), account)
        return self._connections.client(account)


def existing(value: str) -> str:
    """An id that goes into a path. Raises ProviderRefused (``resource_missing``) for what cannot be one."""
    if not is_reference(value):
        raise ProviderRefused(NAME, "resource_missing")
    return value


def seconds(moment: datetime) -> int:
    """The first whole second that is not before ``moment``: Stripe's ``created`` are whole seconds."""
    return ceil(moment.timestamp())


async def all_items(fetch: Callable[[str | None], Awaitable[Body]]) -> AsyncIterator[Body]:
    """Every object of a list, page by page. ``fetch`` gets the page after an id. Raises TooMany, never stops short."""
    after: str | None = None
    for _ in range(MAX_PAGES):
        page = await fetch(after)
        found, after = page_of(page)
        for item in found:
            yield item
        if after is None:
            return
    raise TooMany


def page_of(page: Body) -> tuple[list[Body], str | None]:
    """The objects of one page, and the id after which the next begins; None on the last. Raises ValueError."""
    data, more = page.get("data"), page.get("has_more")
    if not isinstance(data, list) or not isinstance(more, bool):
        raise ValueError("not a list")
    found = items(data)
    if len(found) != len(data):
        raise ValueError("not a list of objects")
    if not more:
        return found, None
    last = reference(found[-1]) if found else None
    if last is None:
        raise ValueError("a page without an end")
    return found, last


class Slice:
    """A page of [since, until) oldest first, though Stripe lists newest first.

    A span that fits one answer is read whole and turned round; one that does not is halved until it fits. A single
    second that does not fit is read in pages. The token says where the next slice begins, and how long to try.
    """

    def __init__(self, since: datetime, until: datetime, token: str | None) -> None:
        start, self.end = seconds(since), seconds(until)
        span = max(self.end - start, 1)
        if token is not None:
            first, _, length = token.partition(":")
            if not (first.isdigit() and length.isdigit()):
                raise ProviderRefused(NAME, "page_token")
            start, span = max(start, int(first)), max(int(length), 1)
        self.start, self.span = start, span

    async def read(self, fetch: Callable[[int, int, str | None], Awaitable[Body]]) -> tuple[list[Body], str | None]:
        """The slice's objects, oldest first, and the next slice's token. ``fetch`` gets from, to and after."""
        if self.start >= self.end:
            return [], None
        while True:
            stop = min(self.start + self.span, self.end)
            found, more = page_of(await fetch(self.start, stop, None))
            if more is None:
                break
            if stop - self.start == 1:
                found = [item async for item in all_items(lambda after: fetch(self.start, stop, after))]  # noqa: B023
                break
            self.span = max((stop - self.start) // 2, 1)
        token = None if stop >= self.end else f"{stop}:{self.span * 2}"
        return found[::-1], token


def dump(params: Any) -> dict[str, Any]:
    """Parameters without those that are None."""
    return {name: value for name, value in params.items() if value is not None}
