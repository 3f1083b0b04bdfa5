"""Measuring what a suite's cells take: each in a fresh process, kept in the store, published with tables."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.cells import DistilCell
from bench.data import Identity
from bench.measuring.estimate import Estimates, estimated, without_data
from bench.measuring.holders import Holder
from bench.measuring.measures import How, Kind, Measured, Measures
from bench.plan import Plan
from bench.provenance import provenance
from bench.results import Results
from bench.spec import Suite
from bench.stages.distill import COUNTED_UPDATES
from bench.stages.measure import RESULT, Job, run_apart
from bench.store import Store


@dataclass(frozen=True)
class Found:
    """A measure and its row; ``made`` is whether it was made now, and not found in the store."""

    measured: Measured
    row: Mapping[str, Any]
    made: bool


class Measuring:
    """The measures of one suite in progress, executed (:meth:`run`) or estimated (:meth:`estimates`).

    Args:
        suite: its name.
        spec: what it is.
        only: tags that a row must have.
        how: executed or estimated.
        device: on which kind of device, or as on which.
        updates: timed ones of each cell; of an estimate as many as it counts.
        warmup: updates before those.
        store: the folder of finished cells.
        results: the folder of the suite's results.
        data_dir: where folders of images are.
        command: what the rows' provenance says was run.

    Raises:
        UserError: something is misspelt, missing, damaged or impossible.
    """

    def __init__(
        self,
        suite: str,
        spec: Suite,
        only: Mapping[str, str],
        how: How,
        device: Kind,
        updates: int,
        warmup: int,
        store: Path,
        results: Path,
        data_dir: Path | None,
        command: str,
    ) -> None:
        self.plan, self._identities = without_data(suite, spec, data_dir)
        self._only, self._device, self._command = only, device, command
        if how == "estimate":
            updates, warmup = COUNTED_UPDATES, 0
        means = (how, device, updates, warmup)
        self._all = Measures(self.plan, {}, "run", *means[1:])
        narrowed = self.plan.only(only) if only else self.plan
        self.wanted = Measures(narrowed, only, *means)
        self.results = Results(results).measures
        self._store = Store(store, self.results)
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._clock = time.monotonic()

    def run(self) -> Iterator[Found]:
        """Each measure of the suite as it is made or found; but for those that another process makes."""
        for measured in self.wanted:
            kept = self._kept(measured)
            if kept is not None:
                row: Mapping[str, Any] = kept
            else:
                with self._store.claim(measured.cell) as mine:
                    if not mine:
                        continue
                    identity: Identity = self._identities[measured.cell.dataset]
                    plan = _needed(self.plan, measured)
                    found = run_apart(Job(measured.cell, measured.target, plan, identity, self._command))
                    row = self._finish(measured, found)
            self._rows[measured.cell.key] = row
            yield Found(measured, row, kept is None)

    def estimates(self, limit: int | None, save: bool) -> Estimates:
        """The estimates of the suite, where wanted kept as they are made."""
        return estimated(self.plan, self._identities, self._only, self._device, limit, self if save else None)

    def known(self, cell: DistilCell) -> dict[Holder, int] | None:
        """Its bytes by holder, where the store has them (:class:`bench.measuring.estimate.Keeper`)."""
        self._clock = time.monotonic()
        measured = self.wanted.of(cell)
        row = self._kept(measured) if measured else None
        if row is None:
            return None
        self._rows[row["key"]] = row
        return {Holder(name): size for name, size in row["result"]["holders"].items()}

    def keep(self, cell: DistilCell, holders: Mapping[Holder, int], trouble: str | None) -> None:
        """Keep the estimate of a cell of the suite; of others, which ``--memory`` tries, nothing."""
        measured = self.wanted.of(cell)
        if measured is None:
            return
        result: dict[str, Any] = dict.fromkeys(RESULT) | {"how": "estimate", "device": self._device}
        result["trouble"] = trouble
        if holders:
            result |= {"peak_live_bytes": sum(holders.values()), "holders": dict(holders)}
        row = {
            "cell": measured.cell.value,
            "result": result,
            "cost": {"seconds": time.monotonic() - self._clock},
            "provenance": provenance(torch.device("cpu"), self._command),
        }
        with self._store.claim(measured.cell) as mine:
            if mine:
                self._rows[measured.cell.key] = self._finish(measured, row)

    def publish(self) -> None:
        """Bring the suite's published measures up to date."""
        self.results.write(self._all.collected(self._rows.values(), self.results))

    def _kept(self, measured: Measured) -> dict[str, Any] | None:
        """The row of an earlier measure; of one that had trouble none, so that it is tried again."""
        row = self._store.row(measured.cell)
        return None if row is None or row["result"]["trouble"] else row

    def _finish(self, measured: Measured, row: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._store.workspace(measured.cell) as workspace:
            self._store.finish(measured.cell, workspace, row)
        found = self._store.row(measured.cell)
        assert found is not None
        return found


def _needed(plan: Plan, measured: Measured) -> Plan:
    """The part of a plan that says what stands in for what a cell uses."""
    keep = dict.fromkeys((measured.target.key, *measured.target.needs))
    kept = {key: plan.planned[key] for key in keep}
    return Plan(plan.suite, kept, plan.sources, plan.files)
