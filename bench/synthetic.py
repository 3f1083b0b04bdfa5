"""The images being distilled, and what the optimiser moves to change them."""

from __future__ import annotations

import torch
from torch import Tensor


class Synthetic:
    """Images [classes * ipc, 3, H, W], class-major, held in a pixel space.

    The parametrization is the pixels themselves: ``params`` has one tensor, ``pixels``, and
    :meth:`pull_back` and :meth:`render` are the identity. (A generator's latents will render here.)
    A method adds gradients piece by piece into one buffer, so peak memory is the largest piece.
    """

    def __init__(self, images: Tensor, classes: int, ipc: int) -> None:
        self.classes, self.ipc = classes, ipc
        self.images = images.detach().clone(memory_format=torch.contiguous_format)
        self.labels = torch.arange(classes, device=images.device).repeat_interleave(ipc)
        self.gradient = torch.zeros_like(self.images)
        self.params = {"pixels": self.images}

    def rows(self, first: int, last: int) -> slice:
        """The rows of classes ``first`` (included) to ``last`` (excluded)."""
        return slice(first * self.ipc, last * self.ipc)

    def leaf(self, rows: slice) -> Tensor:
        """A leaf of the current images in ``rows``, requiring grad; it shares their memory."""
        return self.images[rows].detach().requires_grad_()

    def add(self, rows: slice, gradient: Tensor) -> None:
        """Add a gradient at the pixels of ``rows``."""
        self.gradient[rows] += gradient

    def pull_back(self) -> None:
        """Give ``params`` the gradient of what was added since the last step."""
        self.images.grad = self.gradient

    def render(self) -> None:
        """Take up what the optimiser did to ``params``, and start a new sum of gradients."""
        self.gradient.zero_()
