"""From a suite to the graph of its cells, without torch: cheap enough to plan ten thousand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.cells import DatasetId
from bench.errors import UserError, near
from bench.planning.grid import Dataset, Planned, Rows
from bench.spec import Block, Suite

__all__ = ["Dataset", "Plan", "Planned", "plan"]


class Plan:
    """The cells of a suite by key, each after those it needs."""

    def __init__(
        self,
        suite: str,
        planned: Mapping[str, Planned],
        sources: Mapping[DatasetId, str],
        files: Mapping[str, Path],
        first: Sequence[Mapping[str, Collection[str]]] = (),
    ) -> None:
        self.suite = suite
        self.planned = planned
        #: What each dataset of the plan is loaded by.
        self.sources = sources
        #: Where what was made elsewhere is, by the ``file:SHA256`` that cells know it by.
        self.files = files
        #: Which cells matter most: those of the first selection, then those of the second, …
        self.first = first

    def __len__(self) -> int:
        return len(self.planned)

    def __iter__(self) -> Iterator[Planned]:
        return iter(self.planned.values())

    def only(self, wanted: Mapping[str, str]) -> Plan:
        """The cells whose tags have these values (as text), and the cells that those need.

        Raises:
            UserError: a tag is unknown, or no cell is left.
        """
        known = sorted({tag for item in self for tag in item.tags})
        for tag, value in wanted.items():
            if tag not in known:
                raise UserError(f"--only {tag}={value}: no such key; {near(tag, known)}")
        keep: set[str] = set()
        for key, item in reversed(list(self.planned.items())):  # what needs comes after what is needed
            if key in keep or has_tags(item, {tag: [value] for tag, value in wanted.items()}):
                keep.update((key, *item.cell.needs))
        if not keep:
            there = "; ".join(f"{tag} is one of {', '.join(self._values(tag))}" for tag in wanted)
            raise UserError(f"--only leaves no cell of suite {self.suite!r}: {there}")
        kept = {key: item for key, item in self.planned.items() if key in keep}
        return Plan(self.suite, kept, self.sources, self.files, self.first)

    def by_importance(self) -> list[Planned]:
        """The cells in the order in which to make them: as ``first`` says, then as the grid has them.

        What others need comes before the first of them, and pretrain cells no earlier than that.
        """
        order: dict[str, Planned] = {}

        def place(key: str) -> None:
            if key not in order:
                for needed in self.planned[key].cell.needs:
                    place(needed)
                order[key] = self.planned[key]

        for wanted in (*self.first, {}):
            for key, item in self.planned.items():
                if item.cell.kind != "pretrain" and has_tags(item, wanted):
                    place(key)
        for key in self.planned:  # pretrain cells that were asked for by themselves
            place(key)
        return list(order.values())

    def _values(self, tag: str) -> list[str]:
        return sorted({str(tags[tag]) for item in self for tags in item.all_tags if tag in tags})


def has_tags(item: Planned, wanted: Mapping[str, Collection[str]]) -> bool:
    """Whether a cell has one of the values wanted (as text) of each tag, in one of the rows that it is in."""
    return any(all(str(tags.get(tag)) in values for tag, values in wanted.items()) for tags in item.all_tags)


def plan(name: str, suite: Suite, identify: Callable[[str], Dataset]) -> Plan:
    """The graph of a suite's cells.

    Args:
        name: the suite's name, for messages and tags.
        suite: its grid.
        identify: from a dataset's name to its id; may raise :class:`UserError` where it is missing.

    Raises:
        UserError: a name is unknown, or a combination impossible; the message says where in the suite.
    """
    seen: dict[str, Dataset] = {}
    planned: dict[str, Planned] = {}
    names: dict[tuple[Any, ...], str] = {}
    files: dict[str, Path] = {}
    for number, block in enumerate(suite.grid):
        where = f"suites.{name}.grid.{number}"
        for item in _rows(suite, block, where, seen, identify, files):
            if names.setdefault(item.name, item.cell.key) != item.cell.key:
                raise UserError(
                    f"{where}: {item.tags['method']} stands in this suite with other settings already; "
                    "give one of the blocks a `label`, or tables would take the two for one"
                )
            there = planned.setdefault(item.cell.key, item)
            if item.tags not in there.all_tags:
                planned[item.cell.key] = replace(there, also=(*there.also, item.tags))
    found = Plan(name, planned, {dataset.id: dataset.spec for dataset in seen.values()}, files, suite.first)
    _check_first(found)
    return found


def _rows(
    suite: Suite,
    block: Block,
    where: str,
    seen: dict[str, Dataset],
    identify: Callable[[str], Dataset],
    files: dict[str, Path],
) -> Iterator[Planned]:
    """The cells of a block, on each of its datasets."""
    for spec in block.dataset or suite.dataset:
        if spec not in seen:
            seen[spec] = identify(spec)
        yield from Rows(suite, block, where, seen[spec], files)


def _check_first(found: Plan) -> None:
    """Refuse a selection in ``first`` that no cell is among: it would say nothing, and silently."""
    known = sorted({tag for item in found for tags in item.all_tags for tag in tags})
    for number, wanted in enumerate(found.first):
        where = f"suites.{found.suite}.first.{number}"
        for tag in wanted:
            if tag not in known:
                raise UserError(f"{where}: no such key {tag!r}; {near(tag, known)}")
        if not any(has_tags(item, wanted) for item in found):
            raise UserError(f"{where}: no cell of the suite is among these")
