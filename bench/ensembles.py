"""Several networks of one architecture trained at once, each as if it were alone (``torch.func``).

The weights of all are stacked, [K, ...] for each parameter, and the forward runs over the stack. Each network
keeps its own stream of batches and augmentation, and a step of the optimiser moves each weight by itself, so
what differs from training them one by one is the order of sums inside an operator.

Not wired into ``run`` yet: on a CPU it does not pay (tests/benchmarks/test_ensemble_training.py).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from bench import seeds
from bench.batches import Augmentation, TrainingSet, batches
from bench.optimise import optimiser, share_of_lr, starts_anew
from bench.recipes import AveragedRecipe, Recipe, SoftRecipe


def why_alone(network: nn.Module, recipe: Recipe) -> str | None:
    """Why networks like this one have to be trained one by one under a recipe; None where they need not.

    Batch norm keeps statistics, and dropout draws from the global generator in an order of its own.
    """
    if isinstance(recipe, SoftRecipe | AveragedRecipe):
        return f"the recipe {recipe.name} has soft labels or an average"
    if any(True for _ in network.buffers()):
        return "the network has buffers, such as the statistics of batch norm"
    for name, module in network.named_modules():
        if getattr(module, "p", 0) or getattr(module, "drop_prob", 0):
            return f"the network's {name} drops values at random"
    return None


class Ensemble:
    """Networks in training together; :meth:`epoch` advances all, :meth:`networks` gives them back.

    Args:
        networks: on the device, freshly initialised, all of one architecture.
        data: what to train on.
        recipe: how.
        lr: the learning rate.
        augmentation: the dataset's, in the pixel space of ``data``.
        streams: the numbers that place each training in the random streams, as for one alone.

    Raises:
        ValueError: they have to be trained one by one (:func:`why_alone`).
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        data: TrainingSet,
        recipe: Recipe,
        lr: float,
        augmentation: Augmentation,
        streams: Sequence[tuple[int, ...]],
    ) -> None:
        if reason := why_alone(networks[0], recipe):
            raise ValueError(reason)
        self.data, self.recipe, self.epochs_done = data, recipe, 0
        self._networks, self._streams = list(networks), list(streams)
        self._lr, self._augmentation = lr, augmentation
        self._base = copy.deepcopy(networks[0]).to("meta").train()
        #: Each parameter of all networks, [K, ...], by name.
        self.parameters: dict[str, Tensor] = stack_module_state(self._networks)[0]
        self._optimiser = optimiser(recipe, self._leaves, lr)

    def steps(self) -> Iterator[Tensor]:
        """The steps of the next epoch, one at a time; gives the losses [K] before each."""
        lr = self._lr * share_of_lr(self.recipe, self.epochs_done)
        if starts_anew(self.recipe, self.epochs_done):
            self._optimiser = optimiser(self.recipe, self._leaves, lr)
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        for images, labels in self._batches():
            logits = vmap(self._forward)(self.parameters, images)
            losses = vmap(F.cross_entropy)(logits, labels)
            self._optimiser.zero_grad()
            losses.sum().backward()
            self._optimiser.step()
            yield losses.detach()
        self.epochs_done += 1

    def epoch(self) -> None:
        """One pass of each network over the data."""
        for _ in self.steps():
            pass

    def networks(self) -> list[nn.Module]:
        """The networks, with their weights as they are now."""
        with torch.no_grad():
            for number, network in enumerate(self._networks):
                for name, parameter in network.named_parameters():
                    parameter.copy_(self.parameters[name][number])
        return self._networks

    @property
    def _leaves(self) -> list[nn.Parameter]:
        leaves: list[Any] = list(self.parameters.values())
        return leaves

    def _forward(self, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        logits: Tensor = functional_call(self._base, parameters, (images,))
        return logits

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each network's own batch: images [K, n, 3, H, W] and labels [K, n] or [K, n, C]."""
        epoch = self.epochs_done
        rngs = [seeds.rng("training", *stream, epoch) for stream in self._streams]
        made = [batches(self.data, self.recipe, self._augmentation, rng) for rng in rngs]
        for of_each in zip(*made, strict=True):
            images, labels = zip(*of_each, strict=True)
            yield torch.stack(images), torch.stack(labels)
