"""When and how an unknown outcome is asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.payments import ladder
from dunwell_server.payments.ladder import KeyMemory

SINCE = datetime(2026, 3, 10, 3, tzinfo=UTC)
MEMORY = KeyMemory(timedelta(hours=24), timedelta(minutes=15), authoritative=True)


def climb(since: datetime) -> list[timedelta]:
    """Every step when each is made exactly at its time."""
    steps, now = [], since
    while (due := ladder.next_check(since, now)) is not None:
        steps.append(due - since)
        now = due
    return steps


def test_the_steps_are_5_s_30_s_2_min_10_min_1_h_then_every_6_h_for_7_days() -> None:
    steps = climb(SINCE)
    assert steps[:5] == list(ladder.EARLY_STEPS)
    assert steps[5:] == [timedelta(hours=6 * n) for n in range(1, 29)]
    assert steps[-1] == timedelta(days=7)


@given(st.timedeltas(timedelta(0), timedelta(days=9)))
def test_a_check_that_comes_late_skips_what_it_missed_and_always_moves_on(elapsed: timedelta) -> None:
    due = ladder.next_check(SINCE, SINCE + elapsed)
    if elapsed >= timedelta(days=7):
        assert due is None
    else:
        assert due is not None
        assert SINCE + elapsed < due <= SINCE + timedelta(days=7)


def test_the_key_is_repeated_only_while_it_is_surely_remembered() -> None:
    assert ladder.may_replay(SINCE, SINCE + timedelta(hours=21), MEMORY)
    assert not ladder.may_replay(SINCE, SINCE + timedelta(hours=21, minutes=36), MEMORY)
    assert not ladder.may_replay(SINCE, SINCE + timedelta(hours=24), MEMORY)
    assert not ladder.may_replay(SINCE, SINCE, KeyMemory(timedelta(0), timedelta(0), True))


@pytest.mark.parametrize(
    ("minutes", "authoritative", "proof"), [(14, True, False), (15, True, False), (16, True, True), (600, False, False)]
)
def test_absence_is_proof_only_after_the_settle_window_and_with_authority(
    minutes: int, authoritative: bool, proof: bool
) -> None:
    memory = KeyMemory(timedelta(hours=24), timedelta(minutes=15), authoritative)
    assert ladder.absence_is_proof(SINCE, SINCE + timedelta(minutes=minutes), memory) is proof


@given(st.timedeltas(timedelta(0), timedelta(days=60)))
def test_polls_grow_rarer_and_never_stop(elapsed: timedelta) -> None:
    now = SINCE + elapsed
    due = ladder.next_poll(SINCE, now)
    assert now < due <= now + timedelta(hours=6)
    assert due - now <= max(timedelta(seconds=30), elapsed * 8)


def test_a_person_is_asked_after_a_day() -> None:
    assert not ladder.needs_person(SINCE, SINCE + timedelta(hours=23, minutes=59))
    assert ladder.needs_person(SINCE, SINCE + timedelta(hours=24))
