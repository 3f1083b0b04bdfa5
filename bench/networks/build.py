"""Build a network by its name."""

import torch

from bench.errors import CellFailure
from bench.networks.alexnet import AlexNet
from bench.networks.base import Network, reinitialise
from bench.networks.convnet import ConvNet
from bench.networks.names import NetworkSpec, parse
from bench.networks.resnet import ResNet18
from bench.networks.vgg import VGG11

__all__ = ["Network", "build", "parameters_count", "reinitialise"]


def build(name: str | NetworkSpec, classes: int, size: int) -> Network:
    """Build a fresh network for ``classes`` classes and images [N, 3, size, size], on the default device.

    It draws from the global generator: the caller forks and seeds it. ``size`` is a multiple of 8, 16 or
    more.

    Raises UserError for a name that is none, CellFailure for a size that the network cannot take.
    """
    spec = parse(name) if isinstance(name, str) else name
    if size < 16 or size % 8:
        raise CellFailure(f"{spec} takes images whose side is a multiple of 8, 16 or more, not {size}")
    match spec.base:
        case "convnet":
            return ConvNet(classes, size, spec.effective_width, spec.effective_norm, spec.depth)
        case "resnet18":
            return ResNet18(classes, spec.effective_width, spec.effective_norm)
        case "vgg11":
            return VGG11(classes, size, spec.effective_width, spec.effective_norm)
        case "alexnet":
            return AlexNet(classes, size, spec.effective_width, spec.effective_norm)
    return _build_adapted(spec, classes, size)


def _build_adapted(spec: NetworkSpec, classes: int, size: int) -> Network:
    from bench.networks import adapted  # timm and torchvision take a second to import

    match spec.base:
        case "googlenet":
            return adapted.googlenet(classes)
        case "mobilenetv2":
            return adapted.mobilenetv2(classes, spec.effective_width)
        case "efficientnet_b0":
            return adapted.efficientnet_b0(classes, spec.effective_width)
        case "vit_tiny":
            return adapted.vit_tiny(classes, size, spec.effective_width)
        case "vit_b_16":
            return adapted.vit_b_16(classes, size)
        case "swin_t":
            return adapted.swin_t(classes, size)
    return adapted.any_timm(spec.base, classes, size)


def parameters_count(name: str | NetworkSpec, classes: int, size: int) -> int:
    """Count the learnable parameters, on the meta device: no memory, no random numbers."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(name, classes, size).parameters())
