"""What is made from the real data once and shared: classifiers, experts, generators, ZCA matrices."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from bench import artifacts, seeds, zca
from bench import device as devices
from bench.cells import PretrainCell
from bench.data import Dataset
from bench.errors import CellFailure
from bench.memory import LiveBytes
from bench.networks.build import build
from bench.networks.names import parse as parse_network
from bench.pixels import Space, space
from bench.planning import pretraining
from bench.real import RealImages
from bench.stages import Context, Outcome, checkpoint, generator
from bench.stages.distill import COUNTED_UPDATES
from bench.training import experts
from bench.training.batches import Augmentation, RealSet
from bench.training.loop import Training, correct


def run(cell: PretrainCell, context: Context) -> Outcome:
    """Make what the cell says. Leaves one file, named by its kind (:data:`bench.artifacts.NAMES`).

    Raises:
        CellFailure: the training diverged, or the network cannot take the image size.
        OutOfTime: the time limit was reached; a checkpoint is in ``context.partial``.
    """
    stages: dict[str, Callable[[PretrainCell, Context], Outcome]] = {
        "classifier": _network,
        "expert": _network,
        "generator": generator.run,
        "zca": _zca,
    }
    return stages[cell.what](cell, context)


def _network(cell: PretrainCell, context: Context) -> Outcome:
    """A classifier, kept after its last epoch, or an expert, kept at the start and after each."""
    started = time.monotonic()
    pixels = _space(cell, context)
    memory = {}
    if context.device.type == "cpu":
        memory["peak_live_bytes"] = count_live_bytes(cell, context.dataset, pixels, context.device)
    devices.reset_peak(context.device)
    training, name = training_of(cell, context.dataset, pixels, context.device), cell.settings["network"]
    kept = [_vector(training.network)] if cell.what == "expert" else []
    if state := checkpoint.load(context.partial):
        training.take_up(state["training"])
        kept = list(state["kept"])
    epochs = training.recipe.epochs
    while training.epochs_done < epochs:
        training.epoch()
        if not math.isfinite(training.read_loss()):
            raise CellFailure(f"{name} diverged by epoch {training.epochs_done}; give it a lower lr")
        if cell.what == "expert":
            kept.append(_vector(training.network))
        context.progress(training.epochs_done, epochs)
        if training.epochs_done < epochs:
            context.between_steps(lambda: {"training": training.state(), "kept": kept})
    path = context.workspace / artifacts.NAMES[cell.what]
    if cell.what == "expert":
        experts.write(path, torch.stack(kept), {"cell": cell.value})
    else:
        artifacts.save_classifier(training.network, name, cell.dataset, path)
    test = context.dataset.test
    right = correct(training.tested, RealImages(test, pixels, context.device))
    steps = epochs * training.steps_per_epoch
    cost: dict[str, Any] = {"seconds": time.monotonic() - started, "updates": steps}
    cost |= {"seconds_per_update": training.seconds / steps, **memory, **devices.peak(context.device)}
    result = {"accuracy": 100 * right / len(test.images), "correct": right, "test_images": len(test.images)}
    return Outcome(result | {"train_loss": float(training.last_loss)}, cost)


def _space(cell: PretrainCell, context: Context) -> Space:
    found = artifacts.load(cell, context)
    kind = cell.settings.get("pixels", "normalised")
    return space(kind, context.dataset.mean, context.dataset.std, found.get("zca"))


def training_of(cell: PretrainCell, dataset: Dataset, pixels: Space, device: torch.device) -> Training:
    """The training of a classifier or an expert on real images in this pixel space."""
    values = {name: value for name, value in cell.settings.items() if name != "version"}
    recipe = pretraining.model(cell.what).model_validate(values)
    assert isinstance(recipe, pretraining.ClassifierSettings | pretraining.ExpertSettings)
    with seeds.forked("pretrained network", cell.number):
        network = build(recipe.network, cell.dataset.classes, cell.dataset.size)
    return Training(
        network.to(device),
        RealSet(RealImages(dataset.train, pixels, device)),
        recipe,
        recipe.learning_rate(parse_network(recipe.network).base),
        Augmentation.of(dataset, pixels, device),
        (cell.number,),
    )


def count_live_bytes(cell: PretrainCell, dataset: Dataset, pixels: Space, device: torch.device) -> int:
    """The peak of live tensor bytes in the first training steps, on a network of their own."""
    training = training_of(cell, dataset, pixels, device)
    with LiveBytes(held=[training.network]) as live:
        for done, _ in enumerate(training.steps(), start=1):
            if done == COUNTED_UPDATES:
                break
    return live.peak


def _vector(network: nn.Module) -> torch.Tensor:
    """All parameters, flat, on the CPU: a copy, for they go on changing."""
    return parameters_to_vector(network.parameters()).detach().cpu().clone()


def _zca(cell: PretrainCell, context: Context) -> Outcome:
    started = time.monotonic()
    fitted = zca.fit(context.dataset.train.images)
    fitted.save(context.workspace / artifacts.NAMES["zca"])
    return Outcome({"images": len(context.dataset.train.images)}, {"seconds": time.monotonic() - started})
