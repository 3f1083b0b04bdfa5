"""Figures of cost from rows alone: peaks by what holds them, how they grow, accuracy against cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.plotting.spots import Spot, spots
from bench.plotting.style import (
    COLOURS,
    HATCHES,
    MARKERS,
    NOTE,
    QUIET,
    label_ends,
    save,
    style,
    titled,
)
from bench.results import Results
from bench.spec import FigureSpec
from bench.tabulating import pairs
from bench.tabulating.growth import Curve, curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

_MIB = 2**20
_METADD = "metadd"
#: What memory is for (:class:`bench.measuring.holders.Holder`, which needs torch), in the order of a bar.
_HOLDERS = ("images", "method", "plug-in", "generator", "real images", "other")
#: A bar longer than this, in medians of its panel, is cut, and says so.
_CUT = 4.0

# Inches.
_WIDTH = 9.6
_BAR = 0.17
_PANEL_EDGES = 0.75
_HEAD_AND_NOTE = 1.0


@dataclass(frozen=True)
class Bar:
    """One peak: of which method, in which form (alone, + MetaDD, + GLaD), MiB by holder."""

    method: str
    form: str
    holders: Mapping[str, float]

    @property
    def total(self) -> float:
        """MiB."""
        return sum(self.holders.values())


def memory(spec: FigureSpec, results: Results, note: str, file: Path) -> bool:
    """Peaks of each method alone, with MetaDD and under GLaD as bars, stacked by holder.

    A panel for each dataset and number of images per class. Only measures know the holders; estimates as on a
    GPU are taken where there are such.

    Args:
        spec: what is asked for.
        results: the suite's.
        note: what stands below.
        file: where to (png, svg or pdf).

    Returns:
        Whether there was anything to draw.
    """
    shown = bars(results.measures.rows.values())
    if not shown:
        return False
    note += (
        " Peak of live tensor bytes in MiB, estimated, split by what holds them at that moment. “+ GLaD”: "
        f"the same method under GLaD. A bar with a gap is longer than {_CUT:g} times its panel's median, and "
        "cut."
    )
    columns = 2 if len(shown) > 1 else 1
    lines = [list(shown.items())[i : i + columns] for i in range(0, len(shown), columns)]
    heights = [_PANEL_EDGES + _BAR * max(len(found) for _, found in line) for line in lines]
    with style():
        figure = _figure(_HEAD_AND_NOTE + sum(heights))
        grid = figure.add_gridspec(len(lines), columns, height_ratios=heights)
        for i, line in enumerate(lines):
            for j, (title, found) in enumerate(line):
                _draw_bars(figure.add_subplot(grid[i, j]), title, found)
        held = [h for h in _HOLDERS if any(bar.holders.get(h) for found in shown.values() for bar in found)]
        _legend(figure, held)
        titled(figure, spec.title, note)
        save(figure, file)
    return True


def bars(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Bar]]:
    """The bars of each panel, from a suite's measures."""
    rows = [
        row
        for row in rows
        if row["current"] and row["cell"]["what"] == "distil" and row["result"]["holders"] is not None
    ]
    device = max((row["cell"]["device"] for row in rows), default="")
    # A measure may be in several rows of a table: a part of SRe2L's set is the same at each IPC.
    known = [
        (row["cell"]["of"], tags, row["result"]["holders"])
        for row in rows
        for tags in (row["tags"], *row.get("also", ()))
        if row["cell"]["device"] == device
    ]
    found: dict[str, list[Bar]] = {}
    plain: dict[tuple[Any, ...], str] = {}
    for of, tags, _ in known:
        if of["plugin"]["name"] == pairs.NONE:
            plain.setdefault((tags["dataset"], tags["ipc"], of["method"]), tags["method"])
    for of, tags, holders in known:
        inner = _under_glad(of["method"])
        plugged = of["plugin"]["name"] == _METADD
        base = plain.get((tags["dataset"], tags["ipc"], inner or of["method"]))
        if base is None or (plugged and inner):
            continue
        if plugged and tags["method"] != f"{base} + MetaDD":
            continue
        form = "+ GLaD" if inner else "+ MetaDD" if plugged else "alone"
        mib = {name: size / _MIB for name, size in holders.items()}
        found.setdefault(f"{tags['dataset']}, IPC {tags['ipc']}", []).append(Bar(base, form, mib))
    return {title: _ordered(panel) for title, panel in found.items()}


def _under_glad(method: str) -> str:
    """The method that GLaD wraps, by its name in the registry; empty where it is not GLaD."""
    if not method.startswith("glad"):
        return ""
    return method.removeprefix("glad").strip("()") or "dm"


def _ordered(panel: Sequence[Bar]) -> list[Bar]:
    """Method by method, in the order of the rows, and its forms behind it."""
    methods, forms = list(dict.fromkeys(bar.method for bar in panel)), ("alone", "+ MetaDD", "+ GLaD")
    return sorted(panel, key=lambda bar: (methods.index(bar.method), forms.index(bar.form)))


def _draw_bars(axes: Axes, title: str, found: Sequence[Bar]) -> None:
    limit = _CUT * median(bar.total for bar in found)
    longest = min(limit, max(bar.total for bar in found))
    places, y = [], 0.0
    for i, bar in enumerate(found):
        y += 1.6 if i and bar.method != found[i - 1].method else float(i > 0)
        places.append(y)
        shrink = min(1.0, limit / bar.total)
        left = 0.0
        for number, holder in enumerate(_HOLDERS):
            width = bar.holders.get(holder, 0.0) * shrink
            axes.barh(
                *(y, width, 0.82, left),
                color=COLOURS[number],
                hatch=HATCHES[number],
                edgecolor="white",
                linewidth=0.0,
            )
            left += width
        if shrink < 1:
            axes.barh(y, 0.012 * limit, 0.9, 0.93 * left, color="white")
        axes.text(left + 0.012 * longest, y, f"{bar.total:,.0f}", size=NOTE, va="center")
    names = [f"{bar.method}" if bar.form == "alone" else bar.form for bar in found]
    axes.set_yticks(places, names)
    for label, bar in zip(axes.get_yticklabels(), found, strict=True):
        label.set_color("black" if bar.form == "alone" else QUIET)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.16 * longest)
    axes.set_title(title)
    axes.set_xlabel("MiB", size=NOTE)


def _legend(figure: Figure, held: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=COLOURS[i], hatch=HATCHES[i], edgecolor="white", linewidth=0, label=name)
        for i, name in enumerate(_HOLDERS)
        if name in held
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))


#: The panels of the figure of growth: axis, its name, and whether it is drawn by ratios.
_PANELS = (
    ("ipc", "images per class", True),
    ("steps", "student steps", False),
    ("networks", "auxiliary networks", False),
    ("size", "image side in pixels", False),
)


def memory_scaling(spec: FigureSpec, results: Results, note: str, file: Path) -> bool:
    """Peaks against images per class, student steps, auxiliary networks and image side, a panel each.

    The arguments and what is returned are those of :func:`memory`.
    """
    found = curves(results.measures.rows.values())
    asked = [panel for panel in _PANELS if any(curve.axis == panel[0] for curve in found)]
    if not asked:
        return False
    note += (
        " Peak of live tensor bytes, estimated (MiB, logarithmic scale), where one thing changes and "
        "all else stays."
    )
    methods = list(dict.fromkeys(curve.method for curve in found))
    with style():
        figure = _figure(_HEAD_AND_NOTE + 2.6 * ceil(len(asked) / 2))
        grid = figure.add_gridspec(ceil(len(asked) / 2), 2)
        ends: list[tuple[Axes, list[tuple[float, float, str, str]]]] = []
        for i, (axis, name, ratios) in enumerate(asked):
            axes = figure.add_subplot(grid[divmod(i, 2)])
            axes.set_xlabel(name)
            axes.set_ylabel("MiB")
            mine = [curve for curve in found if curve.axis == axis]
            peaks = [mib for curve in mine for _, mib in curve.points]
            axes.set_yscale("log")
            axes.set_ylim(
                min(peaks) / 2, 2 * max(peaks)
            )  # so that a small rise does not look like a large one
            _plain_numbers(axes.yaxis)
            if ratios:
                axes.set_xscale("log")
            ends.append((axes, [_draw_curve(axes, curve, methods.index(curve.method)) for curve in mine]))
            ticks = sorted({x for curve in mine for x, _ in curve.points})
            axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
            axes.set_xticks([], minor=True)
            axes.grid(axis="y")
        titled(figure, spec.title, note)
        figure.draw_without_rendering()
        for axes, names in ends:
            label_ends(axes, names)
        save(figure, file)
    return True


def _draw_curve(axes: Axes, curve: Curve, number: int) -> tuple[float, float, str, str]:
    """Draw it; gives its end, its name and its colour."""
    x, y = zip(*curve.points, strict=True)
    colour, marker = _look(number)
    axes.plot(x, y, color=colour, marker=marker)
    return float(x[-1]), y[-1], curve.method, colour


def _look(number: int) -> tuple[str, str]:
    """The colour and the marker of a method by its place; no two of the first 49 are alike."""
    again = number // len(COLOURS)
    return COLOURS[number % len(COLOURS)], MARKERS[(number + again) % len(MARKERS)]


def cost_accuracy(spec: FigureSpec, results: Results, note: str, file: Path) -> bool:
    """Accuracy against the peak and against the seconds of distilling; an arrow from without to with MetaDD.

    The arguments and what is returned are those of :func:`memory`; a panel pair for each dataset and IPC.
    """
    shown = spots(results.rows.values(), results.measures.rows.values())
    if not shown.panels:
        return False
    note += (
        " Accuracy: mean over the networks named above, which all sets have, and over seeds. An arrow leads "
        "from a method (hollow) to the same with MetaDD (filled). Seconds without what is trained "
        "beforehand, "
        + ("the median of some updates times those of a set, " if shown.timed else "of the fastest set, ")
        + f"on {shown.device}; MiB {shown.measure}."
    )
    with style():
        figure = _figure(_HEAD_AND_NOTE + 2.9 * len(shown.panels))
        grid = figure.add_gridspec(len(shown.panels), 2)
        methods = list(dict.fromkeys(spot.name for found in shown.panels.values() for spot in found))
        for i, (title, found) in enumerate(shown.panels.items()):
            for j, name in enumerate(("peak of distilling, MiB", "seconds of distilling a set")):
                axes = figure.add_subplot(grid[i, j])
                _draw_spots(axes, found, j, methods)
                axes.set_title(title if not j else "")
                axes.set_xlabel(name)
                axes.set_ylabel("test accuracy, %" if not j else "")
        _name_methods(figure, methods)
        titled(figure, spec.title, note)
        save(figure, file)
    return True


def _name_methods(figure: Figure, methods: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", color=colour, marker=marker)
        for colour, marker in map(_look, range(len(methods)))
    ]
    figure.legend(handles, methods, loc="outside right upper")


def _draw_spots(axes: Axes, found: Sequence[Spot], cost: int, methods: Sequence[str]) -> None:
    """Draw the spots whose cost is known."""
    axes.set_xscale("log")
    for spot in found:
        colour, marker = _look(methods.index(spot.name))
        start, end = ((each[cost], each[2]) if each else (None, 0.0) for each in (spot.alone, spot.plugged))
        if start[0] is not None and end[0] is not None:
            how = {"arrowstyle": "-|>", "color": colour, "linewidth": 0.8}
            axes.annotate("", end, start, arrowprops=how)
        for (x, y), fill in ((start, "white"), (end, colour)):
            if x is not None:
                axes.plot(x, y, marker, markerfacecolor=fill, markeredgecolor=colour, markersize=6.5)
    axes.margins(0.1, 0.1)
    _plain_numbers(axes.xaxis)
    axes.grid()


def _plain_numbers(axis: XAxis | YAxis) -> None:
    """Numbers such as 200 and 1,000 on a logarithmic axis, in place of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height), layout="constrained")


#: How each kind is drawn.
DRAW: dict[str, Callable[[FigureSpec, Results, str, Path], bool]] = {
    "memory": memory,
    "memory-scaling": memory_scaling,
    "cost-accuracy": cost_accuracy,
}
