"""Crops and mirror images for training: each image of a batch its own, all in one call.

What is drawn arrives as NumPy arrays and leaves for the device as small tensors; no image is looped over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from numpy.typing import NDArray
from torch import Tensor

from baselines.crops import Window
from bench.device import sent


def moved(images: Tensor, shifts: NDArray[np.int64], mirrored: NDArray[np.bool_], outside: Tensor) -> Tensor:
    """Each image under a window of its own that is as large as the image, then mirrored left to right.

    Args:
        images: [N, 3, H, W].
        shifts: [N, 2]; by how many pixels the window moves down and right.
        mirrored: [N].
        outside: [3, 1, 1]; what lies around the images.
    """
    height, width = images.shape[-2:]
    columns = np.arange(width) + shifts[:, 1:]
    columns[mirrored] = columns[mirrored, ::-1]
    row = _there(np.arange(height) + shifts[:, :1], images)[:, :, None]
    column = _there(columns, images)[:, None, :]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    source = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    flat = images.flatten(2)
    taken = flat.gather(2, source.flatten(1)[:, None].expand_as(flat)).view_as(images)
    return torch.where(inside[:, None], taken, outside)


def resized(images: Tensor, windows: Sequence[Window], mirrored: NDArray[np.bool_]) -> Tensor:
    """The window of each image [N, C, S, S], resized bilinearly to [N, C, S, S], then mirrored left to right.

    As :func:`baselines.crops.resized_crop`, with a window for each of the N images, and ``mirrored`` [N].
    """
    size = images.shape[-1]
    tops, lefts, heights, widths = np.array(windows, np.float64).reshape(-1, 4).T
    y, x = _positions(tops, heights, size), _positions(lefts, widths, size)
    x[mirrored] = x[mirrored, ::-1]
    there = (_there(each, images).to(images.dtype) for each in (x[:, None], y[:, :, None]))
    grid = torch.stack(torch.broadcast_tensors(*there), -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _positions(first: NDArray[np.float64], length: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Where the pixels of windows resized to ``size`` are taken from, [N, size], with edges at -1 and 1.

    Between pixel centres, and never beyond the window's outermost ones.
    """
    inside = (np.arange(size) + 0.5) * (length / size)[:, None] - 0.5
    pixels = first[:, None] + inside.clip(0, length[:, None] - 1)
    there: NDArray[np.float64] = (2 * pixels + 1) / size - 1
    return there


def _there(values: NDArray[Any], like: Tensor) -> Tensor:
    return sent(torch.from_numpy(values), like.device)
