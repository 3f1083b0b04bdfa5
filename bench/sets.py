"""Distilled sets: images and labels with their pixel space. Ours, from the store; others, from files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from torch import Tensor

from bench import setfiles
from bench.data import Identity
from bench.errors import UserError
from bench.pixels import PixelSpace, Space
from bench.setfiles import Record
from bench.zca import described

Pixels = Literal["unit", "normalised", "uint8", "zca"]

#: Images declared ``unit`` are refused where more than this share of the values is far outside [0, 1]: of
#: normalised real images about 40% is, of images that were optimised in [0, 1] units next to nothing.
_FAR_SHARE = 0.2
_FAR = (-0.5, 1.5)


@dataclass(frozen=True)
class DistilledSet:
    """Images float32 [N, 3, H, W] in ``space``; labels int64 [N], or float32 [N, C] where they are soft.

    ``number`` places a set from elsewhere in the random streams of its evaluation: the distillation seed
    where the file says it, else its place in the file. ``step_size`` is the learning rate that was learnt
    with the set, where one was.
    """

    images: Tensor
    labels: Tensor
    space: Space
    number: int = 0
    step_size: float | None = None

    def encoded(self, space: Space) -> Tensor:
        """The images in another pixel space; untouched where it is the same."""
        return self.images if space == self.space else space.encode(self.space.decode(self.images))


def stored(paths: Sequence[Path]) -> DistilledSet:
    """The set whose parts are these ``images.safetensors`` of finished distil cells.

    Raises:
        UserError: the matrices of a ZCA set are missing or others.
    """
    images, labels, spaces, step_sizes = [], [], [], []
    for path in paths:
        with safe_open(path, framework="pt") as file:
            images.append(file.get_tensor("images"))
            labels.append(file.get_tensor("labels"))
            spaces.append(json.loads(file.metadata()["metadd"])["space"])
            step_sizes.append(setfiles.step_size(file))
    if any(space != spaces[0] for space in spaces):
        raise ValueError(f"parts in different pixel spaces: {paths}")
    if any(step_size != step_sizes[0] for step_size in step_sizes):
        raise ValueError(f"parts with different step sizes: {paths}")
    space = described(spaces[0], paths[0])
    return DistilledSet(torch.cat(images), torch.cat(labels), space, step_size=step_sizes[0])


def read(
    file: Path,
    data: Identity,
    normalised: Space,
    pixels: Pixels | None,
    zca: Callable[[], Space] | None = None,
) -> list[DistilledSet]:
    """Sets made elsewhere, for a dataset.

    Args:
        file: ``.npz`` or ``.safetensors`` with ``images`` [N, 3, H, W] or [sets, N, 3, H, W] (float, or
            uint8) and ``labels`` [N] or [N, C], or [sets, N] or [sets, N, C]; ``.pt`` with the same keys,
            with the ``data`` list of the DC, DSA and DM code, or with images alone, as the MTT code saves
            them (labels from the ``labels*.pt`` beside its ``images*.pt``; without one the images are taken
            as class-major, equally many a class); or a folder with a folder of images per class.
        data: the dataset that it is for.
        normalised: the dataset's normalised space.
        pixels: the space of float images; needed unless the file says it (ours do).
        zca: fits the dataset's whitened space, for ``zca`` images that come without one; ours come with it.

    Raises:
        UserError: the file cannot be read, or does not fit the dataset.
    """
    found = setfiles.load(file, data)
    images = _images(file, found.images, data)
    if found.record and found.record.classes != len(data.classes):
        raise UserError(
            f"{file}: made for {found.record.dataset} ({found.record.classes} classes), "
            f"not for {data.spec} ({len(data.classes)})"
        )
    space = _space(file, images, found.record, pixels, normalised, zca)
    images = images.float()
    if _are_bytes(found.images, pixels):
        images = images / 255
    labels = _labels(file, found.labels, images.shape[:2], data)
    first, step_size = (found.record.seed, found.record.step_size) if found.record else (0, None)
    return [
        DistilledSet(image.contiguous(), label.contiguous(), space, number, step_size)
        for number, (image, label) in enumerate(zip(images, labels, strict=True), start=first)
    ]


def _are_bytes(images: Tensor, pixels: Pixels | None) -> bool:
    """Whether values from 0 to 255 are meant."""
    return images.dtype == torch.uint8 or pixels == "uint8"


def _images(file: Path, images: Tensor, data: Identity) -> Tensor:
    """The images [sets, N, 3, H, W] with the values and the type of the file."""
    size = data.size
    if images.ndim not in (4, 5) or images.shape[-3:] != (3, size, size) or 0 in images.shape:
        last = images.ndim in (4, 5) and images.shape[-1] == 3
        raise UserError(
            f"{file}: images of shape {list(images.shape)} do not fit {data.spec}: [N, 3, {size}, {size}] "
            f"or [sets, N, 3, {size}, {size}] is expected"
            + ("; channels come before height and width" if last else "")
        )
    if images.is_floating_point() and not images.isfinite().all():
        raise UserError(f"{file}: some pixels are not finite numbers")
    return images if images.ndim == 5 else images[None]


def _space(
    file: Path,
    images: Tensor,
    record: Record | None,
    pixels: Pixels | None,
    normalised: Space,
    zca: Callable[[], Space] | None,
) -> Space:
    """The space of the images, once bytes are divided by 255."""
    low, high = float(images.min()), float(images.max())
    values = f"values from {low:.2f} to {high:.2f}"
    if images.dtype == torch.uint8:
        if pixels not in (None, "uint8"):
            raise UserError(f"{file}: uint8 images are not --pixels {pixels}; leave --pixels out")
        return PixelSpace("unit")
    if record is not None:
        if pixels not in (None, record.space.kind):
            raise UserError(
                f"{file}: its own record says --pixels {record.space.kind}, not {pixels}; leave --pixels out"
            )
        return record.space
    looks = _looks(images, low, high)
    if pixels == "uint8":
        if low < 0 or not 1 < high <= 255:
            raise UserError(f"{file}: --pixels uint8 means values from 0 to 255, but {values} look {looks}")
        return PixelSpace("unit")
    if not images.is_floating_point():
        raise UserError(f"{file}: images are {images.dtype}; save them as uint8 or float32")
    if pixels is None:
        raise UserError(f"{file}: float images need --pixels unit, normalised or zca ({values} look {looks})")
    if pixels in ("normalised", "zca") and looks != "normalised":
        raise UserError(f"{file}: --pixels {pixels} means values around 0, but {values} look {looks}")
    if pixels == "unit" and looks != "unit":
        far = float(((images < _FAR[0]) | (images > _FAR[1])).float().mean())
        if looks == "uint8" or far > _FAR_SHARE:
            raise UserError(
                f"{file}: --pixels unit means values around 0 to 1, but {values} look {looks} "
                f"({far:.0%} are below {_FAR[0]} or above {_FAR[1]})"
            )
    if pixels == "zca":
        if zca is None:
            raise UserError(f"{file}: --pixels zca needs the real images, to fit the whitening on them")
        return zca()
    return PixelSpace("unit") if pixels == "unit" else normalised


def _looks(images: Tensor, low: float, high: float) -> str:
    if low >= -0.01 and high <= 1.01:
        return "unit"
    return "uint8" if low >= 0 and high > 16 else "normalised"


def _labels(file: Path, labels: Tensor | None, shape: torch.Size, data: Identity) -> Tensor:
    """Checked labels: int64 [sets, N], or float32 probabilities [sets, N, C]."""
    (sets, n), classes = shape, len(data.classes)
    if labels is None:
        if n % classes:
            raise UserError(f"{file}: no labels, and {n} images are not equally many for {classes} classes")
        return torch.arange(classes).repeat_interleave(n // classes).expand(sets, n)
    if labels.ndim and labels.shape[-1] == classes and _soft_shape(labels, sets, n):
        return _probabilities(file, labels).expand(sets, n, classes)
    if labels.shape in ((n,), (sets, n)):
        return _classes(file, labels, data).expand(sets, n)
    if labels.is_floating_point() and labels.ndim > 1 and labels.shape[-2] == n:
        raise UserError(f"{file}: soft labels for {labels.shape[-1]} classes; {data.spec} has {classes}")
    raise UserError(
        f"{file}: labels of shape {list(labels.shape)} do not fit {sets} set(s) of {n} images: "
        f"[{n}] whole numbers or [{n}, {classes}] probabilities are expected, for all sets or for each"
    )


def _soft_shape(labels: Tensor, sets: int, n: int) -> bool:
    """Whether the shape is that of soft labels, which may also be that of hard ones for several sets."""
    if labels.shape[:-1] not in ((n,), (sets, n)):
        return False
    ambiguous = labels.shape == (sets, n)
    return not ambiguous or (labels.is_floating_point() and _are_probabilities(labels))


def _are_probabilities(labels: Tensor) -> bool:
    sums = labels.double().sum(-1)
    return bool(labels.isfinite().all() and labels.min() >= 0 and (sums - 1).abs().max() <= 1e-2)


def _probabilities(file: Path, labels: Tensor) -> Tensor:
    if not _are_probabilities(labels):
        raise UserError(
            f"{file}: soft labels must be probabilities, not negative and summing to 1; "
            "of logits, save the softmax"
        )
    return (labels.double() / labels.double().sum(-1, keepdim=True)).float()


def _classes(file: Path, labels: Tensor, data: Identity) -> Tensor:
    rounded = labels.long()
    if not labels.isfinite().all() or (rounded != labels).any():
        raise UserError(f"{file}: labels are not whole numbers")
    low, high, last = int(rounded.min()), int(rounded.max()), len(data.classes) - 1
    if low < 0 or high > last:
        hint = "; they start at 0" if low == 1 and high == last + 1 else ""
        raise UserError(f"{file}: labels from {low} to {high}; {data.spec} has classes 0 to {last}{hint}")
    return rounded
