"""Which cells can be made at once: evaluations that differ in their evaluation seed alone. No torch."""

from __future__ import annotations

from collections.abc import Iterable

from bench.cells import EvaluateCell, canonical
from bench.plan import Planned


class Groups:
    """The evaluations of a run, by what they have in common.

    Args:
        items: the cells that have to be made, in order.
    """

    def __init__(self, items: Iterable[Planned]) -> None:
        self._of: dict[str, list[Planned]] = {}
        self._name: dict[str, str] = {}
        self._why_alone: dict[str, str] = {}
        for item in items:
            if isinstance(item.cell, EvaluateCell):
                common = canonical({**item.cell.value, "evaluation_seed": None})
                self._name[item.cell.key] = common
                self._of.setdefault(common, []).append(item)

    def others(self, item: Planned) -> list[Planned]:
        """The cells that may be made with this one; none where that has been refused."""
        name = self._name.get(item.cell.key)
        if name is None or name in self._why_alone:
            return []
        return [other for other in self._of[name] if other is not item]

    def refuse(self, item: Planned, reason: str) -> None:
        """Remember that this cell and those like it have to be made one by one."""
        self._why_alone[self._name[item.cell.key]] = reason

    def why_alone(self, item: Planned) -> str | None:
        """Why a cell has to be made alone, if others could have been made with it."""
        return self._why_alone.get(self._name.get(item.cell.key, ""))
