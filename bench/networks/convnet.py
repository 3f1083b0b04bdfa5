"""ConvNet, the network that most distilled sets are made with (VICO networks.py, class ConvNet)."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from torch import Tensor, nn

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
            layers += [nn.ReLU(inplace=True), HalvingPool()]
            channels = width
        super().__init__(nn.Sequential(*layers), nn.Identity(), nn.Linear(width * side * side, classes))


class HalvingPool(nn.AvgPool2d):
    """``AvgPool2d(2)``, on a CPU as a convolution of each channel with four quarters.

    PyTorch's own pooling of float32 maps is not vectorised there: it took 30% of a ConvNet's forward. The
    convolution (oneDNN's) is 2 to 4 times as fast and has the same bits: it adds the four in the same order,
    and a division by four rounds as four multiplications by a quarter do. (A lone value, one image of one
    channel and 2x2 pixels, may differ in its last bit on some processors.)
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, input: Tensor) -> Tensor:
        """Maps [N, K, h, w] to [N, K, h / 2, w / 2], rounded down."""
        if (
            input.device.type != "cpu"
            or input.dtype != torch.float32
            or not torch.backends.mkldnn.is_available()
        ):
            return super().forward(input)
        pooled: Tensor = _Pool.apply(input)
        return pooled


def _quarters(like: Tensor) -> Tensor:
    return like.new_full((like.shape[1], 1, 2, 2), 0.25)


class _Pool(torch.autograd.Function):
    """The convolution, with a derivative that can be derived again: autograd goes channel by channel."""

    generate_vmap_rule = True

    @staticmethod
    def forward(maps: Tensor) -> Tensor:
        return F.conv2d(maps, _quarters(maps), stride=2, groups=maps.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.odd = tuple(side % 2 for side in inputs[0].shape[-2:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        spread: Tensor = _Spread.apply(gradient, ctx.odd)
        return spread


class _Spread(torch.autograd.Function):
    """The transpose of :class:`_Pool`: a quarter of each value goes to the four pixels that it came from."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, odd: tuple[int, int]) -> Tensor:
        channels = values.shape[1]
        return F.conv_transpose2d(values, _quarters(values), stride=2, output_padding=odd, groups=channels)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[int, int]], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        pooled: Tensor = _Pool.apply(gradient)
        return pooled, None
