"""Before a distillation starts: whether the memory is enough for what it is estimated to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from bench.cells import DatasetId, DistilCell
from bench.data import Dataset
from bench.errors import CellFailure
from bench.estimate import MIB, Estimator
from bench.fit import Fit
from bench.holders import Holder
from bench.plan import Plan


class FitCheck:
    """The check of a plan's distillations.

    Args:
        plan: the cells, and what makes what they use.
        dataset: gives a dataset.
        device: where they would run.
        limit: the memory in bytes.
    """

    def __init__(
        self, plan: Plan, dataset: Callable[[DatasetId], Dataset], device: torch.device, limit: int
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
        if not cell.settings["iterations"]:
            return
        if cell.dataset not in self._datasets:
            self._datasets[cell.dataset] = self._dataset(cell.dataset)
        found = self._estimator.fit(cell, self._limit)
        if not found.fits:
            raise CellFailure(self._reason(self._estimator.holders(cell), found))

    def _reason(self, holders: Mapping[Holder, int], found: Fit) -> str:
        largest = sorted(((size, holder) for holder, size in holders.items() if size), reverse=True)
        held = ", ".join(f"{holder} {size / MIB:.1f}" for size, holder in largest)
        helps = "no one setting would make it fit"
        if found.setting is not None:
            helps = f"with {found.setting} {found.value} it would"
        return (
            f"its estimated peak of {sum(holders.values()) / MIB:.1f} MiB ({held}) does not fit into "
            f"{self._limit / MIB:.1f} MiB; {helps}; --no-fit-check tries it all the same"
        )
