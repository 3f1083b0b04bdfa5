"""ResNet-18 in its small-image form (VICO networks.py, class ResNet; the CIFAR form of torchvision's)."""

from torch import Tensor, nn

from bench.networks.base import SmallNetwork, norm_layers
from bench.networks.names import Norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with norms beside a shortcut, the first and the shortcut with ``stride``.

    [N, inward, h, w] to [N, outward, h / stride, w / stride], rounded up.
    """

    def __init__(self, inward: int, outward: int, stride: int, norm: Norm | None) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inward, outward, 3, stride, padding=1, bias=False),
            *norm_layers(norm, outward),
            nn.ReLU(inplace=True),
            nn.Conv2d(outward, outward, 3, padding=1, bias=False),
            *norm_layers(norm, outward),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inward != outward:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inward, outward, 1, stride, bias=False), *norm_layers(norm, outward)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map of the block, after its last ReLU."""
        out: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return out


class ResNet18(SmallNetwork):
    """Stem conv 3x3 without max-pool, four stages of two blocks at strides 1, 2, 2, 2, mean over positions.

    Images [N, 3, S, S]; last map [N, 8 width, S/8, S/8]; embedding 8 width. With ``norm="batch"`` it is also
    SRe2L's teacher (squeeze_cifar.py), but for torchvision's initialisation: here PyTorch's default.
    """

    def __init__(self, classes: int, width: int, norm: Norm | None) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            *norm_layers(norm, width),
            nn.ReLU(inplace=True),
        ]
        channels = width
        for stage in range(4):
            outward = width << stage
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(BasicBlock(channels, outward, stride, norm))
                channels = outward
        # The reference pools with a window of 4: the same at 32x32, and only there.
        super().__init__(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Linear(channels, classes))
