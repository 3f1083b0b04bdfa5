"""Settings of the generator that GLaD distils into, and of its training. No torch.

The architecture is that of :mod:`baselines.generators.compact`, the training that of
:mod:`baselines.generators.training`. The authors of GLaD take a StyleGAN-XL as it was published, so all of
these are ours, near StyleGAN2-ADA's for CIFAR-10 (batch 64, learning rate 0.0025, two mapping layers).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from baselines.base import Task


class GeneratorSettings(BaseModel):
    """A compact generator: its shape, how it is trained, and what judges its samples."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    #: Raised whenever training gives another generator for equal settings.
    version: ClassVar[int] = 1

    kind: Literal["trained", "random"] = "trained"
    latent: int = Field(128, ge=1, description="length of the latent z, and of a class's embedding")
    dim: int = Field(256, ge=1, description="length of a style w")
    mapping_layers: int = Field(2, ge=1)
    width: int = Field(
        256, ge=1, description="channels of maps up to 16 pixels; halved at each doubling then"
    )

    steps: int = Field(
        100_000, ge=0, description="updates of the generator, and as many of the discriminator"
    )
    batch: int = Field(64, ge=2)
    lr: float = Field(0.0025, gt=0, description="learning rate of both, Adam with betas 0 and 0.99")
    r1: float = Field(
        0.02, ge=0, description="weight of the gradient penalty on real images, in [0, 1] units"
    )
    r1_every: int = Field(16, ge=1, description="updates from one gradient penalty to the next")
    ema: float = Field(500_000.0, gt=0, description="half-life of the averaged generator, in images seen")
    augment: Literal["dsa", "none"] = "dsa"
    judge: dict[str, Any] = Field(
        default_factory=dict,
        description="what the classifier that judges samples has otherwise than the default",
    )

    @classmethod
    def defaults(cls, task: Task) -> dict[str, Any]:
        """Longer training and a stronger penalty for larger images."""
        return {"steps": 200_000, "r1": 0.05} if task.size > 32 else {}

    @model_validator(mode="before")
    @classmethod
    def _untrained_takes_no_steps(cls, values: Any) -> Any:
        # So that an untrained generator is one cell, however long the trained one beside it trains.
        if isinstance(values, dict) and values.get("kind") == "random":
            return {**values, "steps": 0}
        return values
