"""ConvNet, the network that most distilled sets are made with (VICO networks.py, class ConvNet)."""

from torch import nn

from bench.errors import CellFailure
from bench.networks.base import SmallNetwork, norm_layers
from bench.networks.names import Norm


def default_depth(size: int) -> int:
    """Choose the number of blocks by image side: floor(log2(size / 4)), so 3 at 32, 4 at 64, 5 at 128.

    The last map is then 4x4 to 7x7.
    """
    return (size // 4).bit_length() - 1


class ConvNet(SmallNetwork):
    """``depth`` times [conv 3x3, norm, ReLU, average pool 2], flatten, linear.

    Images [N, 3, S, S]; last map [N, width, s, s] with s = S / 2^depth rounded down; embedding width * s * s.
    """

    def __init__(self, classes: int, size: int, width: int, norm: Norm | None, depth: int | None) -> None:
        depth = default_depth(size) if depth is None else depth
        side = size >> depth
        if side < 1:
            raise CellFailure(
                f"a ConvNet of depth {depth} needs images of side {2**depth} or more, not {size}"
            )
        layers: list[nn.Module] = []
        channels = 3
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), *norm_layers(norm, width)]
            layers += [nn.ReLU(inplace=True), nn.AvgPool2d(2)]
            channels = width
        super().__init__(nn.Sequential(*layers), nn.Identity(), nn.Linear(width * side * side, classes))
