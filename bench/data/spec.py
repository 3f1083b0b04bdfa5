"""The spelling of a dataset: ``cifar10``, ``tiny-imagenet[20]``, ``imagefolder:PATH[20,tuning]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bench.data import cifar10, cifar100, digits, imagefolder, tiny_imagenet
from bench.data.types import Kind
from bench.errors import UserError, near

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (digits.KIND, cifar10.KIND, cifar100.KIND, tiny_imagenet.KIND, imagefolder.KIND)
}
NAMES: tuple[str, ...] = tuple(KINDS)

_TUNING = "tuning"
_SUBSET = re.compile(r"(?P<whole>.*?)\[(?P<inside>[^\[\]]*)\]", re.DOTALL)


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset as asked for; ``str()`` gives the canonical spelling, which ``parse`` reads back.

    ``path`` is set for ``imagefolder`` alone; ``classes`` is k for "the first k classes only", else None;
    ``tuning`` says that the test images are training images held out (:func:`bench.data.load`).
    """

    name: str
    path: Path | None = None
    classes: int | None = None
    tuning: bool = False

    def __str__(self) -> str:
        whole = self.name if self.path is None else f"{self.name}:{self.path}"
        inside = [] if self.classes is None else [str(self.classes)]
        inside += [_TUNING] if self.tuning else []
        if inside:
            return f"{whole}[{','.join(inside)}]"
        # A folder that is itself called "x[5]" keeps a closing slash, or it would read as a subset.
        return f"{whole}/" if _SUBSET.fullmatch(whole) else whole


def parse(spec: str) -> DatasetSpec:
    """Read ``NAME`` or ``imagefolder:PATH``, with ``[k]``, ``[tuning]`` or ``[k,tuning]`` behind it.

    ``k``: the first k classes in the dataset's order; ``tuning``: the split of the training images that
    settings are chosen on. All classes by number (``cifar10[10]``) equals the plain name. Nothing is looked
    up on disk; a relative PATH counts from the working folder. Raises UserError for an unknown name, a k that
    is malformed, below 2 or above the number of classes, and a path given to a dataset that takes none.
    """
    match = _SUBSET.fullmatch(spec)
    whole, inside = (match["whole"], match["inside"]) if match else (spec, None)
    name, colon, path = whole.partition(":")
    if name not in KINDS:
        raise UserError(f"unknown dataset {name!r}; {near(name, NAMES)}")
    takes_path = name == imagefolder.KIND.name
    if takes_path and not path:
        raise UserError(f"{spec!r}: imagefolder needs a folder, as in imagefolder:PATH")
    if colon and not takes_path:
        raise UserError(f"{spec!r}: {name} takes no path; for your own images write imagefolder:PATH")
    tuning = inside is not None and inside.rpartition(",")[2] == _TUNING
    number = None if inside is None or inside == _TUNING else inside.removesuffix(f",{_TUNING}")
    classes = _subset(spec, number, KINDS[name].classes)
    return DatasetSpec(name, Path(path) if takes_path else None, classes, tuning)


def _subset(spec: str, inside: str | None, total: int | None) -> int | None:
    if inside is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", inside):
        raise UserError(
            f"{spec!r}: the number of classes in brackets must be a whole number, as in cifar10[5]; "
            "`tuning` may stand behind it or alone, as in cifar10[5,tuning]"
        )
    classes = int(inside)
    check_subset(spec, classes, total)
    return None if classes == total else classes


def check_subset(spec: str, classes: int, total: int | None) -> None:
    """Raise UserError unless ``2 <= classes <= total``; ``total`` None stands for not known yet."""
    if classes < 2:
        raise UserError(f"{spec!r}: a subset needs at least 2 classes")
    if total is not None and classes > total:
        raise UserError(f"{spec!r}: the dataset has only {total} classes")
