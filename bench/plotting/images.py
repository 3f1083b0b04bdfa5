"""The figure of distilled images, and what it shares with that of maps: panels of small pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bench.data.wordnet import called
from bench.files import write_bytes
from bench.plotting.style import BODY, DPI, NOTE, QUIET, TITLE, save, style, text_width, wrapped
from bench.results import PLATE, Results
from bench.spec import FigureSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Everything is laid out on whole pixels of the PNG, so that an image's pixels stay squares of one size.
_IMAGE = 64  # pixels that an image is shown at
_STEP = _IMAGE + 2  # from one image to the next
_MARGIN = 14
_BETWEEN = 20  # panels
_LINE = 22  # of text
_HEADER_LINE = 32
_WIDEST = 1800  # where a new row of panels begins
_NARROWEST = 560
_LONGEST_NAME = 24
_COLOURS = 256  # of a PNG
_LOOK_AT = 4  # a PNG's colours are chosen by every so many pixels of a row, of every so many rows


@dataclass(frozen=True)
class Panel:
    """One distilled set to be shown: its title's lines, and its images [classes, columns, H, W, 3].

    ``heads`` is what is written above the columns, one for each; none by default. ``beside`` keeps the panel
    in one row with the panel before it, where a row has room for both.
    """

    title: tuple[str, ...]
    images: np.ndarray
    classes: tuple[str, ...]
    heads: tuple[str, ...] = ()
    beside: bool = False

    @property
    def sheet(self) -> np.ndarray:
        """The images as one picture, a class per row, white between them."""
        classes, columns, side = self.images.shape[:3]
        times = max(1, _IMAGE // side)
        big = self.images.repeat(times, axis=2).repeat(times, axis=3)
        step = side * times * _STEP // _IMAGE
        sheet = np.full((classes, columns, step, step, 3), 255, np.uint8)
        sheet[:, :, : side * times, : side * times] = big
        return sheet.swapaxes(1, 2).reshape(classes * step, columns * step, 3)


def panels(spec: FigureSpec, rows: Iterable[Mapping[str, Any]], results: Results) -> list[Panel]:
    """One panel per kind of set (dataset, method, plug-in, IPC, network): that of its first seed."""
    found: dict[tuple[Any, ...], dict[int, Path]] = {}
    first: dict[tuple[Any, ...], int] = {}
    for row in rows:
        plate = results.artifact(row["key"], PLATE)
        if row["current"] and row["cell"]["kind"] == "distil" and plate.exists():
            for tags in (row["tags"], *row.get("also", ())):
                # A plug-in's networks are many, and its row's name says that they are there.
                network = tags["distilled_on"] if tags["plugin"] == "none" else row["cell"]["network"]
                about = (tags["method"], tags["ipc"], tags["dataset"], network)
                if first.setdefault(about, tags["seed"]) == tags["seed"]:
                    found.setdefault(about, {}).setdefault(row["cell"]["part"], plate)
    several_datasets = len({about[2] for about in found}) > 1
    several_networks = len({about[3] for about in found if about[3]}) > 1
    shown, seen = [], set()
    for (method, ipc, dataset, network), plates in found.items():
        if (same := tuple(plates.values())) in seen:
            continue  # the images of another row, with other labels
        seen.add(same)
        title = [method, f"IPC {ipc}"]
        title += [dataset] if several_datasets else []
        title += [f"on {network.replace('+', ' + ')}"] if several_networks and network else []
        classes, images = read_plates([plates[part] for part in sorted(plates)])
        images = images[: spec.classes, : spec.columns]
        shown.append(Panel(tuple(title), images, classes[: spec.classes]))
    return shown


def read_plates(plates: Sequence[Path]) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names and images [classes, columns, H, W, 3] of a set whose parts have these plates."""
    parts = []
    for plate in plates:
        with Image.open(plate) as image:
            about = json.loads(image.info["metadd"])
            picture = np.asarray(image.convert("RGB"))
        classes, columns = tuple(about["classes"]), int(about["columns"])
        side = picture.shape[0] // len(classes)
        parts.append(picture.reshape(len(classes), side, columns, side, 3).swapaxes(1, 2))
    return classes, np.concatenate(parts, axis=1)


def distilled(spec: FigureSpec, shown: Sequence[Panel], note: str, file: Path) -> None:
    """The images of several sets, a class per row of images.

    Writes ``file`` (its suffix, png, svg or pdf, says the format), without dates, so that equal sets give
    equal bytes.
    """
    from matplotlib.figure import Figure

    shelves = list(_shelves(shown))
    width = max(_NARROWEST, *(_MARGIN + sum(slot.width for slot in shelf) for shelf in shelves))
    header = wrapped(spec.title, width - 2 * _MARGIN, TITLE, "bold")
    footer = wrapped(note, width - 2 * _MARGIN, NOTE)
    tops = [max(slot.top for slot in shelf) for shelf in shelves]
    heights = [
        top + max(slot.height for slot in shelf) + _BETWEEN for top, shelf in zip(tops, shelves, strict=True)
    ]
    height = 2 * _MARGIN + len(header) * _HEADER_LINE + sum(heights) + len(footer) * _LINE
    with style():
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        text = partial(_text, figure)
        for i, line in enumerate(header):
            text(_MARGIN, _MARGIN + i * _HEADER_LINE, line, size=TITLE, weight="bold", va="top")
        y = _MARGIN + len(header) * _HEADER_LINE
        for shelf, top, tall in zip(shelves, tops, heights, strict=True):
            x = _MARGIN
            for slot in shelf:
                slot.draw(figure, x, y + top)
                x += slot.width
            y += tall
        for i, line in enumerate(footer):
            text(_MARGIN, y + i * _LINE, line, size=NOTE, color=QUIET, va="top")
        if file.suffix == ".png":
            drawn = BytesIO()
            figure.savefig(drawn, format="png", dpi=DPI)
            write_bytes(file, _fewer_colours(drawn.getvalue()))
        else:
            save(figure, file)


def _fewer_colours(png: bytes) -> bytes:
    """An opaque PNG with at most 256 colours; as it was where that is not smaller.

    Black and white stay what they are. Without dithering, which would save next to nothing, and take the
    images' pixels apart.
    """
    picture = Image.open(BytesIO(png)).convert("RGB")
    pixels = np.asarray(picture).astype(np.int32)
    packed, places = np.unique((pixels << (16, 8, 0)).sum(2), return_inverse=True)
    colours = packed[:, None] >> (16, 8, 0) & 255
    if len(colours) <= _COLOURS:
        palette, nearest = colours, np.arange(len(colours))
    else:
        palette = _palette(picture)
        nearest = _nearest(colours, palette)
    indices = nearest[places].astype(np.uint8).reshape(pixels.shape[:2])
    indexed, reduced = Image.fromarray(indices, "L"), BytesIO()
    indexed.putpalette(palette.astype(np.uint8).tobytes())
    indexed.save(reduced, "PNG", optimize=True, dpi=(DPI, DPI))
    return min(png, reduced.getvalue(), key=len)


def _palette(picture: Image.Image) -> np.ndarray:
    """256 colours [256, 3] of a picture that has more; black and white are among them."""
    few = (picture.width // _LOOK_AT, picture.height // _LOOK_AT)
    sample = picture.resize(few, Image.Resampling.NEAREST)
    chosen = sample.quantize(_COLOURS - 2, Image.Quantize.MEDIANCUT, kmeans=2)
    found = np.array(chosen.getpalette("RGB"), np.int32).reshape(-1, 3)[: _COLOURS - 2]
    return np.concatenate([found, [[0, 0, 0], [255, 255, 255]]])


def _nearest(colours: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The place in the palette [P, 3] that is nearest to each of the colours [n, 3], int64 [n].

    Not Pillow's own search, which rounds colours to multiples of 4 first: white would become 252.
    """
    found, wanted = [], palette.astype(float)  # whole numbers all the same, so nothing is rounded
    for some in np.array_split(colours.astype(float), len(colours) // 4096 + 1):
        apart = (wanted**2).sum(1) - 2 * some @ wanted.T  # less the colour's own square
        found.append(apart.argmin(1))
    return np.concatenate(found)


@dataclass(frozen=True)
class _Slot:
    """A panel's place in a row of panels; ``names`` are its classes, where they must be written."""

    panel: Panel
    title: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def left(self) -> int:
        """Pixels that the class names take."""
        return max((text_width(name, BODY) for name in self.names), default=-8) + 8

    @property
    def head(self) -> int:
        """Pixels that the heads of the columns take above the images; they are written upwards."""
        return max((text_width(head, NOTE) + 8 for head in self.panel.heads), default=0)

    @property
    def top(self) -> int:
        """Pixels above the images."""
        return len(self.title) * _LINE + self.head

    @property
    def width(self) -> int:
        wide = max(int(self.panel.images.shape[1]) * _STEP, *(text_width(line, BODY) for line in self.title))
        return self.left + wide + _BETWEEN

    @property
    def height(self) -> int:
        return len(self.panel.classes) * _STEP

    def draw(self, figure: Figure, x: int, y: int) -> None:
        """Draw it with the top left corner of names and images at this pixel; the title goes above."""
        text, left = partial(_text, figure), x + self.left
        for i, line in enumerate(reversed(self.title)):
            text(left, y - self.head - 6 - i * _LINE, line, size=BODY, va="baseline")
        for i, head in enumerate(self.panel.heads):
            above = {"ha": "center", "va": "bottom", "rotation": 90}
            text(left + i * _STEP + _IMAGE // 2, y - 4, head, size=NOTE, **above)
        for i, name in enumerate(self.names):
            text(left - 8, y + i * _STEP + _IMAGE // 2, name, size=BODY, ha="right", va="center")
        wide, (full_width, full_height) = self.panel.images.shape[1] * _STEP, figure.get_size_inches() * DPI
        axes = figure.add_axes(
            (
                left / full_width,
                1 - (y + self.height) / full_height,
                wide / full_width,
                self.height / full_height,
            )
        )
        axes.imshow(self.panel.sheet, aspect="auto")
        axes.set_axis_off()


def _shelves(shown: Sequence[Panel]) -> Iterator[list[_Slot]]:
    """Rows of panels, none wider than a page; names are written where they differ from those to the left."""
    shelf: list[_Slot] = []
    for number, panel in enumerate(shown):
        title = _title(panel)
        names = tuple(_short(called(name)) for name in panel.classes)
        repeated = bool(shelf) and shelf[-1].panel.classes == panel.classes
        slot = _Slot(panel, title, () if repeated else names)
        others = takewhile(lambda other: other.beside, shown[number + 1 :])
        together = [_Slot(other, _title(other), ()) for other in others] if not panel.beside else []
        if shelf and _MARGIN + sum(other.width for other in (*shelf, slot, *together)) > _WIDEST:
            yield shelf
            shelf, slot = [], _Slot(panel, title, names)
        shelf.append(slot)
    yield shelf


def _title(panel: Panel) -> tuple[str, ...]:
    """The lines of a panel's title: as wide as its images, or a little wider where that saves many lines."""
    lines: list[str] = []
    for columns in (2, 3, 4, 6):
        room = max(int(panel.images.shape[1]), columns) * _STEP
        lines = [line for text in panel.title for line in wrapped(text, room, BODY)]
        if len(lines) <= len(panel.title) + 2:
            break
    return tuple(lines)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _text(figure: Figure, x: float, y: float, text: str, **how: Any) -> None:
    """Write at a pixel counted from the top left; ``$`` is a letter like any other."""
    width, height = figure.get_size_inches() * DPI
    figure.text(x / width, 1 - y / height, text, parse_math=False, **how)
