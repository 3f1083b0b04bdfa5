"""Soft labels: what a teacher says of a set's images, as each epoch of a student's training shows them.

Stored are the teacher's logits alone, in the order of the batches; the images come from the same stream
again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bench import seeds
from bench.training.recipes import SoftRecipe

#: The file that a relabel cell leaves.
FILE = "labels.safetensors"


def stream(seed: int, epoch: int) -> np.random.Generator:
    """What an epoch's order, augmentation and mixing are drawn from, for teacher and students alike."""
    return seeds.rng("relabel", seed, epoch)


def save(path: Path, logits: Tensor, draws: Mapping[str, Any], seed: int, teacher: str) -> None:
    """Write labels as :class:`SoftLabels` reads them.

    Args:
        path: the file.
        logits: float16 [epochs, N, classes], on the CPU.
        draws: how the images were drawn (:attr:`bench.training.recipes.SoftRecipe.draws`).
        seed: with which seed.
        teacher: key of the teacher's cell.
    """
    about = {"draws": dict(draws), "seed": seed, "teacher": teacher}
    save_file({"logits": logits}, path, metadata={"metadd": json.dumps(about, sort_keys=True)})


class SoftLabels:
    """The labels of one set for one recipe, read epoch by epoch."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self._path, self._device = path, device
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["metadd"])
            self._images = file.get_slice("logits").get_shape()[1]
        self._seed, self._draws = int(about["seed"]), about["draws"]

    def check(self, recipe: SoftRecipe, images: int) -> None:
        """See that they were made for this recipe, and for as many images.

        Raises:
            ValueError: they were not.
        """
        if (recipe.draws, images) != (self._draws, self._images):
            raise ValueError(
                f"{self._path}: labels of {self._images} images drawn by {self._draws}; "
                f"{images} drawn by {recipe.draws} are to be trained on"
            )

    def stream(self, epoch: int) -> np.random.Generator:
        """What the images of an epoch are drawn from."""
        return stream(self._seed, epoch)

    def epoch(self, number: int) -> Tensor:
        """The logits of an epoch, float32 [N, classes] on the device, in the order of its batches."""
        with safe_open(self._path, framework="pt") as file:
            logits: Tensor = file.get_slice("logits")[number : number + 1]
        return logits[0].to(self._device).float()


def soft_loss(student: Tensor, teacher: Tensor, temperature: float, times_squared: bool) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)) of logits [n, C], the mean over images; a scalar >= 0.

    SRe2L's KLDivLoss with ``batchmean``; ``times_squared`` multiplies by T², as tiny-imagenet's train_kd.py
    does and SRe2L's own scripts do not.
    """
    student, teacher = (F.log_softmax(logits / temperature, 1) for logits in (student, teacher))
    loss = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return loss * temperature**2 if times_squared else loss
