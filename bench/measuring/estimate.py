"""The memory of a suite's distillations, estimated: no GPU, no data, nothing trained or computed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.arithmetic import arithmetic_of
from bench.cells import DatasetId, DistilCell, canonical
from bench.data import Dataset, Identity
from bench.device import computing, images_with_graph
from bench.errors import CellFailure
from bench.measuring import standins
from bench.measuring.fit import Fit, changed, fit, knobs_of
from bench.measuring.holders import CPU, Holder, count_by_holder
from bench.measuring.measures import ABOUT, rows
from bench.measuring.shortened import few_pieces
from bench.measuring.standins import StandIns
from bench.plan import Dataset as PlannedDataset
from bench.plan import Plan, plan
from bench.spec import Suite

MIB = 2**20
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


class Keeper(Protocol):
    """Who keeps what was estimated."""

    def known(self, cell: DistilCell) -> dict[Holder, int] | None:
        """A cell's bytes by holder, where they are kept."""

    def keep(self, cell: DistilCell, holders: Mapping[Holder, int], trouble: str | None) -> None:
        """Keep a cell's bytes by holder, or why there are none."""


class Estimator:
    """Estimates of the distil cells of a plan.

    Args:
        plan: the cells, and what makes what they use.
        datasets: their shapes (:func:`bench.measuring.standins.dataset`).
        device: as where, ``cpu`` or ``cuda``; a GPU is given larger batches.
        keeper: who keeps them; nobody by default.
    """

    def __init__(
        self,
        plan: Plan,
        datasets: Mapping[DatasetId, Dataset],
        device: str,
        keeper: Keeper | None = None,
    ) -> None:
        self._plan, self._datasets, self.device, self._keeper = plan, datasets, device, keeper
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
            kept = self._keeper.known(cell) if self._keeper else None
            self._known[key] = self._estimated(cell) if kept is None else kept
        return self._known[key]

    def _estimated(self, cell: DistilCell) -> dict[Holder, int]:
        mode, found, trouble = FakeTensorMode(), dict[Holder, int](), None
        try:
            used = self._stand_ins.used(cell, mode)
            dataset = self._datasets[cell.dataset]
            arithmetic = arithmetic_of(cell.value)
            if arithmetic.precision == "tf32":  # which a CPU has not, and which takes what fp32 takes
                arithmetic = arithmetic.but("fp32", None)
            with mode, few_pieces(dataset), computing(CPU, arithmetic):
                found = count_by_holder(shortened(cell), dataset, self._device, used)
        except CellFailure as failure:
            trouble = str(failure)
            raise
        finally:
            if self._keeper and (found or trouble):
                self._keeper.keep(cell, found, trouble)
        return found

    def rows(self, only: Mapping[str, str], limit: int | None = None) -> Iterator[Estimate]:
        """One estimate per row, in the plan's order: of the first seed, and of the part that takes most.

        Args:
            only: what the plan was narrowed by; a cell may be in rows besides.
            limit: bytes of memory to fit into.
        """
        for tags, cells in rows(self._plan, only):
            yield self._row({tag: tags[tag] for tag in ABOUT}, cells, limit)

    def _row(self, about: Mapping[str, Any], cells: Sequence[DistilCell], limit: int | None) -> Estimate:
        try:
            largest = max(cells, key=self._peak)
            found = Estimate(about, self.holders(largest))
            return found if limit is None else replace(found, fit=self.fit(largest, limit))
        except CellFailure as failure:
            return Estimate(about, {}, str(failure))

    def fit(self, cell: DistilCell, limit: int) -> Fit:
        """Whether a cell fits into ``limit`` bytes, and what would make it fit.

        Raises:
            CellFailure: as :meth:`holders`.
        """
        counts = self._datasets[cell.dataset].train.counts
        chunk = images_with_graph(self._device, cell.dataset.size)
        return fit(self._peak(cell), knobs_of(cell, max(counts), chunk), self._peak, limit)

    def _peak(self, cell: DistilCell) -> int:
        return sum(self.holders(cell).values())


def estimates(
    suite: str,
    spec: Suite,
    only: Mapping[str, str],
    device: Literal["auto", "cpu", "cuda"],
    limit: int | None = None,
    data_dir: Path | None = None,
) -> Estimates:
    """The estimates of a suite; see :func:`bench.api.estimate`."""
    planned, identities = without_data(suite, spec, data_dir)
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return estimated(planned, identities, only, "cuda" if cuda else "cpu", limit)


def estimated(
    planned: Plan,
    identities: Mapping[DatasetId, Identity],
    only: Mapping[str, str],
    device: Literal["cpu", "cuda"],
    limit: int | None = None,
    keeper: Keeper | None = None,
) -> Estimates:
    """The estimates of a plan that was made :func:`without_data`."""
    datasets = {name: standins.dataset(identity) for name, identity in identities.items()}
    narrowed = planned.only(only) if only else planned
    estimator = Estimator(narrowed, datasets, device, keeper)
    return Estimates(planned.suite, device, limit, estimator.rows(only, limit))


def without_data(
    suite: str, spec: Suite, data_dir: Path | None = None
) -> tuple[Plan, dict[DatasetId, Identity]]:
    """A suite's plan, for which the official datasets need not be there; and what its datasets are."""
    identities: dict[DatasetId, Identity] = {}

    def identify(name: str) -> PlannedDataset:
        seen = standins.identify(name, data_dir)
        found = PlannedDataset(DatasetId.of(seen), seen.spec, min(seen.train), min(seen.test))
        identities[found.id] = seen
        return found

    return plan(suite, spec, identify), identities


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
