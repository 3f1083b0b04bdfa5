"""What the rows of a suite were made with: machines, packages, commits, commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.cells import canonical

#: What makes one machine with one set of packages, of a row's provenance.
_MACHINE = ("device", "device_kind", "platform", "threads", "cuda", "driver", "versions")


@dataclass
class Machine:
    """One machine with its packages, and what was made on it."""

    about: Mapping[str, Any]
    cells: int = 0
    seconds: float = 0.0
    #: When its first and its last cell were finished (UTC), to the day.
    first: str = ""
    last: str = ""
    commits: Counter[str] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
    #: How many cells were made by code that differed from its commit.
    dirty: int = 0

    @property
    def duration(self) -> str:
        """The wall time of its cells in words."""
        return duration(self.seconds)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row that was made here."""
        made = row["provenance"]
        day = str(made.get("finished", ""))[:10]
        self.cells += 1
        self.seconds += row["cost"].get("seconds") or 0.0
        self.first, self.last = min(self.first or day, day), max(self.last, day)
        self.commits[made.get("commit") or "not from a checkout"] += 1
        self.commands[made.get("command") or "not recorded"] += 1
        self.dirty += bool(made.get("dirty"))


def machines(rows: Iterable[Mapping[str, Any]]) -> list[Machine]:
    """The machines that current rows were made on, those with most cells first."""
    found: dict[str, Machine] = {}
    for row in rows:
        if row["current"]:
            made = row["provenance"]
            about = {name: made[name] for name in _MACHINE if made.get(name) is not None}
            found.setdefault(canonical(about), Machine(about)).add(row)
    return sorted(found.values(), key=lambda machine: -machine.cells)


def duration(seconds: float) -> str:
    """Seconds in words, to about two digits: ``3.2 h``, ``12 min``, ``4.1 s``."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.1f} s"
