"""When a failed collection is tried again, and what a refusal means. Pure.

All waits are firm time. Jitter is derived from the attempt's id, so that the same attempt waits the same time wherever it is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from dunwell_server.kernel.calendar import local_date, local_instant, next_local_time
from dunwell_server.kernel.hashing import digest_parts
from dunwell_server.payments.model import DeclineClass, PaymentKind
from dunwell_server.platform.firms import FirmSettings

TECHNICAL_REPEATS: Final = 3
"""New attempts that recorded technical declines may open within one slot."""
UNSENT_TRIES_OF_A_REQUEST: Final = 5
"""How often an explicit request that provably never reached the provider goes again before it is given up."""

TRIES_CEILING: Final = 15
TRIES_WINDOW: Final = timedelta(days=30)
DECLINES_CEILING: Final = 10
DECLINES_WINDOW: Final = timedelta(days=1)

_TECHNICAL_BASE: Final = timedelta(seconds=30)
_UNSENT_BASE: Final = timedelta(seconds=2)
_LONGEST: Final = timedelta(hours=1)


class Next(StrEnum):
    """What follows a refusal."""

    BACKUP = "BACKUP"
    """The backup method at once, as an attempt of its own."""
    REPEAT = "REPEAT"
    """A new attempt of the same method after a backoff."""
    SLOT_FAILED = "SLOT_FAILED"
    """The slot counts as failed; the schedule goes on."""
    PAYMENT_FAILED = "PAYMENT_FAILED"
    """The explicit request failed; no schedule moves."""


def after_decline(kind: PaymentKind, decline_class: DeclineClass, technical_declines: int, *, has_backup: bool) -> Next:
    """What follows a refusal of a payment of `kind`. `technical_declines` counts those of this payment, this one included."""
    if kind is not PaymentKind.AUTOPAY:
        return Next.PAYMENT_FAILED
    if decline_class is DeclineClass.HARD and has_backup:
        return Next.BACKUP
    if decline_class is DeclineClass.TECHNICAL and technical_declines <= TECHNICAL_REPEATS:
        return Next.REPEAT
    return Next.SLOT_FAILED


def next_retry(
    settings: FirmSettings, failures: int, failed_at: datetime, not_before: datetime | None = None
) -> datetime | None:
    """When the slot after the `failures`-th failure is due; None when that failure was the last.

    Civil days in the firm's zone, at its collection time. `not_before` (advice of provider or network) may delay it to the first collection
    time at or after that instant, and never advances it.
    """
    waits = settings.retry.wait_days
    if failures > len(waits):
        return None
    day = local_date(failed_at, settings.zone) + timedelta(days=waits[failures - 1])
    due = local_instant(day, settings.collection_run_time, settings.zone)
    if not_before is not None and not_before > due:
        return next_local_time(not_before - timedelta(microseconds=1), settings.collection_run_time, settings.zone)
    return due


def technical_backoff(attempt_id: UUID, repeat: int) -> timedelta:
    """How long repeat number `repeat` (from 1) waits after a recorded technical decline: about 30 s, 2 min, 8 min."""
    return _jittered(_TECHNICAL_BASE * 4 ** (repeat - 1), attempt_id, repeat)


def unsent_backoff(attempt_id: UUID, send_count: int, retry_after: timedelta | None = None) -> timedelta:
    """How long an attempt that provably was not sent waits: about 2 s, doubled each time, at most an hour; longer if the provider asks."""
    wait = _jittered(min(_UNSENT_BASE * 2 ** min(send_count - 1, 16), _LONGEST), attempt_id, send_count)
    return max(wait, retry_after) if retry_after is not None else wait


def _jittered(wait: timedelta, attempt_id: UUID, position: int) -> timedelta:
    spread = int.from_bytes(digest_parts(("backoff", attempt_id, position))[:4], "big") / 2**32
    return wait * (0.8 + 0.4 * spread)


def may_reach_ceiling(declines: int, on_their_way: int) -> bool:
    """Whether tries that are at the provider could take a card to the ceiling of a day, so that another one has to wait for their answers."""
    return on_their_way > 0 and declines + on_their_way >= DECLINES_CEILING


def ceiling_until(declines: Sequence[datetime], now: datetime) -> datetime | None:
    """Until when the card networks' ceilings forbid another try of a card; None while they allow it.

    `declines` are the firm times at which tries of the card were refused. Fifteen in 30 days or ten in a day close the card until the oldest
    of them leaves the window. Tries that succeeded are no retries and do not count.
    """
    until: datetime | None = None
    for ceiling, window in ((TRIES_CEILING, TRIES_WINDOW), (DECLINES_CEILING, DECLINES_WINDOW)):
        recent = sorted((at for at in declines if at > now - window), reverse=True)
        if len(recent) >= ceiling:
            free = recent[ceiling - 1] + window
            until = free if until is None else max(until, free)
    return until
