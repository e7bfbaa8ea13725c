"""Invoice numbers: a series and a sequence without gaps.

A number is its series, a dash and the sequence, so two numbers are equal only if series and sequence are: unique
numbers follow from the unique key on (firm, series, sequence), whatever a firm changes in its settings.
"""

from __future__ import annotations

from datetime import date

from dunwell_server.platform.firms import Numbering


def _series(numbering: Numbering, year: int) -> str:
    return f"{numbering.prefix}-{year:04d}" if numbering.yearly_reset else numbering.prefix


def series_of(numbering: Numbering, issue_date: date) -> str:
    """The series that an invoice issued on `issue_date` is numbered in: `HV-2026`, or `HV` without a yearly reset."""
    return _series(numbering, issue_date.year)


def format_number(numbering: Numbering, year: int, seq: int) -> str:
    """The printed number: `HV-2026-000042`; without a yearly reset `HV-000042`. Longer sequences are not cut."""
    return f"{_series(numbering, year)}-{seq:0{numbering.padding}d}"
