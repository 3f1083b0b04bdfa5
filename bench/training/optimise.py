"""How a recipe moves the weights: optimiser, learning rate by epoch, and the average that is tested."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from bench.training.recipes import Recipe, WarmedRecipe


def optimiser(recipe: Recipe, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """A new optimiser. AdamW has PyTorch's betas, as SRe2L's scripts; ``momentum`` is SGD's alone."""
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(parameters, lr=lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def share_of_lr(recipe: Recipe, epoch: int) -> float:
    """What the learning rate is multiplied by in an epoch (from 0).

    With W epochs of warm-up from the share f, epoch e < W has f + (1 - f) e / W, as LinearLR gives it, and
    the schedule then takes the remaining R = E - W epochs, t = e - W from 0:

    * ``cosine``: (1 + cos(pi t / R)) / 2: all of it at t = 0, and never quite nothing.
    * ``step``: a tenth from t = R // 2 + 2 on.
    * ``constant``: all of it.

    These are the learning rates in the logs of tiny-imagenet's train_kd.py, epoch by epoch. GLaD's
    evaluate_synset changes from the one to the other an epoch late, so that two epochs have the whole rate
    and its cosine ends one earlier; not kept. Its warm-up starts at 1e-7 of the rate, for which we have 0.
    """
    warmup = _warmup(recipe)
    if epoch < warmup:
        assert isinstance(recipe, WarmedRecipe)
        return recipe.warmup_from + (1 - recipe.warmup_from) * epoch / warmup
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (recipe.epochs - warmup)))
    if recipe.schedule == "step":
        return 1.0 if epoch < _drop(recipe) else 0.1
    return 1.0


def starts_anew(recipe: Recipe, epoch: int) -> bool:
    """Whether an epoch begins with a new optimiser.

    After the epoch with index E // 2 + 1 evaluate_synset of DatasetCondensation builds a new optimiser with
    a tenth of the learning rate, which loses the momentum. Kept.
    """
    return recipe.schedule == "step" and epoch == _drop(recipe)


def for_epoch(
    before: torch.optim.Optimizer, recipe: Recipe, epoch: int, parameters: Iterable[nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    """The optimiser for an epoch (from 0): the one of the epoch before, or a new one, at the epoch's rate."""
    rate = lr * share_of_lr(recipe, epoch)
    found = optimiser(recipe, parameters, rate) if starts_anew(recipe, epoch) else before
    for group in found.param_groups:
        group["lr"] = rate
    return found


def _drop(recipe: Recipe) -> int:
    warmup = _warmup(recipe)
    return warmup + (recipe.epochs - warmup) // 2 + 2


def _warmup(recipe: Recipe) -> int:
    return recipe.warmup_epochs if isinstance(recipe, WarmedRecipe) else 0


class Average:
    """The exponential moving average of a network's weights, as GLaD's evaluate_synset tests it.

    It follows ema_pytorch with ``power=1``, ``update_after_step=0`` and ``update_every=1``: update k (from 0)
    keeps the share min(``keep``, k / (k + 1)) of the average. So update 0 copies, the average is the plain
    mean of all that it was given until k / (k + 1) reaches ``keep`` (k = 199 for 0.995), and an exponential
    one from there on. The running statistics of batch norm are averaged like the weights; counters, which
    are whole numbers, are copied. (Version 0.2.3, of GLaD's time, also copied at update 1.)
    """

    def __init__(self, network: nn.Module, keep: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._keep, self._updates = keep, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights as they are now."""
        keep = min(self._keep, self._updates / (self._updates + 1))
        for average, now in zip(_tensors(self.network), _tensors(network), strict=True):
            if average.is_floating_point():
                average.lerp_(now, 1 - keep)
            else:
                average.copy_(now)
        self._updates += 1

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"network": self.network.state_dict(), "updates": self._updates}

    def take_up(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.network.load_state_dict(state["network"])
        self._updates = state["updates"]


def _tensors(network: nn.Module) -> Iterable[Tensor]:
    return chain(network.parameters(), network.buffers())
