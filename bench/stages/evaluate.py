"""Evaluation: a fresh network, trained on a set by a recipe, tested once after the last step."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from bench import device as devices
from bench import seeds
from bench.augment import for_dataset
from bench.cells import WHOLE_TRAINING_SET, EvaluateCell
from bench.data import Dataset
from bench.data import parse as parse_dataset
from bench.errors import CellFailure
from bench.memory import LiveBytes
from bench.networks.build import build
from bench.networks.names import parse as parse_network
from bench.pixels import PixelSpace
from bench.real import RealImages
from bench.recipes import Recipe
from bench.sets import DistilledSet, stored
from bench.stages import Context, Outcome, checkpoint
from bench.stages.distill import COUNTED_UPDATES
from bench.training import RealSet, SyntheticSet, Training, TrainingSet, correct

#: How often the loss is read back and looked at, in epochs.
OBSERVE_EVERY = 50


def run(cell: EvaluateCell, context: Context) -> Outcome:
    """Train and test one network. Leaves no artifacts.

    Raises:
        CellFailure: the training diverged, or the network cannot take the image size.
        OutOfTime: the time limit was reached; a checkpoint is in ``context.partial``.
    """
    images = None
    if cell.images != (WHOLE_TRAINING_SET,):
        images = stored([context.artifacts[key]["images.safetensors"] for key in cell.images])
    return train_and_test(cell, images, context)


def train_and_test(cell: EvaluateCell, images: DistilledSet | None, context: Context) -> Outcome:
    """The evaluation itself, of a set from anywhere (None: the whole real training set)."""
    started = time.monotonic()
    dataset = context.dataset
    space = PixelSpace("normalised", dataset.mean, dataset.std)
    if images is not None and images.space.kind != "unit":
        space = images.space  # a set is evaluated as it was made; real images follow it there
    data = _training_set(images, dataset, space, context.device)
    memory = {}
    if context.device.type == "cpu":
        memory["peak_live_bytes"] = _count_live_bytes(cell, data, dataset, context.device)
    devices.reset_peak(context.device)
    training = _training(cell, data, dataset, context.device)
    if state := checkpoint.load(context.partial, context.device):
        training.take_up(state)
    epochs = training.recipe.epochs
    while training.epochs_done < epochs:
        training.epoch()
        done = training.epochs_done
        if done % OBSERVE_EVERY == 0 or done == epochs:
            _refuse_divergence(training, cell.network)
        context.progress(done, epochs)
        if done < epochs:
            context.between_steps(training.state)
    test = dataset.test if cell.test_per_class is None else dataset.test.first(cell.test_per_class)
    right = correct(training.network, RealImages(test, space, context.device))
    total = len(test.images)
    steps = epochs * -(-len(data) // training.recipe.batch)
    cost: dict[str, Any] = {"seconds": time.monotonic() - started, "updates": steps}
    cost |= {"seconds_per_update": training.seconds / steps, **memory, **devices.peak(context.device)}
    result = {"accuracy": 100 * right / total, "correct": right, "test_images": total}
    return Outcome(result | {"train_loss": float(training.last_loss)}, cost)


def _refuse_divergence(training: Training, network: str) -> None:
    loss = training.read_loss()
    if not math.isfinite(loss):
        raise CellFailure(
            f"{network} diverged by epoch {training.epochs_done} (loss {loss}); "
            "give the recipe a lower lr_by_network for it"
        )


def _training_set(
    images: DistilledSet | None, dataset: Dataset, space: PixelSpace, device: torch.device
) -> TrainingSet:
    if images is None:
        return RealSet(RealImages(dataset.train, space, device))
    return SyntheticSet(images.encoded(space).to(device), images.labels.to(device))


def _training(cell: EvaluateCell, data: TrainingSet, dataset: Dataset, device: torch.device) -> Training:
    recipe = Recipe.model_validate(dict(cell.recipe))
    stream = (cell.seed, cell.evaluation_seed)
    with seeds.forked("evaluation network", *stream):
        network = build(cell.network, cell.dataset.classes, cell.dataset.size)
    lr = recipe.learning_rate(parse_network(cell.network).base)
    return Training(
        network.to(device),
        data,
        recipe,
        lr,
        for_dataset(parse_dataset(dataset.spec).name, dataset.size),
        stream,
    )


def _count_live_bytes(cell: EvaluateCell, data: TrainingSet, dataset: Dataset, device: torch.device) -> int:
    """The peak of live tensor bytes in the first training steps, on a network of their own."""
    training = _training(cell, data, dataset, device)
    held = [training.network] + ([data.images, data.labels] if isinstance(data, SyntheticSet) else [])
    left = COUNTED_UPDATES
    with LiveBytes(held=held) as live:
        while left > 0:
            for _ in training.steps():
                left -= 1
                if left <= 0:
                    break
    return live.peak
