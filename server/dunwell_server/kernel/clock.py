"""Firm time and machine time.

*Firm time* decides business: due dates, retries, trials, expiry. It is a value handed to every use case, real or from
the firm's test clock. *Machine time* belongs to the database; the process's own clock is read here and nowhere else,
for what is neither (ids, token ages, log lines).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def machine_ns() -> int:
    """The process's clock in nanoseconds since 1970. The only place where it is read."""
    return time.time_ns()


def machine_now() -> datetime:
    """The process's clock as an aware UTC datetime. Not for anything a firm's test clock should govern."""
    return _EPOCH + timedelta(microseconds=machine_ns() // 1000)


def to_utc(instant: datetime) -> datetime:
    """The same instant in UTC. Raises ValueError for a datetime without a time zone."""
    if instant.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    return instant.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class FirmTime:
    """What time it is for a firm: ``now`` as an aware UTC datetime, and whether a test clock says so."""

    now: datetime
    is_test: bool = False

    def __post_init__(self) -> None:
        if self.now.tzinfo is not UTC:
            object.__setattr__(self, "now", to_utc(self.now))

    @staticmethod
    def at(instant: datetime) -> FirmTime:
        """The firm time of a test clock standing at ``instant``."""
        return FirmTime(instant, is_test=True)

    def today(self, zone: tzinfo) -> date:
        """The civil date now in the firm's time zone."""
        return self.now.astimezone(zone).date()

    def is_due(self, instant: datetime) -> bool:
        """Whether ``instant`` has come."""
        return instant <= self.now

    def plus(self, delta: timedelta) -> FirmTime:
        """The firm time ``delta`` later, on the same kind of clock."""
        return FirmTime(self.now + delta, self.is_test)
