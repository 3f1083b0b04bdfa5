"""Walk a plan: make what is missing, one cell at a time, and go on after a failure.

Several processes may walk one store at once: each cell is made by whoever gets its lock first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import data
from bench.cells import AnalyseCell, Cell, DatasetId, DistilCell, EvaluateCell, PretrainCell, RelabelCell
from bench.errors import CellFailure
from bench.fitcheck import FitCheck
from bench.plan import Plan, Planned
from bench.provenance import provenance
from bench.stages import Context, Outcome, OutOfTime, analyse, distill, evaluate, pretrain, relabel
from bench.store import State, Store
from bench.walk import Report, Watcher, to_make

#: Seconds between two looks at cells that another process is making.
POLL = 0.2


@dataclass(frozen=True)
class Options:
    """How to run: where the data are, on what device, and for how long. None of it changes a result."""

    data_dir: Path | None
    device: torch.device
    command: str
    time_limit: float | None = None
    checkpoint_every: float = 30.0
    #: Bytes; what is estimated to take more is not distilled. None is no limit.
    memory: int | None = None


def run(plan: Plan, store: Store, options: Options, watcher: Watcher) -> Report:
    """Make the missing cells of a plan, in its order.

    Returns when every cell is finished or failed, or when the time limit is reached; what was begun then
    stays as a checkpoint.
    """
    return _Walk(plan, store, options, watcher).to_the_end()


class _Walk:
    """One process's way through a plan."""

    def __init__(self, plan: Plan, store: Store, options: Options, watcher: Watcher) -> None:
        self.plan, self.store, self.options, self.watcher = plan, store, options, watcher
        self.waiting = {item.cell.key: item for item in to_make(plan, store)}
        #: Earlier failures, which are tried again; one that is newer is another process's, and final.
        self.failed_before = {key: store.failed_at(item.cell) for key, item in self.waiting.items()}
        self.needed = {key for item in plan for key in item.cell.needs}
        self.report = Report(cells=len(plan), hits=len(plan) - len(self.waiting))
        self.datasets = _Datasets(plan.sources, options.data_dir)
        self._check()
        self.fits = None
        if options.memory is not None:
            self.fits = FitCheck(plan, self.datasets.get, options.device, options.memory)
        limit = options.time_limit  # from here on: each run that has time at all gets one step further
        self.deadline = None if limit is None else time.monotonic() + limit

    def _check(self) -> None:
        """Open all that will be read, so that damage is named before anything is written."""
        for dataset in {item.cell.dataset for item in self.waiting.values()}:
            self.datasets.get(dataset)
        needed = {key for item in self.waiting.values() for key in item.cell.needs}
        for key in needed - self.waiting.keys():
            _artifacts(self.plan.planned[key].cell, self.store)

    def to_the_end(self) -> Report:
        self.watcher.begin(len(self.plan), self.report.hits)
        try:
            while self.waiting:
                done = [key for key, item in self.waiting.items() if self._settle(item)]
                for key in done:
                    del self.waiting[key]
                if not done:  # the rest is being made by other processes
                    time.sleep(POLL)
        except OutOfTime:
            self.report.out_of_time = True
        return self.report

    def _settle(self, item: Planned) -> bool:
        """Make a cell, or see that it is made or cannot be; False where it has to wait."""
        cell, failed = item.cell, self.report.failed
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise OutOfTime
        if blocker := next((key for key in cell.needs if key in failed), None):
            failed[cell.key] = f"what it needs failed: {failed[blocker]}"
        elif any(key in self.waiting and not self._is_made(key) for key in cell.needs):
            return False
        else:
            with self.store.claim(cell) as mine:
                if not mine:
                    return False
                self._make_unless_made(item)
        self.watcher.finished(item)
        return True

    def _make_unless_made(self, item: Planned) -> None:
        if self._is_made(item.cell.key):  # by another process, since this one looked
            self.report.hits += 1
            return
        if self.store.failed_at(item.cell) != self.failed_before[item.cell.key]:
            self.report.failed[item.cell.key] = self.store.failure(item.cell) or "failed in another process"
            return
        try:
            self._make(item)
            self.report.made += 1
        except CellFailure as failure:
            self.store.fail(item.cell, str(failure))
            self.report.failed[item.cell.key] = str(failure)

    def _is_made(self, key: str) -> bool:
        cell = self.plan.planned[key].cell
        if self.store.state(cell) != State.FINISHED:
            return False
        return key not in self.needed or self.store.has_artifacts(cell)

    def _make(self, item: Planned) -> None:
        cell, store, options = item.cell, self.store, self.options
        if self.fits is not None and isinstance(cell, DistilCell) and not store.partial(cell).exists():
            self.fits.check(cell)
        with store.workspace(cell) as workspace, failures():
            context = Context(
                dataset=self.datasets.get(cell.dataset),
                device=options.device,
                artifacts={key: _artifacts(self.plan.planned[key].cell, store) for key in cell.needs},
                workspace=workspace,
                partial=store.partial(cell),
                files=self.plan.files,
                checkpoint_every=options.checkpoint_every,
                deadline=self.deadline,
                progress=self.watcher.cell(item),
            )
            outcome = _stage(cell, context)
            row = {"cell": cell.value, "result": outcome.result, "cost": outcome.cost}
            store.finish(cell, workspace, row | {"provenance": provenance(options.device, options.command)})


def _stage(cell: Cell, context: Context) -> Outcome:
    if isinstance(cell, DistilCell):
        return distill.run(cell, context)
    if isinstance(cell, EvaluateCell):
        return evaluate.run(cell, context)
    if isinstance(cell, PretrainCell):
        return pretrain.run(cell, context)
    if isinstance(cell, RelabelCell):
        return relabel.run(cell, context)
    if isinstance(cell, AnalyseCell):
        return analyse.run(cell, context)
    raise TypeError(f"no stage for {cell.kind}")


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Running out of memory is a failed cell, not a bug."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CellFailure(f"out of memory on the GPU: {str(error).splitlines()[0]}") from None
    except MemoryError:
        raise CellFailure("out of memory on the CPU") from None
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):
            raise CellFailure("out of memory on the CPU") from None
        raise


def _artifacts(cell: Cell, store: Store) -> dict[str, Path]:
    row = store.row(cell)
    names: Sequence[str] = list(row["artifacts"]) if row else []
    found = {name: store.artifact(cell, name) for name in names}
    return {name: path for name, path in found.items() if path is not None}


class _Datasets:
    """Datasets, loaded when the first cell asks for them."""

    def __init__(self, sources: Mapping[DatasetId, str], data_dir: Path | None) -> None:
        self._sources = sources
        self._data_dir = data_dir
        self._loaded: dict[DatasetId, data.Dataset] = {}

    def get(self, wanted: DatasetId) -> data.Dataset:
        if wanted not in self._loaded:
            found = data.load(self._sources[wanted], self._data_dir)
            if found.content != wanted.content:
                raise RuntimeError(f"{wanted.name} changed on disk while the suite was running")
            self._loaded[wanted] = found
        return self._loaded[wanted]
