"""Recipes: how a network is trained on a set. Read while planning, so no torch.

=========  ======  ==========================  ==========  ========  =======================================
recipe     epochs  optimiser                   schedule    augment   source
=========  ======  ==========================  ==========  ========  =======================================
``dc``     300     SGD 0.01, m 0.9, wd 5e-4    step        none      DatasetCondensation, evaluate_synset
``dsa``    1000    SGD 0.01, m 0.9, wd 5e-4    step        DSA       DatasetCondensation, evaluate_synset
``full``   100     SGD 0.01, m 0.9, wd 5e-4    cosine      DSA       ours (the authors of DC give none)
``short``  100     SGD 0.01, m 0.9, wd 5e-4    step        none      ours: for suites that say "reduced"
=========  ======  ==========================  ==========  ========  =======================================

``step`` multiplies the learning rate by 0.1 after epoch index ``epochs // 2 + 1`` and starts the momentum
anew there, because the authors build a new optimiser. They also train one epoch more than they name; we
train as many as we say. The batch is 256 everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Recipe(BaseModel):
    """One recipe with all of its numbers; what it holds is part of the key of each cell that uses it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str
    version: int = 1
    epochs: int = Field(ge=1)
    optimiser: Literal["sgd"] = "sgd"
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    batch: int = Field(256, ge=1)
    schedule: Literal["step", "cosine"] = "step"
    augment: Literal["none", "dsa"] = "none"
    lr_by_network: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="learning rate of a network (by preset name) where `lr` diverges"
    )

    def learning_rate(self, preset: str) -> float:
        """The learning rate for a network of this preset."""
        return self.lr_by_network.get(preset, self.lr)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="dc", epochs=300),
        Recipe(name="dsa", epochs=1000, augment="dsa"),
        Recipe(name="full", epochs=100, augment="dsa", schedule="cosine"),
        Recipe(name="short", epochs=100),
    )
}


def resolve(name: str, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe ``name`` with the ``overrides`` of a suite.

    Raises:
        KeyError: there is no such recipe.
        pydantic.ValidationError: an override is unknown, of a wrong type or out of range.
    """
    return Recipe.model_validate({**RECIPES[name].model_dump(), **overrides})
