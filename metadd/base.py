"""What a plug-in is to the harness. Read while planning, so no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor, nn


class Unsuitable(Exception):
    """A plug-in cannot work with a network; the message says why."""


class PluginSettings(BaseModel):
    """The settings of a plug-in, all of them part of the cell's key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    version: ClassVar[int] = 1

    rho: float = Field(
        0.3, ge=0, description="norm of the plug-in's gradient on the images as a share of the method's own"
    )
    weight: float | None = Field(
        None, ge=0, description="multiplies the plug-in's gradient instead of `rho`, whatever its norm"
    )
    every: int = Field(1, ge=1, description="the plug-in adds to one of so many updates")
    images_per_update: int = Field(
        200,
        ge=1,
        description="images that the plug-in sees in an update, at most: as many of each class as of any "
        "other, or one more, drawn anew each time",
    )

    @property
    def row_label(self) -> str:
        """What tables put behind the method's name."""
        raise NotImplementedError

    @property
    def adds_nothing(self) -> bool:
        """Whether a distillation with these settings is one without the plug-in."""
        return not (self.rho if self.weight is None else self.weight)

    @property
    def auxiliary(self) -> Mapping[str, Mapping[str, Any]]:
        """The networks that the plug-in needs, by name, each with what its training has of its own."""
        return {}


class Plugin(Protocol):
    """An extra loss on the synthetic images, the same for every method."""

    def backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Add the loss's gradient to ``images.grad`` and return the detached scalar loss.

        Args:
            images: a leaf [N, 3, H, W] in [0, 1] units (not clamped) that requires grad; the plug-in
                normalises for its own networks.
            labels: classes, int64 [N].
        """

    def terms(self, images: Tensor, labels: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Each term of the loss by name: its value, and the norm of the gradient that it gives."""


@dataclass(frozen=True)
class PluginEntry:
    """Where a plug-in's settings and what makes it are, as ``module:name``; the latter may import torch."""

    settings_at: str
    make_at: str
    #: SHA-256 of the file of a plug-in of one's own, part of its cells' keys; empty for one of this package.
    source: str = ""

    @property
    def settings(self) -> type[PluginSettings]:
        """The settings model; importing it costs no torch."""
        found: type[PluginSettings] = _load(self.settings_at)
        return found

    def make(
        self,
        settings: PluginSettings,
        networks: Sequence[nn.Module],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> Plugin:
        """The plug-in of these settings, with networks trained on (image - mean) / std."""
        made: Plugin = _load(self.make_at)(settings, networks, mean, std)
        return made


def _load(at: str) -> Any:
    module, name = at.split(":")
    return getattr(import_module(module), name)


#: Every plug-in by the name that ``tables.yaml`` uses; ``none`` is no plug-in at all.
PLUGINS: dict[str, PluginEntry] = {
    "metadd": PluginEntry("metadd.settings:MetaDDSettings", "metadd.plugin:from_settings")
}
