"""Days, instants and spans as people type them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, tzinfo

from dunwell_server.cli.problems import USAGE, CommandError
from dunwell_server.kernel.calendar import day_start

_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_SPAN = re.compile(r"(\d{1,6})([wdhms])")


def parse_span(text: str) -> timedelta:
    """`30d`, `2w`, `1d12h`. CommandError for anything else, and for nothing at all."""
    parts = _SPAN.findall(text.strip().lower())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip().lower():
        raise CommandError(f"--by: {text!r} is not a span such as 30d, 2w, 12h or 1d12h", USAGE)
    span = sum((timedelta(**{_UNITS[unit]: int(number)}) for number, unit in parts), timedelta())
    if not span:
        raise CommandError("--by: the span must be longer than nothing", USAGE)
    return span


def parse_moment(text: str, zone: tzinfo, option: str = "--to") -> datetime:
    """A day (its first moment in `zone`) or an instant; one without an offset is in `zone`. CommandError naming `option` otherwise."""
    try:
        if len(text) == 10:
            return day_start(date.fromisoformat(text), zone)
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{option}: {text!r} is neither a day (2027-03-01) nor an instant (2027-03-01T09:00:00Z)", USAGE
        ) from None
    return (instant if instant.tzinfo else instant.replace(tzinfo=zone)).astimezone(UTC)
