"""Random resized crops: the window that torchvision's ``RandomResizedCrop`` draws, and the resizing.

The draw comes from a NumPy generator and is made of Python numbers, so it also runs on fake tensors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from torch import Tensor

_TRIES = 10


class Window(NamedTuple):
    """A part of an image, in whole pixels, as torchvision orders it."""

    top: int
    left: int
    height: int
    width: int


def resized_crop_window(
    rng: np.random.Generator, size: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Window:
    """A random window inside a square image of ``size`` pixels a side.

    As torchvision's ``RandomResizedCrop.get_params``: ten tries, then the largest window in the middle that
    ``ratio`` allows.

    Args:
        rng: advances by four draws per try that fits, by two per try that does not.
        size: the image's side.
        scale: lowest and highest share of the image's area, drawn evenly.
        ratio: lowest and highest width over height, drawn evenly on a log scale.
    """
    for _ in range(_TRIES):
        area = size**2 * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < width <= size and 0 < height <= size:
            top, left = (int(rng.integers(size - side + 1)) for side in (height, width))
            return Window(top, left, height, width)
    height, width = round(size / max(1, ratio[0])), round(size * min(1, ratio[1]))
    return Window((size - height) // 2, (size - width) // 2, height, width)


def resized_crop(images: Tensor, window: Window, size: int) -> Tensor:
    """The window of images [N, C, H, W], resized to [N, C, size, size]; differentiable.

    Bilinear between pixel centres, without antialiasing, as torchvision did for tensors up to 0.16 (the
    authors' time); since 0.17 its default is with. Where the window is no larger than the result, as always
    when images keep their size, both give the same.
    """
    top, left, height, width = window
    part = images[..., top : top + height, left : left + width]
    return F.interpolate(part, (size, size), mode="bilinear", align_corners=False)
