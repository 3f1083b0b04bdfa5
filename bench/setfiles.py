"""The kinds of file that a distilled set from elsewhere comes in, read as they are and running no code.

:func:`bench.sets.read` says what is accepted, and checks it.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.data import Identity
from bench.data.images import SUFFIXES as IMAGE_SUFFIXES
from bench.data.images import decode
from bench.errors import UserError, near
from bench.pixels import Space
from bench.zca import described

# What the readers raise on files that are damaged or something else than their name says.
_DAMAGE = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Record:
    """What a file of ours says of itself: pixel space, dataset, distillation seed, the step size learnt."""

    space: Space
    dataset: str
    classes: int
    seed: int
    step_size: float | None = None


@dataclass(frozen=True)
class Arrays:
    """What a file holds: float32, uint8 or int64, of unchecked shapes and values.

    Only a ``.pt`` file of images alone has no labels.
    """

    images: Tensor
    labels: Tensor | None
    record: Record | None = None


def load(file: Path, data: Identity) -> Arrays:
    """Read a file or folder of any kind; ``data`` is needed for a folder's class names.

    Raises:
        UserError: there is nothing, it is damaged or of another kind, or has no images and labels.
    """
    if file.is_dir():
        return _folder(file, data)
    if not file.exists():
        raise UserError(f"{file}: no such file; a set is a {', '.join(_READERS)} file or a folder of images")
    suffix = file.suffix.lower()
    if suffix not in _READERS:
        raise UserError(f"{file}: unknown kind {suffix!r}; a set is a {', '.join(_READERS)} file or a folder")
    try:
        found = _READERS[suffix](file)
    except _DAMAGE as error:
        raise UserError(f"{file}: damaged, or no {suffix} file ({_line(error)})") from None
    labels = None if found.labels is None else _plain(file, "labels", found.labels)
    return Arrays(_plain(file, "images", found.images), labels, found.record)


def _plain(file: Path, name: str, tensor: Tensor) -> Tensor:
    """Without a graph, and in one of the three types that all that follows knows."""
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized or tensor.is_meta:
        raise UserError(f"{file}: `{name}` is no plain array of numbers ({tensor.dtype}, {tensor.layout})")
    if tensor.is_floating_point():
        return tensor.detach().float()
    return tensor if tensor.dtype == torch.uint8 else tensor.long()


def _npz(file: Path) -> Arrays:
    if not zipfile.is_zipfile(file):  # np.load would take it for something else, by its first bytes
        raise UserError(f"{file}: damaged, or no .npz file: np.savez(file, images=…, labels=…) makes one")
    with np.load(file, allow_pickle=False) as archive:

        def get(name: str) -> Tensor:
            try:
                array = archive[name]
            except ValueError as error:
                if "Object arrays" not in str(error):
                    raise
                raise UserError(
                    f"{file}: `{name}` is an array of Python objects, and reading it could run code; "
                    "save it as one array of numbers"
                ) from None
            if array.dtype.kind not in "biuf":
                raise UserError(f"{file}: `{name}` is {array.dtype}; numbers are expected")
            return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))

        _has_both(file, archive.files)
        return Arrays(get("images"), get("labels"))


def _safetensors(file: Path) -> Arrays:
    with safe_open(file, framework="pt") as opened:
        _has_both(file, list(opened.keys()))
        text = (opened.metadata() or {}).get("metadd")
        record = None
        if text is not None:
            try:
                about = json.loads(text)
                cell = about["cell"]
                dataset = cell["dataset"]
                space = described(about["space"], file)
                record = Record(
                    *(space, str(dataset["name"]), int(dataset["classes"]), int(cell["seed"])),
                    step_size=step_size(opened),
                )
            except (ValueError, TypeError, LookupError):
                raise UserError(f"{file}: its record (metadata `metadd`) is damaged; make it again") from None
        return Arrays(opened.get_tensor("images"), opened.get_tensor("labels"), record)


def step_size(file: Any) -> float | None:
    """The step size that an opened safetensors file of ours holds, if the method learns one (MTT)."""
    return float(file.get_tensor("step_size")) if "step_size" in file.keys() else None  # noqa: SIM118


class _Skipped:
    """Takes the place of NumPy's scalars and types when a `.pt` file is read."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# The DC code saves accuracies beside the images, as NumPy scalars, which `weights_only` refuses. Nobody
# needs them here, so they are not made at all.
_SKIP = [
    (_Skipped, "numpy.dtype"),
    (_Skipped, "numpy.core.multiarray.scalar"),
    (_Skipped, "numpy._core.multiarray.scalar"),
]


def _pt(file: Path) -> Arrays:
    try:
        # Files of old PyTorch versions, and files of other programs, make it warn of what is refused anyway.
        with warnings.catch_warnings(), torch.serialization.safe_globals(_SKIP):  # type: ignore[arg-type]
            warnings.simplefilter("ignore")
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, LookupError) as error:  # a byte that means nothing is a KeyError
        if refused := re.search(r"GLOBAL (\S+) was not an allowed|whose module (\S+) is blocked", str(error)):
            raise UserError(
                f"{file}: holds a {refused[1] or refused[2]}, and reading that could run code; "
                "save a dict of tensors: torch.save({'images': …, 'labels': …}, file)"
            ) from None
        raise UserError(f"{file}: damaged, or no .pt file: torch.save writes one") from None
    if isinstance(found, Tensor):
        return Arrays(found, _labels_beside(file))
    if isinstance(found, Mapping) and isinstance(found.get("data"), list):
        return _pairs(file, found["data"])
    if not isinstance(found, Mapping):
        raise UserError(f"{file}: holds a {type(found).__name__}; a tensor or a dict of tensors is expected")
    _has_both(file, list(map(str, found)))
    for name in ("images", "labels"):
        if not isinstance(found[name], Tensor):
            raise UserError(f"{file}: `{name}` is a {type(found[name]).__name__}; a tensor is expected")
    return Arrays(found["images"], found["labels"])


def _labels_beside(file: Path) -> Tensor | None:
    """What the MTT code saves as ``labels_X.pt`` beside its ``images_X.pt``."""
    beside = file.with_name(file.name.replace("images", "labels", 1))
    if beside == file or not beside.exists():
        return None
    try:
        labels = torch.load(beside, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise UserError(f"{beside}: the labels of {file.name} cannot be read ({_line(error)})") from None
    if not isinstance(labels, Tensor):
        raise UserError(f"{beside}: a {type(labels).__name__}; the labels of {file.name} are expected")
    return labels


def _pairs(file: Path, pairs: list[Any]) -> Arrays:
    """``data`` in the ``res_*.pt`` of the DC, DSA and DM code: [images, labels] of each experiment."""
    if not pairs:
        raise UserError(f"{file}: its `data` list is empty: no experiment was finished")
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) < 2:
            raise UserError(f"{file}: `data` is expected to list [images, labels] pairs")
        if not isinstance(pair[0], Tensor) or not isinstance(pair[1], Tensor):
            raise UserError(f"{file}: `data` is expected to list pairs of tensors, [images, labels]")
        if (pair[0].shape, pair[1].shape) != (pairs[0][0].shape, pairs[0][1].shape):
            raise UserError(
                f"{file}: its sets have different shapes (images {list(pairs[0][0].shape)} and "
                f"{list(pair[0].shape)}); save them one by one"
            )
    return Arrays(torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs]))


def _folder(folder: Path, data: Identity) -> Arrays:
    known = {name: label for label, name in enumerate(data.classes)}
    images, labels = [], []
    for path in _visible(folder):
        if not path.is_dir():
            if path.suffix.lower() in IMAGE_SUFFIXES:
                raise UserError(f"{path}: an image outside the class folders; move it into one")
            continue
        if path.name in known:
            label = known[path.name]
        elif path.name.isdecimal() and int(path.name) < len(known):
            label = int(path.name)
        else:
            raise UserError(
                f"{path}: no class of {data.spec}; folders are named by class or by number "
                f"(0 to {len(known) - 1}); {near(path.name, list(known))}"
            )
        for file in _visible(path):
            if file.is_dir():
                raise UserError(f"{file}: a folder inside a class folder; only images are expected there")
            images.append(decode(file.read_bytes(), str(file), data.size))
            labels.append(label)
    if not images:
        raise UserError(f"{folder}: no images; a folder per class with images in it is expected")
    return Arrays(torch.from_numpy(np.stack(images)), torch.tensor(labels))


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _has_both(file: Path, names: list[str]) -> None:
    for name in ("images", "labels"):
        if name not in names:
            raise UserError(f"{file}: no `{name}`; it has {', '.join(map(repr, names)) or 'nothing'}")


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__


_READERS: dict[str, Callable[[Path], Arrays]] = {".npz": _npz, ".safetensors": _safetensors, ".pt": _pt}
