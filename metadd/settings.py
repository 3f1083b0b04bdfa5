"""MetaDD's settings in the harness. Read while planning, so no torch.

None of the numbers is checked against the authors': each is ours. docs/metadd.md says which rows vary it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from metadd.base import PluginSettings


class MetaDDSettings(PluginSettings):
    """The architecture-invariant loss over frozen networks of several families (:mod:`metadd.loss`)."""

    networks: tuple[str, ...] = Field(
        ("convnet", "resnet18@bn", "vgg11", "vit_tiny"),
        min_length=1,
        description="auxiliary networks",
        strict=False,
    )
    training: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        exclude=True,  # the cells that train them hold it
        description="what a network's training has otherwise than the dataset's default, by network; `all` "
        "stands for every one",
    )
    ce: float = Field(1.0, ge=0, description="weight of the cross-entropy over the networks")
    align: float = Field(1.0, ge=0, description="weight of the term that aligns their maps")
    meta: float = Field(0.0, ge=0, description="weight of the exposure of what all networks see")
    alignment: Literal["kl", "variance"] = Field("kl", description="how the distance of maps is taken")
    temperature: float = Field(
        0.1,
        ge=0.02,
        le=10,
        description="of the softmax over a map's positions; at 1, two maps in [0, 1] hardly differ",
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="from where on a position counts as seen")
    softness: float = Field(0.1, gt=0, le=1, description="width of the sigmoid about the threshold")
    grid: int = Field(8, ge=4, le=64, description="the common grid of the maps has grid x grid positions")
    gradient: Literal["through", "constant"] = Field(
        "through", description="whether the weights of Grad-CAM are differentiated too, where a map has such"
    )
    chunk: int | None = Field(
        None,
        ge=1,
        description="images whose graph is alive at once; by default as device and image size bear",
    )
    offload: bool = Field(False, description="keep one network at a time on the device, the others in memory")

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not (self.ce or self.align or self.meta):
            raise ValueError("one of ce, align and meta must be above 0")
        if len(set(self.networks)) < len(self.networks):
            raise ValueError("networks: each is expected once")
        return self

    @property
    def row_label(self) -> str:
        """MetaDD, or what is left of it where a term has no weight."""
        terms = {"CE": self.ce, "alignment": self.align, "exposure": self.meta}
        if self.ce and self.align:
            return "MetaDD"
        return " and ".join(name for name, weight in terms.items() if weight) + " only"

    @property
    def auxiliary(self) -> Mapping[str, Mapping[str, Any]]:
        """The networks, each with its own training."""
        common = self.training.get("all", {})
        return {name: {**common, **self.training.get(name, {}), "network": name} for name in self.networks}
