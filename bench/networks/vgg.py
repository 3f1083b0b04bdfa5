"""VGG-11 in its small-image form (VICO networks.py, class VGG; the head by image size as in DD-Ranking)."""

from torch import nn

from bench.errors import CellFailure
from bench.networks.base import SmallNetwork, norm_layers
from bench.networks.names import Norm

STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of the convolutions as multiples of the width; each stage ends in a max-pool."""


class VGG11(SmallNetwork):
    """Eight [conv 3x3, norm, ReLU] in five stages, max-pool 2 after each stage, flatten, linear.

    Images [N, 3, S, S], S at least 32; last map [N, 8 width, S/32, S/32] (1x1 at 32), the one before the last
    pool twice that; embedding 8 width (S/32)^2.
    """

    def __init__(self, classes: int, size: int, width: int, norm: Norm | None) -> None:
        side = size >> len(STAGES)
        if side < 1:
            raise CellFailure(
                f"vgg11 halves its images five times and needs a side of 32 or more, not {size}"
            )
        layers: list[nn.Module] = []
        channels = 3
        for stage in STAGES:
            for factor in stage:
                outward = factor * width
                layers += [nn.Conv2d(channels, outward, 3, padding=1), *norm_layers(norm, outward)]
                layers.append(nn.ReLU(inplace=True))
                channels = outward
            layers.append(nn.MaxPool2d(2))
        super().__init__(nn.Sequential(*layers), nn.Identity(), nn.Linear(channels * side * side, classes))
