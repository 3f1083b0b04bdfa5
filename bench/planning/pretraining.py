"""What is made from the real data before distilling, and its settings. Read while planning: no torch.

A method's or a plug-in's ``needs`` name it; each becomes a cell that all who need the same share.

Classifiers (teachers, a plug-in's networks), by dataset:

==============  ======  =====  ==========================  =========================  ======================
dataset         epochs  batch  optimiser                   augment                    source
==============  ======  =====  ==========================  =========================  ======================
CIFAR-10, -100  200     128    SGD 0.1, m 0.9, wd 5e-4,    crop (padding 4), flip     SRe2L, squeeze_cifar
                               cosine
Tiny-ImageNet   50      256    SGD 0.2, m 0.9, wd 1e-4,    resized crop, flip         tiny-imagenet, 50 ep.
                               cosine, 5 of warm-up                                   (the one SRe2L uses)
==============  ======  =====  ==========================  =========================  ======================

Others go by the size of their images: up to 32 pixels by the first row, larger ones by the second (ours).
Transformers learn little by SGD: theirs is AdamW 1e-3, wd 0.05 (ours).
AlexNet and VGG-11 go by lr 0.01 (ours): at 0.1 a VGG-11 a quarter as wide stayed at chance on CIFAR-10.

Experts: SGD 0.01 without momentum or weight decay, batch 256, DSA (mtt-distillation, buffer.py); one cell is
one expert.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from baselines import Task
from bench.training.recipes import LARGE, WarmedRecipe

#: Raised with a change of what a kind of pretraining does; beside the stage's version.
VERSIONS = {"classifier": 1, "expert": 1, "generator": 1, "zca": 1}


class ClassifierSettings(WarmedRecipe):
    """A network trained on the real training images, kept after its last epoch."""

    name: str = "classifier"
    network: str
    schedule: Literal["step", "cosine", "constant"] = "cosine"
    lr: float = Field(0.1, gt=0)


class ExpertSettings(WarmedRecipe):
    """A network in training, kept at the start and after each epoch."""

    name: str = "expert"
    network: str
    pixels: Literal["unit", "normalised", "zca"] = "normalised"
    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["step", "cosine", "constant"] = "constant"
    augment: Literal["none", "dsa", "crop_flip", "resized_crop_flip"] = "dsa"


#: The teacher, where nothing else is said: SRe2L's.
TEACHER = {"network": "resnet18@bn"}

_CLASSIFIER_SMALL = {"epochs": 200, "batch": 128, "augment": "crop_flip"}
_CLASSIFIER_LARGE = {
    "epochs": 50,
    "batch": 256,
    "augment": "resized_crop_flip",
    "lr": 0.2,
    "weight_decay": 1e-4,
    "warmup_epochs": 5,
}

#: What some presets train by instead, whatever the dataset (ours).
_TRANSFORMER = {"optimiser": "adamw", "lr": 1e-3, "weight_decay": 0.05}
_BY_PRESET: dict[str, dict[str, Any]] = {
    "vit_tiny": _TRANSFORMER,
    "vit_b_16": _TRANSFORMER,
    "swin_t": _TRANSFORMER,
    "vgg11": {"lr": 0.01},
    "alexnet": {"lr": 0.01},
}


def model(what: str) -> type[BaseModel]:
    """The settings model of a kind of pretraining."""
    if what == "generator":
        from baselines.defaults.generator import GeneratorSettings

        return GeneratorSettings
    models: dict[str, type[BaseModel]] = {"classifier": ClassifierSettings, "expert": ExpertSettings}
    return models[what]


def resolve(what: str, overrides: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The settings of a pretrain cell as a JSON value: the dataset's defaults, then the ``overrides``.

    Raises:
        pydantic.ValidationError: an override is unknown, of a wrong type or out of range.
    """
    kind, values = model(what), dict[str, Any]()
    if what == "classifier":
        values = _CLASSIFIER_LARGE if task.size >= LARGE else _CLASSIFIER_SMALL
        preset = str(overrides.get("network")).partition("@")[0]
        values = values | _BY_PRESET.get(preset, {})
        if "epochs" in overrides and "warmup_epochs" not in overrides:
            values = {**values, "warmup_epochs": 0}
    elif what == "generator":
        values = kind.defaults(task)  # type: ignore[attr-defined]
    settings = kind.model_validate({**values, **overrides})
    return {**settings.model_dump(mode="json"), "version": VERSIONS[what]}
