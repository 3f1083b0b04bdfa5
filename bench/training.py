"""Training a network by a recipe, and testing it. Every epoch draws from a stream of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from torch import Tensor, nn

from bench import seeds
from bench.augment import DSA
from bench.real import RealImages
from bench.recipes import Recipe

#: Images per forward when testing; fixed, because the last bits of a sum may depend on it.
TEST_BATCH = 500


class TrainingSet(Protocol):
    """Images and labels that can be drawn by index."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images [n, 3, H, W] in the pixel space, and labels [n] (classes) or [n, C] (probabilities)."""


class SyntheticSet:
    """A distilled set on the device."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images and labels of these indices."""
        chosen = torch.from_numpy(indices).to(self.images.device)
        return self.images[chosen], self.labels[chosen]


class RealSet:
    """The real training set."""

    def __init__(self, images: RealImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images and labels of these indices."""
        chosen = torch.from_numpy(indices).to(self.images.labels.device)
        return self.images.batch(indices), self.images.labels[chosen]


class Training:
    """One network in training; :meth:`epoch` advances it, :meth:`state` and :meth:`take_up` resume it.

    Args:
        network: on the device, freshly initialised.
        data: what to train on.
        recipe: how.
        lr: the recipe's learning rate for this network.
        augment: the DSA of the dataset, applied where the recipe says ``dsa``.
        stream: the numbers that place this training in the random streams.
    """

    def __init__(
        self,
        network: nn.Module,
        data: TrainingSet,
        recipe: Recipe,
        lr: float,
        augment: DSA,
        stream: tuple[int, ...],
    ) -> None:
        self.network, self.data, self.recipe = network, data, recipe
        self.epochs_done = 0
        #: What the epochs took, up to the last :meth:`read_loss` where a GPU works on by itself.
        self.seconds = 0.0
        self.last_loss = torch.zeros(())
        self._lr = lr
        self._augment = augment if recipe.augment == "dsa" else None
        self._stream = stream
        self._optimiser = self._new_optimiser(lr)

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
        self._schedule(self.epochs_done)
        rng = seeds.rng("training", *self._stream, self.epochs_done)
        order = rng.permutation(len(self.data))
        with seeds.forked("dropout", *self._stream, self.epochs_done):
            for start in range(0, len(order), self.recipe.batch):
                images, labels = self.data.batch(order[start : start + self.recipe.batch])
                if self._augment is not None:
                    images = self._augment.apply(images, self._augment.draw_batch(rng, len(images)))
                loss = F.cross_entropy(self.network(images), labels)
                self._optimiser.zero_grad()
                loss.backward()
                self._optimiser.step()
                self.last_loss = loss.detach()
                yield
        self.epochs_done += 1

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs."""
        return {
            "epochs_done": self.epochs_done,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "last_loss": self.last_loss,
        }

    def take_up(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.epochs_done, self.seconds = state["epochs_done"], state["seconds"]
        self.last_loss = state["last_loss"]
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])

    def _schedule(self, epoch: int) -> None:
        if self.recipe.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * epoch / self.recipe.epochs))
            for group in self._optimiser.param_groups:
                group["lr"] = self._lr * factor
        elif epoch == self.recipe.epochs // 2 + 2:
            # After the epoch with index E // 2 + 1 evaluate_synset of DatasetCondensation builds a new
            # optimiser with a tenth of the learning rate, which loses the momentum. Kept.
            self._optimiser = self._new_optimiser(0.1 * self._lr)

    def _new_optimiser(self, lr: float) -> torch.optim.Optimizer:
        recipe = self.recipe
        return torch.optim.SGD(
            self.network.parameters(), lr=lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )


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
