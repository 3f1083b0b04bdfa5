"""Figures of accuracy from rows alone: against images per class, and distilled with x evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.plotting.style import (
    BODY,
    COLOURS,
    DASHES,
    DPI,
    FAINT,
    MARKERS,
    NOTE,
    QUIET,
    TITLE,
    label_ends,
    save,
    style,
    text_width,
    wrapped,
)
from bench.spec import FigureSpec, TableSpec
from bench.stats import Summary
from bench.tabulating import pairs
from bench.tabulating.accuracy import accuracy_table
from bench.tabulating.table import MISSING, NAMES, SEEN, TableCell, TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The columns of a table of accuracy that are means over networks.
_MEANS = ("mean", "seen", "unseen")

# Inches.
_EDGE = 0.12
_LINE = 0.13  # of notes
_HEADER = 0.22
_WIDEST = 10.5
_PLOT = 2.3  # width of a panel of lines
_LOWEST = 1.7  # height of it
_AXIS = 0.45  # for the numbers of an axis and its name
_PER_NAME = 0.14
_ASIDE = 0.12  # how far the points of one IPC are apart at most, as a share of it
_CELL = (0.52, 0.2)

_PALEST = "#E6F1F8"  # of a heat map: not white, which is where there is no number


@dataclass(frozen=True)
class Line:
    """One method: accuracies by images per class, and how they are drawn."""

    name: str
    colour: str
    marker: str
    dash: Any
    points: Mapping[int, Summary]


@dataclass(frozen=True)
class Rows:
    """The rows of one dataset (and, of a heat map, one IPC), each with its name."""

    title: str
    names: tuple[str, ...]
    rows: tuple[TableRow, ...]
    columns: tuple[str, ...]


def accuracy_ipc(
    spec: FigureSpec,
    evaluations: pd.DataFrame,
    note: str,
    file: Path,
    panel: Collection[str] | None = None,
) -> bool:
    """Accuracy against images per class: a line per method, a panel per network or per mean over networks.

    Args:
        spec: what is asked for.
        evaluations: from :func:`bench.tables.frame`.
        note: what stands below.
        file: where to (png, svg or pdf).
        panel: the networks that means are over (None: all).

    Returns:
        Whether there was anything to draw: a method with two IPCs.
    """
    found = [
        (f"{of.title}, {column}", *_lines(of, evaluations, column))
        for of in _tables(spec, evaluations, panel)
        for column in of.columns
    ]
    shown = [panel for panel in found if panel[1]]
    if not shown:
        return False
    note += (
        " Mean over distillation seeds with its 95% interval by Student's t (none where there is one seed). "
        "Same colour: the same method, dashed with a plug-in. Methods with a single IPC are left out."
    )
    names = [line.name for _, lines, _ in shown for line in lines]
    right = max(text_width(name, NOTE) for name in names) / DPI + 0.3
    most = max(len(lines) for _, lines, _ in shown)
    size = (_AXIS + _PLOT + right, max(_LOWEST, most * _PER_NAME + 0.3) + _AXIS + _HEADER)
    with style():
        sheet = _Sheet(spec.title, note, [size] * len(shown))
        for (title, lines, whole), corner in zip(shown, sheet.corners, strict=True):
            box = (corner[0] + _AXIS, corner[1] + _AXIS, _PLOT, size[1] - _AXIS - _HEADER)
            _draw_lines(sheet.axes(box), title, lines, whole)
        save(sheet.figure, file)
    return True


def heatmap(
    spec: FigureSpec,
    evaluations: pd.DataFrame,
    note: str,
    file: Path,
    panel: Collection[str] | None = None,
) -> bool:
    """Accuracy of each method (rows) on each network (columns), as numbers on colours: a panel per IPC.

    The arguments and what is returned are those of :func:`accuracy_ipc`.
    """
    shown = [of for each in _tables(spec, evaluations, panel) for of in _by_ipc(each)]
    if not shown:
        return False
    note += (
        " Rows: what was distilled, or trained on; columns: what was trained on it. Accuracy in %, mean over "
        f"distillation seeds; {SEEN}: a network of this architecture took part in distilling; {MISSING}: no "
        "result. Colours: from a panel's lowest to its highest number; none for the whole training set."
    )
    left = [max(text_width(name, NOTE) for name in of.names) / DPI + 0.1 for of in shown]
    top = max(text_width(column, NOTE) for of in shown for column in of.columns) / DPI + 0.1
    sizes = [
        (wide + len(of.columns) * _CELL[0] + 0.3, _HEADER + top + len(of.names) * _CELL[1] + 0.15)
        for wide, of in zip(left, shown, strict=True)
    ]
    with style():
        sheet = _Sheet(spec.title, note, sizes)
        for of, wide, corner in zip(shown, left, sheet.corners, strict=True):
            box = (corner[0] + wide, corner[1] + 0.15, len(of.columns) * _CELL[0], len(of.names) * _CELL[1])
            axes = sheet.axes(box)
            axes.annotate(
                *(of.title, (0, 1)),
                xycoords="axes fraction",
                xytext=(0, (top + 0.06) * 72),
                textcoords="offset points",
                size=BODY,
            )
            _draw_cells(axes, of)
        save(sheet.figure, file)
    return True


def _tables(spec: FigureSpec, evaluations: pd.DataFrame, panel: Collection[str] | None) -> list[Rows]:
    """The table of accuracy of each dataset, without its differences."""
    if evaluations.empty:
        return []
    asked = TableSpec(
        title="", kind="accuracy", rows=["dataset", "ipc", "method", "recipe"], columns="network", primary=[]
    )
    found = []
    for dataset, data in evaluations.groupby("dataset", sort=False):
        table = accuracy_table("", asked, data, panel=panel)
        networks = tuple(column for column in table.columns if column not in _MEANS)
        rows = [row for row in table.rows if not any(cell.difference for cell in row.cells.values())]
        columns = networks if spec.over == "networks" else tuple(c for c in table.columns if c in _MEANS)
        if spec.kind == "heatmap":
            columns = table.columns if len(networks) > 1 else networks
        names = _names(table.row_names, rows)
        found.append(Rows(str(dataset), names, tuple(rows), columns))
    return found


def _names(tags: Sequence[str], rows: Sequence[TableRow]) -> tuple[str, ...]:
    """A name for each row: its method, and what else tells it from others of its IPC."""
    about = [dict(zip(tags, row.about, strict=True)) for row in rows]
    others = [tag for tag in tags if tag not in (NAMES["dataset"], NAMES["ipc"], NAMES["method"])]
    names = []
    for each in about:
        same = [other for other in about if other[NAMES["method"]] == each[NAMES["method"]]]
        telling = [tag for tag in others if len({other[tag] for other in same}) > 1]
        names.append(", ".join([each[NAMES["method"]], *(each[tag] for tag in telling)]))
    return tuple(names)


def _ipc(row: TableRow) -> str:
    return row.about[1]


def _by_ipc(of: Rows) -> list[Rows]:
    """A part for each IPC; the whole training set, which has none, stands in each."""
    every = [(name, row) for name, row in zip(of.names, of.rows, strict=True) if _ipc(row) == MISSING]
    found = []
    rest = [(name, row) for name, row in zip(of.names, of.rows, strict=True) if _ipc(row) != MISSING]
    for ipc, some in groupby(
        sorted(rest, key=lambda each: int(_ipc(each[1]))), key=lambda each: _ipc(each[1])
    ):
        here = [*some, *every]
        columns = [c for c in of.columns if any(_summary(row, c) for _, row in here)]
        names, rows = zip(*here, strict=True)
        found.append(Rows(f"{of.title}, IPC {ipc}", tuple(names), tuple(rows), tuple(columns)))
    return found


def _summary(row: TableRow, column: str) -> Summary | None:
    return row.cells.get(column, TableCell()).summary


def _lines(of: Rows, data: pd.DataFrame, column: str) -> tuple[list[Line], Summary | None]:
    """The lines of one panel, and the accuracy of the whole training set."""
    plain = dict(zip(data["method"], data["without"], strict=True))
    plugged = dict(zip(data["method"], data["plugin"] != pairs.NONE, strict=True))
    points: dict[str, dict[int, Summary]] = {}
    methods: dict[str, str] = {}
    whole = None
    for name, row in zip(of.names, of.rows, strict=True):
        if (summary := _summary(row, column)) is None:
            continue
        if _ipc(row) == MISSING:
            whole = summary
            continue
        points.setdefault(name, {})[int(_ipc(row))] = summary
        methods[name] = row.about[2]
    # Colours go by the whole figure's methods, so that one has the same in every panel.
    known = list(dict.fromkeys(plain[row.about[2]] for row in of.rows if _ipc(row) != MISSING))
    lines = []
    for name, by_ipc in points.items():
        place, dashed = known.index(plain[methods[name]]), plugged[methods[name]]
        marker = MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]
        if len(by_ipc) > 1:
            look = (COLOURS[place % len(COLOURS)], marker, DASHES[1 if dashed else 0])
            lines.append(Line(name, *look, dict(sorted(by_ipc.items()))))
    return lines, whole


def _draw_lines(axes: Axes, title: str, lines: Sequence[Line], whole: Summary | None) -> None:
    from matplotlib.ticker import MaxNLocator

    ticks = sorted({ipc for line in lines for ipc in line.points})
    axes.set_title(title + (f" (whole training set: {whole.mean:.1f})" if whole else ""))
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(ipc) for ipc in ticks])
    axes.minorticks_off()
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    axes.set_xlabel("images per class")
    axes.set_ylabel("accuracy (%)")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y")
    ends = []
    for number, line in enumerate(lines):
        # Side by side, so that intervals can be told apart.
        aside = (1 + _ASIDE) ** (number / max(1, len(lines) - 1) - 0.5)
        x = [ipc * aside for ipc in line.points]
        y = [summary.mean for summary in line.points.values()]
        axes.plot(x, y, color=line.colour, marker=line.marker, linestyle=line.dash)
        for place, summary in zip(x, line.points.values(), strict=True):
            low, high = summary.interval
            if low is not None and high is not None:
                axes.vlines(place, low, high, color=line.colour, linewidth=0.8)
        ends.append((x[-1], y[-1], line.name, line.colour))
    label_ends(axes, ends)


def _draw_cells(axes: Axes, of: Rows) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("accuracy", [_PALEST, COLOURS[0]])
    coloured = [row for row in of.rows if _ipc(row) != MISSING]
    means = [s.mean for row in coloured for c in of.columns if (s := _summary(row, c))]
    low, high = min(means), max(means)
    for y, row in enumerate(of.rows):
        for x, column in enumerate(of.columns):
            cell = row.cells.get(column, TableCell())
            share = 0.0
            if cell.summary and row in coloured:
                share = (cell.summary.mean - low) / (high - low) if high > low else 0.5
                axes.fill([x, x + 1, x + 1, x], [y, y, y + 1, y + 1], color=colours(share), linewidth=0)
            text = f"{cell.summary.mean:.1f}" if cell.summary else MISSING
            text += f" {SEEN}" if cell.summary and cell.seen else ""
            colour = "white" if share > 0.6 else "black" if cell.summary else QUIET
            axes.text(x + 0.5, y + 0.5, text, size=NOTE, color=colour, ha="center", va="center")
    means_from = next((i for i, column in enumerate(of.columns) if column in _MEANS), None)
    if means_from:
        axes.axvline(means_from, color=QUIET, linewidth=0.8)
    axes.set_xlim(0, len(of.columns))
    axes.set_ylim(len(of.rows), 0)
    axes.set_xticks([i + 0.5 for i in range(len(of.columns))], of.columns, rotation=90)
    axes.set_yticks([i + 0.5 for i in range(len(of.names))], of.names)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(FAINT)


class _Sheet:
    """A figure with a title, panels of given sizes (inches) in rows, and a note.

    ``corners`` are the lower left corners of the panels, in inches from the lower left of the figure.
    """

    def __init__(self, title: str, note: str, sizes: Sequence[tuple[float, float]]) -> None:
        from matplotlib.figure import Figure

        shelves: list[list[tuple[float, float]]] = [[]]
        for size in sizes:
            if shelves[-1] and sum(other[0] for other in (*shelves[-1], size)) + 2 * _EDGE > _WIDEST:
                shelves.append([])
            shelves[-1].append(size)
        width = max(4.5, *(sum(size[0] for size in shelf) + 2 * _EDGE for shelf in shelves))
        room = int((width - 2 * _EDGE) * DPI)
        head, foot = wrapped(title, room, TITLE, "bold"), wrapped(note, room, NOTE)
        top = 2 * _EDGE + len(head) * 0.18
        height = top + sum(max(size[1] for size in shelf) for shelf in shelves) + len(foot) * _LINE + _EDGE
        self.figure: Figure = Figure(figsize=(width, height), dpi=DPI)
        self.corners: list[tuple[float, float]] = []
        y = height - top
        for shelf in shelves:
            x = _EDGE
            y -= max(size[1] for size in shelf)
            for size in shelf:
                # Panels of a row hang from its upper edge.
                self.corners.append((x, y + max(other[1] for other in shelf) - size[1]))
                x += size[0]
        self.figure.text(
            _EDGE / width, 1 - _EDGE / height, "\n".join(head), size=TITLE, weight="bold", va="top"
        )
        self.figure.text(
            _EDGE / width,
            _EDGE / height,
            "\n".join(foot),
            size=NOTE,
            color=QUIET,
            va="bottom",
            linespacing=1.3,
        )

    def axes(self, box: tuple[float, float, float, float]) -> Axes:
        """Axes whose left, bottom, width and height are these, in inches."""
        width, height = self.figure.get_size_inches()
        return self.figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))


#: What draws each kind of figure.
DRAW: Mapping[str, Callable[..., bool]] = {
    "accuracy-ipc": accuracy_ipc,
    "heatmap": heatmap,
}
