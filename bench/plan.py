"""From a suite to the graph of its cells, without torch: cheap enough to plan ten thousand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.cells import DatasetId
from bench.errors import UserError, near
from bench.grid import Dataset, Planned, Rows
from bench.spec import Suite

__all__ = ["Dataset", "Plan", "Planned", "plan"]


class Plan:
    """The cells of a suite by key, each after those it needs."""

    def __init__(
        self,
        suite: str,
        planned: Mapping[str, Planned],
        sources: Mapping[DatasetId, str],
        files: Mapping[str, Path],
    ) -> None:
        self.suite = suite
        self.planned = planned
        #: What each dataset of the plan is loaded by.
        self.sources = sources
        #: Where what was made elsewhere is, by the ``file:SHA256`` that cells know it by.
        self.files = files

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
        for tag in wanted:
            if tag not in known:
                raise UserError(f"--only {tag}=…: no such key; {near(tag, known)}")
        keep: set[str] = set()
        for key, item in reversed(list(self.planned.items())):  # what needs comes after what is needed
            asked = any(
                all(str(tags.get(tag)) == value for tag, value in wanted.items()) for tags in item.all_tags
            )
            if key in keep or asked:
                keep.update((key, *item.cell.needs))
        if not keep:
            there = "; ".join(f"{tag} is one of {', '.join(self._values(tag))}" for tag in wanted)
            raise UserError(f"--only leaves no cell of suite {self.suite!r}: {there}")
        kept = {key: item for key, item in self.planned.items() if key in keep}
        return Plan(self.suite, kept, self.sources, self.files)

    def _values(self, tag: str) -> list[str]:
        return sorted({str(tags[tag]) for item in self for tags in item.all_tags if tag in tags})


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
        spec = block.dataset or suite.dataset
        if spec not in seen:
            seen[spec] = identify(spec)
        for item in Rows(suite, block, where, seen[spec], files):
            if names.setdefault(item.name, item.cell.key) != item.cell.key:
                raise UserError(
                    f"{where}: {item.tags['method']} stands in this suite with other settings already; "
                    "give one of the blocks a `label`, or tables would take the two for one"
                )
            there = planned.setdefault(item.cell.key, item)
            if item.tags not in there.all_tags:
                planned[item.cell.key] = replace(there, also=(*there.also, item.tags))
    return Plan(name, planned, {dataset.id: dataset.spec for dataset in seen.values()}, files)
