"""The progress bar of a bulk command: how far, how much money so far, how fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dunwell_server.cli.output import Output, amounts, sum_amounts
from dunwell_server.platform.runs import RunKind

if TYPE_CHECKING:
    from dunwell_server.cli.bulk import FirmPart

_TITLES = {
    RunKind.PACKAGES: ("Invoicing packages", "invoices/s", ("CREATED",)),
    RunKind.COLLECTION: ("Charging invoices", "charges/s", ("CHARGED", "DECLINED", "WAITING")),
    RunKind.RECONCILIATION: ("Comparing payments", "payments/s", ("MATCHED", "ADOPTED", "DIFFERENT")),
}


@contextmanager
def watching(kind: RunKind, parts: Sequence[FirmPart], output: Output) -> Iterator[Callable[[], None]]:
    """A bar on standard error while the runs of `parts` are at work; call what it gives whenever one of them has moved."""
    if not parts:
        yield lambda: None
        return
    title, unit, outcomes = _TITLES[kind]
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(),
        TextColumn("{task.fields[money]}"), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(),
    )  # fmt: skip
    started = time.monotonic()
    with Progress(*columns, console=output.err, disable=output.as_json) as progress:
        task = progress.add_task(title, total=None, money="", rate="")

        def refresh() -> None:
            found = [part.run for part in parts if part.run is not None]
            total, done = sum(run.total for run in found), sum(run.done for run in found)
            made = sum(run.counts.get(outcome, 0) for run in found for outcome in outcomes)
            seconds = max(time.monotonic() - started, 0.001)
            progress.update(
                task, total=total or None, completed=min(done, total) if total else done,
                money=amounts(sum_amounts(run.amounts for run in found)), rate=f"{made / seconds:,.0f} {unit}",
            )  # fmt: skip

        yield refresh
        refresh()
        if not progress.tasks[task].total:
            progress.update(task, total=1, completed=1)
