"""Networks that are built from a seed, and images for them."""

import torch
from torch import Tensor

from bench.networks.build import Network, build

OURS = ("convnet", "resnet18", "vgg11", "alexnet")
SMALL = ("convnet@w8", "resnet18@w8", "vgg11@w8", "alexnet@w8")
LARGE = ("vit_b_16", "swin_t")


def fresh(name: str, classes: int = 10, size: int = 32, seed: int = 0) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(name, classes, size)


def images(count: int, size: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(seed))
