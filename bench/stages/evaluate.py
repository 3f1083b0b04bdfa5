"""Evaluation: a fresh network, trained on a set by a recipe, tested once after the last step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from bench import device as devices
from bench import seeds
from bench.cells import WHOLE_TRAINING_SET, EvaluateCell
from bench.data import Dataset
from bench.errors import CellFailure
from bench.memory import LiveBytes
from bench.networks.build import build
from bench.networks.names import parse as parse_network
from bench.pixels import Space
from bench.real import RealImages
from bench.sets import DistilledSet, stored
from bench.stages import Context, Outcome, checkpoint
from bench.stages.distill import COUNTED_UPDATES
from bench.training import graphs, recipes
from bench.training.batches import Augmentation, RealSet, SyntheticSet, TrainingSet, training_space
from bench.training.ensembles import Ensemble
from bench.training.loop import Training, correct
from bench.training.recipes import Recipe, StepSizeRecipe
from bench.training.softlabels import FILE, SoftLabels

#: How often the loss is read back and looked at, in epochs.
OBSERVE_EVERY = 50
#: What a cost says of a network that was not trained alone: with how many at most, itself among them.
TOGETHER = "together"


def run(cell: EvaluateCell, context: Context) -> Outcome:
    """Train and test one network. Leaves no artifacts.

    Raises:
        CellFailure: the training diverged, or the network cannot take the image size or batches of one.
        OutOfTime: the time limit was reached; a checkpoint is in ``context.partial``.
    """
    return train_and_test(cell, set_of(cell, context), context)


def set_of(cell: EvaluateCell, context: Context) -> DistilledSet | None:
    """The set that a cell trains on; None for the whole real training set."""
    if cell.images == (WHOLE_TRAINING_SET,):
        return None
    return stored([context.artifacts[key]["images.safetensors"] for key in cell.images])


def train_and_test(cell: EvaluateCell, images: DistilledSet | None, context: Context) -> Outcome:
    """The evaluation itself, of a set from anywhere (None: the whole real training set)."""
    started = time.monotonic()
    lesson = Lesson(cell, images, context)
    memory = lesson.live_bytes(lambda: lesson.training(cell))
    if context.graphs:
        graphs.collect()
    devices.reset_peak(context.device)
    training = lesson.training(cell)
    if context.graphs:
        training.graph()
    recipe, before = lesson.recipe, 1
    if state := checkpoint.load(context.partial):
        training.take_up(state)
        before = state.get(TOGETHER, 1)
    while training.epochs_done < recipe.epochs:
        training.epoch()
        done = training.epochs_done
        if lesson.is_observed(done) and (diverged := lesson.divergence(done, training.read_loss())):
            raise diverged
        context.progress(done, recipe.epochs)
        if done < recipe.epochs:
            context.between_steps(lambda: {**training.state(), **trained_with(before)})
    result = lesson.test(training)
    seconds = time.monotonic() - started
    cost = lesson.cost(training, seconds, before) | graphs_of(training) | memory
    return Outcome(result, cost | devices.peak(context.device))


def trained_with(together: int) -> dict[str, int]:
    """What a checkpoint and a cost say of a network that was trained with others; nothing of one alone."""
    return {TOGETHER: together} if together > 1 else {}


def graphs_of(training: Training | Ensemble) -> dict[str, Any]:
    """What a cost says of CUDA graphs: that it was them, or why not; nothing where nobody asked for them."""
    if training.graphed is None:
        return {}
    refusal = training.graphed.refusal
    return {"graphs": True} if refusal is None else {"no_graphs": refusal}


class Lesson:
    """What the evaluations of a set share that differ in their evaluation seed alone."""

    def __init__(self, cell: EvaluateCell, images: DistilledSet | None, context: Context) -> None:
        dataset, device = context.dataset, context.device
        self.recipe = recipes.load(cell.recipe)
        self._cell, self._dataset, self._device = cell, dataset, device
        self._space = training_space(images, dataset)
        self._data = _training_set(images, dataset, self._space, device)
        self._augmentation = Augmentation.of(dataset, self._space, device)
        self._labels = None
        if cell.labels is not None:
            self._labels = SoftLabels(context.artifacts[cell.labels][FILE], device)
        self._lr = learning_rate(self.recipe, parse_network(cell.network).base, images)

    def training(self, cell: EvaluateCell) -> Training:
        """A fresh network of a cell, and how it is trained."""
        stream = (cell.seed, cell.evaluation_seed)
        with seeds.forked("evaluation network", *stream):
            network = build(cell.network, cell.dataset.classes, cell.dataset.size).to(self._device)
        return Training(network, self._data, self.recipe, self._lr, self._augmentation, stream, self._labels)

    def live_bytes(self, fresh: Callable[[], Training | Ensemble]) -> dict[str, int]:
        """The peak in the first steps of a training that is then thrown away, as a cost names it.

        Nothing on a GPU, which measures itself.
        """
        return {"peak_live_bytes": _count_live_bytes(fresh())} if self._device.type == "cpu" else {}

    def is_observed(self, epochs_done: int) -> bool:
        """Whether the loss is read back after so many epochs."""
        return epochs_done % OBSERVE_EVERY == 0 or epochs_done == self.recipe.epochs

    def divergence(self, epochs_done: int, loss: float) -> CellFailure | None:
        """The failure of a network whose loss is no number any more."""
        if math.isfinite(loss):
            return None
        return CellFailure(
            f"{self._cell.network} diverged by epoch {epochs_done} (loss {loss}); "
            "give the recipe a lower lr_by_network for it"
        )

    def test(self, training: Training) -> dict[str, Any]:
        """The result of a training that is over."""
        test, first = self._dataset.test, self._cell.test_per_class
        test = test if first is None else test.first(first)
        right = correct(training.tested, RealImages(test, self._space, self._device))
        total = len(test.images)
        result = {"accuracy": 100 * right / total, "correct": right, "test_images": total}
        if isinstance(self.recipe, StepSizeRecipe):
            result["lr"] = self._lr  # which of the two it was
        return result | {"train_loss": float(training.last_loss)}

    def cost(self, training: Training, seconds: float, together: int) -> dict[str, Any]:
        """The time that a training took, its share of what ``together`` ones took."""
        steps = self.recipe.epochs * training.steps_per_epoch
        cost = {"seconds": seconds, "updates": steps, "seconds_per_update": training.seconds / steps}
        return cost | trained_with(together)


def learning_rate(recipe: Recipe, preset: str, images: DistilledSet | None) -> float:
    """The learning rate for a network of this preset on a set (None: the real training set).

    The step size that was learnt with the set, where the recipe takes it and there is one; but what the
    recipe says of this very network comes first.
    """
    learnt = images.step_size if images is not None else None
    takes_it = isinstance(recipe, StepSizeRecipe) and recipe.learning_rate_of == "set"
    if takes_it and learnt is not None and preset not in recipe.lr_by_network:
        return learnt
    return recipe.learning_rate(preset)


def _training_set(
    images: DistilledSet | None, dataset: Dataset, space: Space, device: torch.device
) -> TrainingSet:
    if images is None:
        return RealSet(RealImages(dataset.train, space, device))
    return SyntheticSet(images.encoded(space).to(device), images.labels.to(device))


def _count_live_bytes(training: Training | Ensemble) -> int:
    data = training.data
    held: list[object] = list({training.network, training.tested})
    held += [data.images, data.labels] if isinstance(data, SyntheticSet) else []
    left = COUNTED_UPDATES
    with LiveBytes(held=held) as live:
        while left > 0 and training.epochs_done < training.recipe.epochs:
            for _ in training.steps():
                left -= 1
                if left <= 0:
                    break
    return live.peak
