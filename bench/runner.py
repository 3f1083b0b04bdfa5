"""Walk a plan: make what is missing, one cell at a time, and go on after a failure.

Several processes may walk one store at once: each cell is made by whoever gets its lock first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench import data
from bench import device as devices
from bench.arithmetic import arithmetic_of
from bench.cells import AnalyseCell, Cell, DatasetId, DistilCell, EvaluateCell, PretrainCell, RelabelCell
from bench.disk import naming
from bench.errors import CellFailure
from bench.measuring.fitcheck import FitCheck
from bench.plan import Plan, Planned
from bench.planning.groups import Groups
from bench.provenance import provenance
from bench.stages import Context, Outcome, OutOfTime, analyse, distill, evaluate, pretrain, relabel, together
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
    #: How many evaluation networks are trained at once at most; that moves the last bits of a result.
    together: int = 1
    #: Whether they are trained by CUDA graphs.
    graphs: bool = False


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
        self.groups = Groups(self.waiting.values())
        #: Cells that were finished or failed together with another.
        self.settled: set[str] = set()
        self.needed = {key for item in plan for key in item.cell.needs}
        self.report = Report(cells=len(plan), hits=len(plan) - len(self.waiting))
        self.datasets = _Datasets(plan.sources, options.data_dir)
        self._check()
        self.fits = FitCheck(plan, self.datasets.get, options.device, options.memory)
        limit = options.time_limit  # from here on: each run that has time at all gets one step further
        self.deadline = None if limit is None else time.monotonic() + limit

    def _check(self) -> None:
        """Open all that will be read, so that damage is named before anything is written.

        And see that the device can compute as it shall.
        """
        for item in self.waiting.values():
            devices.check(self.options.device, arithmetic_of(item.cell.value))
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
        if cell.key in self.settled:
            return True
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
        with contextlib.ExitStack() as claims:
            group = self._group(item, claims)
            if len(group) > 1:
                try:
                    self._make_together(group)
                    return
                except (together.Refused, CellFailure) as refusal:
                    self.groups.refuse(item, str(refusal))
                devices.release(self.options.device)
        try:
            self._make(item)
        except OutOfMemory as failure:
            problem = str(failure)
        except CellFailure as failure:
            self._fail(item, failure)
            return
        else:
            return
        devices.release(self.options.device)  # only now: the traceback held what the cell did
        self._fail(item, OutOfMemory(problem + self.fits.why(item.cell)))

    def _group(self, item: Planned, claims: contextlib.ExitStack) -> list[Planned]:
        """A cell and those that can be made with it, whose locks ``claims`` then holds."""
        group, wanted = [item], self.options.together
        for other in self.groups.others(item) if wanted > 1 else ():
            with contextlib.ExitStack() as claim:
                if (
                    len(group) < wanted
                    and other.cell.key not in self.settled
                    and claim.enter_context(self.store.claim(other.cell))
                    and not self._is_made(other.cell.key)
                    and self.store.failed_at(other.cell) is None
                    and self._epochs_done(other) == self._epochs_done(item)
                ):
                    claims.push(claim.pop_all())
                    group.append(other)
        return group

    def _epochs_done(self, item: Planned) -> int:
        return together.epochs_done(self.store.partial(item.cell))

    def _make_together(self, group: Sequence[Planned]) -> None:
        """Make cells at once; what fails alone is recorded, what fails all of them is raised."""
        with contextlib.ExitStack() as places:
            contexts = [places.enter_context(self._context(item)) for item in group]
            cells = [item.cell for item in group if isinstance(item.cell, EvaluateCell)]
            outcomes = together.run(cells, contexts)
            for item, context, outcome in zip(group, contexts, outcomes, strict=True):
                if isinstance(outcome, Outcome):
                    self._file(item, context, outcome)
                else:
                    self._fail(item, outcome)
        for item in group[1:]:
            self.settled.add(item.cell.key)
            self.watcher.finished(item)

    def _fail(self, item: Planned, failure: CellFailure) -> None:
        self.store.fail(item.cell, str(failure))
        self.report.failed[item.cell.key] = str(failure)

    def _is_made(self, key: str) -> bool:
        cell = self.plan.planned[key].cell
        if self.store.state(cell) != State.FINISHED:
            return False
        return key not in self.needed or self.store.has_artifacts(cell)

    def _make(self, item: Planned) -> None:
        cell, store = item.cell, self.store
        if isinstance(cell, DistilCell) and not store.partial(cell).exists():
            self.fits.check(cell)
        with self._context(item) as context:
            outcome = _stage(cell, context)
            if reason := self.groups.why_alone(item):
                outcome = replace(outcome, cost={**outcome.cost, "alone": reason})
            self._file(item, context, outcome)

    @contextlib.contextmanager
    def _context(self, item: Planned) -> Iterator[Context]:
        """What the stage of a claimed cell is given, with a place to work in."""
        cell, store, options = item.cell, self.store, self.options
        with (
            naming(store.root),
            store.workspace(cell) as workspace,
            failures(),
            devices.computing(options.device, arithmetic_of(cell.value)),
        ):
            yield Context(
                dataset=self.datasets.get(cell.dataset),
                device=options.device,
                artifacts={key: _artifacts(self.plan.planned[key].cell, store) for key in cell.needs},
                workspace=workspace,
                partial=store.partial(cell),
                files=self.plan.files,
                checkpoint_every=options.checkpoint_every,
                deadline=self.deadline,
                graphs=options.graphs,
                progress=self.watcher.cell(item),
            )

    def _file(self, item: Planned, context: Context, outcome: Outcome) -> None:
        options = self.options
        row = {"cell": item.cell.value, "result": outcome.result, "cost": outcome.cost}
        made = provenance(options.device, options.command) | {"arithmetic": devices.recorded(options.device)}
        row["provenance"] = made
        self.store.finish(item.cell, context.workspace, row)
        self.report.made += 1


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


class OutOfMemory(CellFailure):
    """A cell ended because there was no more memory."""


#: What the driver and the libraries under PyTorch say, which has no exception of its own for it.
_GPU_IS_FULL = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # no room for any plan's workspace
)


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Running out of memory is a failed cell, not a bug."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"out of memory on the GPU: {str(error).partition(chr(10))[0]}") from None
    except MemoryError:
        raise OutOfMemory("out of memory on the CPU") from None
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):
            raise OutOfMemory("out of memory on the CPU") from None
        if any(text in str(error) for text in _GPU_IS_FULL):
            raise OutOfMemory(f"out of memory on the GPU: {str(error).partition(chr(10))[0]}") from None
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
