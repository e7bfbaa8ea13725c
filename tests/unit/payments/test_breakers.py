"""When a breaker trips, and how often an account is counted."""

from __future__ import annotations

from uuid import UUID

import pytest

from dunwell_server.payments.service.breakers import Pacing, judge
from dunwell_server.payments.store.breakers import Traffic
from dunwell_server.platform.firms import BreakerPolicy

FIRM, ACCOUNT = UUID(int=1), UUID(int=2)


@pytest.mark.parametrize(
    ("sent", "declined", "cause"),
    [
        (0, 0, None),
        (499, 0, None),  # one more is the last
        (500, 0, "charges_per_hour"),
        (99, 99, None),  # too few to say anything
        (100, 50, None),  # above the limit, not at it
        (100, 51, "decline_ratio"),
        (200, 100, None),
    ],
)
def test_what_trips(sent: int, declined: int, cause: str | None) -> None:
    policy = BreakerPolicy(charges_per_hour=500, decline_percent=50)
    trip = judge(policy, Traffic(ACCOUNT, sent, declined))
    assert (trip.cause if trip else None) == cause


def test_a_policy_survives_storage_and_old_rows_have_the_defaults() -> None:
    from dunwell_server.platform.firms import FirmSettings

    settings = FirmSettings(breaker=BreakerPolicy(7, 8, 9, True), refund_approval_limits={"USD": 5})
    stored = settings.to_json()
    assert FirmSettings.from_json(stored) == settings
    del stored["breaker"], stored["refund_approval_limits"]
    old = FirmSettings.from_json(stored)
    assert (old.breaker, old.refund_approval_limits) == (BreakerPolicy(), {})


def test_counting_is_seldom_far_from_the_limit_and_each_time_near_it() -> None:
    now = [0.0]
    pacing = Pacing(lambda: now[0])
    assert pacing.is_due(FIRM, ACCOUNT, 1)
    pacing.counted(FIRM, ACCOUNT, 1600, 100_000)
    assert [pacing.is_due(FIRM, ACCOUNT, 1) for _ in range(102)] == [False] * 100 + [True] * 2
    pacing.counted(FIRM, ACCOUNT, 99_990, 100_000)
    assert pacing.is_due(FIRM, ACCOUNT, 1)
    pacing.counted(FIRM, ACCOUNT, 1600, 100_000)
    now[0] = 5.0
    assert pacing.is_due(FIRM, ACCOUNT, 1)
    pacing.counted(FIRM, ACCOUNT, 1600, 100_000)
    assert pacing.is_due(FIRM, UUID(int=3), 1)  # another account is another matter
    pacing.forget(FIRM, ACCOUNT)
    assert pacing.is_due(FIRM, ACCOUNT, 1)
