"""Where every random number comes from.

A seed is made from an axis (what the numbers are for), and the numbers that place it there: the
distillation seed, the part, the iteration, … It is never made from a cell's key or from the clock, so
that two cells that differ in one setting (with and without a plug-in, say) share initial images, real
batches, augmentations and evaluation networks: that is what makes their comparison paired.

No torch is imported here until a torch generator is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def entropy(axis: str, *numbers: int) -> list[int]:
    """The words that seed one stream: 64 bits of the axis' SHA-256, then the non-negative ``numbers``."""
    digest = hashlib.sha256(axis.encode()).digest()
    return [int.from_bytes(digest[:8], "big"), *numbers]


def rng(axis: str, *numbers: int) -> np.random.Generator:
    """The NumPy generator of one stream, for discrete draws (indices, augmentation, permutations)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy(axis, *numbers))))


def seed(axis: str, *numbers: int) -> int:
    """One 63-bit seed of the stream, for generators that take an integer."""
    state = np.random.SeedSequence(entropy(axis, *numbers)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


@contextmanager
def forked(axis: str, *numbers: int) -> Iterator[None]:
    """Run code that only knows torch's global generator (timm, ``reset_parameters``, dropout).

    The global state (of the CPU, and of the GPU in use) is seeded from the stream inside and put back
    afterwards. Nothing else in the suite may touch it.
    """
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed(axis, *numbers))
        yield
