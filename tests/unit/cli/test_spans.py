"""Spans and moments as people type them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from dunwell_server.cli.problems import USAGE, CommandError
from dunwell_server.cli.spans import parse_moment, parse_span

NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("30d", timedelta(days=30)),
        ("2w", timedelta(weeks=2)),
        ("1d12h", timedelta(days=1, hours=12)),
        (" 90M ", timedelta(minutes=90)),
        ("45s", timedelta(seconds=45)),
    ],
)
def test_a_span_is_the_sum_of_its_parts(text: str, span: timedelta) -> None:
    assert parse_span(text) == span


@pytest.mark.parametrize("text", ["", "d", "30", "30 days", "1y", "-3d", "0d", "1d,2h", "9999999d"])
def test_what_is_no_span_is_refused_as_wrong_usage(text: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_span(text)
    assert caught.value.code == USAGE
    assert "--by" in str(caught.value)


def test_a_day_begins_in_the_firms_zone() -> None:
    assert parse_moment("2027-03-01", NEW_YORK) == datetime(2027, 3, 1, 5, tzinfo=UTC)


def test_an_instant_keeps_its_offset_and_without_one_is_in_the_firms_zone() -> None:
    assert parse_moment("2027-03-01T09:00:00Z", NEW_YORK) == datetime(2027, 3, 1, 9, tzinfo=UTC)
    assert parse_moment("2027-03-01T09:00:00+02:00", NEW_YORK) == datetime(2027, 3, 1, 7, tzinfo=UTC)
    assert parse_moment("2027-07-01T09:00", NEW_YORK) == datetime(2027, 7, 1, 13, tzinfo=UTC)


@pytest.mark.parametrize("text", ["tomorrow", "2027-02-30", "2027-13-01T00:00", ""])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="--to"):
        parse_moment(text, UTC)
