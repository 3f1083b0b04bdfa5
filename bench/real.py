"""Real images on the device: drawn by index from the memory-mapped cache, decoded to a pixel space."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bench.data import Split
from bench.device import holds, sent
from bench.memory import real_tensors, to_fake
from bench.pixels import Space


def place(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor where the work is done: on the device, or as a fake where a fake mode is on."""
    with real_tensors() as fake:
        pass
    return sent(tensor if fake is None else to_fake(fake, tensor), device)


class RealImages:
    """The images of one split in a pixel space.

    Where a GPU has room for them (:func:`bench.device.holds`) the bytes are copied there once, and batches
    are gathered there; else they stay in the cache file, and only what is asked for is read.
    """

    def __init__(self, split: Split, space: Space, device: torch.device) -> None:
        self.split, self.space, self.device = split, space, device
        self._resident: Tensor | None = None
        if holds(device, math.prod(split.images.shape)):
            self._resident = place(torch.from_numpy(np.array(split.images)), device)
        self.labels = place(torch.from_numpy(split.labels), device)

    def __len__(self) -> int:
        return len(self.split.images)

    def batch(self, indices: np.ndarray) -> Tensor:
        """Images [n, 3, H, W] of these indices (int64 [n]), float32 in the pixel space."""
        if self._resident is not None:
            raw = self._resident[place(torch.from_numpy(indices), self.device)]
        else:
            raw = place(torch.from_numpy(self.split.images[indices]), self.device)
        return self.space.encode_uint8(raw, torch.float32)

    def class_size(self, label: int) -> int:
        """The number of images of a class."""
        return self.split.offsets[label + 1] - self.split.offsets[label]

    def draw(self, label: int, n: int, rng: np.random.Generator) -> np.ndarray:
        """Indices of ``n`` different images of a class, in the order drawn."""
        start = self.split.offsets[label]
        return start + rng.permutation(self.class_size(label))[:n]
