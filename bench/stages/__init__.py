"""One function per kind of cell; what they share is their context."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.stages import checkpoint

if TYPE_CHECKING:
    import torch

    from bench.data import Dataset


class OutOfTime(Exception):
    """The time limit was reached; the checkpoint has been written."""


@dataclass
class Context:
    """What a stage is given besides its cell. None of it changes a result."""

    dataset: Dataset
    device: torch.device
    #: Artifacts of the cells it needs: key -> file name -> path.
    artifacts: Mapping[str, Mapping[str, Path]]
    #: Where things made elsewhere are, by ``file:SHA256``.
    files: Mapping[str, Path] = field(default_factory=dict, kw_only=True)
    #: Where the artifacts go; everything in it becomes part of the finished cell.
    workspace: Path
    #: Where the checkpoint is kept while the cell is unfinished.
    partial: Path
    checkpoint_every: float = 30.0
    #: On the clock of :func:`time.monotonic`; None is no limit.
    deadline: float | None = None
    #: Whether evaluation networks are trained by CUDA graphs.
    graphs: bool = False
    #: Called with (done, total) steps.
    progress: Callable[[int, int], None] = lambda done, total: None
    _saved_at: float = field(default_factory=time.monotonic)

    def between_steps(self, state: Callable[[], dict[str, Any]]) -> None:
        """Where a stage may stop: saves its ``state`` when that is due, and ends it when time is up.

        Raises:
            OutOfTime: after saving.
        """
        self.may_stop(lambda: checkpoint.save(self.partial, state()))

    def may_stop(self, save: Callable[[], None]) -> None:
        """As :meth:`between_steps`, where ``save`` writes the checkpoint (or several).

        Raises:
            OutOfTime: after saving.
        """
        now = time.monotonic()
        late = self.deadline is not None and now >= self.deadline
        if late or now - self._saved_at >= self.checkpoint_every:
            save()
            self._saved_at = time.monotonic()
        if late:
            raise OutOfTime


@dataclass(frozen=True)
class Outcome:
    """What a stage returns: the ``result`` is reproducible to the bit on one machine, the ``cost`` is not."""

    result: dict[str, Any]
    cost: dict[str, Any]
