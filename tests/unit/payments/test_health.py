"""How a method is doing: the worst that is known comes first."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest

from dunwell_server.payments.health import Health, health_of, last_day
from dunwell_server.payments.model import MethodState, PaymentMethod

AT = datetime(2026, 1, 1, tzinfo=UTC)


def method(state: MethodState = MethodState.ACTIVE, block: str | None = None, **more: Any) -> PaymentMethod:
    return PaymentMethod(
        UUID(int=1), UUID(int=9), "sandbox", UUID(int=8), "TEST", "pm_1", "CARD", "visa", "4242", 3, 2027, "fp", "US", state, block, 0, {},
        None, None, 1, AT, AT, **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("today", "expected"),
    [
        (date(2027, 2, 28), Health.GOOD),
        (date(2027, 3, 1), Health.EXPIRING),  # 30 days before the last one
        (date(2027, 3, 31), Health.EXPIRING),  # still good on its last day
        (date(2027, 4, 1), Health.EXPIRED),
    ],
)
def test_a_card_is_good_until_the_end_of_its_month(today: date, expected: Health) -> None:
    assert health_of(method(seen_on=today)) is expected


def test_the_last_day_knows_leap_years_and_what_is_not_known() -> None:
    assert last_day(2, 2028) == date(2028, 2, 29)
    assert last_day(2, 2027) == date(2027, 2, 28)
    assert last_day(None, 2027) is None
    assert health_of(method(seen_on=None)) is Health.GOOD


@pytest.mark.parametrize(
    ("streak", "near", "expected"),
    [
        (0, False, Health.GOOD),
        (1, False, Health.FAILING),
        (2, False, Health.FAILING),
        (3, False, Health.HIGH_RISK),
        (0, True, Health.HIGH_RISK),
    ],
)
def test_declines_in_a_row_and_ceilings(streak: int, near: bool, expected: Health) -> None:
    seen = method(seen_on=date(2026, 6, 1), failure_streak=streak, near_ceiling=near)
    assert health_of(seen) is expected


def test_the_worst_comes_first() -> None:
    late = date(2027, 4, 1)
    assert health_of(method(MethodState.DEAD, seen_on=late, failure_streak=5)) is Health.DEAD
    assert health_of(method(MethodState.DETACHED, seen_on=late)) is Health.DEAD
    assert health_of(method(seen_on=late, failure_streak=5)) is Health.EXPIRED
    assert health_of(method(MethodState.NEEDS_ACTION, "expired_card", seen_on=date(2026, 6, 1))) is Health.EXPIRED
    assert health_of(method(seen_on=date(2027, 3, 20), failure_streak=1)) is Health.FAILING
