"""Whether the memory is enough for what a distillation is estimated to take: before, and when it was not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from bench.cells import Cell, DatasetId, DistilCell
from bench.data import Dataset
from bench.device import memory_of
from bench.errors import CellFailure
from bench.measuring.estimate import MIB, Estimator
from bench.measuring.fit import Fit
from bench.measuring.holders import Holder
from bench.plan import Plan


class FitCheck:
    """The check of a plan's distillations.

    Args:
        plan: the cells, and what makes what they use.
        dataset: gives a dataset.
        device: where they would run.
        limit: the memory in bytes; None checks nothing beforehand.
    """

    def __init__(
        self, plan: Plan, dataset: Callable[[DatasetId], Dataset], device: torch.device, limit: int | None
    ) -> None:
        self._plan, self._dataset, self._device, self._limit = plan, dataset, device, limit
        self._datasets: dict[DatasetId, Dataset] = {}
        self._estimator = Estimator(plan, self._datasets, device.type)

    def check(self, cell: DistilCell) -> None:
        """Estimate a cell; cells that differ by seed or part alone share that.

        Raises:
            CellFailure: it takes more than there is. The reason names what holds the memory, and a setting
                that would make it fit, if there is one.
        """
        if self._limit is None or not cell.settings["iterations"]:
            return
        self._open(cell)
        found = self._estimator.fit(cell, self._limit)
        if not found.fits:
            raise CellFailure(
                f"its estimated peak of {_peak(self._estimator.holders(cell))} does not fit into "
                f"{self._limit / MIB:.1f} MiB; {_what_helps(found, 'fit')}; "
                "--no-fit-check tries it all the same"
            )

    def why(self, cell: Cell) -> str:
        """What to say further of a cell that ran out of memory: what held it, and what would take less.

        It is known of distillations alone, from their estimate. Where this is within the memory, others held
        the rest, or PyTorch needed it besides: then the answer is a setting that takes a quarter less.
        """
        if not isinstance(cell, DistilCell) or not cell.settings["iterations"]:
            return ""
        there = memory_of(self._device) if self._limit is None else self._limit
        try:
            self._open(cell)
            holders = self._estimator.holders(cell)
            whole = sum(holders.values())
            limit, to = int(0.75 * whole), "take a quarter less"
            if there is not None and there < whole:
                limit, to = there, f"fit into {there / MIB:.1f} MiB"
            found = self._estimator.fit(cell, limit)
        except Exception as problem:  # whatever it is, it must not end the run nor hide what happened
            return f"; what held it cannot be estimated ({type(problem).__name__})"
        return f"; its estimated peak is {_peak(holders)}; {_what_helps(found, to)}"

    def _open(self, cell: DistilCell) -> None:
        if cell.dataset not in self._datasets:
            self._datasets[cell.dataset] = self._dataset(cell.dataset)


def _peak(holders: Mapping[Holder, int]) -> str:
    """A peak with what holds it, the largest first."""
    largest = sorted(((size, holder) for holder, size in holders.items() if size), reverse=True)
    held = ", ".join(f"{holder} {size / MIB:.1f}" for size, holder in largest)
    return f"{sum(holders.values()) / MIB:.1f} MiB ({held})"


def _what_helps(found: Fit, to: str) -> str:
    if found.setting is None:
        return f"no one setting would make it {to}"
    return f"with {found.setting} {found.value} it would" + ("" if to == "fit" else f" {to}")
