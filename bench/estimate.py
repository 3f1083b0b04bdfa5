"""The memory of a suite's distillations, estimated: no GPU, no data, nothing trained or computed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from baselines import METHODS
from bench import standins
from bench.cells import DatasetId, DistilCell, canonical
from bench.data import Dataset
from bench.device import images_with_graph
from bench.errors import CellFailure
from bench.fit import Fit, changed, fit, knobs_of
from bench.holders import Holder, count_by_holder
from bench.plan import Dataset as PlannedDataset
from bench.plan import Plan, plan
from bench.spec import Suite
from bench.standins import StandIns

MIB = 2**20
#: What tells rows apart, and how the output calls it.
ABOUT = {"dataset": "Dataset", "method": "Method", "ipc": "IPC", "distilled_on": "Distilled on"}
#: The methods that train a network for some epochs between two updates.
_TRAINING = ("dc", "dsa", "glad(dc)")
#: So many epochs of it are enough: from the second step on, the gradient of the one before is there too.
_EPOCHS = 2


@dataclass(frozen=True)
class Estimate:
    """The estimate of one row of a suite.

    Attributes:
        about: its dataset, method (with the plug-in), IPC, and networks that take part.
        bytes: at the peak, by holder; empty where nothing can be estimated.
        trouble: why not.
        fit: whether it fits into the memory asked about; None where none was.

    """

    about: Mapping[str, Any]
    bytes: Mapping[Holder, int]
    trouble: str | None = None
    fit: Fit | None = None

    @property
    def peak(self) -> int:
        """The peak in bytes: the sum over the holders."""
        return sum(self.bytes.values())


@dataclass(frozen=True)
class Estimates:
    """The estimates of a suite's rows, made one by one as they are asked for, once.

    Attributes:
        suite: its name.
        device: as where: ``cpu`` or ``cuda``.
        limit: the memory to fit into in bytes; None where none was asked about.
        rows: one estimate per row; may raise :class:`UserError` for a file that cannot be read.

    """

    suite: str
    device: str
    limit: int | None
    rows: Iterator[Estimate]


class Estimator:
    """Estimates of the distil cells of a plan.

    Args:
        plan: the cells, and what makes what they use.
        datasets: their shapes (:func:`bench.standins.dataset`).
        device: as where, ``cpu`` or ``cuda``; a GPU is given larger batches.
    """

    def __init__(self, plan: Plan, datasets: Mapping[DatasetId, Dataset], device: str) -> None:
        self._plan, self._datasets, self.device = plan, datasets, device
        self._device = torch.device(device)
        self._stand_ins = StandIns(plan)
        self._known: dict[str, dict[Holder, int]] = {}

    def holders(self, cell: DistilCell) -> dict[Holder, int]:
        """A cell's bytes at the peak, by holder; cells that differ by seed or part alone share them.

        Raises:
            CellFailure: the cell cannot be made.
            UserError: a file that it uses cannot be read.
        """
        key = canonical({**cell.value, "seed": 0, "part": 0})
        if key not in self._known:
            mode = FakeTensorMode()
            used = self._stand_ins.used(cell, mode)
            with mode:
                self._known[key] = count_by_holder(
                    shortened(cell), self._datasets[cell.dataset], self._device, used
                )
        return self._known[key]

    def rows(self, only: Mapping[str, str], limit: int | None = None) -> Iterator[Estimate]:
        """One estimate per row, in the plan's order: of the first seed, and of the part that takes most.

        Args:
            only: what the plan was narrowed by; a cell may be in rows besides.
            limit: bytes of memory to fit into.
        """
        for about, cells in self._rows(only).items():
            yield self._row(dict(zip(ABOUT, about, strict=True)), cells, limit)

    def _row(self, about: Mapping[str, Any], cells: Sequence[DistilCell], limit: int | None) -> Estimate:
        try:
            largest = max(cells, key=lambda cell: sum(self.holders(cell).values()))
            found = Estimate(about, self.holders(largest))
            if limit is None:
                return found
            counts = self._datasets[largest.dataset].train.counts
            chunk = images_with_graph(self._device, largest.dataset.size)
            knobs = knobs_of(largest, max(counts), chunk)
            return replace(found, fit=fit(found.peak, knobs, self._peak, limit))
        except CellFailure as failure:
            return Estimate(about, {}, str(failure))

    def _peak(self, cell: DistilCell) -> int:
        return sum(self.holders(cell).values())

    def _rows(self, only: Mapping[str, str]) -> dict[tuple[Any, ...], list[DistilCell]]:
        """The cells of each row: of its first seed."""
        rows: dict[tuple[Any, ...], dict[int, list[DistilCell]]] = {}
        for item in self._plan:
            cell = item.cell
            if not isinstance(cell, DistilCell) or not METHODS[cell.method].settings.learns:
                continue
            for tags in item.all_tags:
                if all(str(tags[tag]) == value for tag, value in only.items() if tag in tags):
                    seeds = rows.setdefault(tuple(tags[tag] for tag in ABOUT), {})
                    seeds.setdefault(cell.seed, []).append(cell)
        return {about: next(iter(seeds.values())) for about, seeds in rows.items()}


def estimates(
    suite: str,
    spec: Suite,
    only: Mapping[str, str],
    device: Literal["auto", "cpu", "cuda"],
    limit: int | None = None,
    data_dir: Path | None = None,
) -> Estimates:
    """The estimates of a suite; see :func:`bench.api.estimate`."""
    datasets: dict[DatasetId, Dataset] = {}

    def identify(name: str) -> PlannedDataset:
        seen = standins.identify(name, data_dir)
        found = PlannedDataset(DatasetId.of(seen), seen.spec, min(seen.train), min(seen.test))
        datasets[found.id] = standins.dataset(seen)
        return found

    planned = plan(suite, spec, identify)
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    estimator = Estimator(planned.only(only) if only else planned, datasets, "cuda" if cuda else "cpu")
    return Estimates(suite, estimator.device, limit, estimator.rows(only, limit))


def shortened(cell: DistilCell) -> DistilCell:
    """The cell with few epochs for many where DC or DSA trains its network: the others take the same."""
    path = ("inner", "inner") if isinstance(cell.settings.get("inner"), Mapping) else ("inner",)
    epochs: Any = cell.settings
    for name in path:
        epochs = epochs.get(name)
    if cell.method not in _TRAINING or epochs <= _EPOCHS:
        return cell
    return replace(cell, settings=changed(cell.settings, path, _EPOCHS))


def to_csv(found: Estimates) -> Iterator[str]:
    """Lines of CSV, each as soon as its estimate is there; MiB with six decimals tell every byte."""
    for row in _lines(found, 6):
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(row)
        yield text.getvalue()


def to_markdown(found: Estimates) -> Iterator[str]:
    """Lines of a Markdown table, each as soon as its estimate is there; MiB with one decimal."""
    where = "a GPU" if found.device == "cuda" else "a CPU"
    yield f"Suite `{found.suite}`: estimated peak of live tensor bytes in MiB, as on {where}. Nothing ran."
    yield ""
    for i, row in enumerate(_lines(found, 1)):
        yield f"| {' | '.join(row)} |"
        if i == 0:
            yield f"|{' --- |' * len(row)}"


#: How estimates are printed.
FORMATS = {"md": to_markdown, "csv": to_csv}


def _lines(found: Estimates, decimals: int) -> Iterator[list[str]]:
    """The names of the columns, then each row as texts."""
    fitting = ["fits", "would fit with"] if found.limit is not None else []
    yield [*ABOUT.values(), "MiB", *Holder, *fitting]
    for estimate in found.rows:
        about = ["" if value is None else str(value) for value in estimate.about.values()]
        numbers = [estimate.peak, *(estimate.bytes.get(holder, 0) for holder in Holder)]
        texts = [f"{number / MIB:.{decimals}f}" for number in numbers]
        if estimate.trouble is not None:
            texts = [f"cannot be estimated: {estimate.trouble}", *[""] * (len(Holder) + len(fitting))]
        yield [*about, *texts, *_fitting(estimate.fit)]


def _fitting(found: Fit | None) -> list[str]:
    if found is None:
        return []
    if found.fits:
        return ["yes", ""]
    return ["no", "no one setting" if found.setting is None else f"{found.setting} {found.value}"]
