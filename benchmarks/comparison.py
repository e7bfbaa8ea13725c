"""A figure beside its ceiling: several samples of each in turn, so that whatever else the machine does meets both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.common import BenchDatabase, Figure
from benchmarks.rpc_load import Answered
from benchmarks.stack import Stack, process_memory_mib, row_counts

Measure = Callable[[float | None], Answered]
"""One measurement: at saturation, or at the given calls per second."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often to measure."""

    seconds: float = 4.0
    samples: int = 3


QUICK = Effort(1.5, 1)


def compare(name: str, stack: Stack, target: float, effort: Effort, figure: Measure, ceiling: Measure) -> Figure:
    """The sample with the median ratio; latencies of the figure at half of its rate, begun in open loop."""
    figure(None)  # warms caches, pools and prepared statements
    ceiling(None)
    samples = [(figure(None).rate, ceiling(None).rate) for _ in range(effort.samples)]
    samples.sort(key=lambda sample: sample[0] / sample[1])
    rate, limit = samples[len(samples) // 2]
    paced = figure(rate / 2)
    memory = process_memory_mib(stack.worker)
    return Figure(name, rate, limit, target, None, paced.p50_ms, paced.p99_ms, memory)


def require_same_rows(database: BenchDatabase, figure: Callable[[], object], ceiling: Callable[[], object]) -> None:
    """Both make one call; RuntimeError unless they have added the same number of rows to each table."""
    before = row_counts(database)
    figure()
    between = row_counts(database)
    ceiling()
    after = row_counts(database)
    wanted = {name: between[name] - before[name] for name in before if between[name] != before[name]}
    got = {name: after[name] - between[name] for name in before if after[name] != between[name]}
    if wanted != got or not wanted:
        raise RuntimeError(f"the ceiling writes other rows: {got} instead of {wanted}")
