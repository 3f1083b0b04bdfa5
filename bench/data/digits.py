"""Digits: scikit-learn's 1,797 real 8x8 scans of handwritten digits, resized to 32x32 RGB. Needs no download.

Within each class, in file order, the last fifth is the test split and the rest the train split: neighbouring
images come from the same writer, so a shuffled split would test on the hands it was trained on.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.data.types import Contents, Kind, Part, Pixels, Source, offsets_of

_RECIPE = "digits 1"
_SIDE = 32


def find(data_dir: Path) -> Source:
    """Find the copy inside scikit-learn; ``data_dir`` is not used."""
    del data_dir
    return Source(_fingerprint, _contents)


# Computed once from the train split; a test holds them to it.
KIND = Kind("digits", 10, (0.3056, 0.3056, 0.3056), (0.3226, 0.3226, 0.3226), find)


def _fingerprint() -> str:
    version = importlib.metadata.version("scikit-learn")
    return hashlib.sha256(f"{_RECIPE}\0scikit-learn {version}".encode()).hexdigest()


@contextmanager
def _contents() -> Iterator[Contents]:
    from sklearn.datasets import load_digits  # takes a second to import: only when the cache is made

    bunch = load_digits()
    scans, labels = np.asarray(bunch.images), np.asarray(bunch.target)
    train: list[Pixels] = []
    test: list[Pixels] = []
    for label in range(10):
        pixels = _resized(scans[labels == label])
        cut = len(pixels) - len(pixels) // 5
        train.append(pixels[:cut])
        test.append(pixels[cut:])
    names = tuple(str(label) for label in range(10))
    yield Contents(names, _SIDE, _part(train), _part(test))


def _part(groups: list[Pixels]) -> Part:
    return Part(offsets_of(len(group) for group in groups), lambda: groups)


def _resized(scans: NDArray[np.float64]) -> Pixels:
    """Turn scans [n, 8, 8] in 0..16 to uint8 [n, 3, 32, 32]."""
    grey = np.rint(scans * (255 / 16)).astype(np.uint8)
    large = [
        np.asarray(Image.fromarray(scan).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)) for scan in grey
    ]
    return np.repeat(np.stack(large)[:, None], 3, axis=1)
