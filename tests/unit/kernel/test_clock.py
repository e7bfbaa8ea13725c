import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from dunwell_server.kernel import clock
from dunwell_server.kernel.clock import FirmTime, machine_now, machine_ns, to_utc


def test_firm_time_is_utc_whatever_it_is_given() -> None:
    berlin = datetime(2024, 7, 1, 1, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    time = FirmTime.at(berlin)
    assert time.now == berlin
    assert time.now.tzinfo is UTC
    assert time.is_test
    assert time == FirmTime(datetime(2024, 6, 30, 23, 30, tzinfo=UTC), is_test=True)


def test_today_depends_on_the_zone() -> None:
    time = FirmTime(datetime(2024, 6, 30, 23, 30, tzinfo=UTC))
    assert time.today(ZoneInfo("Asia/Kolkata")) == date(2024, 7, 1)
    assert time.today(ZoneInfo("America/New_York")) == date(2024, 6, 30)


def test_due_and_later() -> None:
    time = FirmTime.at(datetime(2024, 6, 30, tzinfo=UTC))
    assert time.is_due(time.now)
    assert not time.is_due(time.now + timedelta(microseconds=1))
    later = time.plus(timedelta(days=1))
    assert later.now == datetime(2024, 7, 1, tzinfo=UTC)
    assert later.is_test


def test_naive_instants_are_refused() -> None:
    naive = datetime(2024, 1, 1)  # noqa: DTZ001
    for call in (to_utc, FirmTime):
        with pytest.raises(ValueError, match="time zone"):
            call(naive)


def test_machine_now_is_the_system_clock() -> None:
    before = machine_ns()
    now = machine_now()
    after = machine_ns()
    microseconds = (now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert before // 1000 <= microseconds <= after // 1000


def test_nothing_else_in_the_kernel_reads_the_clock() -> None:
    reads = re.compile(r"\btime\.(time|time_ns|monotonic\w*)\(|\.(now|today|utcnow)\(|uuid1\(")
    own = Path(clock.__file__)
    readers = [path.name for path in own.parent.glob("*.py") if reads.search(path.read_text())]
    assert readers == ["clock.py"]
