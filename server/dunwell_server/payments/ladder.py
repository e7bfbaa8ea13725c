"""When and how to ask again about an attempt whose outcome is not known. Pure; all times are firm time.

The same key again at 5 s, 30 s, 2 min, 10 min and 1 h while the provider remembers it; afterwards its record every 6 h, for 7 days in all;
then a person. Nothing is ever decided by a clock alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

EARLY_STEPS: Final = (
    timedelta(seconds=5), timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=10), timedelta(hours=1),
)  # fmt: skip
LATE_STEP: Final = timedelta(hours=6)
GIVE_UP: Final = timedelta(days=7)
FLAG_AFTER: Final = timedelta(hours=24)
"""From then on a person is asked to look, while the ladder goes on."""
PENDING_FLAG_AFTER: Final = timedelta(days=14)
"""As long as the slowest bank debits may take to be decided. What waits for longer a person is asked to look at, while it is polled on."""

_POLL_STEPS: Final = (
    timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=10), timedelta(minutes=30), timedelta(hours=1), timedelta(hours=3),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class KeyMemory:
    """What a provider promises about idempotency keys.

    `life`: how long a key is surely remembered. `settle`: how long after a send the record may still lack it. `authoritative`: a look-up that
    finds nothing after that is proof.
    """

    life: timedelta
    settle: timedelta
    authoritative: bool

    @property
    def safe_life(self) -> timedelta:
        """The life less a margin of a tenth, for clocks that disagree and requests under way."""
        return self.life * 0.9


def next_check(unknown_since: datetime, now: datetime) -> datetime | None:
    """When to ask next; None when it is up to a person."""
    elapsed = now - unknown_since
    for step in EARLY_STEPS:
        if step > elapsed:
            return unknown_since + step
    late = (elapsed // LATE_STEP + 1) * LATE_STEP
    return unknown_since + late if late <= GIVE_UP else None


def may_replay(first_sent: datetime, now: datetime, memory: KeyMemory) -> bool:
    """Whether the same key may be sent again: the provider surely still remembers it, so that it cannot become a second charge."""
    return now - first_sent < memory.safe_life


def absence_is_proof(last_sent: datetime, now: datetime, memory: KeyMemory) -> bool:
    """Whether a look-up that finds nothing proves that the attempt never happened."""
    return memory.authoritative and now - last_sent > memory.settle


def next_poll(since: datetime, now: datetime) -> datetime:
    """When to ask next about an attempt that the provider is working on: ever more rarely, at least every six hours."""
    elapsed = now - since
    for step in _POLL_STEPS:
        if step > elapsed:
            return since + step
    return since + (elapsed // LATE_STEP + 1) * LATE_STEP


def waits_too_long(sent: datetime, now: datetime) -> bool:
    """Whether the provider, or the client, has had an attempt for so long that a person should look."""
    return now - sent >= PENDING_FLAG_AFTER


def needs_person(unknown_since: datetime, now: datetime) -> bool:
    """Whether it has been unknown for so long that a person should look."""
    return now - unknown_since >= FLAG_AFTER
