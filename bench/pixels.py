"""Pixel spaces: how images are held while they are distilled and trained on.

``unit`` is [0, 1]; ``normalised`` subtracts a mean and divides by a standard deviation per channel. A
space is a differentiable map both ways, small enough to be kept with every distilled set: a set evaluated
in another space than the one it was made in comes out at chance.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["unit", "normalised"]


@dataclass(frozen=True)
class PixelSpace:
    """A space and what it needs to be entered and left.

    ``mean`` and ``std`` are per channel, in [0, 1] units; the ``unit`` space has 0 and 1.
    """

    kind: Kind
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def channels(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
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
        return like.new_tensor(values).reshape(-1, 1, 1)


def space(kind: Kind, mean: tuple[float, float, float], std: tuple[float, float, float]) -> PixelSpace:
    """The space of this kind for a dataset with these channel statistics."""
    return PixelSpace("unit") if kind == "unit" else PixelSpace(kind, mean, std)
