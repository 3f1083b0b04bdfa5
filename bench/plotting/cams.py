"""The figure of class activation maps: images beside what several networks see in them. Without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from bench.plotting.images import Panel, read_plates
from bench.results import CAMS, Results
from bench.spec import FigureSpec

#: What a reader of the figure must know.
NOTE = (
    "Columns: the image; each network's class activation map of the image's class; meta: bright where the "
    "maps of all networks reach the threshold; heterogeneous: where those of some but not all do."
)


def first_seeds(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The current analyses that figures show: of each set and group of networks, that of the first seed."""
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        if row.get("current", True) and row["cell"]["kind"] == "analyse":
            tags = row["tags"]
            about = ("dataset", "method", "ipc", "distilled_on", "protocol", "role")
            found.setdefault(tuple(tags[name] for name in about), row)
    return list(found.values())


def panels(spec: FigureSpec, rows: Iterable[Mapping[str, Any]], results: Results) -> list[Panel]:
    """One panel per kind of set, with a row of images per class: as many as an analysis shows, at most."""
    chosen = [row for row in first_seeds(rows) if row["tags"]["role"] == spec.networks]
    several_datasets = len({row["tags"]["dataset"] for row in chosen}) > 1
    shown = []
    for row in chosen:
        tags, plate = row["tags"], results.artifact(row["key"], CAMS)
        if not plate.exists():
            continue
        title = [tags["method"], *([f"IPC {tags['ipc']}"] if tags["ipc"] else [])]
        title += [tags["dataset"]] if several_datasets else []
        classes, images = read_plates([plate])
        with Image.open(plate) as picture:
            networks = json.loads(picture.info["metadd"])["networks"]
        heads = ("image", *networks, "meta", "heterogeneous")
        chosen_classes, chosen_images = classes[: spec.classes], _coloured(images[: spec.classes])
        beside = tags["plugin"] != "none"
        shown.append(Panel(tuple(title), chosen_images, chosen_classes, heads, beside))
    return shown


def _coloured(images: np.ndarray) -> np.ndarray:
    """Images [classes, columns, H, W, 3] with the grey maps behind the first column in colours.

    White maps would have no edge on white paper.
    """
    from matplotlib import colormaps

    colours = colormaps["viridis"](np.arange(256), bytes=True)[:, :3]
    return np.concatenate([images[:, :1], colours[images[:, 1:, ..., 0]]], axis=1)
