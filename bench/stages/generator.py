"""The generator that GLaD distils into: made, trained where its settings say so, and judged."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from baselines.defaults.generator import GeneratorSettings
from baselines.generators import files
from baselines.generators.base import Generator
from baselines.generators.compact import CompactGenerator, Discriminator
from baselines.generators.training import GANTraining
from bench import artifacts, seeds
from bench import device as devices
from bench.augment import for_dataset
from bench.cells import PretrainCell
from bench.data import parse
from bench.errors import CellFailure
from bench.memory import LiveBytes
from bench.pixels import PixelSpace
from bench.real import RealImages, place
from bench.stages import Context, Outcome, checkpoint
from bench.stages.distill import COUNTED_UPDATES

#: Samples that the classifier judges; at least :data:`PER_CLASS` of each class.
SAMPLES, PER_CLASS = 1000, 10
#: Samples rendered at once for that.
_BATCH = 100
#: How often the losses are read back and looked at, in steps.
_OBSERVE_EVERY = 100


def run(cell: PretrainCell, context: Context) -> Outcome:
    """Leaves ``generator.safetensors``: the running average of the weights.

    The result's ``accuracy`` is the share (in %) of class-conditional samples that the classifier in
    ``uses["judge"]`` takes for their class. An untrained generator is not judged.

    Raises:
        CellFailure: the training diverged.
        OutOfTime: the time limit was reached; a checkpoint is in ``context.partial``.
    """
    started = time.monotonic()
    values = {name: value for name, value in cell.settings.items() if name != "version"}
    settings = GeneratorSettings.model_validate(values)
    memory = {}
    if settings.steps and context.device.type == "cpu":
        memory["peak_live_bytes"] = count_live_bytes(cell, settings, context)
    devices.reset_peak(context.device)
    training = GeneratorTraining(cell, settings, context)
    if state := checkpoint.load(context.partial):
        training.take_up(state)
    while training.gan.steps_done < settings.steps:
        training.step()
        done = training.gan.steps_done
        context.progress(done, settings.steps)
        if done < settings.steps:
            context.between_steps(training.state)
    files.save(training.gan.ema, context.workspace / artifacts.NAMES["generator"])
    cost: dict[str, Any] = {"seconds": time.monotonic() - started, "updates": settings.steps}
    if not settings.steps:
        return Outcome({}, cost)
    cost |= {
        "seconds_per_update": training.seconds / settings.steps,
        **memory,
        **devices.peak(context.device),
    }
    return Outcome(_judged(cell, training.gan.ema, context), cost)


class GeneratorTraining:
    """A GAN and the real images that it is trained on."""

    def __init__(self, cell: PretrainCell, settings: GeneratorSettings, context: Context) -> None:
        dataset = cell.dataset
        with seeds.forked("generator", cell.number):
            generator = CompactGenerator.from_settings(settings, dataset.classes, dataset.size)
            discriminator = Discriminator(dataset.classes, dataset.size, settings.width)
        self.real = RealImages(context.dataset.train, PixelSpace("unit"), context.device)
        augment = for_dataset(parse(context.dataset.spec).name, dataset.size)
        device = context.device
        self.gan = GANTraining(generator.to(device), discriminator.to(device), settings, augment)
        self.seconds = 0.0
        self._number = cell.number

    def step(self) -> None:
        """The next update of both networks, on the clock.

        Raises:
            CellFailure: a loss is not finite (they are read back now and then).
        """
        clock = time.monotonic()
        rng = seeds.rng("generator training", self._number, self.gan.steps_done)
        chosen = rng.integers(len(self.real), size=self.gan.settings.batch)
        labels = self.real.labels[place(torch.from_numpy(chosen), self.real.labels.device)]
        losses, done = self.gan.step(self.real.batch(chosen), labels, rng), self.gan.steps_done
        if done % _OBSERVE_EVERY == 0 or done == self.gan.settings.steps:
            for name, loss in losses.items():
                if not math.isfinite(value := float(loss)):
                    raise CellFailure(f"the {name}'s loss became {value} by step {done}; a lower lr may help")
        self.seconds += time.monotonic() - clock

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs."""
        return {"gan": self.gan.state(), "seconds": self.seconds}

    def take_up(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.gan.take_up(state["gan"])
        self.seconds = state["seconds"]


def count_live_bytes(cell: PretrainCell, settings: GeneratorSettings, context: Context) -> int:
    """The peak of live tensor bytes in the first steps, on networks of their own."""
    training = GeneratorTraining(cell, settings, context)
    held: list[nn.Module] = [training.gan.generator, training.gan.discriminator, training.gan.ema]
    with LiveBytes(held=held) as live:
        for _ in range(min(COUNTED_UPDATES, settings.steps)):
            training.step()
    return live.peak


@torch.no_grad()
def _judged(cell: PretrainCell, generator: Generator, context: Context) -> dict[str, Any]:
    """How many samples of each class the judge takes for that class."""
    dataset, device = context.dataset, context.device
    used = artifacts.load(cell, context)
    seen = PixelSpace("normalised", dataset.mean, dataset.std)
    classes = cell.dataset.classes
    labels = np.arange(classes).repeat(max(PER_CLASS, SAMPLES // classes))
    right = torch.zeros((), dtype=torch.int64, device=device)
    for start in range(0, len(labels), _BATCH):
        chosen = torch.from_numpy(labels[start : start + _BATCH]).to(device)
        rng = seeds.rng("samples", cell.number, start)
        z = torch.from_numpy(rng.standard_normal((len(chosen), generator.latent), dtype=np.float32))
        images = generator(z.to(device), chosen).clamp(0, 1)
        right += (used["judge"](seen.encode(images)).argmax(1) == chosen).sum()
    return {"accuracy": 100 * int(right) / len(labels), "correct": int(right), "samples": len(labels)}
