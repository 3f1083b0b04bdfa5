"""Evaluation: a fresh network, trained on a set by a recipe, tested once after the last step."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from bench import device as devices
from bench import recipes, seeds
from bench.batches import Augmentation, RealSet, SyntheticSet, TrainingSet, training_space
from bench.cells import WHOLE_TRAINING_SET, EvaluateCell
from bench.data import Dataset
from bench.errors import CellFailure
from bench.memory import LiveBytes
from bench.networks.build import build
from bench.networks.names import parse as parse_network
from bench.pixels import Space
from bench.real import RealImages
from bench.recipes import Recipe, StepSizeRecipe
from bench.sets import DistilledSet, stored
from bench.softlabels import FILE, SoftLabels
from bench.stages import Context, Outcome, checkpoint
from bench.stages.distill import COUNTED_UPDATES
from bench.training import Training, correct

#: How often the loss is read back and looked at, in epochs.
OBSERVE_EVERY = 50


def run(cell: EvaluateCell, context: Context) -> Outcome:
    """Train and test one network. Leaves no artifacts.

    Raises:
        CellFailure: the training diverged, or the network cannot take the image size or batches of one.
        OutOfTime: the time limit was reached; a checkpoint is in ``context.partial``.
    """
    images = None
    if cell.images != (WHOLE_TRAINING_SET,):
        images = stored([context.artifacts[key]["images.safetensors"] for key in cell.images])
    return train_and_test(cell, images, context)


def train_and_test(cell: EvaluateCell, images: DistilledSet | None, context: Context) -> Outcome:
    """The evaluation itself, of a set from anywhere (None: the whole real training set)."""
    started = time.monotonic()
    dataset, device = context.dataset, context.device
    space = training_space(images, dataset)
    data = _training_set(images, dataset, space, device)
    augmentation = Augmentation.of(dataset, space, device)
    labels = None if cell.labels is None else SoftLabels(context.artifacts[cell.labels][FILE], device)
    recipe = recipes.load(cell.recipe)
    lr = learning_rate(recipe, parse_network(cell.network).base, images)

    def fresh() -> Training:
        stream = (cell.seed, cell.evaluation_seed)
        with seeds.forked("evaluation network", *stream):
            network = build(cell.network, cell.dataset.classes, cell.dataset.size)
        return Training(network.to(device), data, recipe, lr, augmentation, stream, labels)

    memory = {"peak_live_bytes": _count_live_bytes(fresh())} if device.type == "cpu" else {}
    devices.reset_peak(device)
    training = fresh()
    if state := checkpoint.load(context.partial, device):
        training.take_up(state)
    while training.epochs_done < recipe.epochs:
        training.epoch()
        done = training.epochs_done
        if done % OBSERVE_EVERY == 0 or done == recipe.epochs:
            _refuse_divergence(training, cell.network)
        context.progress(done, recipe.epochs)
        if done < recipe.epochs:
            context.between_steps(training.state)
    test = dataset.test if cell.test_per_class is None else dataset.test.first(cell.test_per_class)
    right = correct(training.tested, RealImages(test, space, device))
    total = len(test.images)
    steps = recipe.epochs * training.steps_per_epoch
    cost: dict[str, Any] = {"seconds": time.monotonic() - started, "updates": steps}
    cost |= {"seconds_per_update": training.seconds / steps, **memory, **devices.peak(device)}
    result = {"accuracy": 100 * right / total, "correct": right, "test_images": total}
    if isinstance(recipe, StepSizeRecipe):
        result["lr"] = lr  # which of the two it was
    return Outcome(result | {"train_loss": float(training.last_loss)}, cost)


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


def _refuse_divergence(training: Training, network: str) -> None:
    loss = training.read_loss()
    if not math.isfinite(loss):
        raise CellFailure(
            f"{network} diverged by epoch {training.epochs_done} (loss {loss}); "
            "give the recipe a lower lr_by_network for it"
        )


def _training_set(
    images: DistilledSet | None, dataset: Dataset, space: Space, device: torch.device
) -> TrainingSet:
    if images is None:
        return RealSet(RealImages(dataset.train, space, device))
    return SyntheticSet(images.encoded(space).to(device), images.labels.to(device))


def _count_live_bytes(training: Training) -> int:
    """The peak of live tensor bytes in the first steps of a training that is then thrown away."""
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
