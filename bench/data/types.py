"""The values of this package: what a dataset is once read, and what a dataset's file must offer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bench.errors import UserError

Pixels = NDArray[np.uint8]
Channels = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Chosen:
    """The images of ``whole`` [M, 3, H, W] that ``rows`` (int64 [N]) names, in that order, without a copy.

    An index (a number, a slice or an array of numbers) reads those images alone. ``numpy.array`` reads all.
    """

    whole: Pixels
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, 3, H, W]."""
        return (len(self.rows), *self.whole.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | NDArray[np.integer]) -> Pixels:
        return np.asarray(self.whole[self.rows[index]])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("chosen images lie apart; they cannot be one array without a copy")
        return np.asarray(self[:], dtype)


#: Images as a split holds them: an array (memory-mapped), or some images of one.
Stored = Pixels | Chosen


@dataclass(frozen=True, eq=False)
class Split:
    """Images in class-major order: those of class ``c`` are ``images[offsets[c]:offsets[c + 1]]``.

    ``images`` is uint8 [N, 3, H, W] in 0..255, read-only (from ``load``: memory-mapped, or chosen from such);
    ``offsets`` has C + 1 entries, the first 0 and the last N.
    """

    images: Stored
    offsets: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of images of each class, C entries."""
        return counts_of(self.offsets)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of every image, int64 [N], ascending."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int64), self.counts)

    def first(self, per_class: int) -> Split:
        """Return the first ``per_class`` images of every class, as a copy in memory.

        Raises UserError where ``per_class`` is below 1 or a class has fewer images.
        """
        if per_class < 1:
            raise UserError(f"{per_class} images per class asked for; at least 1 is needed")
        for label, count in enumerate(self.counts):
            if count < per_class:
                raise UserError(f"{per_class} images per class asked for, but class {label} has only {count}")
        rows = np.concatenate([np.arange(start, start + per_class) for start in self.offsets[:-1]])
        images: Pixels = np.asarray(self.images[rows])
        images.flags.writeable = False
        return Split(images, tuple(range(0, len(rows) + 1, per_class)))

    def narrowed(self, classes: int) -> Split:
        """Return the first ``classes`` classes, as a view where the images are an array."""
        return Split(self.images[: self.offsets[classes]], self.offsets[: classes + 1])

    def parted(self, first: Sequence[int]) -> tuple[Split, Split]:
        """Return the first ``first[c]`` images of each class ``c``, and the others; both without a copy."""
        middles = [start + n for start, n in zip(self.offsets[:-1], first, strict=True)]
        parts = zip(self.offsets[:-1], middles, strict=True), zip(middles, self.offsets[1:], strict=True)
        before, after = (self._chosen(list(bounds)) for bounds in parts)
        return before, after

    def _chosen(self, bounds: Sequence[tuple[int, int]]) -> Split:
        """One class for each (start, stop) of ``bounds``."""
        rows = np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in bounds])
        whole, offsets = self.images, offsets_of(stop - start for start, stop in bounds)
        if isinstance(whole, Chosen):
            return Split(Chosen(whole.whole, whole.rows[rows]), offsets)
        return Split(Chosen(whole, rows), offsets)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Real images to distil from (``train``) and to test on (``test``).

    ``spec`` is the canonical spelling, ``content`` the SHA-256 of the whole dataset's classes and pixels (the
    same for a subset of its classes and for its tuning split), ``size`` the side H = W of the square images,
    a multiple of 8. ``mean`` and ``std`` are the channel statistics that the field uses for this dataset, of
    pixels in 0..1.
    """

    spec: str
    content: str
    classes: tuple[str, ...]
    size: int
    mean: Channels
    std: Channels
    train: Split
    test: Split


@dataclass(frozen=True)
class Identity:
    """What a dataset is, without its pixels. ``train`` and ``test`` are the numbers of images per class."""

    spec: str
    content: str
    classes: tuple[str, ...]
    size: int
    train: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One split on its way from its source: where each class starts, and the images when asked for.

    ``blocks`` yields uint8 arrays [n, 3, H, W] that follow each other in class-major order.
    """

    offsets: tuple[int, ...]
    blocks: Callable[[], Iterable[Pixels]]


@dataclass(frozen=True)
class Contents:
    """What a source holds: class names in their stated order, the side of the images, the two splits."""

    classes: tuple[str, ...]
    size: int
    train: Part
    test: Part


@dataclass(frozen=True)
class Source:
    """A place where a dataset was found.

    ``fingerprint`` is cheap (no file is opened) and changes when the files change. ``read`` opens the place;
    what it gives may be used inside its ``with`` only.
    """

    fingerprint: Callable[[], str]
    read: Callable[[], AbstractContextManager[Contents]]


@dataclass(frozen=True)
class Kind:
    """A dataset that has a name: its number of classes (None: its folder says), statistics, and ``find``.

    ``find`` takes the data folder (for ``imagefolder`` the folder itself) and raises UserError where nothing
    is there.
    """

    name: str
    classes: int | None
    mean: Channels
    std: Channels
    find: Callable[[Path], Source]


def offsets_of(counts: Iterable[int]) -> tuple[int, ...]:
    """C counts to C + 1 offsets."""
    offsets = [0]
    for count in counts:
        offsets.append(offsets[-1] + count)
    return tuple(offsets)


def counts_of(offsets: tuple[int, ...]) -> tuple[int, ...]:
    """C + 1 offsets to C counts."""
    return tuple(stop - start for start, stop in pairwise(offsets))
