"""What pretrain cells leave, opened: networks, experts, generators, matrices, on the device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from baselines.generators import files as generators
from baselines.generators.base import Generator
from bench.cells import AUXILIARY, FILE, DatasetId, DistilCell, PretrainCell
from bench.errors import CellFailure, UserError
from bench.memory import real_tensors, to_fake
from bench.networks.build import Network, build
from bench.stages import Context
from bench.training.experts import ReplayBuffers, StoredExperts
from bench.zca import ZCA
from metadd import CAM, Unsuitable

#: The file that each kind of pretrain cell leaves.
NAMES = {
    "classifier": "network.safetensors",
    "expert": "trajectory.safetensors",
    "generator": "generator.safetensors",
    "zca": "zca.safetensors",
}


def load(cell: DistilCell | PretrainCell, context: Context) -> dict[str, Any]:
    """What a cell ``uses``, by name, on the device (or as fakes, where a fake mode is on).

    Raises:
        UserError: a file from elsewhere does not fit.
    """
    found: dict[str, Any] = {}
    dataset, device = context.dataset, context.device
    for name, keys in cell.uses.items():
        if keys[0].startswith(FILE):
            assert isinstance(cell, DistilCell)
            found[name] = _from_elsewhere(name, context.files[keys[0]], cell, device)
            continue
        (kind,) = {kind for kind, file in NAMES.items() if file in context.artifacts[keys[0]]}
        paths = [context.artifacts[key][NAMES[kind]] for key in keys]
        if kind == "expert":
            found[name] = StoredExperts(paths, device)
        elif kind == "zca":
            found[name] = ZCA.load(paths[0])
        elif name.startswith(AUXILIARY):
            found[name] = cam(paths[0], len(dataset.classes), dataset.size, device)
        elif kind == "classifier":
            found[name] = classifier(paths[0], len(dataset.classes), dataset.size, device)
        else:
            found[name] = _generator(paths[0], device)
    return found


def save_classifier(network: nn.Module, name: str, dataset: DatasetId, path: Path) -> None:
    """Write a network's parameters and buffers, with its name, as :func:`classifier` reads them."""
    about = {"network": name, "dataset": dataset.name, "classes": dataset.classes, "size": dataset.size}
    tensors = {key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}
    save_file(tensors, path, metadata={"metadd": json.dumps(about, sort_keys=True)})


def classifier(path: Path, classes: int, size: int, device: torch.device) -> Network:
    """A trained network, frozen and in evaluation mode."""
    with real_tensors() as fake:
        network = _classifier(path, classes, size)
    return network.to(device) if fake is None else to_fake(fake, network)


def cam(path: Path, classes: int, size: int, device: torch.device) -> CAM:
    """A trained network with its class activation maps.

    Raises:
        CellFailure: it has none.
    """
    with real_tensors() as fake:  # where the map is read is found by looking at values
        try:
            found = CAM(_classifier(path, classes, size), size)
        except Unsuitable as problem:
            raise CellFailure(str(problem)) from None
    return found.to(device) if fake is None else to_fake(fake, found)


def _classifier(path: Path, classes: int, size: int) -> Network:
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["metadd"])
    with torch.random.fork_rng(devices=[]):  # the weights that it is built with are replaced
        network = build(about["network"], classes, size)
    network.load_state_dict(load_file(path))
    return network.eval().requires_grad_(False)


def _generator(path: Path, device: torch.device) -> Generator:
    with real_tensors() as fake:
        generator = generators.load(path).eval().requires_grad_(False)
    return generator.to(device) if fake is None else to_fake(fake, generator)


def _from_elsewhere(name: str, path: Path, cell: DistilCell, device: torch.device) -> Any:
    about = cell.dataset
    if name == "experts":
        assert cell.network is not None
        with torch.device("meta"):
            network = build(cell.network, about.classes, about.size)
        shapes = [tuple(parameter.shape) for parameter in network.parameters()]
        settings = cell.settings.get("inner", cell.settings)
        last = settings["max_start_epoch"] - 1 + settings["expert_epochs"]
        return ReplayBuffers(path, shapes, device, last)
    try:
        generator = _generator(path, device)
    except ValueError as error:
        raise UserError(str(error)) from None
    if generator.size != about.size:
        raise UserError(
            f"{path}: its images are {generator.size} pixels wide, those of {about.name} {about.size}"
        )
    return generator
