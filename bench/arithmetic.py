"""How a cell computes: precision and memory layout, as settings and in cells. Read while planning: no torch.

What they mean on a device is in :mod:`bench.device`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Precision = Literal["fp32", "tf32", "bf16"]


@dataclass(frozen=True)
class Arithmetic:
    """How the networks of a cell compute. Images, parameters, losses and optimisers are float32 always.

    Attributes:
        precision: of convolutions and matrix products: 32-bit floating point (the reference); the same with
            10 bits of the mantissa instead of 23 (TF32, on GPUs alone); or bfloat16, by autocast around the
            forwards of networks, and so in their backwards.
        channels_last: whether networks are given images that lie in memory pixel by pixel, not channel by
            channel.

    """

    precision: Precision = "fp32"
    channels_last: bool = False

    @property
    def value(self) -> dict[str, Any]:
        """What a cell holds of it: what is not the default, so that the keys of all others stay."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }

    def but(self, precision: Precision | None, channels_last: bool | None) -> Arithmetic:
        """The same, but for what is not None."""
        return Arithmetic(
            self.precision if precision is None else precision,
            self.channels_last if channels_last is None else channels_last,
        )

    @property
    def described(self) -> dict[str, Any]:
        """All of it, as a row's provenance says it."""
        return asdict(self)


#: That of every cell that does not say otherwise.
REFERENCE = Arithmetic()


def arithmetic_of(value: Mapping[str, Any]) -> Arithmetic:
    """The arithmetic of a cell by its ``value``."""
    return Arithmetic(**value.get("arithmetic", {}))
