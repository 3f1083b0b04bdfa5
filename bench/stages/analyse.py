"""Analysis: what the class activation maps of several networks say of a set's images, or of real ones."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import safe_open
from torch import Tensor

from bench import artifacts
from bench import device as devices
from bench.cells import TEST_IMAGES, AnalyseCell
from bench.pixels import PixelSpace
from bench.real import RealImages
from bench.results import CAMS
from bench.sets import stored
from bench.stages import Context, Outcome
from metadd import CAM
from metadd.features import describe, hard_support, heterogeneous_maps, meta_map, normalised

#: Images that go through a network at once.
CHUNK = 64
#: Images in the picture: the first one of each of so many classes.
SHOWN = 4


def run(cell: AnalyseCell, context: Context) -> Outcome:
    """Look at the images through each network, one at a time.

    The result has means over images: ``meta``, ``heterogeneous``, ``iou`` and ``divergence``
    (:class:`metadd.features.Description`) and ``cross_entropy``, in nats, the mean over networks too; and the
    ``accuracies`` of the networks on the images, in percent, by name. Leaves ``cams.png``.

    Raises:
        CellFailure: a network has no class activation map.
    """
    started, device = time.monotonic(), context.device
    devices.reset_peak(device)
    unit, labels = _images(cell, context)
    seen_by_networks = PixelSpace("normalised", context.dataset.mean, context.dataset.std)
    images = seen_by_networks.encode(unit)
    names, maps, entropies, accuracies = [], [], [], []
    for done, key in enumerate(cell.networks, start=1):
        path = context.artifacts[key][artifacts.NAMES["classifier"]]
        names.append(_name(path))
        cam = artifacts.cam(path, cell.dataset.classes, cell.dataset.size, device)
        logits, of_network = look(cam, images, labels, cell.settings["grid"])
        maps.append(of_network)
        entropies.append(F.cross_entropy(logits.double(), labels))
        accuracies.append(100 * float((logits.argmax(1) == labels).double().mean()))
        context.progress(done, len(cell.networks))
    stacked = torch.stack(maps)
    said = describe(stacked, cell.settings["threshold"], cell.settings["temperature"])
    columns = {name: getattr(said, name) for name in ("meta", "heterogeneous", "iou", "divergence")}
    result = {name: float(column.double().mean()) for name, column in columns.items()}
    result |= {"cross_entropy": float(torch.stack(entropies).mean()), "images": len(images)}
    shown = _first_of_each_class(labels)
    classes = [context.dataset.classes[int(label)] for label in labels[shown]]
    supports = hard_support(stacked[:, shown], cell.settings["threshold"])
    pictures = [*stacked[:, shown], meta_map(supports), heterogeneous_maps(supports).amax(0)]
    _save_plate(unit[shown], pictures, classes, names, context.workspace / CAMS)
    cost = {"seconds": time.monotonic() - started, **devices.peak(device)}
    return Outcome(result | {"accuracies": dict(zip(names, accuracies, strict=True))}, cost)


@torch.no_grad()
def look(cam: CAM, images: Tensor, labels: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Logits [N, C] and normalised maps [N, grid, grid] of the images' own classes, in chunks."""
    logits, maps = [], []
    for some, their_labels in zip(images.split(CHUNK), labels.split(CHUNK), strict=True):
        said, seen = cam(some, their_labels)
        logits.append(said)
        maps.append(normalised(seen, grid))
    return torch.cat(logits), torch.cat(maps)


def _name(path: Path) -> str:
    """The name of the network that a file holds."""
    with safe_open(path, framework="pt") as file:
        return str(json.loads(file.metadata()["metadd"])["network"])


def _images(cell: AnalyseCell, context: Context) -> tuple[Tensor, Tensor]:
    """The images in [0, 1] units [N, 3, H, W] and their classes, on the device."""
    if cell.images == (TEST_IMAGES,):
        assert cell.per_class is not None
        split = context.dataset.test.first(cell.per_class)
        real = RealImages(split, PixelSpace("unit"), context.device)
        return real.batch(np.arange(len(real))), real.labels
    found = stored([context.artifacts[key]["images.safetensors"] for key in cell.images])
    return found.encoded(PixelSpace("unit")).to(context.device), found.labels.to(context.device)


def _first_of_each_class(labels: Tensor) -> list[int]:
    """Indices of the first image of each of the first few classes."""
    found: dict[int, int] = {}
    for index, label in enumerate(labels.tolist()):
        found.setdefault(label, index)
    return [found[label] for label in sorted(found)[:SHOWN]]


def _save_plate(
    unit: Tensor, maps: Sequence[Tensor], classes: Sequence[str], networks: Sequence[str], path: Path
) -> None:
    """One picture: a row per image, the image clamped to [0, 1] and then its maps in grey.

    Maps [K, g, g] are made as large as the images without smoothing: each position is a block. The PNG's
    text says what a figure needs: the classes, how many columns there are, and the networks' names.
    """
    side, columns = unit.shape[-1], [unit.clamp(0, 1)]
    for each in maps:
        rows = torch.arange(side, device=each.device) * each.shape[-1] // side
        columns.append(each[:, rows][:, :, rows][:, None].expand(-1, 3, -1, -1))
    sheet = torch.stack(columns, 1).mul(255).round().to(torch.uint8).cpu()  # [K, columns, 3, H, W]
    sheet = sheet.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    text = PngInfo()
    about = {"classes": list(classes), "columns": len(columns), "networks": list(networks)}
    text.add_text("metadd", json.dumps(about))
    Image.fromarray(sheet.numpy()).save(path, pnginfo=text)
