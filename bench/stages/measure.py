"""What a cell takes: memory and time of its first updates, in a process of its own, with nothing trained.

The dataset is of the right size and of random bytes; networks, experts, generators and matrices have
random weights (:mod:`bench.measuring.standins`). So neither data nor other cells
are needed, and no loss means anything.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from baselines.defaults.generator import GeneratorSettings
from bench import device as devices
from bench import zca
from bench.arithmetic import arithmetic_of
from bench.cells import Cell, DistilCell, MeasureCell, PretrainCell, RelabelCell
from bench.data import Dataset, Identity
from bench.errors import CellFailure
from bench.measuring import standins
from bench.measuring.estimate import shortened
from bench.measuring.holders import count_by_holder
from bench.memory import LiveBytes
from bench.pixels import space
from bench.plan import Plan
from bench.provenance import provenance
from bench.runner import failures
from bench.sets import DistilledSet
from bench.stages import Context, generator, pretrain
from bench.stages.distill import COUNTED_UPDATES, Distillation
from bench.stages.relabel import Relabelling
from bench.training.recipes import SoftRecipe

#: What a row's result says; None where it was not measured.
RESULT = (
    "peak_live_bytes",
    "holders",
    "seconds_per_update",
    "peak_rss_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "device_used_bytes",
    "trouble",
)


@dataclass(frozen=True)
class Job:
    """A measure cell, the cell that it measures, the plan that says what this needs, and its dataset."""

    cell: MeasureCell
    target: Cell
    plan: Plan
    identity: Identity
    #: What the row's provenance says was run.
    command: str


def run_apart(job: Job) -> dict[str, Any]:
    """The row of a measure cell (its cell, result, cost and provenance), made in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        try:
            return fresh.submit(run, job).result()
        except BrokenProcessPool:
            killed = "its process was killed; the usual reason is that the machine's memory was used up"
            return _row(job, {"trouble": killed}, {})


def run(job: Job) -> dict[str, Any]:
    """The same in this process, whose peaks so far would be taken for the cell's."""
    started = time.monotonic()
    device, result, cost = devices.choose(job.cell.device), dict[str, Any](), dict[str, Any]()
    free = _free(device)
    try:
        with failures(), devices.computing(device, arithmetic_of(job.target.value)):
            work = _work(job, device)
            warmup = max(0, min(job.cell.warmup, work.whole - job.cell.updates))
            times = _timed(work.updates(), warmup, job.cell.updates, device)
            if times:
                low, median, high = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
                spread = {"median": median, "q1": low, "q3": high, "n": len(times)}
                result["seconds_per_update"] = spread
                extrapolated = len(times) < work.whole
                whole = {"updates": work.whole, "seconds": median * work.whole}
                cost["whole"] = {**whole, "extrapolated": extrapolated}
            result |= {"peak_rss_bytes": _resident(), **_on_device(device, free)}
            if device.type == "cpu":
                result |= work.counted()
    except CellFailure as failure:
        result["trouble"] = str(failure)
    return _row(job, result, {**cost, "seconds": time.monotonic() - started})


def _row(job: Job, result: Mapping[str, Any], cost: Mapping[str, Any]) -> dict[str, Any]:
    how = {"how": job.cell.how, "device": job.cell.device}
    return {
        "cell": job.cell.value,
        "result": {**how, **dict.fromkeys(RESULT), **result},
        "cost": dict(cost),
        "provenance": provenance(torch.device(job.cell.device), job.command)
        | {"arithmetic": arithmetic_of(job.target.value).described},
    }


@dataclass(frozen=True)
class _Work:
    """What is measured.

    Attributes:
        updates: starts it anew and gives an item after each update.
        whole: how many updates a cell has in all.
        counted: the peak of live bytes, by holder where those are known; on a CPU.

    """

    updates: Callable[[], Iterator[object]]
    whole: int
    counted: Callable[[], dict[str, Any]]


def _work(job: Job, device: torch.device) -> _Work:
    dataset, needs = standins.dataset(job.identity, noise=True), standins.StandIns(job.plan)
    target = job.target
    if isinstance(target, DistilCell):
        return _distillation(target, dataset, device, needs.used(target, device))
    if isinstance(target, RelabelCell):
        teacher = needs.one("teacher", (target.teacher,), target, device)
        return _relabelling(target, job.cell.of["images"], dataset, device, teacher)
    assert isinstance(target, PretrainCell)
    if target.what == "generator":
        return _gan(target, dataset, device)
    if target.what == "zca":
        return _Work(lambda: (zca.fit(images) for images in [dataset.train.images]), 1, dict)
    return _network(target, dataset, device, needs.used(target, device))


def _distillation(cell: DistilCell, dataset: Dataset, device: torch.device, used: Mapping[str, Any]) -> _Work:
    def updates() -> Iterator[object]:
        job = Distillation(cell, dataset, device, used)
        while job.iterations_done < job.iterations:
            yield from job.updates()
            job.iterations_done += 1

    def counted() -> dict[str, Any]:
        holders = count_by_holder(shortened(cell), dataset, device, used)
        return {"peak_live_bytes": sum(holders.values()), "holders": dict(holders)}

    return _Work(updates, updates_of(cell.settings), counted)


def updates_of(settings: Mapping[str, Any]) -> int:
    """The updates of a whole distillation: of DC and DSA, by themselves or in GLaD, several an iteration."""
    inner = settings.get("inner")
    each = settings.get("outer") or (inner.get("outer") if isinstance(inner, Mapping) else None)
    return int(settings["iterations"]) * int(each or 1)


def _network(cell: PretrainCell, dataset: Dataset, device: torch.device, used: Mapping[str, Any]) -> _Work:
    kind = cell.settings.get("pixels", "normalised")
    pixels = space(kind, dataset.mean, dataset.std, used.get("zca"))
    training = pretrain.training_of(cell, dataset, pixels, device)

    def updates() -> Iterator[object]:
        while training.epochs_done < training.recipe.epochs:
            yield from training.steps()

    def counted() -> dict[str, Any]:
        return {"peak_live_bytes": pretrain.count_live_bytes(cell, dataset, pixels, device)}

    return _Work(updates, training.recipe.epochs * training.steps_per_epoch, counted)


def _gan(cell: PretrainCell, dataset: Dataset, device: torch.device) -> _Work:
    values = {name: value for name, value in cell.settings.items() if name != "version"}
    settings = GeneratorSettings.model_validate(values)
    nowhere = Path(os.devnull)
    context = Context(dataset, device, {}, workspace=nowhere, partial=nowhere)

    def updates() -> Iterator[object]:
        training = generator.GeneratorTraining(cell, settings, context)
        for done in range(settings.steps):
            training.step()
            yield done

    def counted() -> dict[str, Any]:
        if not settings.steps:  # it is not trained
            return {}
        return {"peak_live_bytes": generator.count_live_bytes(cell, settings, context)}

    return _Work(updates, settings.steps, counted)


def _relabelling(
    cell: RelabelCell, images: int, dataset: Dataset, device: torch.device, teacher: torch.nn.Module
) -> _Work:
    shape = (images, 3, dataset.size, dataset.size)
    noise = torch.from_numpy(dataset.train.images[np.arange(images) % len(dataset.train.images)])
    labels = torch.arange(images) % len(dataset.classes)
    unit = space("unit", dataset.mean, dataset.std, None)
    shown = DistilledSet(noise.reshape(shape).float() / 255, labels, unit)

    def updates() -> Iterator[object]:
        job = Relabelling(cell, shown, teacher, dataset, device)
        while job.epochs_done < job.recipe.epochs:
            yield from job.steps()
            job.epochs_done += 1

    def counted() -> dict[str, Any]:
        job = Relabelling(cell, shown, teacher, dataset, device)
        with LiveBytes(held=[teacher, job.logits]) as live:
            for _ in islice(job.steps(), COUNTED_UPDATES):
                pass
        return {"peak_live_bytes": live.peak}

    recipe = SoftRecipe(name="labels", **cell.draws)
    return _Work(updates, recipe.epochs * -(-images // recipe.batch), counted)


def _timed(updates: Iterator[object], warmup: int, wanted: int, device: torch.device) -> list[float]:
    """Seconds of each update after the warm-up, as many as there are; on a GPU its peaks begin after it."""
    for _ in islice(updates, warmup):
        pass
    devices.reset_peak(device)
    timed = islice(updates, wanted)
    if device.type == "cpu":
        clock, found = time.perf_counter(), []
        for _ in timed:
            now = time.perf_counter()
            found.append(now - clock)
            clock = now
        return found
    events = [_event()]
    events += [_event() for _ in timed]
    torch.cuda.synchronize(device)
    return [first.elapsed_time(second) / 1e3 for first, second in pairwise(events)]


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _resident() -> int | None:
    """The most bytes of this process in memory so far, with Python and PyTorch; None where nothing says it.

    By Linux's VmHWM and not by ``getrusage``: that counts on from the process which started this one.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def _free(device: torch.device) -> int:
    """Free bytes of a GPU, once PyTorch has its context there; 0 for a CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _on_device(device: torch.device, free: int) -> dict[str, int]:
    """A GPU's peaks, and by how much its free memory shrank; nothing on a CPU."""
    if device.type == "cpu":
        return {}
    return {**devices.peak(device), "device_used_bytes": free - _free(device)}
