"""What a plug-in is to the harness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor


class PluginSettings(BaseModel):
    """The settings of a plug-in, all of them part of the cell's key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    version: ClassVar[int] = 1
    #: What tables put behind the method's name.
    label: ClassVar[str]

    rho: float = Field(
        0.3, ge=0, description="norm of the plug-in's gradient on the images as a share of the baseline's"
    )


class Plugin(Protocol):
    """An extra loss on the synthetic images, the same for every method."""

    def backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Add the loss's gradient to ``images.grad`` and return the detached scalar loss.

        Args:
            images: a leaf [N, 3, H, W] in [0, 1] units (not clamped) that requires grad; the plug-in
                normalises for its own networks.
            labels: classes, int64 [N].
        """


@dataclass(frozen=True)
class PluginEntry:
    """A plug-in's settings model, and what makes the plug-in from its settings and its artifacts."""

    settings: type[PluginSettings]
    make: Callable[[Any, dict[str, Any]], Plugin]


#: Every plug-in by the name that ``tables.yaml`` uses; ``none`` is no plug-in at all.
PLUGINS: dict[str, PluginEntry] = {}
