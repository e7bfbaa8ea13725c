"""Webhooks: signatures, the reading of events, and Stripe's own list of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from dunwell_server.providers import http
from dunwell_server.providers.abilities import SignatureRefused
from dunwell_server.providers.accounts import AccountMode
from dunwell_server.providers.base import ProviderAccount, ProviderUnavailable
from dunwell_server.providers.events import EventPage, NormalisedEvent, SignedEvent
from dunwell_server.providers.stripe.answers import refusal, unparsable
from dunwell_server.providers.stripe.calls import PAGE_SIZE, Calls, page_of, seconds
from dunwell_server.providers.stripe.client import NAME, Refused, ask
from dunwell_server.providers.stripe.events_map import normalise, read_json
from dunwell_server.providers.stripe.reading import Body, maybe_text, moment
from dunwell_server.providers.stripe.signature import HEADER, check_signature

WRONG_MODE: Final = "event of the other mode"


class WebhookCalls(Calls):
    """`abilities.Webhooks`."""

    async def verify(
        self, account: ProviderAccount, secrets: Sequence[str], body: bytes, headers: Mapping[str, str], now: datetime
    ) -> SignedEvent:
        check_signature(secrets, body, headers.get(HEADER), now)
        try:
            event = read_json(body)
        except ValueError:
            # Signed, and yet no event: it is kept, to be looked at; reading it will fail again where that is counted.
            return SignedEvent(event_id=None, type="", create_time=None)
        if event.get("livemode") is (account.mode is not AccountMode.LIVE):
            raise SignatureRefused(WRONG_MODE)
        return signed_event(event)

    def normalise(self, body: bytes) -> NormalisedEvent:
        return normalise(body)

    async def list_events(
        self, account: ProviderAccount, since: datetime, until: datetime, page: str | None = None
    ) -> EventPage:
        params: dict[str, Any] = {"limit": PAGE_SIZE, "created": {"gte": seconds(since), "lt": seconds(until)}}
        if page is not None:
            params["starting_after"] = page
        client = self._client(account)
        try:
            # Raw: the SDK's objects would not give the events back as they are sent.
            body = await ask(_raw(client.raw_request_async("get", "/v1/events", **params)))
        except Refused as refused:
            raise refusal(refused) from None
        except (http.NothingSent, http.NoAnswer) as error:
            raise ProviderUnavailable(NAME, str(error)) from None
        try:
            found, after = page_of(body)
            events = tuple((signed_event(event), raw_event(event)) for event in found)
        except ValueError:
            raise unparsable() from None
        return EventPage(events, after)


class _Plain:
    """A raw response in the form that `ask` reads."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def to_dict(self) -> Any:
        """The body, as parsed."""
        return self._data


async def _raw(call: Awaitable[Any]) -> _Plain:
    return _Plain((await call).data)


def signed_event(event: Body) -> SignedEvent:
    """What identifies an event. The time is None where it cannot be read: that is found out again later."""
    try:
        created = moment(event.get("created"))
    except (ValueError, OverflowError):
        created = None
    return SignedEvent(event_id=maybe_text(event, "id"), type=maybe_text(event, "type") or "", create_time=created)


def raw_event(event: Body) -> bytes:
    """A listed event as the body of a webhook."""
    return json.dumps(event, ensure_ascii=False, indent=2).encode()
