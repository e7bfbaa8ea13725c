"""Invoice numbers."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.billing.numbering import format_number, series_of
from dunwell_server.platform.firms import Numbering


@pytest.mark.parametrize(
    ("numbering", "seq", "number"),
    [
        (Numbering("HV"), 42, "HV-2026-000042"),
        (Numbering("HV", padding=3), 7, "HV-2026-007"),
        (Numbering("HV", padding=3), 12345, "HV-2026-12345"),
        (Numbering("HV", yearly_reset=False), 42, "HV-000042"),
    ],
)
def test_numbers_look_as_configured(numbering: Numbering, seq: int, number: str) -> None:
    assert format_number(numbering, 2026, seq) == number


def test_the_series_changes_with_the_year_only_where_it_resets() -> None:
    days = date(2026, 12, 31), date(2027, 1, 1)
    assert [series_of(Numbering("HV"), day) for day in days] == ["HV-2026", "HV-2027"]
    assert [series_of(Numbering("HV", yearly_reset=False), day) for day in days] == ["HV", "HV"]


_NUMBERING = st.builds(
    Numbering, prefix=st.sampled_from(["HV", "HV-2026", "HV-2026-00", "A", "A-B"]), padding=st.integers(1, 9),
    yearly_reset=st.booleans(),
)  # fmt: skip
_KEY = st.tuples(_NUMBERING, st.integers(2020, 2030), st.integers(1, 10**7))


@given(_KEY, _KEY)
def test_equal_numbers_mean_the_same_series_and_sequence(
    one: tuple[Numbering, int, int], other: tuple[Numbering, int, int]
) -> None:
    """Whatever a firm changes in its settings, the unique key on series and sequence keeps numbers unique."""
    if format_number(*one) == format_number(*other):
        assert one[2] == other[2]
        assert series_of(one[0], date(one[1], 1, 1)) == series_of(other[0], date(other[1], 1, 1))
