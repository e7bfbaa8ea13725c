"""Numbers of the inbox, for the process that counts them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from prometheus_client import Counter, Gauge

from dunwell_server.kernel.clock import machine_now

received = Counter("dunwell_webhooks_received", "Webhooks with a good signature", ["provider", "result"])
refused = Counter("dunwell_webhooks_refused", "Webhooks refused", ["provider", "reason", "source"])
handled = Counter(
    "dunwell_inbox_events", "Provider events by what became of a try to apply them", ["provider", "state"]
)
gaps = Counter("dunwell_inbox_gaps", "Events that no webhook had brought, found in the provider's list", ["provider"])
lag = Gauge("dunwell_inbox_lag_seconds", "Age of the oldest provider event that waits, as this process last saw it")
quarantined = Gauge("dunwell_inbox_quarantined", "Quarantined provider events, as this process last saw them")

_FORGET_SECONDS: Final = 150.0
"""Firms are looked at every minute by some process; what this one saw longer ago is another's to tell."""


@dataclass(frozen=True, slots=True)
class _Seen:
    oldest: datetime | None
    quarantined: int
    when: float


_seen: dict[UUID | None, _Seen] = {}


def note(firm_id: UUID | None, oldest: datetime | None, waiting_for_a_person: int) -> None:
    """What a look at a firm (None: at the envelopes without one) showed."""
    _seen[firm_id] = _Seen(oldest, waiting_for_a_person, time.monotonic())


def _fresh() -> list[_Seen]:
    horizon = time.monotonic() - _FORGET_SECONDS
    for firm_id, seen in list(_seen.items()):
        if seen.when < horizon:
            _seen.pop(firm_id, None)
    return list(_seen.values())


def _lag() -> float:
    oldest = min((seen.oldest for seen in _fresh() if seen.oldest is not None), default=None)
    return 0.0 if oldest is None else max(0.0, (machine_now() - oldest).total_seconds())


lag.set_function(_lag)
quarantined.set_function(lambda: sum(seen.quarantined for seen in _fresh()))
