"""AlexNet in its small-image form (VICO networks.py, AlexNet and AlexNetBN; the head by size as in GLaD)."""

from torch import nn

from bench.networks.base import SmallNetwork, norm_layers
from bench.networks.names import Norm

LAYERS = ((2, 5, True), (3, 5, True), (4, 3, False), (3, 3, False), (3, 3, True))
"""Each convolution: channels in halves of the width (128, 192, 256, 192, 192), kernel, max-pool after it."""


class AlexNet(SmallNetwork):
    """Five [conv, norm if any, ReLU], max-pool 2 after the first, second and last, flatten, linear.

    Images [N, 3, S, S]; last map [N, 1.5 width, S/8, S/8]; embedding 1.5 width (S/8)^2.
    """

    def __init__(self, classes: int, size: int, width: int, norm: Norm | None) -> None:
        side = size // 8
        layers: list[nn.Module] = []
        channels = 3
        for halves, kernel, pooled in LAYERS:
            outward = halves * width // 2
            layers += [nn.Conv2d(channels, outward, kernel, padding=kernel // 2), *norm_layers(norm, outward)]
            layers.append(nn.ReLU(inplace=True))
            if pooled:
                layers.append(nn.MaxPool2d(2))
            channels = outward
        super().__init__(nn.Sequential(*layers), nn.Identity(), nn.Linear(channels * side * side, classes))
