"""The images being distilled, and what the optimiser moves to change them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from baselines.base import Parametrization
from bench.device import reduced
from bench.pixels import Space


class Synthetic:
    """Images [classes * ipc, 3, H, W], class-major, held in a pixel space.

    What the optimiser moves (``params``) is the ``pixels`` themselves. A method adds gradients piece by piece
    into one buffer, so peak memory is the largest piece.
    """

    def __init__(self, images: Tensor, classes: int, ipc: int) -> None:
        self.classes, self.ipc = classes, ipc
        self.images = images.detach().clone(memory_format=torch.contiguous_format)
        self.labels = torch.arange(classes, device=images.device).repeat_interleave(ipc)
        self.gradient = torch.zeros_like(self.images)
        self.params: Mapping[str, Tensor] = {"pixels": self.images}

    def rows(self, first: int, last: int) -> slice:
        """The rows of classes ``first`` (included) to ``last`` (excluded)."""
        return slice(first * self.ipc, last * self.ipc)

    def leaf(self, rows: slice) -> Tensor:
        """A leaf of the current images in ``rows``, requiring grad; it shares their memory."""
        return self.images[rows].detach().requires_grad_()

    def add(self, rows: slice | Tensor, gradient: Tensor) -> None:
        """Add a gradient at the pixels of ``rows`` (a slice, or numbers of rows that are all different)."""
        self.gradient[rows] += gradient

    def pull_back(self) -> None:
        """Give ``params`` the gradient of what was added since the last step."""
        self.images.grad = self.gradient

    def render(self) -> None:
        """Take up what the optimiser did to ``params``, and start a new sum of gradients."""
        self.gradient.zero_()


class Rendered(Synthetic):
    """Images that a parametrization makes; ``params`` are what makes them (a generator's latents).

    The gradient at the pixels is pulled back by rendering again, one chunk with a graph at a time (GLaD,
    Cazenavette et al., CVPR 2023, section 3.3): the memory of a generator does not grow with the set.
    """

    def __init__(self, source: Parametrization, space: Space, classes: int, ipc: int) -> None:
        self._source, self._space = source, space
        with torch.no_grad():
            first = torch.cat([self._render(rows, source.params) for rows in self._chunks(classes * ipc)])
        super().__init__(first, classes, ipc)
        self.params = source.params

    def pull_back(self) -> None:
        """Render again with a graph, chunk by chunk, and pull the pixels' gradient back through it."""
        for name, param in self.params.items():
            if param.grad is None:
                self.params[name].grad = torch.zeros_like(param)
        for rows in self._chunks(len(self.images)):
            leaves = {name: param[rows].detach().requires_grad_() for name, param in self.params.items()}
            rendered = self._rendered(leaves)
            # What the images do not depend on gets zeros: styles, where a generator is cut after its end.
            found = torch.autograd.grad(
                rendered, list(leaves.values()), self.gradient[rows], materialize_grads=True
            )
            del rendered
            for param, gradient in zip(self.params.values(), found, strict=True):
                assert param.grad is not None
                param.grad[rows] = gradient

    def render(self) -> None:
        """Make the images anew from ``params``, and start a new sum of gradients."""
        with torch.no_grad():
            for rows in self._chunks(len(self.images)):
                self.images[rows] = self._render(rows, self.params)
        super().render()

    def _render(self, rows: slice, params: Mapping[str, Tensor]) -> Tensor:
        return self._rendered({name: p[rows] for name, p in params.items()})

    def _rendered(self, params: Mapping[str, Tensor]) -> Tensor:
        with reduced(next(iter(params.values())).device.type):
            unit = self._source.render(params)
        return self._space.encode(unit.float() if unit.dtype is torch.bfloat16 else unit)

    def _chunks(self, total: int) -> list[slice]:
        size = self._source.chunk
        return [slice(first, min(first + size, total)) for first in range(0, total, size)]
