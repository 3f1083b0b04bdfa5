"""What every network offers, and the common form of our own small-image networks."""

from collections.abc import Callable
from copy import copy
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from bench.device import laid_out, reduced, sent
from bench.networks.names import Norm


class Network(nn.Module):
    """A classifier of square images: ``forward`` gives logits, ``embed`` what the classifier reads.

    In evaluation mode ``forward(x)`` equals ``classifier(embed(x))``. ``redrawable`` says whether
    `reinitialise` can draw the parameters again in place.

    ReLUs work in place, as in the reference code: a tensor that a forward hook keeps of the layer before one
    holds the map after the ReLU.

    Both compute in the arithmetic that is in force (:func:`bench.device.computing`), and give 32 bits again.
    """

    redrawable: bool = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("forward", "embed"):
            if name in vars(cls):
                setattr(cls, name, _in_arithmetic(vars(cls)[name]))

    def embed(self, x: Tensor) -> Tensor:
        """Features [N, F] that feed the classifier, of images [N, 3, H, W]."""
        raise NotImplementedError


def _in_arithmetic(method: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """A network's function of images, in the arithmetic that is in force; backwards follow their forwards."""

    @wraps(method)
    def computed(self: Any, x: Tensor) -> Tensor:
        with reduced(x.device.type):
            said = method(self, laid_out(x))
        return said.float() if said.dtype is torch.bfloat16 else said

    return computed


class SmallNetwork(Network):
    """Our own form: ``features`` (layers, to [N, K, h, w]), ``pool``, flatten, a linear ``classifier``.

    A subclass builds its layers in the order in which it registers them, and only from layers whose
    ``reset_parameters`` does what their constructor does: `reinitialise` relies on both.
    """

    redrawable = True

    def __init__(self, features: nn.Module, pool: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.pool = pool
        self.classifier = classifier

    def embed(self, x: Tensor) -> Tensor:
        """Features [N, F]: the last map, pooled where the network pools, flattened."""
        maps: Tensor = self.pool(self.features(x))
        return maps.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, C] of images [N, 3, H, W]."""
        logits: Tensor = self.classifier(self.embed(x))
        return logits


def norm_layers(norm: Norm | None, channels: int) -> list[nn.Module]:
    """Make the norm after a convolution: one layer, or none for ``norm=None``.

    Instance norm is ``GroupNorm(C, C)``, affine, eps 1e-5, as in VICO networks.py: the same values as
    ``InstanceNorm2d(affine=True)`` and on CPU the faster of the two.
    """
    if norm is None:
        return []
    return [nn.GroupNorm(channels, channels) if norm == "instance" else nn.BatchNorm2d(channels)]


@torch.no_grad()
def reinitialise(net: Network) -> None:
    """Draw all parameters again and reset all buffers, in place, from the global CPU generator.

    The result has the bits of a fresh build under the same generator state, moved to the network's device and
    dtype. Only for networks that say ``redrawable`` (ValueError otherwise).
    """
    if not net.redrawable:
        raise ValueError(f"{type(net).__name__} cannot be drawn again in place; build a new one")
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.GroupNorm | nn.BatchNorm2d):
            _redraw(layer)


def _redraw(layer: nn.Conv2d | nn.Linear | nn.GroupNorm | nn.BatchNorm2d) -> None:
    """Reset a CPU twin in the default dtype, where a build would draw, and copy its values."""
    twin = copy(layer)
    twin._parameters = {
        name: None if p is None else nn.Parameter(torch.empty(p.shape, device="cpu"))
        for name, p in layer._parameters.items()
    }
    twin._buffers = {
        name: None if b is None else torch.empty(b.shape, dtype=None if b.is_floating_point() else b.dtype)
        for name, b in layer._buffers.items()
    }
    twin.reset_parameters()
    for held, drawn in ((layer._parameters, twin._parameters), (layer._buffers, twin._buffers)):
        for name, tensor in held.items():
            fresh = drawn[name]
            if tensor is not None and fresh is not None:
                tensor.copy_(sent(fresh, tensor.device), non_blocking=True)
