"""Figures from rows and small pictures alone, without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.results import PLATE, Results
from bench.spec import FigureSpec

#: Inches per image.
_CELL = 0.42


@dataclass(frozen=True)
class Panel:
    """One distilled set to be shown: its title, its picture [H, W, 3], its classes, and images per class."""

    title: str
    picture: np.ndarray
    classes: tuple[str, ...]
    columns: int

    @classmethod
    def read(cls, title: str, plate: Path, spec: FigureSpec) -> Panel:
        """The part of a stored plate that a figure shows: its first classes, the first images of each."""
        with Image.open(plate) as image:
            about = json.loads(image.info["metadd"])
            picture = np.array(image.convert("RGB"))
        classes, columns = tuple(about["classes"]), min(about["columns"], spec.columns)
        side = picture.shape[0] // len(classes)
        shown = classes[: spec.classes]
        return cls(title, picture[: side * len(shown), : side * columns], shown, columns)


def panels(spec: FigureSpec, rows: Iterable[Mapping[str, Any]], results: Results) -> list[Panel]:
    """One panel per kind of set (method, plug-in, IPC): that of its first seed."""
    found: dict[tuple[Any, ...], Panel] = {}
    for row in rows:
        plate = results.artifact(row["key"], PLATE)
        if row["current"] and row["cell"]["kind"] == "distil" and plate.exists():
            tags = row["tags"]
            about = (tags["dataset"], tags["method"], tags["ipc"])
            if about not in found:
                found[about] = Panel.read(f"{tags['method']}, IPC {tags['ipc']}", plate, spec)
    return list(found.values())


def distilled(spec: FigureSpec, shown: Sequence[Panel], note: str, file: Path) -> None:
    """The images of several sets side by side, a class per row.

    Writes ``file`` (its suffix says the format), without dates, so that equal sets give equal bytes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    classes = max((panel.classes for panel in shown), key=len)
    names = max(len(name) for name in classes) * 0.075 + 0.15
    # A panel is as wide as its images, and the next one starts where its title has ended.
    steps = [max(p.columns * _CELL + 0.2, len(p.title) * 0.075 + 0.12) for p in shown]
    width, height = max(names + sum(steps), 3.6), len(classes) * _CELL + 0.95
    with mpl.rc_context({"svg.hashsalt": "metadd-bench", "font.family": "DejaVu Sans", "font.size": 8}):
        figure = Figure(figsize=(width, height))
        for left, panel in zip(accumulate(steps[:-1], initial=names), shown, strict=True):
            tall = len(panel.classes) * _CELL
            bottom = 0.3 + len(classes) * _CELL - tall
            box = (left / width, bottom / height, panel.columns * _CELL / width, tall / height)
            axes = figure.add_axes(box)
            axes.imshow(panel.picture, interpolation="nearest", aspect="auto")
            axes.set_title(panel.title, loc="left", fontsize=8)
            side = panel.picture.shape[0] / len(panel.classes)
            first = panel is shown[0] or panel.classes != shown[0].classes
            axes.set_xticks([])
            axes.set_yticks([(c + 0.5) * side for c in range(len(panel.classes))] if first else [])
            if first:
                axes.set_yticklabels(panel.classes)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        figure.text(0.06 / width, 1 - 0.08 / height, spec.title, va="top", fontsize=9, weight="bold")
        figure.text(0.06 / width, 0.08 / height, note, fontsize=6.5, color="0.35")
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=160, metadata={"Date": None} if file.suffix == ".svg" else None)
