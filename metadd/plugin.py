"""MetaDD as a plug-in: an extra loss on synthetic images, for any distillation method's training loop.

::

    plugin = MetaDD([convnet, resnet, vgg, vit], size=32, mean=mean, std=std, weight=0.1)
    ...
    (method_loss(images) + plugin(images, labels)).backward()    # one graph, all networks at once
    ...
    method_loss(images).backward()
    plugin.backward(images, labels)                              # the same gradient, one network at a time
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metadd.cam import CAM
from metadd.features import normalised
from metadd.loss import TERMS, Targets, Weights, joint_loss, part_of_loss, total
from metadd.settings import MetaDDSettings

#: Positions along a side of the grid that all maps are brought to.
GRID = 8
#: Images whose graph is alive at once in :meth:`MetaDD.backward`.
CHUNK = 32


class MetaDD(nn.Module):
    """The architecture-invariant loss of frozen networks on images in [0, 1].

    Args:
        networks: classifiers trained on the real data, logits [N, C] of images [N, 3, H, W]; or :class:`CAM`
            of them, made with a size and ``gradient`` of their own. They are frozen and put into evaluation
            mode, for good.
        size: the side H = W of the images, in pixels.
        mean: of the channels, as the networks were trained; they see (image - mean) / std.
        std: of the channels.
        weight: multiplies the whole loss; 0 adds nothing.
        weights: of the terms of the loss (:mod:`metadd.loss`).
        grid: the common grid of the maps has grid x grid positions.
        chunk: images whose graph is alive at once in :meth:`backward`.
        gradient: whether Grad-CAM's weights are differentiated too (:class:`CAM`).
        home: where the networks are kept; a copy of each is on the images' device only while it is in use. By
            default they are used where they are.

    Raises:
        ValueError: no networks, or a number out of range.
        metadd.Unsuitable: a network has no class activation map.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        *,
        size: int,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        weight: float = 1.0,
        weights: Weights | None = None,
        grid: int = GRID,
        chunk: int = CHUNK,
        gradient: Literal["through", "constant"] = "through",
        home: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if not networks:
            raise ValueError("networks: at least one is expected")
        if grid < 2 or chunk < 1:
            raise ValueError(f"grid: 2 or more, and chunk: 1 or more are expected, not {grid} and {chunk}")
        self.cams = nn.ModuleList(
            each if isinstance(each, CAM) else CAM(each, size, gradient) for each in networks
        )
        self.weights = (weights or Weights()).times(weight)
        self.grid, self.chunk = grid, chunk
        self._mean, self._std = tuple(mean), tuple(std)
        self._home = None if home is None else torch.device(home)
        state = [*self.cams.parameters(), *self.cams.buffers()]
        if self._home is not None and any(each.device != self._home for each in state):
            self.cams.to(self._home)  # only where it is needed: modules of fake tensors cannot be moved

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss with one graph through all networks.

        Args:
            images: [N, 3, H, W] in [0, 1] units (not clamped).
            labels: classes, int64 [N].

        Returns:
            A scalar to be added to a method's loss.

        Raises:
            ValueError: the plug-in was told to keep networks at home.
        """
        if self._home is not None:
            raise ValueError("home: one graph needs all networks on the device; use `backward`")
        logits, maps = [], []
        for cam in self.cams:
            said, seen = cam(self._encode(images), labels)
            logits.append(said)
            maps.append(normalised(seen, self.grid))
        loss, _ = joint_loss(logits, torch.stack(maps), labels, self.weights)
        return loss

    def backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Add the loss's gradient to ``images.grad`` and return the loss, detached; see :meth:`terms`.

        The same gradient as ``plugin(images, labels).backward()``, with the graph of one network and
        ``chunk`` images alive at a time. Where the maps matter it costs one forward more of each network
        and image: a first pass, without a graph, finds what the maps have in common.

        Args:
            images: a leaf [N, 3, H, W] in [0, 1] units (not clamped) that requires grad.
            labels: classes, int64 [N].
        """
        gradient, terms = self._streamed(images, labels, self.weights)
        images.grad = gradient if images.grad is None else images.grad + gradient
        return total(terms, self.weights, like=gradient)

    def terms(self, images: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Each term that has a weight, by name: its value, and the norm of the gradient it gives.

        Both are scalars without a graph. The value is without the weight, the gradient (at ``images``, which
        keep theirs) with it: the terms' gradients sum up to that of :meth:`backward`.
        """
        found = {}
        for name in TERMS:
            if getattr(self.weights, name) > 0:
                alone = self.weights.alone(name)
                gradient, values = self._streamed(images, labels, alone)
                found[name] = values[name], gradient.norm()
        return found

    def maps(self, images: Tensor, labels: Tensor) -> Tensor:
        """All networks' normalised maps [M, N, grid, grid] without a graph, in chunks."""
        with torch.no_grad():
            every = []
            for cam in self._one_by_one(images.device):
                parts = [
                    normalised(cam(self._encode(images[rows]), labels[rows])[1], self.grid)
                    for rows in self._chunks(len(images))
                ]
                every.append(torch.cat(parts))
            return torch.stack(every)

    def _streamed(self, images: Tensor, labels: Tensor, weights: Weights) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient at the images and the unweighted terms, one network and chunk at a time."""
        gradient = torch.zeros_like(images)
        sums: dict[str, Tensor] = {}
        if weights.adds_nothing:
            return gradient, sums
        maps = self.maps(images, labels) if weights.looks_at_maps else images.new_zeros(0)
        targets = Targets.of(maps, weights)
        del maps
        shares = len(self.cams), len(images)
        for m, cam in enumerate(self._one_by_one(images.device)):
            for rows in self._chunks(len(images)):
                leaf = images[rows].detach().requires_grad_()
                logits, seen = cam(self._encode(leaf), labels[rows])
                seen = normalised(seen, self.grid)
                terms = part_of_loss(logits, seen, labels[rows], (m, rows), targets, weights, shares)
                del logits, seen
                part = total(terms, weights, like=leaf)
                gradient[rows] += torch.autograd.grad(part, leaf)[0]
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0) + value.detach()
                del terms, part, leaf
        return gradient, sums

    def _encode(self, images: Tensor) -> Tensor:
        """Images in [0, 1] units as the networks take them."""
        told = (torch.tensor(values, dtype=images.dtype) for values in (self._mean, self._std))
        # Not `new_tensor`, for which a GPU would be waited for.
        mean, std = (each.to(images.device, non_blocking=True).reshape(-1, 1, 1) for each in told)
        return (images - mean) / std

    def _chunks(self, total: int) -> list[slice]:
        return [slice(first, min(first + self.chunk, total)) for first in range(0, total, self.chunk)]

    def _one_by_one(self, device: torch.device) -> Iterator[Callable[[Tensor, Tensor], Any]]:
        """Each network in turn as a function of images and labels, on the device while its turn lasts."""
        for cam in self.cams:
            if self._home is None:
                yield cam
                continue
            state = [*cam.named_parameters(), *cam.named_buffers()]
            visiting = {name: tensor.to(device, non_blocking=True) for name, tensor in state}
            try:
                yield _called_with(cam, visiting)
            finally:
                visiting.clear()  # whoever still has the function: the next network needs the room


def _called_with(module: nn.Module, state: dict[str, Tensor]) -> Callable[[Tensor, Tensor], Any]:
    """A module that goes by these parameters and buffers instead of its own."""
    return lambda images, labels: functional_call(module, state, (images, labels))


def from_settings(
    settings: MetaDDSettings, networks: Sequence[nn.Module], mean: Sequence[float], std: Sequence[float]
) -> MetaDD:
    """The plug-in that the harness uses; ``networks`` are :class:`CAM` already."""
    weights = Weights(**{field.name: getattr(settings, field.name) for field in fields(Weights)})
    plugin = MetaDD(
        networks,
        size=0,  # for finding maps, which has been done
        mean=mean,
        std=std,
        weights=weights,
        grid=settings.grid,
        chunk=settings.chunk or CHUNK,
        home="cpu" if settings.offload else None,
    )
    for cam in plugin.cams:
        assert isinstance(cam, CAM)
        cam.gradient = settings.gradient
    return plugin
