"""Pixel spaces: how images are held while they are distilled and trained on.

``unit`` is [0, 1]; ``normalised`` subtracts a mean and divides by a standard deviation per channel; ``zca``
whitens (:mod:`bench.zca`). A space is a differentiable map both ways, kept with every distilled set: a set
evaluated in another space than the one it was made in comes out at chance.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from bench.data.types import Channels
from bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

#: The spaces that a mean and a standard deviation per channel say all about.
Kind = Literal["unit", "normalised"]

#: The widest images that can be whitened, in pixels.
WIDEST_ZCA = 32


class Space(Protocol):
    """What every pixel space does. Spaces are equal where their maps are."""

    @property
    def kind(self) -> Literal["unit", "normalised", "zca"]:
        """The name that settings and records know it by."""

    @property
    def channels(self) -> tuple[Channels, Channels]:
        """Mean and standard deviation of the channels.

        Raises:
            CellFailure: the space mixes channels and places, as ZCA does.
        """

    def encode(self, unit: Tensor) -> Tensor:
        """Images [..., 3, H, W] in [0, 1] to this space; differentiable."""

    def encode_uint8(self, raw: Tensor, dtype: Any) -> Tensor:
        """Stored bytes [..., 3, H, W] to this space, as ``dtype``."""

    def decode(self, images: Tensor) -> Tensor:
        """Images [..., 3, H, W] of this space to [0, 1] units (not clamped); differentiable."""

    def to_json(self) -> dict[str, Any]:
        """What a set's record says of its space; :func:`bench.zca.described` makes the space again."""


@dataclass(frozen=True)
class PixelSpace:
    """A space and what it needs to be entered and left.

    ``mean`` and ``std`` are per channel, in [0, 1] units; the ``unit`` space has 0 and 1.
    """

    kind: Kind
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)

    @property
    def channels(self) -> tuple[Channels, Channels]:
        """Mean and standard deviation of the channels."""
        return self.mean, self.std

    def encode(self, unit: Tensor) -> Tensor:
        """Images [..., 3, H, W] in [0, 1] to this space; differentiable."""
        if self.kind == "unit":
            return unit
        return (unit - self._channel(self.mean, unit)) / self._channel(self.std, unit)

    def encode_uint8(self, raw: Tensor, dtype: Any) -> Tensor:
        """Stored bytes [..., 3, H, W] to this space, in place after the one conversion to ``dtype``."""
        images = raw.to(dtype).div_(255)
        if self.kind == "unit":
            return images
        return images.sub_(self._channel(self.mean, images)).div_(self._channel(self.std, images))

    def decode(self, images: Tensor) -> Tensor:
        """Images [..., 3, H, W] of this space to [0, 1] units (not clamped); differentiable."""
        if self.kind == "unit":
            return images
        return images * self._channel(self.std, images) + self._channel(self.mean, images)

    def to_json(self) -> dict[str, Any]:
        """A JSON value from which :meth:`from_json` makes the same space."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PixelSpace:
        """The space that :meth:`to_json` described.

        Raises:
            KeyError, TypeError, ValueError: it is no description of a space.
        """
        mean, std = (tuple(map(float, value[name])) for name in ("mean", "std"))
        if value["kind"] not in get_args(Kind) or (len(mean), len(std)) != (3, 3) or min(std) <= 0:
            raise ValueError(f"no pixel space: {value}")
        return cls(value["kind"], (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))

    @staticmethod
    def _channel(values: tuple[float, ...], like: Tensor) -> Tensor:
        import torch

        from bench.device import sent

        return sent(torch.tensor(values, dtype=like.dtype), like.device).reshape(-1, 1, 1)


def space(
    kind: Literal["unit", "normalised", "zca"], mean: Channels, std: Channels, zca: Space | None = None
) -> Space:
    """The space of this kind for a dataset with these channel statistics, or with this ``zca``."""
    if kind == "zca":
        if zca is None:
            raise TypeError("this was planned without the dataset's ZCA")
        return zca
    return PixelSpace("unit") if kind == "unit" else PixelSpace(kind, mean, std)


def check_zca(size: int) -> None:
    """Refuse images of ``size`` pixels a side that are too large to be whitened.

    Raises:
        UserError: they are; with what their matrix would take.
    """
    if size > WIDEST_ZCA:
        floats = (3 * size**2) ** 2
        raise UserError(
            f"ZCA of {size}x{size} images: a whitening matrix has (3 x {size}^2)^2 numbers, "
            f"{4 * floats / 1e6:,.0f} MB; images up to {WIDEST_ZCA}x{WIDEST_ZCA} can be whitened; "
            "take pixels: normalised"
        )
