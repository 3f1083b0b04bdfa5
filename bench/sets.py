"""Distilled sets: images and labels with their pixel space. Ours, from the store; others, from files."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.data import Identity
from bench.errors import UserError
from bench.pixels import PixelSpace

Pixels = Literal["unit", "normalised", "uint8"]
_SUFFIXES = (".npz", ".safetensors", ".pt")


@dataclass(frozen=True)
class DistilledSet:
    """Images float32 [N, 3, H, W] in ``space``; labels int64 [N], or float32 [N, C] where they are soft."""

    images: Tensor
    labels: Tensor
    space: PixelSpace

    def encoded(self, space: PixelSpace) -> Tensor:
        """The images in another pixel space; untouched where it is the same."""
        return self.images if space == self.space else space.encode(self.space.decode(self.images))


def stored(paths: Sequence[Path]) -> DistilledSet:
    """The set whose parts are these ``images.safetensors`` of finished distil cells."""
    images, labels, spaces = [], [], []
    for path in paths:
        with safe_open(path, framework="pt") as file:
            images.append(file.get_tensor("images"))
            labels.append(file.get_tensor("labels"))
            spaces.append(PixelSpace.from_json(json.loads(file.metadata()["metadd"])["space"]))
    if any(space != spaces[0] for space in spaces):
        raise ValueError(f"parts in different pixel spaces: {paths}")
    return DistilledSet(torch.cat(images), torch.cat(labels), spaces[0])


def read(file: Path, data: Identity, normalised: PixelSpace, pixels: Pixels | None) -> list[DistilledSet]:
    """Sets made elsewhere, for a dataset.

    Args:
        file: ``.npz`` or ``.safetensors`` with ``images`` [N, 3, H, W] or [sets, N, 3, H, W] (float, or
            uint8) and ``labels`` [N] or [N, C]; ``.pt`` with the same keys, with the ``data`` list of the
            DC, DSA and DM code, or with images alone (class-major, equally many a class); or a folder with
            a folder of images per class.
        data: the dataset that it is for.
        normalised: the dataset's normalised space.
        pixels: the space of float images; needed unless the file says it (ours do).

    Raises:
        UserError: the file cannot be read, or does not fit the dataset.
    """
    if file.is_dir():
        return [_folder(file, data)]
    if not file.exists():
        raise UserError(f"{file}: no such file; a set is a {', '.join(_SUFFIXES)} file or a folder of images")
    if file.suffix not in _SUFFIXES:
        raise UserError(f"{file}: unknown kind {file.suffix!r}; a set is {', '.join(_SUFFIXES)} or a folder")
    try:
        arrays, space = {".npz": _npz, ".safetensors": _safetensors, ".pt": _pt}[file.suffix](file)
    except (OSError, ValueError, RuntimeError, SafetensorError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: cannot be read ({_line(error)})") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{file}: holds more than tensors, and reading that would run its code; save a dict of tensors"
        ) from None
    images, labels = _arrays(file, arrays, data)
    given = _space(file, images, space, normalised, pixels)
    if images.ndim == 4:
        images, labels = images[None], labels[None] if labels is not None else None
    if labels is None:
        labels = _class_major(file, images.shape[:2], len(data.classes))
    elif labels.ndim == 1 or (labels.ndim == 2 and labels.is_floating_point()):
        labels = labels.expand(len(images), *labels.shape)
    return [_checked(file, one, label, given, data) for one, label in zip(images, labels, strict=True)]


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _npz(file: Path) -> tuple[Mapping[str, Any], PixelSpace | None]:
    with np.load(file, allow_pickle=False) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}, None


def _safetensors(file: Path) -> tuple[Mapping[str, Any], PixelSpace | None]:
    with safe_open(file, framework="pt") as opened:
        about = (opened.metadata() or {}).get("metadd")
        space = PixelSpace.from_json(json.loads(about)["space"]) if about else None
        return {name: opened.get_tensor(name) for name in opened.keys()}, space  # noqa: SIM118


def _pt(file: Path) -> tuple[Mapping[str, Any], PixelSpace | None]:
    found = torch.load(file, map_location="cpu", weights_only=True)
    if isinstance(found, Tensor):
        return {"images": found}, None
    if isinstance(found, Mapping) and isinstance(found.get("data"), list):
        # res_*.pt of DatasetCondensation: {"data": [[images, labels], ...], ...}
        pairs = found["data"]
        return {
            "images": torch.stack([p[0] for p in pairs]),
            "labels": torch.stack([p[1] for p in pairs]),
        }, None
    if isinstance(found, Mapping):
        return found, None
    raise ValueError(f"a {type(found).__name__} where a tensor or a dict of tensors is expected")


def _arrays(file: Path, arrays: Mapping[str, Any], data: Identity) -> tuple[Tensor, Tensor | None]:
    images, labels = arrays.get("images"), arrays.get("labels")
    if not isinstance(images, Tensor):
        raise UserError(f"{file}: no array `images`; it has {', '.join(map(str, arrays)) or 'nothing'}")
    size = data.size
    if images.ndim not in (4, 5) or images.shape[-3:] != (3, size, size) or 0 in images.shape:
        raise UserError(
            f"{file}: images of shape {list(images.shape)} do not fit {data.spec}: [N, 3, {size}, {size}] "
            f"or [sets, N, 3, {size}, {size}] is expected"
        )
    if labels is not None and not isinstance(labels, Tensor):
        raise UserError(f"{file}: `labels` is a {type(labels).__name__}, not an array")
    return images, labels


def _space(
    file: Path, images: Tensor, own: PixelSpace | None, normalised: PixelSpace, pixels: Pixels | None
) -> PixelSpace:
    if images.dtype == torch.uint8 or pixels == "uint8":
        if pixels not in (None, "uint8"):
            raise UserError(f"{file}: uint8 images are not --pixels {pixels}; leave --pixels out")
        return PixelSpace("unit", std=(1 / 255,) * 3) if images.dtype == torch.uint8 else _bytes(file, images)
    if not images.is_floating_point():
        raise UserError(f"{file}: images are {images.dtype}; uint8 or a float type is expected")
    if own is not None:
        if pixels is not None and pixels != own.kind:
            raise UserError(
                f"{file}: its own record says pixels {own.kind}, not {pixels}; leave --pixels out"
            )
        return own
    if pixels is None:
        low, high = float(images.min()), float(images.max())
        looks = "unit" if low >= -0.01 and high <= 1.01 else "normalised"
        raise UserError(
            f"{file}: float images need --pixels unit or normalised "
            f"(values from {low:.2f} to {high:.2f} look {looks})"
        )
    return PixelSpace("unit") if pixels == "unit" else normalised


def _bytes(file: Path, images: Tensor) -> PixelSpace:
    if images.min() < 0 or images.max() > 255 or images.max() <= 1:
        raise UserError(f"{file}: --pixels uint8 means values from 0 to 255, but they are {_range(images)}")
    return PixelSpace("unit", std=(1 / 255,) * 3)


def _range(images: Tensor) -> str:
    return f"{float(images.min()):.2f} to {float(images.max()):.2f}"


def _class_major(file: Path, shape: torch.Size, classes: int) -> Tensor:
    sets, n = shape
    if n % classes:
        raise UserError(f"{file}: no `labels`, and {n} images are not equally many for {classes} classes")
    return torch.arange(classes).repeat_interleave(n // classes).expand(sets, n)


def _checked(file: Path, images: Tensor, labels: Tensor, given: PixelSpace, data: Identity) -> DistilledSet:
    classes = len(data.classes)
    soft = labels.is_floating_point() and labels.ndim == 2
    if len(labels) != len(images) or (labels.ndim != 1 and not soft):
        raise UserError(
            f"{file}: labels of shape {list(labels.shape)} do not fit {len(images)} images: "
            f"[{len(images)}] integers or [{len(images)}, {classes}] probabilities are expected"
        )
    if soft:
        if labels.shape[1] != classes:
            raise UserError(f"{file}: soft labels for {labels.shape[1]} classes; {data.spec} has {classes}")
        sums = labels.double().sum(1)
        if not labels.isfinite().all() or labels.min() < 0 or (sums - 1).abs().max() > 1e-2:
            raise UserError(f"{file}: soft labels must be probabilities (not negative, summing to 1)")
        labels = (labels.double() / sums[:, None]).float()
    else:
        rounded = labels.long()
        if (rounded != labels).any():
            raise UserError(f"{file}: labels are not whole numbers")
        if rounded.min() < 0 or rounded.max() >= classes:
            raise UserError(
                f"{file}: labels from {int(rounded.min())} to {int(rounded.max())}; "
                f"{data.spec} has classes 0 to {classes - 1}"
            )
        labels = rounded
    images = images.float()
    if not images.isfinite().all():
        raise UserError(f"{file}: some pixels are not finite numbers")
    if given.kind == "unit":  # bytes, or [0, 1]: both become [0, 1]
        images, given = given.std[0] * images, PixelSpace("unit")
    return DistilledSet(images.contiguous(), labels.contiguous(), given)


def _folder(folder: Path, data: Identity) -> DistilledSet:
    from PIL import Image, UnidentifiedImageError

    known = {name: label for label, name in enumerate(data.classes)}
    images, labels = [], []
    for sub in sorted(path for path in folder.iterdir() if path.is_dir()):
        if sub.name not in known and not (sub.name.isdecimal() and int(sub.name) < len(known)):
            raise UserError(
                f"{sub}: no class of {data.spec}; folders are named by class ({data.classes[0]}, …) or number"
            )
        label = known[sub.name] if sub.name in known else int(sub.name)
        for path in sorted(sub.iterdir()):
            try:
                with Image.open(path) as image:
                    pixels = np.array(image.convert("RGB"))
            except (UnidentifiedImageError, OSError) as error:
                raise UserError(f"{path}: not an image ({_line(error)})") from None
            if pixels.shape[:2] != (data.size, data.size):
                raise UserError(
                    f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels; {data.size}x{data.size} needed"
                )
            images.append(torch.from_numpy(pixels).permute(2, 0, 1))
            labels.append(label)
    if not images:
        raise UserError(f"{folder}: no images; a folder per class with images in it is expected")
    return DistilledSet(torch.stack(images).float() / 255, torch.tensor(labels), PixelSpace("unit"))
