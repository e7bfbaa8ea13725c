"""Pictures of reports, as SVG or PNG. Nothing of the plotting library is loaded before one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dunwell_server.cli.output import money
from dunwell_server.cli.problems import USAGE, CommandError
from dunwell_server.kernel.money import to_major

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS: Final = 6
"""Currencies that one picture shows; those with the largest amounts by number."""
MOST_LABELS: Final = 24
"""Months that are named below the bars; of more, every second, third and so on."""
_INK: Final = "#22303c"
_FAINT: Final = "#d9e0e6"
AGES: Final = ("#5aa9a4", "#e9c46a", "#f2a65a", "#e07a5f", "#b23a48")
"""From what is not due to what is long overdue."""
SERIES: Final = ("#3d6fb4", "#5aa96b", "#e0a03c", "#8a6fb3")
_POWERS: Final = ((10**9, "bn"), (10**6, "m"), (10**3, "k"))


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars of one currency: for each category one bar of every series, in minor units. `stacked` puts the series on each other."""

    currency_code: str
    categories: Sequence[str]
    series: Mapping[str, Sequence[int]]
    colours: Sequence[str]
    horizontal: bool = False
    stacked: bool = False
    by_category: bool = False

    @property
    def size(self) -> int:
        """How much the panel is about, to choose among several."""
        return sum(abs(value) for values in self.series.values() for value in values)


def draw(title: str, subtitle: str, panels: Sequence[Panel], *, svg: Path | None, png: Path | None) -> None:
    """Draw the panels below each other and write the files asked for. CommandError where there is nothing to draw, or a file cannot be written."""
    shown = sorted(panels, key=lambda panel: -panel.size)[:MOST_PANELS]
    shown = [panel for panel in panels if panel in shown]
    if not shown:
        raise CommandError("there is nothing to draw", USAGE)
    figure = _figure(title, subtitle, shown)
    for path, form in ((svg, "svg"), (png, "png")):
        if path is not None:
            # Without a date the same numbers make the same file.
            figure.savefig(path, format=form, dpi=160, metadata={"Date": None} if form == "svg" else None)


def _figure(title: str, subtitle: str, panels: Sequence[Panel]) -> Figure:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mpl.rcParams.update({
        "svg.hashsalt": "dunwell", "font.size": 10, "text.color": _INK, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
    })  # fmt: skip
    heights = [_height(panel) for panel in panels]
    height = sum(heights) + 1.1
    figure = Figure(figsize=(10, height), facecolor="white")
    FigureCanvasAgg(figure)
    # The head keeps its place, whatever the panels need.
    figure.set_layout_engine("constrained", rect=(0.012, 0.012, 0.976, 1 - 0.9 / height), h_pad=0.1)
    figure.text(0.02, 1 - 0.2 / height, title, va="top", fontsize=15, fontweight="bold")
    figure.text(0.02, 1 - 0.53 / height, subtitle, va="top", fontsize=10, color="#5b6b79")
    grid: Any = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for panel, axes in zip(panels, grid[:, 0], strict=True):
        axes.set_title(panel.currency_code, loc="left", fontsize=10, fontweight="bold")
        _style(axes, horizontal=panel.horizontal)
        (_across if panel.horizontal else _upright)(axes, panel)
    return figure


def _height(panel: Panel) -> float:
    if not panel.horizontal:
        return 3.4
    rows = len(panel.categories) * (1 if panel.stacked or panel.by_category else len(panel.series))
    return max(1.8, 0.34 * rows + 0.9)


def _style(axes: Axes, *, horizontal: bool) -> None:
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x" if horizontal else "y", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _major(minor: int, currency: str) -> float:
    """For drawing only; no sum is ever made of it."""
    return float(to_major(minor, currency))


def _short(value: float, _position: float) -> str:
    """A number on an axis: 950, 1.5k, 20m."""
    for size, letter in _POWERS:
        if abs(value) >= size:
            return f"{value / size:.1f}".removesuffix(".0") + letter
    return f"{value:g}"


def _upright(axes: Axes, panel: Panel) -> None:
    count, width = len(panel.series), 0.8 / max(1, len(panel.series))
    for position, (name, values) in enumerate(panel.series.items()):
        places = [place + (position - (count - 1) / 2) * width for place in range(len(values))]
        heights = [_major(value, panel.currency_code) for value in values]
        axes.bar(places, heights, width * 0.92, label=name, color=panel.colours[position])
    step = -(-len(panel.categories) // MOST_LABELS)
    named = range(0, len(panel.categories), step)
    axes.set_xticks(named, [panel.categories[place] for place in named], rotation=45 if len(named) > 12 else 0)
    axes.yaxis.set_major_formatter(_short)
    axes.axhline(0, color=_INK, linewidth=0.8)
    axes.set_xlim(-0.6, max(len(panel.categories), 3) - 0.4)
    axes.margins(y=0.12)
    axes.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1.0, 0.98), fontsize=9)


def _across(axes: Axes, panel: Panel) -> None:
    places = list(range(len(panel.categories)))
    left = [0.0] * len(places)
    for position, (name, values) in enumerate(panel.series.items()):
        widths = [_major(value, panel.currency_code) for value in values]
        colours = list(panel.colours[: len(places)]) if panel.by_category else panel.colours[position]
        axes.barh(
            places,
            widths,
            0.66 if len(places) > 2 else 0.4,
            left=left if panel.stacked else None,
            label=name,
            color=colours,
        )
        if panel.stacked:
            left = [before + width for before, width in zip(left, widths, strict=True)]
    sums = [sum(values[place] for values in panel.series.values()) for place in places]
    for place, total in zip(places, sums, strict=True):
        axes.annotate(
            money(total, panel.currency_code) if total else "–", (_major(total, panel.currency_code), place), xytext=(5 if total >= 0 else -5, 0),
            textcoords="offset points", va="center", ha="left" if total >= 0 else "right", fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2},
        )  # fmt: skip
    axes.set_yticks(places, panel.categories)
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(_short)
    axes.axvline(0, color=_INK, linewidth=0.8)
    low, high = (_major(edge, panel.currency_code) for edge in (min(0, *sums, 0), max(0, *sums, 0)))
    span = (high - low) or 1
    axes.set_xlim(low - (0.2 * span if low else 0), high + (0.2 * span if high else 0))
    if panel.stacked:
        axes.legend(frameon=False, ncols=5, loc="lower right", bbox_to_anchor=(1.0, 0.98), fontsize=9)
