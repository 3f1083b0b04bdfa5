"""How every figure looks and is saved: type for print, colours for colour-blind readers, no dates.

Import it freely: matplotlib is only imported when a figure is drawn, torch never.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Pixels per inch of a PNG.
DPI = 160
#: Comes with matplotlib, so that it is there everywhere.
FONT = "DejaVu Sans"
#: Font sizes in points: the figure's title, names and labels, notes and tick labels.
TITLE, BODY, NOTE = 10.0, 8.0, 6.5
#: Colour of what must not compete with the data: notes, spines, grids.
QUIET = "0.35"
FAINT = "0.88"
#: Okabe and Ito (2008), without the yellow, which white paper swallows; in the order in which they are taken.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Beside the colours, so that a grey print can still be read.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
#: Fills of bars beside the colours, in the same order.
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo")

_STYLE: dict[str, Any] = {
    "svg.hashsalt": "metadd-bench",
    "pdf.fonttype": 42,  # TrueType: many publishers refuse matplotlib's default, Type 3
    "font.family": FONT,
    "font.size": BODY,
    "axes.labelsize": BODY,
    "axes.titlesize": BODY,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": NOTE,
    "ytick.labelsize": NOTE,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.5,
    "legend.fontsize": NOTE,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.0,
    "text.parse_math": False,  # a `$` in a name is a letter like any other
}
#: Without a date, which would make equal figures differ.
_METADATA: dict[str, dict[str, Any]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


@contextmanager
def style() -> Iterator[None]:
    """Within it, figures have the one style, whatever the user's own matplotlib settings say.

    Draw *and* save inside: some settings only count when a figure is saved.
    """
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)  # type: ignore[arg-type]  # the keys are names that it knows
        yield


def save(figure: Figure, file: Path) -> None:
    """Write a figure; the suffix (png, svg or pdf) says the format. Equal figures give equal bytes.

    Call it inside :func:`style`, which fixes the salt of an SVG's ids. The folder is made.
    """
    drawn = BytesIO()
    figure.savefig(drawn, format=file.suffix[1:], dpi=DPI, metadata=_METADATA[file.suffix])
    write_bytes(file, drawn.getvalue())


def titled(figure: Figure, title: str, note: str) -> None:
    """Write a figure's title above and its note below, both from the left edge, in as many lines as needed.

    For figures made with ``layout="constrained"``, which then keeps their places free.
    """
    room = int(0.98 * figure.get_figwidth() * DPI)
    head = "\n".join(wrapped(title, room, TITLE, "bold"))
    figure.suptitle(head, x=0.01, ha="left", size=TITLE, weight="bold")
    figure.supxlabel("\n".join(wrapped(note, room, NOTE)), x=0.01, ha="left", size=NOTE, color=QUIET)


def wrapped(text: str, width: int, size: float, weight: str = "normal") -> list[str]:
    """Lines of ``text`` no wider than so many pixels of a PNG, cut between words only."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size, weight) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def text_width(text: str, size: float, weight: str = "normal") -> int:
    """The width of a line in pixels of a PNG."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    points, _, _ = text_to_path.get_text_width_height_descent(
        text, FontProperties(family=FONT, size=size, weight=weight), ismath=False
    )
    return int(points / 72 * DPI) + 1


def label_ends(axes: Axes, ends: list[tuple[float, float, str, str]], *, gap: float = 9.0) -> None:
    """Write names at the right ends of lines, in place of a legend.

    Names that would touch are moved apart, and a thin line leads from the end to its name. Scales and the
    place of the axes in the figure must stand already; what is drawn later leaves the limits as they are.

    Args:
        axes: where.
        ends: of each line x and y of its end in data units, its name and its colour.
        gap: least distance of two names, in points.
    """
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # asking settles them, which transData does not
    places = [axes.transData.transform((x, y)) / axes.figure.dpi * 72 for x, y, _, _ in ends]
    order = sorted(range(len(ends)), key=lambda i: float(places[i][1]))
    box = axes.get_window_extent()
    room = (box.y0 / axes.figure.dpi * 72, box.y1 / axes.figure.dpi * 72)
    heights = _apart([float(places[i][1]) for i in order], gap, room)
    right = max(float(x) for x, _ in places)
    for i, height in zip(order, heights, strict=True):
        x, y, name, colour = ends[i]
        offset = (right - float(places[i][0]) + 10, height - float(places[i][1]))
        axes.annotate(
            name,
            (x, y),
            xytext=offset,
            textcoords="offset points",
            size=NOTE,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def _apart(wanted: list[float], gap: float, room: tuple[float, float]) -> list[float]:
    """Heights at least ``gap`` apart and within ``room``, with the least sum of squares from ``wanted``.

    ``wanted`` rises, and so do they: the pool-adjacent-violators algorithm on the heights less their place
    times the gap, clipped. Where the room is too small, the lowest stands at its lower end.
    """
    blocks: list[list[float]] = []
    for i, height in enumerate(wanted):
        blocks.append([height - i * gap])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    low, high = room[0], room[1] - (len(wanted) - 1) * gap
    placed = [max(low, min(high, _mean(block))) for block in blocks for _ in block]
    return [height + i * gap for i, height in enumerate(placed)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
