"""What training takes from a set, batch by batch: order, augmentation, mixing.

The batches of an epoch depend on the images, the recipe and one NumPy stream only. A teacher that labels a
set and the students that learn from its labels get them from the same function and the same stream, so both
see the same images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from baselines.crops import resized_crop_window
from bench.augment import DSA, for_dataset
from bench.data import Dataset, parse
from bench.pixels import PixelSpace, Space
from bench.real import RealImages, place
from bench.sets import DistilledSet
from bench.training.crops import moved, resized
from bench.training.recipes import Recipe, SoftRecipe

#: A crop may reach over the edge by this share of the image's side: 4 of 32 pixels.
_PADDING = 8
#: torchvision's ``RandomResizedCrop``, which SRe2L leaves as it is.
_CROP_SCALE, _CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
_FLIP = 0.5

Batches = Iterator[tuple[Tensor, Tensor]]


class TrainingSet(Protocol):
    """Images and labels that can be drawn by index."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images [n, 3, H, W] in the pixel space, and labels [n] (classes) or [n, C] (probabilities)."""


class SyntheticSet:
    """A distilled set on the device."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images and labels of these indices."""
        chosen = place(torch.from_numpy(indices), self.images.device)
        return self.images[chosen], self.labels[chosen]


class RealSet:
    """The real training set."""

    def __init__(self, images: RealImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images and labels of these indices."""
        chosen = place(torch.from_numpy(indices), self.images.labels.device)
        return self.images.batch(indices), self.images.labels[chosen]


def training_space(images: DistilledSet | None, dataset: Dataset) -> Space:
    """The pixel space that a set is trained on in (None: the real training set).

    A set is evaluated as it was made, and real images follow it there; ``unit`` sets are normalised.
    """
    if images is None or images.space.kind == "unit":
        return PixelSpace("normalised", dataset.mean, dataset.std)
    return images.space


@dataclass(frozen=True, eq=False)
class Augmentation:
    """What training may do to a dataset's images in a pixel space.

    ``dsa`` also says whether they may be mirrored. ``black`` [3, 1, 1], on the device, is what lies around
    an image.
    """

    dsa: DSA
    black: Tensor

    @classmethod
    def of(cls, dataset: Dataset, space: Space, device: torch.device) -> Augmentation:
        """The augmentation of a dataset. Whitened images have no black; zero is their mean."""
        black = torch.zeros(3, 1, 1, device=device)
        if space.kind != "zca":
            black = space.encode(black)
        return cls(for_dataset(parse(dataset.spec).name, dataset.size), black)

    def apply(self, how: str, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Images [n, 3, H, W] under new draws; ``how`` is what a recipe calls ``augment``.

        * ``dsa``: one operation for the batch, parameters for each image.
        * ``crop_flip``: as torchvision's ``RandomCrop`` with black padding (4 at 32 pixels, in proportion at
          other sizes) and ``RandomHorizontalFlip``, for each image.
        * ``resized_crop_flip``: as torchvision's ``RandomResizedCrop`` (bilinear) and
          ``RandomHorizontalFlip``, for each image.
        """
        if how == "none":
            return images
        n, size = len(images), images.shape[-1]
        if how == "dsa":
            return self.dsa.apply(images, self.dsa.draw_batch(rng, n))
        mirrored = (rng.random(n) < _FLIP) & ("flip" in self.dsa.ops)
        if how == "crop_flip":
            most = size // _PADDING
            return moved(images, rng.integers(-most, most + 1, (n, 2)), mirrored, self.black)
        windows = [resized_crop_window(rng, size, _CROP_SCALE, _CROP_RATIO) for _ in range(n)]
        return resized(images, windows, mirrored)


def mixed(images: Tensor, how: str, alpha: float, rng: np.random.Generator) -> Tensor:
    """Images [n, 3, H, W], each mixed with another of the batch by one share, from Beta(alpha, alpha).

    ``mixup`` adds them up; ``cutmix`` puts a part of the other over a box. Share, partners and box are those
    of SRe2L's utils_fkd.py.
    """
    if how == "none":
        return images
    share = float(rng.beta(alpha, alpha))
    others = images[place(torch.from_numpy(rng.permutation(len(images))), images.device)]
    if how == "mixup":
        return share * images + (1 - share) * others
    top, bottom, left, right = cut_box(images.shape[-1], share, rng)
    result = images.clone()
    result[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return result


def cut_box(size: int, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """First and last (excluded) row and column of a box with ``1 - share`` of a square image's area.

    Its centre lies anywhere in the image; what reaches over the edge is lost.
    """
    half = int(size * np.sqrt(1 - share)) // 2
    row, column = rng.integers(size, size=2).tolist()
    return max(row - half, 0), min(row + half, size), max(column - half, 0), min(column + half, size)


def batches(
    data: TrainingSet, recipe: Recipe, augmentation: Augmentation, rng: np.random.Generator
) -> Batches:
    """The batches of one epoch, augmented and mixed: images [n, 3, H, W] and the labels of the set.

    Labels are those of the images before mixing: recipes that mix train on a teacher's instead, which stand
    in the order of the batches.
    """
    order = rng.permutation(len(data))
    for start in range(0, len(order), recipe.batch):
        images, labels = data.batch(order[start : start + recipe.batch])
        images = augmentation.apply(recipe.augment, images, rng)
        if isinstance(recipe, SoftRecipe):
            images = mixed(images, recipe.mix, recipe.mix_alpha, rng)
        yield images, labels


def lone_image_joined(made: Batches) -> Batches:
    """The batches, but a last one of a single image is part of the one before it."""
    held = next(made)
    for images, labels in made:
        if len(images) == 1:
            held = torch.cat([held[0], images]), torch.cat([held[1], labels])
        else:
            yield held
            held = images, labels
    yield held
