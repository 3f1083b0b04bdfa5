"""Where the cells of a suite stand, told from its published rows: without data, without torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bench.cells import DatasetId
from bench.data import parse
from bench.errors import UserError
from bench.own import NotKnown
from bench.plan import Dataset, Plan, plan
from bench.spec import Spec, find_suite
from bench.store import Store

#: The kinds of cells that belong to rows of tables, in the order in which they are made.
KINDS = ("distil", "relabel", "evaluate", "analyse")


@dataclass
class Count:
    """Of some planned cells, how many there are, and the keys of those that are finished."""

    planned: int = 0
    finished: list[str] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """How many are not finished."""
        return self.planned - len(self.finished)


@dataclass(frozen=True)
class Standing:
    """A suite's planned cells by what they belong to."""

    #: By dataset, IPC and method, a count for each kind of cell.
    rows: Mapping[tuple[str, str, str], Mapping[str, Count]] = field(default_factory=dict)
    #: What is made from the real data beforehand, by dataset and name.
    beforehand: Mapping[tuple[str, str], Count] = field(default_factory=dict)
    #: How many cells are planned in all, and how many of these are not finished.
    planned: int = 0
    missing: int = 0
    #: In words, each with its reason: those that could not be finished the last time.
    failed: tuple[tuple[str, str], ...] = ()
    #: How many rows are marked as current that the suite, as its file stands, does not plan.
    unplanned: int = 0
    #: Why the plan is not known, where it is not; then nothing else is.
    unknown: str | None = None
    #: Whether that is for want of a file with a method or plug-in of one's own.
    lacks_file: bool = False


def standing(spec: Spec, suite: str, rows: Mapping[str, Mapping[str, Any]], store: Store | None) -> Standing:
    """Plan a suite for the data that its rows were made of, and count what is there.

    Args:
        spec: the tables file.
        suite: the name of one of its suites.
        rows: its published rows by key.
        store: where failures are recorded; None where that is not asked.
    """
    current = {key: row for key, row in rows.items() if row["current"]}
    try:
        planned = plan(suite, find_suite(spec, suite), _identify(current.values()))
    except UserError as problem:
        return Standing(unknown=str(problem), lacks_file=isinstance(problem, NotKnown))
    of_rows, beforehand = _counts(planned, current)
    failures = ((item.words, store.failure(item.cell)) for item in planned) if store else ()
    return Standing(
        of_rows,
        beforehand,
        planned=len(planned),
        missing=sum(key not in current for key in planned.planned),
        failed=tuple((words, reason) for words, reason in failures if reason is not None),
        unplanned=sum(key not in planned.planned for key in current),
    )


def _identify(rows: Iterable[Mapping[str, Any]]) -> Callable[[str], Dataset]:
    """Datasets by name as these rows know them, for :func:`bench.plan.plan`.

    How many images their classes have is not known here. It only refuses suites that ask for too many.
    """
    ids = {row["cell"]["dataset"]["name"]: DatasetId(**row["cell"]["dataset"]) for row in rows}

    def identify(name: str) -> Dataset:
        asked = parse(name)
        known = str(replace(asked, path=None))
        if known not in ids:
            raise UserError(f"no row says which data {known} is")
        return Dataset(ids[known], str(asked), sys.maxsize, sys.maxsize)

    return identify


def _counts(
    planned: Plan, current: Mapping[str, Any]
) -> tuple[dict[tuple[str, str, str], dict[str, Count]], dict[tuple[str, str], Count]]:
    """A plan's cells by row and kind, and those made beforehand; a cell of several rows counts in each."""
    of_rows: dict[tuple[str, str, str], dict[str, Count]] = {}
    beforehand: dict[tuple[str, str], Count] = {}
    for key, item in planned.planned.items():
        if item.cell.kind == "pretrain":
            network = item.tags["network"] or ""
            name = (item.cell.dataset.name, f"{item.tags['what']} {network}".strip())
            places = [beforehand.setdefault(name, Count())]
        else:
            labels = dict.fromkeys(
                (str(tags["dataset"]), "" if tags["ipc"] is None else str(tags["ipc"]), str(tags["method"]))
                for tags in item.all_tags
            )
            places = [of_rows.setdefault(label, {}).setdefault(item.cell.kind, Count()) for label in labels]
        for place in places:
            place.planned += 1
            place.finished += [key] if key in current else []
    return of_rows, beforehand
