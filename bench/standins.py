"""What stands in, where memory is estimated, for what cells use: right in shape, untrained, without data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from baselines.defaults.generator import GeneratorSettings
from baselines.generators import files as generators
from baselines.generators.compact import CompactGenerator
from bench import data
from bench.cells import AUXILIARY, FILE, DatasetId, DistilCell, PretrainCell, canonical
from bench.data import Dataset, Identity, Split
from bench.data.spec import KINDS
from bench.data.types import offsets_of
from bench.errors import CellFailure, UserError
from bench.memory import to_fake
from bench.networks.build import build, parameters_count
from bench.plan import Plan
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


def dataset(identity: Identity) -> Dataset:
    """A dataset of these shapes, all black; it takes no memory."""
    kind = KINDS[data.parse(identity.spec).name]
    splits = []
    for counts in (identity.train, identity.test):
        images = np.broadcast_to(np.uint8(0), (sum(counts), 3, identity.size, identity.size))
        splits.append(Split(images, offsets_of(counts)))
    about = (identity.spec, identity.content, identity.classes, identity.size)
    return Dataset(*about, kind.mean, kind.std, *splits)


class StandIns:
    """What the distil cells of a plan use; networks of equal settings are built once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._built: dict[str, nn.Module] = {}

    def used(self, cell: DistilCell, mode: FakeTensorMode) -> dict[str, Any]:
        """What a cell ``uses`` by name, as :func:`bench.artifacts.load` gives it; fakes of ``mode``.

        Call it outside of the mode.

        Raises:
            UserError: a generator from a file cannot be read.
            CellFailure: a network has no class activation map, or cannot take images of this size.
        """
        return {name: self._one(name, keys, cell, mode) for name, keys in cell.uses.items()}

    def _one(self, name: str, keys: tuple[str, ...], cell: DistilCell, mode: FakeTensorMode) -> Any:
        about = cell.dataset
        if name == "experts":
            assert cell.network is not None
            return Vectors(len(keys), parameters_count(cell.network, about.classes, about.size))
        if name == "zca":
            side = 3 * about.size**2
            mean = torch.zeros(3, about.size, about.size)
            return ZCA(mean, torch.zeros(side, side), torch.zeros(side, side))
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
        return to_fake(mode, self._built[key])

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


class Vectors:
    """Experts (:class:`baselines.base.Experts`) whose parameters are all zero."""

    def __init__(self, experts: int, parameters: int) -> None:
        self._experts, self._parameters = experts, parameters

    def __len__(self) -> int:
        return self._experts

    def parameters(self, expert: int, epoch: int) -> Tensor:
        """A vector [P]; made where it is asked for, so a fake one under a fake mode."""
        return torch.zeros(self._parameters)


def _shape(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of a generator's settings says how it is built."""
    return {name: settings[name] for name in ("latent", "dim", "mapping_layers", "width")}
