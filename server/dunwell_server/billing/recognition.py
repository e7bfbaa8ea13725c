"""How revenue that was billed in advance is earned, day by day. Pure; the database computes the same, a test proves the two equal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from dunwell_server.kernel.money import round_ratio


@dataclass(frozen=True, slots=True)
class Schedule:
    """What one line deferred: `amount` minor units over the days [start, end).

    `taken_back` was credited or voided. `base_minor` was recognised when the days before `base` were over; what is left then spreads
    evenly over [base, end). A schedule that nothing was taken back of has its base at its start, with nothing.
    """

    start: date
    end: date
    amount: int
    taken_back: int = 0
    base: date | None = None
    base_minor: int = 0

    def recognized_before(self, day: date) -> int:
        """Minor units earned by the days before `day` together: the even share of the elapsed days, rounded half away from zero.

        Each day earns the difference of two such sums, so that the days' parts always add up to the whole.
        """
        base = self.base or self.start
        days = (self.end - base).days
        elapsed = min(max((day - base).days, 0), days)
        return self.base_minor + round_ratio((self.amount - self.taken_back - self.base_minor) * elapsed, days)

    def earned_on(self, day: date) -> int:
        """Minor units that `day` earns."""
        return self.recognized_before(day.fromordinal(day.toordinal() + 1)) - self.recognized_before(day)


@dataclass(frozen=True, slots=True)
class TakenBack:
    """What of deferred lines was taken back, in minor units: `deferred` had not been earned yet, `earned` had."""

    deferred: int
    earned: int


NOTHING_TAKEN = TakenBack(0, 0)
