"""What a check finds: a row of accuracies, what cells cost, and whether that is worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bench.checking.drops import Change
from bench.stats import LEVEL, Summary

#: A peak may be so many times the reference's; one this much smaller is called better.
MEMORY = 1.02
#: From so many times the reference's seconds per update on, and as much below, a time is told.
TIME = 1.25
#: The columns that a row of accuracies always has.
SHOWN = ("dataset", "ipc", "method", "recipe")


class Outcome(Enum):
    """What a check found, with the exit status for it."""

    same_or_better = 0
    worse = 1
    cannot_tell = 3

    def __str__(self) -> str:
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class Accuracy:
    """One row of accuracies: the mean over its networks, by distillation seed."""

    about: Mapping[str, Any]
    reference: Summary
    now: Summary
    change: Change
    #: Holm's adjusted p of a drop, and the smallest drop that is found in 80% of cases, in points.
    p: float
    detectable: float
    #: How far the reference is above guessing, in points: no drop is larger.
    room: float

    @property
    def outcome(self) -> Outcome:
        """Worse by the test; cannot tell where not even a drop to chance would be found."""
        if self.p <= LEVEL:
            return Outcome.worse
        return Outcome.same_or_better if self.detectable <= self.room else Outcome.cannot_tell


@dataclass(frozen=True)
class Ratio:
    """What a row's cells cost now and in the reference, in bytes or seconds."""

    about: str
    reference: float
    now: float

    @property
    def ratio(self) -> float:
        """How many times the reference."""
        return self.now / self.reference


@dataclass(frozen=True)
class Checked:
    """All that a check found."""

    suite: str
    accuracy: tuple[Accuracy, ...]
    memory: tuple[Ratio, ...]
    time: tuple[Ratio, ...]
    #: Cells of the reference that are not there, or lack a measure that the reference's have.
    missing: tuple[str, ...]
    #: How many cells promise equal bits, and those among them whose results differ.
    promised: int
    differing: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    #: How many times slower is worse; None: never.
    slower: float | None = None

    @property
    def worse(self) -> tuple[str, ...]:
        """What is worse, a text for each."""
        found = [f"accuracy: {_named(row.about)}" for row in self.accuracy if row.outcome is Outcome.worse]
        found += [f"memory: {row.about}" for row in self.memory if row.ratio > MEMORY]
        found += [f"time: {row.about}" for row in self.time if self.slower and row.ratio > self.slower]
        return (*found, *(f"missing: {each}" for each in self.missing))

    @property
    def outcome(self) -> Outcome:
        """Worse where anything is; cannot tell where no row's accuracy can be judged."""
        if self.worse:
            return Outcome.worse
        told = any(row.outcome is Outcome.same_or_better for row in self.accuracy)
        return Outcome.same_or_better if told else Outcome.cannot_tell


def _named(about: Mapping[str, Any]) -> str:
    return ", ".join(f"IPC {v}" if k == "ipc" else str(v) for k, v in about.items() if k in SHOWN and v)
