"""A network's forward and backward in training as CUDA graphs, each started at once, not by operators.

What is computed stays the same. It pays where operators take less time than starting them: small batches.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bench import seeds


class Graphed:
    """A function of parameters and images, taken down as CUDA graphs at its first call for each shape.

    Where that cannot be done, it is called as it is, and :attr:`refusal` says why.

    Args:
        function: gives logits, from parameters by name and images whose gradient nobody asks for.
        parameters: what it is differentiated by, once. They are on a GPU and may be changed in place only.
        buffers: what else it changes, in place (running statistics).
    """

    def __init__(
        self,
        function: Callable[[dict[str, Tensor], Tensor], Tensor],
        parameters: dict[str, Tensor],
        buffers: Iterable[Tensor],
    ) -> None:
        self.refusal: str | None = None
        self._function, self._parameters, self._buffers = function, parameters, tuple(buffers)
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
            return self._function(self._parameters, images)
        logits: Tensor = self._graphs[images.shape](images, *self._parameters.values())
        return logits

    def _taken_down(self, images: Tensor) -> Callable[..., Any]:
        """The graphs for one shape. PyTorch runs the function a few times first; no trace of that is left."""
        function, names = self._function, list(self._parameters)
        values = [buffer.clone() for buffer in self._buffers]
        # A copy of the images, for the graphs read where the sample is. And other names for the parameters'
        # memory: what autograd keeps of a parameter belongs to the stream that met it first, which is another
        # while graphs are taken down.
        sample = (images.clone(), *(p.detach().requires_grad_() for p in self._parameters.values()))
        try:
            with seeds.forked("graphs"), _undisturbed():
                return torch.cuda.make_graphed_callables(
                    lambda images, *given: function(dict(zip(names, given, strict=True)), images), sample
                )
        finally:
            with torch.no_grad():
                for buffer, value in zip(self._buffers, values, strict=True):
                    buffer.copy_(value)


def collect() -> None:
    """Free the graphs of trainings that are over: PyTorch 2.11 leaves that to the collector of cycles."""
    gc.collect()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """While graphs are taken down no others may be freed, and streams are changed on purpose."""
    collect()
    was = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream")
            yield
    finally:
        if was:
            gc.enable()
