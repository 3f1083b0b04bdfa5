"""Recipes: how a network is trained on a set. Read while planning, so no torch.

=========  ======  ==========================  ==========  ===========  ===================================
recipe     epochs  optimiser                   schedule    augment      source
=========  ======  ==========================  ==========  ===========  ===================================
``dc``     300     SGD 0.01, m 0.9, wd 5e-4    step        none         DatasetCondensation, evaluate_synset
``dsa``    1000    SGD 0.01, m 0.9, wd 5e-4    step        DSA          DatasetCondensation, evaluate_synset
``mtt``    1000    SGD, the set's step size    step        DSA          mtt-distillation, evaluate_synset
``glad``   1000    SGD 1e-3 (VGG 1e-4)         warm-up     DSA; EMA     glad, evaluate_synset
``sre2l``  below   soft labels of a teacher                             SRe2L, relabel / train_kd
``full``   100     SGD 0.01, m 0.9, wd 5e-4    cosine      DSA          ours (the authors of DC give none)
``short``  100     SGD 0.01, m 0.9, wd 5e-4    step        none         ours: for suites that say "reduced"
=========  ======  ==========================  ==========  ===========  ===================================

``step`` multiplies the learning rate by 0.1 after epoch index ``epochs // 2 + 1`` and starts the momentum
anew there, because the authors build a new optimiser. They also train one epoch more than they name; we
train as many as we say. The batch is 256 where nothing else is said.

``sre2l`` by dataset; images larger than 32 pixels go by Tiny-ImageNet's row ("ours" for all but those named):

==============  ======  =====  ==========================  ==============  =======  ===  ==================
dataset         epochs  batch  optimiser                   augment         mix      T    source
==============  ======  =====  ==========================  ==============  =======  ===  ==================
CIFAR-10, -100  400     128    AdamW 1e-3, wd 0.01         crop and flip   mixup    30   SRe2L relabel_cifar
Tiny-ImageNet   100     256    SGD 0.2, m 0.9, wd 1e-4,    resized crop    none     20   tiny-imagenet
                               5 epochs of warm-up         and flip                      train_kd (T² loss)
==============  ======  =====  ==========================  ==============  =======  ===  ==================

SRe2L gives nothing for CIFAR-10: it takes CIFAR-100's row. Its CIFAR script leaves the teacher in training
mode; ours is in evaluation mode. Its scripts ask the teacher in each step; here all labels are made
beforehand, as its ImageNet scripts do, and every student sees the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: The recipe's name that stands for each method's own.
AUTHORS = "authors"
#: From this side on, images are treated as Tiny-ImageNet's where their dataset has no settings of its own.
LARGE = 33

Positive = Annotated[float, Field(gt=0)]


class Recipe(BaseModel):
    """One recipe with all of its numbers; what it holds is part of the key of each cell that uses it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    #: Whether it trains on a teacher's labels, made beforehand for these very images.
    soft: ClassVar[bool] = False

    name: str
    version: int = 1
    epochs: int = Field(ge=1)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    batch: int = Field(256, ge=1)
    schedule: Literal["step", "cosine", "constant"] = "step"
    augment: Literal["none", "dsa", "crop_flip", "resized_crop_flip"] = "none"
    lr_by_network: dict[str, Positive] = Field(
        default_factory=dict, description="learning rate of a network (by preset name) where `lr` diverges"
    )

    @property
    def values(self) -> dict[str, Any]:
        """What a cell that evaluates by it holds."""
        return self.model_dump(mode="json")

    def learning_rate(self, preset: str) -> float:
        """The learning rate for a network of this preset."""
        return self.lr_by_network.get(preset, self.lr)


class WarmedRecipe(Recipe):
    """A recipe whose learning rate first rises linearly to its value."""

    warmup_epochs: int = Field(0, ge=0, description="epochs over which the learning rate rises")
    warmup_from: float = Field(0.01, ge=0, le=1, description="the share of `lr` that it rises from")

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(f"a warm-up of {self.warmup_epochs} epochs leaves none of {self.epochs}")
        return self


class StepSizeRecipe(Recipe):
    """Trains with the step size that was learnt with the set, where it has one (MTT); else with ``lr``."""

    learning_rate_of: Literal["set", "recipe"] = "set"


class AveragedRecipe(WarmedRecipe):
    """Tests an exponential moving average of the weights, updated once an epoch (GLaD)."""

    ema: float = Field(0.995, ge=0, lt=1, description="share that the average keeps each epoch")


class SoftRecipe(WarmedRecipe):
    """Trains on the soft labels that a teacher gives to each augmented, mixed image (SRe2L)."""

    soft: ClassVar[bool] = True

    mix: Literal["none", "mixup", "cutmix"] = "none"
    mix_alpha: float = Field(0.8, gt=0, description="both parameters of the Beta law of the share")
    temperature: float = Field(20.0, gt=0)
    times_squared_temperature: bool = Field(False, description="whether the loss is multiplied by T²")
    teacher: dict[str, Any] = Field(
        default_factory=dict, description="what the teacher has otherwise than the dataset's default"
    )

    @property
    def draws(self) -> dict[str, Any]:
        """What the labels depend on, besides images and teacher: epochs, batches and augmentation."""
        names = ("epochs", "batch", "augment", "mix", "mix_alpha")
        return {name: getattr(self, name) for name in names}

    @property
    def values(self) -> dict[str, Any]:
        """What an evaluation depends on, besides its labels."""
        return self.model_dump(mode="json", exclude={"teacher"})


_SRE2L_SMALL: dict[str, Any] = {
    "epochs": 400,
    "batch": 128,
    "optimiser": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "augment": "crop_flip",
    "mix": "mixup",
    "temperature": 30.0,
}
_SRE2L_LARGE: dict[str, Any] = {
    "epochs": 100,
    "batch": 256,
    "optimiser": "sgd",
    "lr": 0.2,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "warmup_epochs": 5,
    "augment": "resized_crop_flip",
    "temperature": 20.0,
    "times_squared_temperature": True,
}
_GLAD: dict[str, Any] = {
    "epochs": 1000,
    "augment": "dsa",
    "lr": 1e-3,
    "lr_by_network": {"vgg11": 1e-4},
    "schedule": "cosine",
    "warmup_epochs": 500,
    "warmup_from": 0.0,
}

#: Every recipe's model and its values where the size of the images does not matter.
_RECIPES: dict[str, tuple[type[Recipe], dict[str, Any]]] = {
    "dc": (Recipe, {"epochs": 300}),
    "dsa": (Recipe, {"epochs": 1000, "augment": "dsa"}),
    "mtt": (StepSizeRecipe, {"epochs": 1000, "augment": "dsa"}),
    "glad": (AveragedRecipe, _GLAD),
    "sre2l": (SoftRecipe, {}),
    "full": (Recipe, {"epochs": 100, "augment": "dsa", "schedule": "cosine"}),
    "short": (Recipe, {"epochs": 100}),
}

#: The names of all recipes.
RECIPES: tuple[str, ...] = tuple(_RECIPES)
#: Of these, those of sets with soft labels.
SOFT = frozenset(name for name, (kind, _) in _RECIPES.items() if kind.soft)


def model(name: str) -> type[Recipe]:
    """The model of the recipe ``name``; KeyError where there is none."""
    return _RECIPES[name][0]


def resolve(name: str, overrides: Mapping[str, Any], size: int) -> Recipe:
    """The recipe ``name`` for images of ``size`` pixels a side, with the ``overrides`` of a suite.

    Raises:
        KeyError: there is no such recipe.
        pydantic.ValidationError: an override is unknown, of a wrong type or out of range.
    """
    kind, values = _RECIPES[name]
    if name == "sre2l":
        values = _SRE2L_LARGE if size >= LARGE else _SRE2L_SMALL
    if "epochs" in overrides and "warmup_epochs" in values and "warmup_epochs" not in overrides:
        values = {**values, "warmup_epochs": _same_share(values, overrides["epochs"])}
    return kind.model_validate({"name": name, **values, **overrides})


def load(values: Mapping[str, Any]) -> Recipe:
    """The recipe that a cell holds."""
    return model(values["name"]).model_validate(dict(values))


def _same_share(values: Mapping[str, Any], epochs: Any) -> Any:
    """The warm-up of a recipe that is shortened: the same share of its epochs."""
    if not isinstance(epochs, int):
        return 0  # the epochs themselves will be refused
    return round(values["warmup_epochs"] * epochs / values["epochs"])
