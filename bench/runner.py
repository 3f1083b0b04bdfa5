"""Walk a plan: make what is missing, one cell at a time, and go on after a failure.

Several processes may walk one store at once: each cell is made by whoever gets its lock first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import data
from bench.cells import Cell, DatasetId, DistilCell, EvaluateCell
from bench.errors import CellFailure
from bench.plan import Plan, Planned
from bench.provenance import provenance
from bench.stages import Context, Outcome, OutOfTime, distill, evaluate
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


def run(plan: Plan, store: Store, options: Options, watcher: Watcher) -> Report:
    """Make the missing cells of a plan, in its order.

    Returns when every cell is finished or failed, or when the time limit is reached; what was begun then
    stays as a checkpoint.
    """
    deadline = None if options.time_limit is None else time.monotonic() + options.time_limit
    waiting = to_make(plan, store)
    report = Report(cells=len(plan), hits=len(plan) - len(waiting))
    watcher.begin(len(plan), report.hits)
    datasets = _Datasets(plan.sources, options.data_dir)
    while waiting:
        before = len(waiting)
        for item in list(waiting):
            if deadline is not None and time.monotonic() >= deadline:
                report.out_of_time = True
                return report
            if blocker := next((key for key in item.cell.needs if key in report.failed), None):
                report.failed[item.cell.key] = f"its images failed: {report.failed[blocker]}"
            elif any(other.cell.key in item.cell.needs for other in waiting):
                continue
            else:
                with store.claim(item.cell) as mine:
                    if not mine:
                        continue
                    if _is_made(item.cell, store, plan):
                        report.hits += 1
                    else:
                        try:
                            _make(item, plan, store, options, datasets, deadline, watcher.cell(item))
                            report.made += 1
                        except CellFailure as failure:
                            store.fail(item.cell, str(failure))
                            report.failed[item.cell.key] = str(failure)
                        except OutOfTime:
                            report.out_of_time = True
                            return report
            waiting.remove(item)
            watcher.finished(item)
        if len(waiting) == before:
            time.sleep(POLL)
    return report


def _is_made(cell: Cell, store: Store, plan: Plan) -> bool:
    """Whether another process has finished the cell since this one looked."""
    if store.state(cell) != State.FINISHED:
        return False
    return store.has_artifacts(cell) or not any(cell.key in item.cell.needs for item in plan)


def _make(
    item: Planned,
    plan: Plan,
    store: Store,
    options: Options,
    datasets: _Datasets,
    deadline: float | None,
    progress: Callable[[int, int], None],
) -> None:
    cell = item.cell
    with store.workspace(cell) as workspace, _failures():
        context = Context(
            dataset=datasets.get(cell.dataset),
            device=options.device,
            artifacts={key: _artifacts(plan.planned[key].cell, store) for key in cell.needs},
            workspace=workspace,
            partial=store.partial(cell),
            checkpoint_every=options.checkpoint_every,
            deadline=deadline,
            progress=progress,
        )
        outcome = _stage(cell, context)
        row = {"cell": cell.value, "result": outcome.result, "cost": outcome.cost}
        store.finish(cell, workspace, row | {"provenance": provenance(options.device, options.command)})


def _stage(cell: Cell, context: Context) -> Outcome:
    if isinstance(cell, DistilCell):
        return distill.run(cell, context)
    if isinstance(cell, EvaluateCell):
        return evaluate.run(cell, context)
    raise TypeError(f"no stage for {cell.kind}")


@contextlib.contextmanager
def _failures() -> Iterator[None]:
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
