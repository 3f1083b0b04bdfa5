"""The gradients that several classes give a network's parameters, each its own, in one pass (``torch.func``).

The network's weights are shared, not stacked: forwards are those of all images in one batch, and only the
gradients of weights are made class by class inside an operator. What differs from class after class is the
order of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

#: The mean cross-entropy of some images of one class, [n, 3, H, W] and a label, under some parameters.
_Loss = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]
#: Without ``has_aux`` it gives two things.
_vjp: Callable[..., tuple[Tensor, Callable[..., Any]]] = cast(Any, vjp)


def gradients(network: nn.Module, images: Tensor, labels: Tensor, at_once: int) -> list[Tensor]:
    """Each class's gradient of the mean cross-entropy, detached, in pieces.

    Args:
        network: in evaluation mode; images of one forward do not influence each other.
        images: [classes, n, 3, H, W].
        labels: int64 [classes].
        at_once: about how many images have a graph at a time, those of all classes together.

    Returns:
        A tensor [classes, ...] for each parameter of the network, in their order.
    """
    classes, n = images.shape[:2]
    loss, parameters = _loss_of(network)

    def of_class(some: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        found, pull = _vjp(lambda held: loss(held, some, label), parameters)
        share = torch.full_like(found, len(some) / n)
        (gradient,) = pull(share, retain_graph=False, create_graph=False)
        return tuple(gradient.values())

    total = [held.new_zeros(classes, *held.shape) for held in parameters.values()]
    with torch.no_grad(), _stackable():
        for piece in images.split(max(1, at_once // classes), dim=1):
            for held, found in zip(total, vmap(of_class)(piece, labels), strict=True):
                held += found
    return total


def differentiable_gradients(network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """As :func:`gradients`, of all images at once, and differentiable by ``images`` (not by parameters)."""
    loss, parameters = _loss_of(network)

    def of_class(some: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        found, pull = _vjp(lambda held: loss(held, some, label), parameters)
        (gradient,) = pull(torch.ones_like(found))
        return tuple(gradient.values())

    with _stackable(), _LayerNormInParts():
        return list(vmap(of_class)(images, labels))


def refused(network: nn.Module, size: int) -> bool:
    """Whether ``torch.func`` cannot take several classes through this network; tried, on one image of two.

    It refuses what draws at random, reads a tensor's value or asks for a memory layout (``channels_last``).

    Args:
        network: in evaluation mode.
        size: the side of its images in pixels.
    """
    leaf = next(network.parameters()).new_zeros(2, 1, 3, size, size).requires_grad_()
    labels = torch.zeros(2, dtype=torch.int64, device=leaf.device)
    try:
        gradients(network, leaf.detach(), labels, at_once=2)
        found = differentiable_gradients(network, leaf, labels)
        torch.autograd.grad(torch.stack([each.square().sum() for each in found]).sum(), leaf)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError):
        return True
    return False


def _loss_of(network: nn.Module) -> tuple[_Loss, dict[str, Tensor]]:
    """The loss as a function of the parameters, and these, detached."""

    def loss(parameters: Mapping[str, Tensor], images: Tensor, label: Tensor) -> Tensor:
        logits: Tensor = functional_call(network, dict(parameters), (images,))
        return F.cross_entropy(logits, label.expand(len(images)))

    return loss, {name: parameter.detach() for name, parameter in network.named_parameters()}


def _stackable() -> Any:
    """The one form of attention that can be stacked, and the only one that can be differentiated twice."""
    return sdpa_kernel(SDPBackend.MATH)


class _LayerNormInParts(TorchFunctionMode):
    """Layer norm by its formula: in PyTorch's stacked form the second derivative by its weight is wrong.

    Seen with PyTorch 2.15, whose own gradients class by class agree with finite differences;
    ``tests/test_classes.py`` shows it.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the function, or ours in its place."""
        if func is F.layer_norm or func is torch.layer_norm:
            return layer_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def layer_norm(
    input: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """:func:`torch.nn.functional.layer_norm` by its formula (Ba, Kiros and Hinton 2016, eq. 3 and 4).

    From bfloat16 it goes to 32 bits, as autocast does. ``cudnn_enable`` has no effect.
    """
    over = tuple(range(-len(normalized_shape), 0))
    seen = input.float() if input.dtype is torch.bfloat16 else input
    centred = seen - seen.mean(over, keepdim=True)
    found = centred * torch.rsqrt(centred.square().mean(over, keepdim=True) + eps)
    found = found if weight is None else found * weight
    return found if bias is None else found + bias
