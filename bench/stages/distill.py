"""The one distillation loop, for every method and every plug-in."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from torch import Tensor, nn

from baselines import METHODS, Task
from baselines.base import Unsuitable
from bench import artifacts
from bench import device as devices
from bench.cells import DistilCell
from bench.data import Dataset
from bench.errors import CellFailure
from bench.memory import LiveBytes
from bench.pixels import space
from bench.plugins import Plugged
from bench.stages import Context, Outcome, checkpoint
from bench.stages.tools import HarnessTools
from bench.synthetic import Rendered, Synthetic
from bench.zca import keep_beside

#: How often losses are read back from the device and looked at, in updates.
OBSERVE_EVERY = 25
#: Updates whose memory is counted, untimed, before the run.
COUNTED_UPDATES = 2
#: Images of a class in the picture of a set, at most.
PLATE_COLUMNS = 10


class Record:
    """What the updates so far gave, read back from the device now and then, and the seconds they took.

    Each update gives its loss and the extras after it, all scalars. Handing work to a GPU takes no time;
    waiting for it when they are read back does, and is counted.

    Args:
        trouble: says what is wrong with the extras (by name) after an update, or None.
    """

    def __init__(self, trouble: Callable[[Mapping[str, float]], str | None] = lambda extras: None) -> None:
        self.losses: list[float] = []
        self.extras: dict[str, list[float]] = {}
        self.seconds = 0.0
        self._trouble = trouble
        self._pending: list[tuple[Tensor, Mapping[str, Tensor]]] = []

    def add(self, updates: Iterable[tuple[Tensor, Mapping[str, Tensor]]]) -> None:
        """Run the updates that give these losses and extras, on the clock."""
        clock = time.monotonic()
        self._pending.extend(updates)
        self.seconds += time.monotonic() - clock
        if len(self._pending) >= OBSERVE_EVERY:
            self.observe()

    def observe(self) -> None:
        """Read back what is pending.

        Raises:
            CellFailure: a loss is not finite, or an extra is not what it may be.
        """
        if not self._pending:
            return
        clock = time.monotonic()
        losses, extras = zip(*self._pending, strict=True)
        read = torch.stack(losses).tolist()
        names = list(extras[0])
        columns = {name: torch.stack([each[name] for each in extras]).tolist() for name in names}
        self.seconds += time.monotonic() - clock
        self._pending.clear()
        for i, loss in enumerate(read):
            update = len(self.losses) + i
            if trouble := self._trouble({name: column[i] for name, column in columns.items()}):
                raise CellFailure(f"update {update}: {trouble}")
            if not math.isfinite(loss):
                raise CellFailure(
                    f"the loss became {loss} at update {update}; a lower learning rate may help"
                )
        self.losses += read
        for name, column in columns.items():
            self.extras.setdefault(name, []).extend(column)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        self.observe()
        return {"losses": self.losses, "extras": self.extras, "seconds": self.seconds}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.losses, self.seconds = list(state["losses"]), state["seconds"]
        self.extras = {name: list(column) for name, column in state["extras"].items()}

    def result(self) -> dict[str, float]:
        """What a row says of the losses."""
        if not self.losses:
            return {}
        last_fifth = self.losses[-max(1, len(self.losses) // 5) :]
        return {
            "first_loss": self.losses[0],
            "last_loss": self.losses[-1],
            "mean_loss_last_fifth": math.fsum(last_fifth) / len(last_fifth),
            **{f"last_{name}": column[-1] for name, column in self.extras.items()},
        }


class Distillation:
    """One distil cell in progress: the images, their optimisers, the method and its tools.

    Under ``FakeTensorMode`` all of them are fake, and nothing is computed.

    Args:
        used: what the cell uses, by name, on the device (:func:`bench.artifacts.load`).
    """

    def __init__(
        self,
        cell: DistilCell,
        dataset: Dataset,
        device: torch.device,
        used: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        entry = METHODS[cell.method]
        values = {name: v for name, v in cell.settings.items() if name not in ("version", "source")}
        settings = entry.settings.model_validate(values)
        task = Task(cell.dataset.name, cell.dataset.classes, cell.dataset.size, cell.ipc)
        self.method = entry.method(settings, task)
        self.iterations, self.iterations_done = settings.iterations, 0
        self.record = Record(self.method.trouble)
        self.space = space(settings.pixels, dataset.mean, dataset.std, used.get("zca"))
        self.tools = HarnessTools(task, dataset, self.space, device, cell.network, cell.seed, cell.part, used)
        try:
            self.method.begin(self.tools)
            source = self.method.parametrization(self.tools)
        except Unsuitable as problem:
            raise CellFailure(str(problem)) from None
        if source is None:
            self.x = Synthetic(self.method.initial(self.tools), task.classes, task.ipc)
        else:
            self.x = Rendered(source, self.space, task.classes, task.ipc)
        self.params = {**self.x.params, **self.method.extras()}
        self.optimisers = self.method.optimisers(self.params)
        self.updates_done = 0
        self.plugin: Plugged | None = None
        if cell.plugin["name"] != "none":
            self.plugin = Plugged(cell, self.space, used, dataset.mean, dataset.std, device)
        #: What the plug-in's terms were before the first update.
        self.first_terms: dict[str, float] = {}

    def iterate(self) -> None:
        """Run the next iteration, on the record."""
        self.record.add(self.updates())
        self.iterations_done += 1

    def updates(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The updates of the next iteration: the images move after each loss [scalar] of the method.

        Gives that loss, and the method's extras after the update.
        """
        k = self.iterations_done
        for loss in self.method.iteration(k, self.x, self.tools.at(k)):
            if self.plugin is not None:
                self.plugin.add_to(self.x, self.updates_done, self.tools)
            self.x.pull_back()
            self.optimisers.step()
            self.method.project(self.x.params, self.tools)
            self.x.render()
            self.updates_done += 1
            yield loss, {name: extra.detach().clone() for name, extra in self.method.extras().items()}

    def look(self) -> None:
        """Take down the plug-in's terms before the first update."""
        if self.plugin is not None and not self.iterations_done:
            self.first_terms = self.plugin.terms(self.x)

    def result(self) -> dict[str, Any]:
        """What a row says: of the losses, and of the plug-in's terms at the first and the last images."""
        result: dict[str, Any] = self.record.result()
        if self.plugin is not None:
            result["plugin"] = {"first": self.first_terms, "last": self.plugin.terms(self.x)}
        return result

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs."""
        optimisers = self.optimisers.state_dict()
        done = {"iterations_done": self.iterations_done, "record": self.record.state()}
        done["first_terms"] = self.first_terms
        return {"params": self.params, "optimisers": optimisers, **done}

    def take_up(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        with torch.no_grad():
            for name, value in state["params"].items():
                self.params[name].copy_(value)
        self.optimisers.load_state_dict(state["optimisers"])
        self.x.render()
        self.iterations_done = state["iterations_done"]
        self.record.take_up(state["record"])
        self.first_terms, self.updates_done = state["first_terms"], len(self.record.losses)


def run(cell: DistilCell, context: Context) -> Outcome:
    """Distil one part of a set.

    Leaves ``images.safetensors`` (images [N, 3, H, W] in their pixel space, labels [N], the loss of each
    update; learnt scalars by name, and as ``NAME_by_update``), ``plate.png``, and the matrices of ZCA.

    Raises:
        CellFailure: a loss or a pixel is not finite.
        OutOfTime: the time limit was reached; a checkpoint is in ``context.partial``.
    """
    started = time.monotonic()
    used = artifacts.load(cell, context)
    memory = _counted(cell, context, used)
    devices.reset_peak(context.device)
    job = Distillation(cell, context.dataset, context.device, used)
    if state := checkpoint.load(context.partial):
        job.take_up(state)
    job.look()
    while job.iterations_done < job.iterations:
        job.iterate()
        context.progress(job.iterations_done, job.iterations)
        if job.iterations_done < job.iterations:
            context.between_steps(job.state)
    job.record.observe()
    if not job.x.images.isfinite().all():
        raise CellFailure("pixels are not finite after the last update; a lower learning rate may help")
    _save_images(job, cell, context.workspace / "images.safetensors")
    keep_beside(job.space, context.workspace)
    _save_plate(job, context.dataset.classes, context.workspace / "plate.png")
    updates = len(job.record.losses)
    cost: dict[str, Any] = {"seconds": time.monotonic() - started, "updates": updates, **memory}
    if updates:
        cost |= {"seconds_per_update": job.record.seconds / updates, **devices.peak(context.device)}
    if job.method.fallback is not None:
        cost["fallback"] = job.method.fallback
    return Outcome(job.result(), cost)


def count_live_bytes(
    cell: DistilCell,
    dataset: Dataset,
    device: torch.device,
    used: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """The peak of live tensor bytes in the first updates, on a distillation of their own.

    Gives the same under ``FakeTensorMode``, to the byte. Counted: the images and their optimiser, the
    networks, the real batch, and every intermediate. Not counted: the stored dataset, and memory that
    PyTorch uses outside tensors.
    """
    job, counted = Distillation(cell, dataset, device, used), 0
    frozen = [artifact for artifact in used.values() if isinstance(artifact, nn.Module)]
    with LiveBytes(held=[*job.params.values(), job.x.images, job.x.labels, job.x.gradient, *frozen]) as live:
        while job.iterations_done < job.iterations:
            for _ in job.updates():
                counted += 1
                if counted == max(COUNTED_UPDATES, job.method.kinds_of_updates):
                    return live.peak
            job.iterations_done += 1
    return live.peak


def _counted(cell: DistilCell, context: Context, used: Mapping[str, Any]) -> dict[str, int]:
    """The counted peak, where nothing else measures it: on the CPU."""
    if not cell.settings["iterations"] or context.device.type != "cpu":
        return {}
    return {"peak_live_bytes": count_live_bytes(cell, context.dataset, context.device, used)}


def _save_images(job: Distillation, cell: DistilCell, path: Path) -> None:
    tensors = {
        "images": job.x.images.cpu().contiguous(),
        "labels": job.x.labels.cpu(),
        "loss": torch.tensor(job.record.losses, dtype=torch.float32),
        **{name: tensor.detach().cpu() for name, tensor in job.method.extras().items()},
    }
    for name, column in job.record.extras.items():
        tensors[f"{name}_by_update"] = torch.tensor(column, dtype=torch.float32)
    about = {"space": job.space.to_json(), "labels": "hard", "cell": cell.value}
    save_file(tensors, path, metadata={"metadd": json.dumps(about, sort_keys=True)})


def _save_plate(job: Distillation, classes: tuple[str, ...], path: Path) -> None:
    """The set as one picture: a row per class, at most ten images in it, clamped to [0, 1].

    The PNG's text says what a figure needs: the class names, and how many images a row has.
    """
    unit = job.space.decode(job.x.images).clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    rows = unit.unflatten(0, (job.x.classes, job.x.ipc))[:, :PLATE_COLUMNS]  # [C, K, 3, H, W]
    sheet = rows.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    text = PngInfo()
    text.add_text("metadd", json.dumps({"classes": classes, "columns": rows.shape[1]}))
    Image.fromarray(sheet.numpy()).save(path, pnginfo=text)
