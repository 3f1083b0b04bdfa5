"""What a run has to do, who watches it, and how it ended.

No torch: a suite that is all hits never needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.plan import Plan, Planned
from bench.store import State, Store


class Watcher(Protocol):
    """Who is told how a run goes (a progress bar, or nobody)."""

    def begin(self, total: int, done: int) -> None:
        """There are ``total`` cells, ``done`` of them finished already."""

    def cell(self, planned: Planned) -> Callable[[int, int], None]:
        """A cell begins; returns what to call with its (done, total) steps."""

    def finished(self, planned: Planned) -> None:
        """A cell is finished, failed, or was found finished by another process."""


class Silent:
    """A watcher that says nothing."""

    def begin(self, total: int, done: int) -> None:
        """Nothing."""

    def cell(self, planned: Planned) -> Callable[[int, int], None]:
        """Nothing."""
        return lambda done, total: None

    def finished(self, planned: Planned) -> None:
        """Nothing."""


@dataclass
class Report:
    """How a run ended: cells planned, found finished, made; failed ones by key with their reasons."""

    cells: int
    hits: int
    made: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    out_of_time: bool = False


def to_make(plan: Plan, store: Store) -> list[Planned]:
    """What has to be made: unfinished cells, and finished ones whose artifacts are needed and not here.

    What matters most comes first (:meth:`bench.plan.Plan.by_importance`).
    """
    found: set[str] = set()
    needed: set[str] = set()
    for key, item in reversed(list(plan.planned.items())):  # what needs comes after what is needed
        unfinished = store.state(item.cell) != State.FINISHED
        if unfinished or (key in needed and not store.has_artifacts(item.cell)):
            found.add(key)
            needed.update(item.cell.needs)
    return [item for item in plan.by_importance() if item.cell.key in found]


def collect(plan: Plan, store: Store) -> list[dict[str, Any]]:
    """The rows of the plan's finished cells, with their tags, in the plan's order."""
    rows = ((item, store.row(item.cell)) for item in plan)
    return [{**row, **_tags(item)} for item, row in rows if row is not None]


def _tags(item: Planned) -> dict[str, Any]:
    """What a published row says of the table rows that it belongs to."""
    also = {"also": [dict(tags) for tags in item.also]} if item.also else {}
    return {"tags": dict(item.tags), **also}
