"""Every benchmark, in one table.

    python -m benchmarks [--only get_invoice,create_invoice,charge_invoice,webhook_accept,webhook_rpc,package_run] [--quick]

Writes `latest.json` and `latest.png` below `.dunwell/bench`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from benchmarks import ceilings, charge_invoice, create_invoice, get_invoice, package_run, webhook_accept
from benchmarks.common import OUTPUT, Figure, report
from benchmarks.comparison import QUICK, Effort
from benchmarks.rpc_load import has_h2load
from benchmarks.stack import Stack, rpc_stack

RPCS: dict[str, Callable[[Stack, Effort], Figure]] = {
    "get_invoice": get_invoice.measure,
    "create_invoice": create_invoice.measure,
    "charge_invoice": charge_invoice.measure,
    "webhook_accept": webhook_accept.measure,
    "webhook_rpc": webhook_accept.measure_rpc,
}
PACKAGE_RUN = "package_run"
NAMES = (*RPCS, PACKAGE_RUN)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for, print and keep it. Exit code 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Every figure beside its ceiling.")
    parser.add_argument("--only", default=",".join(NAMES), help="which, comma-separated (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="short and once: to see that everything works")
    options = parser.parse_args(arguments)
    chosen = options.only.split(",")
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(NAMES)}")
    effort = QUICK if options.quick else Effort()
    figures: list[Figure] = []
    if any(name in RPCS for name in chosen):
        if not has_h2load():
            print("h2load is not there and cannot be installed: Python processes make the load.", file=sys.stderr)
        with rpc_stack() as stack:
            ceilings.install(stack.database)
            figures += [measure(stack, effort) for name, measure in RPCS.items() if name in chosen]
    if PACKAGE_RUN in chosen:
        figures += package_run.main(["--sizes", "1000", "--workers", "2"] if options.quick else ["--workers", "2"])
    report("Benchmarks", figures, "latest.json")
    plot(figures)
    return 0 if all(figure.is_met for figure in figures) else 1


def plot(figures: Sequence[Figure]) -> None:
    """Ratios and their targets, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [figure.name for figure in figures]
    drawing, axes = pyplot.subplots(figsize=(9, 1.2 + 0.6 * len(figures)), layout="constrained")
    axes.barh(
        names, [figure.ratio for figure in figures], color=["#2f7d5b" if f.is_met else "#b5493a" for f in figures]
    )
    for position, figure in enumerate(figures):
        axes.plot([figure.target_ratio] * 2, [position - 0.4, position + 0.4], color="black", linewidth=2)
        axes.annotate(f" {figure.rate:,.0f}/s of {figure.ceiling:,.0f}/s", (figure.ratio, position), va="center")
    axes.set_xlim(0, 1.35 * max([1.0, *(figure.ratio for figure in figures)]))
    axes.set_xlabel("part of the ceiling (line: target)")
    axes.invert_yaxis()
    drawing.savefig(OUTPUT / "latest.png", dpi=120)
    pyplot.close(drawing)


if __name__ == "__main__":
    sys.exit(main())
