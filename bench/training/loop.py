"""Training a network by a recipe, and testing it. Every epoch draws from a stream of its own."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from torch import Tensor, nn
from torch.func import functional_call

from bench import seeds
from bench.errors import CellFailure
from bench.real import RealImages
from bench.training.batches import Augmentation, TrainingSet, batches, lone_image_joined
from bench.training.graphs import Graphed
from bench.training.optimise import Average, for_epoch, optimiser
from bench.training.recipes import AveragedRecipe, Recipe, SoftRecipe
from bench.training.softlabels import SoftLabels, soft_loss

#: Images per forward when testing; fixed, because the last bits of a sum may depend on it.
TEST_BATCH = 500


class Training:
    """One network in training; :meth:`epoch` advances it, :meth:`state` and :meth:`take_up` resume it.

    A last batch of one image, where the network cannot train on one (batch norm on maps of one position),
    joins the batch before it.

    Args:
        network: on the device, freshly initialised.
        data: what to train on.
        recipe: how.
        lr: the learning rate, for this network and set.
        augmentation: the dataset's, in the pixel space of ``data``.
        stream: the numbers that place this training in the random streams.
        labels: a teacher's, for a recipe that trains on them, instead of those of ``data``.

    Raises:
        CellFailure: all batches would be of one image, and the network cannot train on one.
        ValueError: the recipe needs soft labels and there are none, or they do not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        data: TrainingSet,
        recipe: Recipe,
        lr: float,
        augmentation: Augmentation,
        stream: tuple[int, ...],
        labels: SoftLabels | None = None,
    ) -> None:
        self.network, self.data, self.recipe = network, data, recipe
        self.epochs_done = 0
        #: What the epochs took, up to the last :meth:`read_loss` where a GPU works on by itself.
        self.seconds = 0.0
        self.last_loss = torch.zeros(())
        self.lr, self._augmentation, self._stream = lr, augmentation, stream
        self._labels = _checked(labels, recipe, data)
        self._joins = _joins(network, data, recipe.batch)
        self._optimiser = optimiser(recipe, network.parameters(), lr)
        self._average = Average(network, recipe.ema) if isinstance(recipe, AveragedRecipe) else None
        #: The forward in training, once :meth:`graph` was asked for.
        self.graphed: Graphed | None = None

    def graph(self) -> None:
        """From now on, start forward and backward as CUDA graphs where that can be done."""
        network = self.network
        forward = partial(functional_call, network)
        self.graphed = Graphed(forward, dict(network.named_parameters()), network.buffers())

    @property
    def tested(self) -> nn.Module:
        """The network that the recipe tests: the one in training, or the average of its weights."""
        return self.network if self._average is None else self._average.network

    @property
    def steps_per_epoch(self) -> int:
        """How often an epoch moves the weights."""
        return -(-len(self.data) // self.recipe.batch) - self._joins

    def epoch(self) -> None:
        """One pass over the data in a new order; ``last_loss`` is then its last batch's loss [scalar]."""
        clock = time.monotonic()
        for _ in self.steps():
            pass
        self.seconds += time.monotonic() - clock

    def read_loss(self) -> float:
        """``last_loss``, waited for on the clock."""
        clock = time.monotonic()
        loss = float(self.last_loss)
        self.seconds += time.monotonic() - clock
        return loss

    def steps(self) -> Iterator[None]:
        """The steps of the next epoch, one at a time."""
        self.network.train()
        parameters, forward = self.network.parameters(), self.graphed or self.network
        self._optimiser = for_epoch(self._optimiser, self.recipe, self.epochs_done, parameters, self.lr)
        with seeds.forked("dropout", *self._stream, self.epochs_done):
            for images, labels in self.batches():
                loss = self.loss(forward(images), labels)
                self._optimiser.zero_grad()
                loss.backward()
                self._optimiser.step()
                self.last_loss = loss.detach()
                yield
        self.finish_epoch(self.last_loss)

    def finish_epoch(self, loss: Tensor) -> None:
        """What follows the last step of an epoch, whose ``loss`` [scalar] was this."""
        self.last_loss = loss
        if self._average is not None:
            self._average.update(self.network)
        self.epochs_done += 1

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs."""
        return {
            "epochs_done": self.epochs_done,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "last_loss": self.last_loss,
            **({} if self._average is None else {"average": self._average.state()}),
        }

    def take_up(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`, whose tensors may be on the host."""
        self.epochs_done, self.seconds = state["epochs_done"], state["seconds"]
        self.last_loss = state["last_loss"].to(next(self.network.parameters()).device)
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        if self._average is not None:
            self._average.take_up(state["average"])

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the next epoch, with the labels to train on."""
        if self._labels is None:
            rng = seeds.rng("training", *self._stream, self.epochs_done)
            made = batches(self.data, self.recipe, self._augmentation, rng)
        else:
            rng = self._labels.stream(self.epochs_done)
            shown = batches(self.data, self.recipe, self._augmentation, rng)
            given = self._labels.epoch(self.epochs_done).split(self.recipe.batch)
            made = ((images, logits) for (images, _), logits in zip(shown, given, strict=True))
        return lone_image_joined(made) if self._joins else made

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the images of a batch, of logits [n, C] and the labels that come with them."""
        if isinstance(self.recipe, SoftRecipe):
            recipe = self.recipe
            return soft_loss(logits, labels, recipe.temperature, recipe.times_squared_temperature)
        return F.cross_entropy(logits, labels)


def _checked(labels: SoftLabels | None, recipe: Recipe, data: TrainingSet) -> SoftLabels | None:
    """The soft labels of a recipe that trains on them; None for any other."""
    if isinstance(recipe, SoftRecipe):
        if labels is None:
            raise ValueError(f"{recipe.name} trains on soft labels, and there are none")
        labels.check(recipe, len(data))
    elif labels is not None:
        raise ValueError(f"{recipe.name} trains on the set's own labels")
    return labels


def _joins(network: nn.Module, data: TrainingSet, batch: int) -> bool:
    """Whether a last batch of one image has to join the one before."""
    if batch > 1 and len(data) % batch != 1:
        return False
    one, _ = data.batch(np.zeros(1, np.int64))
    if _trains_on(network, one):
        return False
    if batch == 1 or len(data) == 1:
        raise CellFailure("the network's norm layers cannot train on batches of one image; take larger ones")
    return True


@torch.no_grad()
def _trains_on(network: nn.Module, images: Tensor) -> bool:
    """Whether a forward in training mode is possible; on a copy, for it would leave traces."""
    try:
        with seeds.forked("a batch of one"):
            copy.deepcopy(network).train()(images)
    except ValueError:  # "Expected more than 1 value per channel when training"
        return False
    return True


@torch.no_grad()
def correct(network: nn.Module, real: RealImages) -> int:
    """How many of the real images the network, in evaluation mode, classifies right."""
    network.eval()
    right = torch.zeros((), dtype=torch.int64, device=real.labels.device)
    for start in range(0, len(real), TEST_BATCH):
        indices = np.arange(start, min(start + TEST_BATCH, len(real)))
        predicted = network(real.batch(indices)).argmax(1)
        right += (predicted == real.labels[start : start + TEST_BATCH]).sum()
    return int(right)
