"""A plug-in in the distillation loop: how often it acts, on which images, and how strongly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.cells import AUXILIARY, RHO_IS_OF, DistilCell
from bench.device import images_with_graph
from bench.pixels import Space
from bench.stages.tools import HarnessTools
from bench.synthetic import Synthetic
from metadd import PLUGINS
from metadd.cam import CAM

#: What a cell's plug-in holds besides its settings.
_NO_SETTINGS = ("name", "version", "source", RHO_IS_OF)


class Plugged:
    """The plug-in of one distillation.

    It sees images in [0, 1] units, whatever their pixel space, and draws from streams of its own, so that a
    method's draws are the same with and without it.

    Args:
        cell: says which plug-in, with what settings.
        space: the pixel space of the images.
        used: the plug-in's networks (:class:`metadd.CAM`) among what the cell uses.
        mean: of the channels, as the networks were trained.
        std: of the channels.
        device: where the images are.
    """

    def __init__(
        self,
        cell: DistilCell,
        space: Space,
        used: Mapping[str, Any],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
    ) -> None:
        entry = PLUGINS[cell.plugin["name"]]
        values = {name: v for name, v in cell.plugin.items() if name not in _NO_SETTINGS}
        if values.get("chunk", 0) is None:
            values["chunk"] = images_with_graph(device, cell.dataset.size)
        self.settings = entry.settings.model_validate(values)
        networks: list[CAM] = [used[AUXILIARY + name] for name in self.settings.auxiliary]
        self._plugin = entry.make(self.settings, networks, mean, std)
        self._space = space

    def add_to(self, x: Synthetic, update: int, tools: HarnessTools) -> None:
        """Add the plug-in's gradient to the method's own, where it is due at this update.

        At n of N images its norm is about sqrt(N / n) times that at all of them, of which `rho` is the share:
        on average over updates each image is then pushed as if all were seen.
        """
        if self.settings.adds_nothing or update % self.settings.every:
            return
        rows = self._rows(x, update, tools)
        gradient = self._gradient(x.images[rows], x.labels[rows])
        if self.settings.weight is None:
            # A norm is a tensor here: the harness may not wait for the device.
            whole = gradient.norm() * math.sqrt(len(gradient) / len(x.images))
            strength = self.settings.rho * x.gradient.norm() / whole.clamp_min(1e-12)
        else:
            strength = gradient.new_full((), self.settings.weight)
        x.add(rows, gradient.mul(strength))

    def terms(self, x: Synthetic) -> dict[str, float]:
        """Each term of the plug-in's loss on all images, and the share of the terms' gradient norms it gives.

        For the record; it waits for the device.
        """
        unit = self._space.decode(x.images)
        found = self._plugin.terms(unit, x.labels)
        norms = {name: float(norm) for name, (_, norm) in found.items()}
        whole = sum(norms.values()) or 1.0
        values = {name: float(value) for name, (value, _) in found.items()}
        return values | {f"{name}_share": norm / whole for name, norm in norms.items()}

    def _gradient(self, images: Tensor, labels: Tensor) -> Tensor:
        """The plug-in's gradient at images of the pixel space."""
        leaf = images.detach().requires_grad_()
        unit = self._space.decode(leaf)
        seen = unit.detach().requires_grad_()
        self._plugin.backward(seen, labels)
        assert seen.grad is not None
        if unit is leaf:
            return seen.grad
        (gradient,) = torch.autograd.grad(unit, leaf, seen.grad)
        return gradient

    def _rows(self, x: Synthetic, update: int, tools: HarnessTools) -> slice | Tensor:
        """The images of this update: all, or so many of each class, drawn anew; sorted.

        Every image is as likely as any other, so that the gradient, 0 elsewhere, is on average that of all.
        """
        wanted = self.settings.images_per_update
        if wanted >= len(x.images):
            return slice(None)
        rng = tools.rng("plug-in images", update)
        each, more = divmod(wanted, x.classes)
        lucky = set(rng.permutation(x.classes)[:more].tolist())
        chosen = [c * x.ipc + rng.permutation(x.ipc)[: each + (c in lucky)] for c in range(x.classes)]
        return tools.tensor(np.sort(np.concatenate(chosen)))
