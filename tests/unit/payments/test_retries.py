"""The retry schedule, backoffs, ceilings, and what a refusal leads to."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.kernel.calendar import local_date
from dunwell_server.payments import retries
from dunwell_server.payments.model import DeclineClass, PaymentKind
from dunwell_server.payments.retries import Next
from dunwell_server.platform.firms import FirmSettings, RetryPolicy

ATTEMPT = UUID("01890000-0000-7000-8000-000000000001")
UTC_FIRM = FirmSettings()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text + "+00:00")


def schedule(settings: FirmSettings, first: datetime) -> list[datetime]:
    """Every slot's time when every slot fails at its time."""
    times, failures = [first], 1
    while (due := retries.next_retry(settings, failures, times[-1])) is not None:
        times.append(due)
        failures += 1
    return times


def test_the_default_schedule_is_days_3_10_and_24_at_the_run_time() -> None:
    assert schedule(UTC_FIRM, at("2026-03-10T03:00")) == [
        at("2026-03-10T03:00"), at("2026-03-13T03:00"), at("2026-03-20T03:00"), at("2026-04-03T03:00"),
    ]  # fmt: skip


def test_a_try_at_any_hour_is_retried_at_the_run_time() -> None:
    assert retries.next_retry(UTC_FIRM, 1, at("2026-03-10T14:37")) == at("2026-03-13T03:00")
    assert retries.next_retry(UTC_FIRM, 1, at("2026-03-10T00:01")) == at("2026-03-13T03:00")


def test_the_list_of_waits_is_the_firms() -> None:
    short = FirmSettings(retry=RetryPolicy((3, 7)))
    assert schedule(short, at("2026-03-10T03:00")) == [
        at("2026-03-10T03:00"),
        at("2026-03-13T03:00"),
        at("2026-03-20T03:00"),
    ]
    assert schedule(FirmSettings(retry=RetryPolicy(())), at("2026-03-10T03:00")) == [at("2026-03-10T03:00")]


def test_civil_days_keep_the_local_hour_across_daylight_saving() -> None:
    berlin = FirmSettings(time_zone="Europe/Berlin")
    # 29 March 2026: clocks go forward. 3 days later it is 03:00 summer time.
    assert retries.next_retry(berlin, 1, at("2026-03-27T02:00")) == at("2026-03-30T01:00")
    # The run time itself is skipped that night in a firm that collects at 02:30.
    half_past_two = FirmSettings(time_zone="Europe/Berlin", collection_run_time=time(2, 30))
    assert retries.next_retry(half_past_two, 1, at("2026-03-26T12:00")) == at("2026-03-29T01:30")
    # 25 October: 02:30 occurs twice; the first is meant.
    assert retries.next_retry(half_past_two, 1, at("2026-10-22T12:00")) == at("2026-10-25T00:30")


def test_the_civil_day_is_the_firms() -> None:
    kolkata = FirmSettings(time_zone="Asia/Kolkata")
    # 22:00 UTC is already the 11th in India.
    assert retries.next_retry(kolkata, 1, at("2026-03-10T22:00")) == at("2026-03-13T21:30")


@pytest.mark.parametrize(
    ("advice", "due"),
    [
        ("2026-03-11T00:00", "2026-03-13T03:00"),
        ("2026-03-13T03:00", "2026-03-13T03:00"),
        ("2026-03-13T03:01", "2026-03-14T03:00"),
        ("2026-03-20T02:00", "2026-03-20T03:00"),
    ],
)
def test_advice_delays_and_never_advances(advice: str, due: str) -> None:
    assert retries.next_retry(UTC_FIRM, 1, at("2026-03-10T03:00"), at(advice)) == at(due)


@given(
    failed=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    zone=st.sampled_from(
        ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia", "Australia/Lord_Howe"]
    ),
    waits=st.lists(st.integers(1, 60), max_size=6),
    failures=st.integers(1, 8),
    wait=st.none() | st.timedeltas(timedelta(0), timedelta(days=90)),
)
def test_retries_fall_on_the_right_civil_day_and_never_early(
    failed: datetime, zone: str, waits: list[int], failures: int, wait: timedelta | None
) -> None:
    settings = FirmSettings(time_zone=zone, retry=RetryPolicy(tuple(waits)))
    not_before = None if wait is None else failed + wait
    due = retries.next_retry(settings, failures, failed, not_before)
    if failures > len(waits):
        assert due is None
        return
    assert due is not None
    plain = retries.next_retry(settings, failures, failed)
    assert plain is not None
    assert due >= plain > failed
    if wait is None:
        assert (local_date(due, settings.zone) - local_date(failed, settings.zone)).days == waits[failures - 1]
    else:
        assert due >= failed + wait
        assert due <= max(plain, failed + wait + timedelta(days=2, hours=2))


def test_technical_backoff_grows_with_a_jitter_that_is_the_attempts_own() -> None:
    waits = [retries.technical_backoff(ATTEMPT, n).total_seconds() for n in (1, 2, 3)]
    for wait, base in zip(waits, (30, 120, 480), strict=True):
        assert base * 0.8 <= wait <= base * 1.2
    assert waits == [retries.technical_backoff(ATTEMPT, n).total_seconds() for n in (1, 2, 3)]
    assert retries.technical_backoff(UUID(int=1), 1) != retries.technical_backoff(UUID(int=2), 1)


def test_unsent_backoff_doubles_up_to_an_hour_and_heeds_the_provider() -> None:
    waits = [retries.unsent_backoff(ATTEMPT, n).total_seconds() for n in range(1, 40)]
    assert 1.6 <= waits[0] <= 2.4
    assert 3.2 <= waits[1] <= 4.8
    assert max(waits) <= 3600 * 1.2
    assert min(waits[12:]) >= 3600 * 0.8
    assert retries.unsent_backoff(ATTEMPT, 1, timedelta(minutes=5)) == timedelta(minutes=5)
    assert retries.unsent_backoff(ATTEMPT, 12, timedelta(seconds=1)) > timedelta(minutes=30)


def test_what_follows_a_refusal() -> None:
    auto, explicit = PaymentKind.AUTOPAY, PaymentKind.CHARGE
    assert retries.after_decline(auto, DeclineClass.SOFT, 0, has_backup=True) is Next.SLOT_FAILED
    assert retries.after_decline(auto, DeclineClass.HARD, 0, has_backup=True) is Next.BACKUP
    assert retries.after_decline(auto, DeclineClass.HARD, 0, has_backup=False) is Next.SLOT_FAILED
    assert retries.after_decline(auto, DeclineClass.CUSTOMER, 0, has_backup=True) is Next.SLOT_FAILED
    followed = [retries.after_decline(auto, DeclineClass.TECHNICAL, n, has_backup=False) for n in (1, 2, 3, 4)]
    assert followed == [Next.REPEAT, Next.REPEAT, Next.REPEAT, Next.SLOT_FAILED]
    for decline_class in DeclineClass:
        assert retries.after_decline(explicit, decline_class, 1, has_backup=True) is Next.PAYMENT_FAILED


def test_ceilings_close_a_card_until_the_oldest_decline_leaves_the_window() -> None:
    now = at("2026-03-31T12:00")
    nine = [now - timedelta(hours=n) for n in range(9)]
    assert retries.ceiling_until(nine, now) is None
    assert retries.ceiling_until([*nine, now - timedelta(hours=20)], now) == now + timedelta(hours=4)
    spread = [now - timedelta(days=2 * n + 1) for n in range(15)]
    assert retries.ceiling_until(spread[:14], now) is None
    assert retries.ceiling_until(spread, now) == spread[-1] + timedelta(days=30)
    assert retries.ceiling_until([now - timedelta(days=31)] * 40, now) is None


def test_tries_on_their_way_count_only_near_the_ceiling() -> None:
    assert not retries.may_reach_ceiling(0, 9)
    assert retries.may_reach_ceiling(0, 10)
    assert retries.may_reach_ceiling(7, 3)
    assert not retries.may_reach_ceiling(10, 0)
