"""Several networks of one architecture trained at once, each as if it were alone (``torch.func``).

The weights of all are stacked, [K, ...] for each parameter, and the forward runs over the stack. Each network
has its own order, augmentation and initial weights, drawn by the very code that draws them for one alone, and
a step of the optimiser moves each weight by itself. So what differs from training them one by one is the
order of sums inside an operator. Statistics of batch norm are stacked like the weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.training.graphs import Graphed
from bench.training.loop import Training
from bench.training.optimise import for_epoch, optimiser


class Ensemble:
    """Trainings that advance together; :meth:`epoch` does what theirs would.

    Their networks' tensors become views of the stack: each training can be tested and asked for its state at
    any time between two epochs, but is not to be advanced by itself any more.

    Args:
        trainings: as many as wanted, after equally many epochs; alike but for their streams and weights.
            :meth:`try_one_step` says whether their networks can be trained together.
    """

    def __init__(self, trainings: Sequence[Training]) -> None:
        first = trainings[0]
        self.members = list(trainings)
        self.data, self.recipe, self.epochs_done = first.data, first.recipe, first.epochs_done
        #: All networks in training, and all that will be tested.
        self.network = nn.ModuleList(each.network for each in trainings)
        self.tested = nn.ModuleList(each.tested for each in trainings)
        #: Each parameter and buffer of all networks, [K, ...], by name.
        self.parameters, self.buffers = stack_module_state([each.network for each in trainings])
        for number, each in enumerate(trainings):
            for name, tensor in (*each.network.named_parameters(), *each.network.named_buffers()):
                stacked = self.parameters[name] if name in self.parameters else self.buffers[name]
                tensor.data = stacked.detach()[number]
        self._optimiser = optimiser(self.recipe, self._leaves, first.lr)
        self._optimiser.load_state_dict(_joined([each.state()["optimiser"] for each in trainings]))
        #: As of :class:`Training`.
        self.graphed: Graphed | None = None

    def graph(self) -> None:
        """As of :class:`Training`."""
        self.graphed = Graphed(self._logits, self.parameters, self.buffers.values())

    def try_one_step(self) -> None:
        """Take a step that moves the weights, to see whether it can be taken; for an ensemble to be dropped.

        Raises:
            RuntimeError: ``torch.func`` refuses the network, which draws at random (dropout) or does what
                cannot be done to several at once.
        """
        next(self.steps())

    def steps(self) -> Iterator[Tensor]:
        """The steps of the next epoch, one at a time; gives the losses [K] before each."""
        self.network.train()
        lr, forward = self.members[0].lr, self.graphed or partial(self._logits, self.parameters)
        self._optimiser = for_epoch(self._optimiser, self.recipe, self.epochs_done, self._leaves, lr)
        for images, labels in self._batches():
            each_loss = self._losses(forward(images), labels)
            self._optimiser.zero_grad()
            each_loss.sum().backward()
            self._optimiser.step()
            losses = each_loss.detach()
            yield losses
        for loss, each in zip(losses, self.members, strict=True):
            each.finish_epoch(loss)
        self.epochs_done += 1

    def epoch(self) -> None:
        """One pass of each network over the data."""
        clock = time.monotonic()
        for _ in self.steps():
            pass
        self._share(time.monotonic() - clock)

    def read_losses(self) -> list[float]:
        """The last loss of each, waited for on the clock."""
        clock = time.monotonic()
        losses: list[float] = torch.stack([each.last_loss for each in self.members]).tolist()
        self._share(time.monotonic() - clock)
        return losses

    def states(self) -> list[dict[str, Any]]:
        """The checkpoint of each, such as it would have left alone."""
        found = []
        for number, each in enumerate(self.members):
            own = each.state()  # of views: to write one of them would write the whole stack
            network = {name: tensor.clone() for name, tensor in own["network"].items()}
            found.append(own | {"network": network, "optimiser": _part(self._optimiser.state_dict(), number)})
        return found

    def _share(self, seconds: float) -> None:
        """Add what all of them took to the clocks, an equal part to each."""
        for each in self.members:
            each.seconds += seconds / len(self.members)

    @property
    def _leaves(self) -> list[nn.Parameter]:
        leaves: list[Any] = list(self.parameters.values())
        return leaves

    def _logits(self, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        """Logits [K, n, C] of the networks' own images [K, n, 3, H, W]."""
        with sdpa_kernel(SDPBackend.MATH):  # the one form of attention that can be stacked
            logits: Tensor = vmap(self._forward)(parameters, self.buffers, images)
        return logits

    def _forward(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.members[0].network, (parameters, buffers), (images,))
        return logits

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each, [K]."""
        loss = self.members[0].loss
        if self.recipe.soft:  # PyTorch has no stacked form of kl_div
            return torch.stack([loss(*each) for each in zip(logits, labels, strict=True)])
        return vmap(loss)(logits, labels)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each network's own batch: images [K, n, 3, H, W] and labels [K, n] or [K, n, C].

        A teacher's labels are for images that all see alike; these are made once.
        """
        count = len(self.members)
        drawn = self.members[:1] if self.recipe.soft else self.members
        for of_each in zip(*(each.batches() for each in drawn), strict=True):
            images, labels = (torch.stack(tensors) for tensors in zip(*of_each, strict=True))
            yield images.expand(count, *images.shape[1:]), labels.expand(count, *labels.shape[1:])


def _joined(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One optimiser's state from those of several, whose steps are equally many."""
    first = states[0]
    joined = {
        index: {
            name: value.clone() if name == "step" else torch.stack([s["state"][index][name] for s in states])
            for name, value in of_first.items()
        }
        for index, of_first in first["state"].items()
    }
    return {**first, "state": joined}


def _part(state: Mapping[str, Any], number: int) -> dict[str, Any]:
    """One network's part of the state of the optimiser of all."""
    parts = {
        index: {name: (value if name == "step" else value[number]).clone() for name, value in of_all.items()}
        for index, of_all in state["state"].items()
    }
    return {**state, "state": parts}
