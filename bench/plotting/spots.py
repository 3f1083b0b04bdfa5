"""Accuracy and cost of methods with and without MetaDD, from rows alone: what a figure of both shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from bench.tabulating import overhead
from bench.tabulating.accuracy import frame

_MIB = 2**20
#: What a peak is of, by the kind of device.
_MEASURES = {"cpu": "of live tensors, counted", "cuda": "that PyTorch allocated"}

#: MiB and seconds per set (None: of no set that may be compared), and mean accuracy in %.
Point = tuple[float | None, float | None, float]


@dataclass(frozen=True)
class Spot:
    """A method alone, and with MetaDD."""

    name: str
    alone: Point
    plugged: Point | None


@dataclass(frozen=True)
class Spots:
    """The spots of each panel, a dataset and IPC.

    Attributes:
        panels: by title, which names the networks of the accuracy.
        device: whose seconds are shown: the model that most sets were made on.
        measure: what the MiB are of.
        timed: whether the seconds are of updates that were measured by themselves.

    """

    panels: Mapping[str, list[Spot]]
    device: str
    measure: str
    timed: bool = False


def spots(rows: Iterable[Mapping[str, Any]], measures: Iterable[Mapping[str, Any]] = ()) -> Spots:
    """The spots of sets that have an accuracy and a cost.

    Accuracies of a panel are means over the same networks: those that all of its methods have. Seconds of two
    devices are not compared, nor a CPU's count with a GPU's peak: of each there is what most sets have. Where
    all methods have measures of that device, the seconds are the median of an update times the updates of a
    set; else those of the fastest seed, because others may have shared their machine.
    """
    rows = list(rows)
    evaluated, sets = frame(rows), _sets(rows)
    costs, device, kind = _costs(sets)
    per_update = _per_update(measures, device)
    if timed := bool(costs) and costs.keys() <= per_update.keys():
        costs = {name: (mib, per_update[name] * _updates(sets[name])) for name, (mib, _) in costs.items()}
    panels: dict[str, list[Spot]] = {}
    if evaluated.empty:
        return Spots(panels, device, "")
    for (dataset, ipc), data in evaluated.groupby(["dataset", "ipc"], sort=False):
        cost = {method: known for (*about, method), known in costs.items() if about == [dataset, ipc]}
        of = data[data["method"].isin(cost)]
        common = [str(name) for name, one in of.groupby("network") if one["method"].nunique() == len(cost)]
        per_network = of[of["network"].isin(common)].groupby(["method", "network"], sort=False)["accuracy"]
        accuracy = per_network.mean().groupby("method", sort=False).mean()
        points = {str(name): (*cost[str(name)], float(mean)) for name, mean in accuracy.items()}
        plain = dict(zip(of["method"], of["without"], strict=True))
        panel = [
            Spot(name, point, points.get(f"{name} + MetaDD"))
            for name, point in points.items()
            if plain[name] == name
        ]
        if len(panel) > 1:
            panels[f"{dataset}, IPC {ipc}: {', '.join(common)}"] = panel
    return Spots(panels, device, _MEASURES.get(kind, ""), timed)


#: By dataset, IPC and method.
_Name = tuple[Any, ...]
_Costs = dict[_Name, tuple[float | None, float | None]]
#: The rows of the parts of a set, by seed.
_Seeds = dict[int, list[Mapping[str, Any]]]


def _sets(rows: Iterable[Mapping[str, Any]]) -> dict[_Name, _Seeds]:
    """The sets that updates made."""
    sets: dict[_Name, _Seeds] = {}
    for row in rows:
        if row["current"] and row["cell"]["kind"] == "distil" and row["cost"]["updates"]:
            for tags in (row["tags"], *row.get("also", ())):
                name = (tags["dataset"], tags["ipc"], tags["method"])
                parts = sets.setdefault(name, {}).setdefault(tags["seed"], [])
                if row not in parts:  # evaluated by several recipes
                    parts.append(row)
    return sets


def _updates(seeds: _Seeds) -> int:
    """The updates of a set: as many for every seed."""
    return sum(row["cost"]["updates"] for row in next(iter(seeds.values())))


def _per_update(measures: Iterable[Mapping[str, Any]], device: str) -> dict[_Name, float]:
    """Seconds of an update as measured by itself on a device of this model."""
    data = overhead.measured(measures)
    if data.empty:
        return {}
    there = data[(data["how"] == "run") & (data["device"] == device) & data["seconds"].notna()]
    return {(row["dataset"], row["ipc"], row["method"]): row["seconds"] for _, row in there.iterrows()}


def _costs(sets: Mapping[_Name, _Seeds]) -> tuple[_Costs, str, str]:
    """MiB of the largest part (mean over seeds) and seconds of all parts, of the fastest seed.

    And the model and the kind of device that most sets were made on.
    """
    made = [parts[0]["provenance"] for seeds in sets.values() for parts in seeds.values()]
    ((device, _),) = Counter(each["device"] for each in made).most_common(1) or [("", 0)]
    ((kind, _),) = Counter(each["device_kind"] for each in made).most_common(1) or [("", 0)]
    found: _Costs = {}
    for name, seeds in sets.items():
        peaks = [_peak(parts) for parts in seeds.values() if _made_on(parts, "device_kind", kind)]
        seconds = [_seconds(parts) for parts in seeds.values() if _made_on(parts, "device", device)]
        mib = fmean(peaks) / _MIB if peaks and min(peaks) > 0 else None
        if mib or seconds:
            found[name] = mib, min(seconds, default=None)
    return found, device, kind


def _made_on(parts: Iterable[Mapping[str, Any]], what: str, value: str) -> bool:
    return all(row["provenance"][what] == value for row in parts)


def _peak(parts: Iterable[Mapping[str, Any]]) -> int:
    """Bytes of the largest part, that a GPU allocated or that were counted on a CPU; 0 where one has none."""
    peaks = [row["cost"].get("peak_allocated_bytes") or row["cost"].get("peak_live_bytes") for row in parts]
    return max(peaks) if all(peaks) else 0


def _seconds(parts: Iterable[Mapping[str, Any]]) -> float:
    return float(sum(row["cost"]["seconds_per_update"] * row["cost"]["updates"] for row in parts))
