"""Whether a distillation fits into a memory, and which one setting would make it fit. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench.cells import DistilCell
from bench.errors import UserError

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}
#: A setting is given up where half of it takes more than this share of the memory.
_NO_USE = 0.99


@dataclass(frozen=True)
class Knob:
    """A setting that bears on memory: its name, what it comes to now, and the cell with another value."""

    name: str
    now: int
    turned: Callable[[int], DistilCell]


@dataclass(frozen=True)
class Fit:
    """Whether a cell fits; where it does not, the setting and its value that would make it fit, if any."""

    fits: bool
    setting: str | None = None
    value: int | None = None


def parse_size(text: str, option: str = "--memory") -> int:
    """Bytes of ``24GiB``, ``11 GB`` or ``0.5MiB``, given for this option.

    Raises:
        UserError: the text is no size above 0.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+) ?([KMGT]i?B)", text.strip())
    size = float(match[1]) * _UNITS.get(match[2], 0) if match else 0
    if size < 1:
        raise UserError(f"{option} {text}: a size such as 24GiB is expected; units: {', '.join(_UNITS)}")
    return int(size)


def fit(peak: int, knobs: Iterator[Knob], measured: Callable[[DistilCell], int], limit: int) -> Fit:
    """Whether a ``peak`` is within ``limit`` bytes, and what would bring it there.

    Each of the ``knobs`` is tried alone, in their order; the first that helps is the answer, with the
    largest of its halves, quarters and so on that fits. A knob is given up as soon as half of it no longer
    saves a hundredth.

    Args:
        peak: the bytes of the cell as it is.
        knobs: of the cell (:func:`knobs_of`).
        measured: the peak of another cell in bytes.
        limit: the memory in bytes.
    """
    if peak <= limit:
        return Fit(True)
    for knob in knobs:
        value, last = knob.now, peak
        while value > 1:
            value //= 2
            found = measured(knob.turned(value))
            if found <= limit:
                return Fit(False, knob.name, value)
            if found > _NO_USE * last:
                break
            last = found
    return Fit(False)


def knobs_of(cell: DistilCell, per_class: int, chunk: int) -> Iterator[Knob]:
    """The settings of a cell that bear on memory; first those that change no result but by rounding.

    Args:
        cell: of any method; under a generator, the inner method's settings are there too, as ``inner.NAME``.
        per_class: real images of the largest class.
        chunk: the plug-in's chunk where none is set.
    """
    images = cell.ipc * cell.dataset.classes
    yield from _chunks(cell, images)
    if cell.plugin["name"] != "none" and "chunk" in cell.plugin:
        seen = min(images, cell.plugin.get("images_per_update", images))

        def turned(value: int) -> DistilCell:
            return replace(cell, plugin={**cell.plugin, "chunk": value})

        yield Knob("the plug-in's chunk", min(cell.plugin["chunk"] or chunk, seen), turned)
    for name, most in (("batch_real", per_class), ("batch", images)):
        for path, settings in _levels(cell.settings):
            if isinstance(value := settings.get(name), int):
                yield Knob(".".join((*path, name)), min(value, most), _setter(cell, (*path, name)))
    yield Knob("ipc", cell.ipc, lambda value: replace(cell, ipc=value))


def _chunks(cell: DistilCell, images: int) -> Iterator[Knob]:
    for path, settings in _levels(cell.settings):
        if "chunk" not in settings or settings.get("gradient") == "unrolled":
            continue
        # DM's chunk is one of classes, the others' of images; MTT's is a whole batch where none is set.
        whole = cell.dataset.classes if "batch_real" in settings else images
        whole = min(whole, settings.get("batch_syn") or whole)
        now = min(settings["chunk"] or whole, whole)
        yield Knob(".".join((*path, "chunk")), now, _setter(cell, (*path, "chunk")))


def _levels(settings: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """The settings, and those of an inner method if there is one, with where they stand."""
    yield (), settings
    if isinstance(settings.get("inner"), Mapping):
        yield ("inner",), settings["inner"]


def _setter(cell: DistilCell, path: tuple[str, ...]) -> Callable[[int], DistilCell]:
    def turned(value: int) -> DistilCell:
        return replace(cell, settings=changed(cell.settings, path, value))

    return turned


def changed(settings: Mapping[str, Any], path: tuple[str, ...], value: int) -> dict[str, Any]:
    """Settings with another value at a path such as ``("inner", "chunk")``."""
    first, *rest = path
    return {**settings, first: changed(settings[first], tuple(rest), value) if rest else value}
