"""What the harness lends a method (:class:`baselines.base.Tools`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from baselines import Task
from bench import seeds
from bench.augment import for_dataset
from bench.data import Dataset, parse
from bench.device import images_per_forward
from bench.memory import real_tensors, to_fake
from bench.networks.build import Network, build, reinitialise
from bench.pixels import Space
from bench.real import RealImages, place


class HarnessTools:
    """The tools of one part of one distillation; :meth:`at` moves them to an iteration.

    Every stream is named by (axis, distillation seed, part, iteration). Iteration 0 of the streams is for
    the initial images; the method's iteration k draws from k + 1.
    """

    def __init__(
        self,
        task: Task,
        dataset: Dataset,
        space: Space,
        device: torch.device,
        network: str | None,
        seed: int,
        part: int,
        artifacts: Mapping[str, Any],
    ) -> None:
        self.task, self.device, self.artifacts = task, device, artifacts
        self.per_forward = images_per_forward(device, task.size)
        self.augment = for_dataset(parse(dataset.spec).name, dataset.size)
        self.encode = space.encode
        self._space = space
        self._real = RealImages(dataset.train, space, device)
        self._network_name = network
        #: The latest network that was asked for, and its name.
        self._network: Network | None = None
        self._built: str | None = None
        self._stream = (seed, part)
        self._iteration = 0

    def at(self, k: int) -> HarnessTools:
        """These tools, with the streams of iteration ``k``."""
        self._iteration = k + 1
        return self

    @property
    def limits(self) -> tuple[Tensor, Tensor]:
        """0 and 1 in the pixel space, per channel; see :class:`baselines.base.Tools`."""
        mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in self._space.channels)
        return self.tensor(-mean / std), self.tensor((1 - mean) / std)

    def rng(self, axis: str, *numbers: int) -> np.random.Generator:
        """The NumPy generator for this axis in this iteration."""
        return seeds.rng(axis, *self._stream, self._iteration, *numbers)

    def tensor(self, values: np.ndarray) -> Tensor:
        """An array on the device."""
        return place(torch.from_numpy(values), self.device)

    def network(self, name: str | None = None) -> nn.Module:
        """The named network (or the suite's) with this iteration's random weights, on the device.

        A network that can be drawn anew in place is built once, for as long as no other is asked for.
        """
        name = name or self._network_name
        if name is None:
            raise TypeError("this method was planned without a network")
        with seeds.forked("network", *self._stream, self._iteration):
            if self._network is not None and self._built == name and self._network.redrawable:
                reinitialise(self._network)
                return self._network
            self._network = None  # so that two are never there at once
            with real_tensors() as fake:
                built = build(name, self.task.classes, self.task.size)
            self._network = built.to(self.device, non_blocking=True) if fake is None else to_fake(fake, built)
            self._built = name
        return self._network

    def real(self, first: int, last: int, per_class: int, *draw: int) -> Tensor:
        """Real images [last - first, K, 3, H, W] of these classes; see :class:`baselines.base.Tools`."""
        labels = range(first, last)
        k = min(per_class, *(self._real.class_size(label) for label in labels))
        drawn = [self._real.draw(label, k, self.rng("real", label, *draw)) for label in labels]
        images = self._real.batch(np.concatenate(drawn))
        return images.reshape(len(labels), k, *images.shape[1:])
