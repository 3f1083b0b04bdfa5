"""What every generator offers: styles of a latent and a class, then a chain of layers that can be cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn


class Generator(nn.Module, ABC):
    """A class-conditional, style-based generator of square images.

    ``mapping`` takes a latent z and a class to styles w, one for each of ``num_ws`` places. The synthesis is
    an input and ``layers`` layers, each with a style of its own. GLaD (Cazenavette et al., CVPR 2023, section
    3.2) cuts it after n of them: ``features`` is what comes before the cut, ``images`` what comes after it,
    and ``images(features(w, n), w, n)`` is the same image for every n.

    No layer may let the images of a batch influence each other.
    """

    #: What a file calls this class of generators, and the arguments (JSON values) that build this one.
    kind: ClassVar[str]
    architecture: dict[str, Any]
    #: Length of z.
    latent: int
    #: Length of one style w.
    dim: int
    #: Styles of one image.
    num_ws: int
    #: Layers after the input, the one that makes RGB of features included.
    layers: int
    #: The images' side in pixels.
    size: int
    #: Classes that it knows.
    classes: int

    @abstractmethod
    def mapping(self, z: Tensor, labels: Tensor) -> Tensor:
        """Styles [n, num_ws, dim] of latents [n, latent] and classes (int64 [n])."""

    @abstractmethod
    def features(self, w: Tensor, layer: int) -> Tensor:
        """What the first ``layer`` layers (0 to ``layers``) make of the input: [n, C, h, w]."""

    @abstractmethod
    def images(self, f: Tensor, w: Tensor, layer: int) -> Tensor:
        """Images [n, 3, size, size] in [0, 1] units (not clamped) of features after ``layer`` layers.

        The styles of the layers up to the cut are not read.
        """

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Images [n, 3, size, size] in [0, 1] units (not clamped) of latents and classes."""
        w = self.mapping(z, labels)
        return self.images(self.features(w, 0), w, 0)
