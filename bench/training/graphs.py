"""A network's forward and backward in training as CUDA graphs, each started at once, not by operators.

What is computed stays the same. It pays where operators take less time than starting them: small batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bench import seeds


class Graphed:
    """A function of images, taken down as CUDA graphs at its first call for each shape of images.

    Where that cannot be done, it is called as it is, and :attr:`refusal` says why.

    Args:
        function: gives logits, from images whose gradient nobody asks for.
        parameters: what it is differentiated by, once. They are on a GPU and may be changed in place only.
        buffers: what else it changes, in place (running statistics).
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        parameters: Iterable[nn.Parameter],
        buffers: Iterable[Tensor],
    ) -> None:
        self.refusal: str | None = None
        self._function, self._parameters, self._buffers = function, tuple(parameters), tuple(buffers)
        self._graphs: dict[torch.Size, Callable[..., Any]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """What the function gives for these images; overwritten by the next call for this shape."""
        if self.refusal is None and images.shape not in self._graphs:
            try:
                self._graphs[images.shape] = self._taken_down(images)
            except RuntimeError as problem:  # out of memory, too
                self.refusal = str(problem).partition("\n")[0]
                self._graphs.clear()
        if self.refusal is not None:
            return self._function(images)
        logits: Tensor = self._graphs[images.shape](images, *self._parameters)
        return logits

    def _taken_down(self, images: Tensor) -> Callable[..., Any]:
        """The graphs for one shape. PyTorch runs the function a few times first; no trace of that is left."""
        function, values = self._function, [buffer.clone() for buffer in self._buffers]
        # A copy, for the graphs read where the sample is. Parameters are named to be differentiated by.
        sample = (images.clone(), *self._parameters)
        try:
            with seeds.forked("graphs"):
                return torch.cuda.make_graphed_callables(lambda images, *_: function(images), sample)
        finally:
            with torch.no_grad():
                for buffer, value in zip(self._buffers, values, strict=True):
                    buffer.copy_(value)
