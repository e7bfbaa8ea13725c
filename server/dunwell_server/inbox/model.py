"""Rules of the inbox that need no database: identity of an event, its retries, live secrets, what is kept of its headers."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Final
from uuid import UUID

GIVE_UP_AFTER: Final = timedelta(hours=72)
"""How long an event is tried that cannot be applied, or whose firm cannot be found. Then it waits for a person."""
MAX_TEXT: Final = 1000
"""Characters kept of a result or an error."""

_FIRST_DELAYS: Final = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(hours=1),
)
_HOURLY: Final = timedelta(hours=1)
_MAX_TRIES: Final = len(_FIRST_DELAYS) + (GIVE_UP_AFTER - sum(_FIRST_DELAYS, timedelta())) // _HOURLY + 1
_DROPPED_HEADERS: Final = ("signature", "authorization", "cookie", "secret", "token", "transmission-sig", "cert-url")
_BODY_HASH: Final = "sha256:"


class EventState(StrEnum):
    """What became of an event; see the contract."""

    RECEIVED = "RECEIVED"
    APPLIED = "APPLIED"
    IGNORED = "IGNORED"
    QUARANTINED = "QUARANTINED"
    DISCARDED = "DISCARDED"


@dataclass(frozen=True, slots=True)
class Account:
    """One account at a provider, a firm's own or (`firm_id` None) the platform's; its secrets still encrypted."""

    id: UUID
    firm_id: UUID | None
    provider: str
    mode: str
    credentials: bytes = field(repr=False)
    key_id: str
    version: int


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A verified event, ready to be stored."""

    id: UUID
    account_id: UUID
    provider: str
    event_id: str | None
    """The provider's id; None where it has none."""
    type: str
    body: bytes
    headers: Mapping[str, str]
    provider_time: datetime | None
    fetched: bool = False
    """It was fetched from the provider's list, over the authenticated API, and carries no signature."""
    receive_time: datetime | None = None
    """When it was received, where that was before it is stored for its firm."""

    @property
    def dedupe_key(self) -> str:
        """What is unique per account: the provider's id of the event, or the body's hash where it has none."""
        return dedupe_key(self.event_id, self.body)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event as it is kept, with or without its body. `firm_id` None: not found out yet."""

    id: UUID
    firm_id: UUID | None
    account_id: UUID
    provider: str
    event_id: str | None
    type: str
    state: EventState
    attempts: int
    fence: int
    fetched: bool
    body_bytes: int
    create_time: datetime
    result: str | None = None
    last_error: str | None = None
    next_attempt_time: datetime | None = None
    object_reference: str | None = None
    provider_time: datetime | None = None
    finish_time: datetime | None = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are listed. Empty and None: all."""

    states: Sequence[str] = ()
    provider: str | None = None
    type: str | None = None
    event_id: str | None = None
    object_reference: str | None = None
    from_time: datetime | None = None
    until_time: datetime | None = None


def dedupe_key(event_id: str | None, body: bytes) -> str:
    """What makes an event the same event, within its account."""
    return event_id or _BODY_HASH + sha256(body).hexdigest()


def event_id_of(key: str) -> str | None:
    """The provider's id in a dedupe key; None where it is a body's hash."""
    return None if key.startswith(_BODY_HASH) else key


def retry_delay(tries: int) -> timedelta | None:
    """How long to wait after the `tries`-th try (from 1) has failed: 5 s, 30 s, 2 min, 10 min, 1 h, then hourly; None after 72 hours of them."""
    if tries >= _MAX_TRIES:
        return None
    return _FIRST_DELAYS[tries - 1] if tries <= len(_FIRST_DELAYS) else _HOURLY


def live_secrets(credentials: Mapping[str, str], now: datetime) -> tuple[str, ...]:
    """The webhook secrets that sign at `now` (machine time): the present one, and the one before until its time is over.

    An empty one is none: it would let everybody sign.
    """
    secrets = [credentials.get("webhook_secret") or ""]
    if _still(credentials.get("webhook_secret_previous_until") or "", now):
        secrets.append(credentials.get("webhook_secret_previous") or "")
    return tuple(secret for secret in secrets if secret.strip())


def _still(until: str, now: datetime) -> bool:
    if not until:
        return True
    end = datetime.fromisoformat(until)
    return (end if end.tzinfo else end.replace(tzinfo=UTC)) > now


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers without signatures and credentials, which are of use to nobody once the event is verified."""
    return {name: headers[name] for name in sorted(headers) if not any(word in name for word in _DROPPED_HEADERS)}


def source_bucket(address: str) -> str:
    """Where a caller is, coarsely enough for a metric's label: `loopback`, `private`, the first byte of a public IPv4 address, `ipv6`, `unknown`."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if parsed.is_loopback:
        return "loopback"
    if parsed.is_private or parsed.is_link_local:
        return "private"
    return f"{str(parsed).partition('.')[0]}.0.0.0/8" if parsed.version == 4 else "ipv6"


def clipped(text: str) -> str:
    """At most `MAX_TEXT` characters, without what PostgreSQL's text cannot hold."""
    return text.replace("\x00", "")[:MAX_TEXT]
