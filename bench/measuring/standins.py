"""What stands in, where memory is estimated or measured, for what cells use.

Right in shape, untrained, and without data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from baselines.defaults.generator import GeneratorSettings
from baselines.generators import files as generators
from baselines.generators.compact import CompactGenerator
from bench import data, seeds
from bench.cells import AUXILIARY, FILE, Cell, DatasetId, DistilCell, PretrainCell, canonical
from bench.data import Dataset, Identity, Split
from bench.data.spec import KINDS
from bench.data.types import offsets_of
from bench.errors import CellFailure, UserError
from bench.memory import to_fake
from bench.networks.build import build, parameters_count
from bench.plan import Plan
from bench.real import place
from bench.zca import ZCA
from metadd import CAM, Unsuitable

#: Image side, training and test images per class of the datasets that are the same everywhere.
_OFFICIAL = {"cifar10": (32, 5000, 1000), "cifar100": (32, 500, 100), "tiny-imagenet": (64, 500, 50)}


def identify(name: str, data_dir: Path | None = None) -> Identity:
    """What a dataset is, as :func:`bench.data.identify` says; the official ones need not be there.

    Those have no true ``content`` here, so their cells have other keys than in a run.

    Raises:
        UserError: the name is none, or another dataset (``imagefolder:PATH``) is missing or damaged.
    """
    spec = data.parse(name)
    classes = spec.classes or KINDS[spec.name].classes
    if spec.name not in _OFFICIAL or classes is None:
        return data.identify(spec, data_dir)
    size, train, test = _OFFICIAL[spec.name]
    if spec.tuning:
        test = train // 5
        train -= test
    names = tuple(str(label) for label in range(classes))
    return Identity(str(spec), "0" * 64, names, size, (train,) * classes, (test,) * classes)


def dataset(identity: Identity, *, noise: bool = False) -> Dataset:
    """A dataset of these shapes, all black or of random bytes; it takes next to no memory.

    Each image of ``noise`` is the one before it, shifted by a byte.
    """
    kind = KINDS[data.parse(identity.spec).name]
    splits = []
    for counts in (identity.train, identity.test):
        shape = (sum(counts), 3, identity.size, identity.size)
        images = np.broadcast_to(np.uint8(0), shape)
        if noise:
            shifted = seeds.rng("stand-in images").integers(0, 256, shape[0] + 3 * shape[2] ** 2)
            strides = (1, shape[2] ** 2, shape[2], 1)
            images = as_strided(shifted.astype(np.uint8), shape, strides, writeable=False)
        splits.append(Split(images, offsets_of(counts)))
    about = (identity.spec, identity.content, identity.classes, identity.size)
    return Dataset(*about, kind.mean, kind.std, *splits)


class StandIns:
    """What the cells of a plan use; networks of equal settings are built once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._built: dict[str, nn.Module] = {}

    def used(self, cell: DistilCell | PretrainCell, where: FakeTensorMode | torch.device) -> dict[str, Any]:
        """What a cell ``uses`` by name, as :func:`bench.artifacts.load` gives it: fakes, or on a device.

        Call it outside of the mode.

        Raises:
            UserError: a generator from a file cannot be read.
            CellFailure: a network has no class activation map, or cannot take images of this size.
        """
        return {name: self.one(name, keys, cell, where) for name, keys in cell.uses.items()}

    def one(self, name: str, keys: tuple[str, ...], cell: Cell, where: FakeTensorMode | torch.device) -> Any:
        """What a cell uses by this name, of these keys; see :meth:`used`."""
        about = cell.dataset
        if name == "experts":
            assert isinstance(cell, DistilCell)
            assert cell.network is not None
            device = where if isinstance(where, torch.device) else None
            return Vectors(len(keys), parameters_count(cell.network, about.classes, about.size), device)
        if name == "zca":
            side = 3 * about.size**2
            mean = torch.zeros(3, about.size, about.size)
            return ZCA(mean, torch.eye(side), torch.eye(side))
        kind = AUXILIARY if name.startswith(AUXILIARY) else ""
        if keys[0].startswith(FILE):
            key, settings = keys[0], dict[str, Any]()
        else:
            made = self._plan.planned[keys[0]].cell
            assert isinstance(made, PretrainCell)
            kind, settings = kind or made.what, dict(made.settings)
            named = settings.get("network") or _shape(settings)
            key = canonical([kind, named, about.classes, about.size])
        if key not in self._built:
            with torch.random.fork_rng(devices=[]):
                self._built[key] = self._build(kind, key, settings, about)
        built = self._built[key]
        return built.to(where) if isinstance(where, torch.device) else to_fake(where, built)

    def _build(self, kind: str, key: str, settings: Mapping[str, Any], about: DatasetId) -> nn.Module:
        if key.startswith(FILE):
            try:
                return generators.load(self._plan.files[key]).eval().requires_grad_(False)
            except ValueError as error:
                raise UserError(str(error)) from None
        if kind == "generator":
            shape = GeneratorSettings.model_validate(_shape(settings))
            made = CompactGenerator.from_settings(shape, about.classes, about.size)
            return made.eval().requires_grad_(False)
        network = build(settings["network"], about.classes, about.size).eval().requires_grad_(False)
        if kind != AUXILIARY:
            return network
        try:
            return CAM(network, about.size)
        except Unsuitable as problem:
            raise CellFailure(str(problem)) from None


#: Of random parameters of experts.
_SCALE = np.float32(0.05)


class Vectors:
    """Experts (:class:`baselines.base.Experts`): of zeros, or of small random numbers on a ``device``."""

    def __init__(self, experts: int, parameters: int, device: torch.device | None = None) -> None:
        self._experts, self._parameters, self._device = experts, parameters, device

    def __len__(self) -> int:
        return self._experts

    def parameters(self, expert: int, epoch: int) -> Tensor:
        """A vector [P]; made where it is asked for, so a fake one under a fake mode."""
        if self._device is None:
            return torch.zeros(self._parameters)
        drawn = seeds.rng("stand-in expert", expert, epoch).standard_normal(self._parameters, np.float32)
        return place(torch.from_numpy(_SCALE * drawn), self._device)


def _shape(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of a generator's settings says how it is built."""
    return {name: settings[name] for name in ("latent", "dim", "mapping_layers", "width")}
