"""Accuracy and cost of methods with and without MetaDD, from rows alone: what a figure of both shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd

from bench.tabulating import overhead, pairs
from bench.tabulating.accuracy import frame

_MIB = 2**20
#: What a peak is of, by the kind of device.
_MEASURES = {"cpu": "of live tensors, counted", "cuda": "that PyTorch allocated"}

#: MiB and seconds per set (None: of no set that may be compared), and mean accuracy in %.
Point = tuple[float | None, float | None, float]


@dataclass(frozen=True)
class Spot:
    """A method alone, and with MetaDD. Where it has that in several forms, there is a spot with each."""

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


#: What a spot goes by within a panel, besides the method's name, and how its name says it where it must.
_TELLING = {"protocol": "protocol {}", "distilled_on": "on {}", "recipe": "recipe {}"}
#: What a spot goes by; a measure knows no recipe.
_NAMED = ("dataset", "ipc", "method", *_TELLING)

#: The values of :data:`_NAMED`.
_Name = tuple[Any, ...]
_Costs = dict[_Name, tuple[float | None, float | None]]
#: The rows of the parts of a set, by seed.
_Seeds = dict[int, list[Mapping[str, Any]]]


def spots(rows: Iterable[Mapping[str, Any]], measures: Iterable[Mapping[str, Any]] = ()) -> Spots:
    """The spots of sets that have an accuracy and a cost.

    Sets of one method that differ in protocol, in what they were distilled on or in the recipe have a spot
    each, which is named by that. Accuracies of a panel are means over the same networks, those that all of
    its spots have, and over the seeds that have all of these, as in tables. Seconds of two devices are not
    compared, nor a CPU's count with a GPU's peak: of each there is what most sets have. Where all methods
    have measures of that device, the seconds are the median of an update times the updates of a set; else
    those of the fastest seed, because others may have shared their machine.
    """
    rows = list(rows)
    evaluated, sets = frame(rows), _sets(rows)
    costs, device, kind = _costs(sets)
    per_update = _per_update(measures, device)
    if timed := bool(costs) and all(name[:-1] in per_update for name in costs):
        costs = {
            name: (mib, per_update[name[:-1]] * _updates(sets[name])) for name, (mib, _) in costs.items()
        }
    if evaluated.empty:
        return Spots({}, device, "")
    found: dict[str, list[tuple[_Name, Point, Point | None]]] = {}
    evaluated = evaluated[[name in costs for name in _names(evaluated, _NAMED)]]
    for (dataset, ipc), data in evaluated.groupby(["dataset", "ipc"], sort=False):
        groups = len({*_names(data, _NAMED)})
        common = [str(name) for name, one in data.groupby("network") if len({*_names(one, _NAMED)}) == groups]
        panel = _panel(data[data["network"].isin(common)], common, costs)
        if len(panel) > 1:
            found[f"{dataset}, IPC {ipc}: {', '.join(common)}"] = panel
    told = _told(found.values())
    panels = {
        title: [Spot(_words(name, told), alone, plugged) for name, alone, plugged in panel]
        for title, panel in found.items()
    }
    return Spots(panels, device, _MEASURES.get(kind, ""), timed)


def _panel(
    data: pd.DataFrame, networks: Sequence[str], costs: _Costs
) -> list[tuple[_Name, Point, Point | None]]:
    """The methods without a plug-in among some evaluations, and these with MetaDD; with an accuracy."""
    plain: dict[_Name, Point] = {}
    plugged: dict[_Name, list[Point]] = {}
    for _, group in data.groupby(list(_NAMED), sort=False, dropna=False):
        first, (name, *_) = group.iloc[0], _names(group, _NAMED)
        if math.isnan(accuracy := _accuracy(group, networks)):
            continue
        point = (*costs[name], accuracy)
        if first["plugin"] == pairs.NONE:
            plain[name] = point
        elif pairs.plugin_label(first) == "MetaDD" and (alone := pairs.without(data, first)) is not None:
            plugged.setdefault(_names(alone, _NAMED)[0], []).append(point)
    found: list[tuple[_Name, Point, Point | None]] = []
    for name, point in plain.items():
        found += [(name, point, other) for other in plugged.get(name, [None])]
    return found


def _accuracy(group: pd.DataFrame, networks: Sequence[str]) -> float:
    """The mean over seeds of the mean over networks, of the seeds that have them all; NaN where none has."""
    wide = group.pivot_table(index="seed", columns="network", values="accuracy")
    return float(wide.reindex(columns=list(networks)).dropna().mean(axis="columns").mean())


def _told(panels: Iterable[Sequence[tuple[_Name, Point, Point | None]]]) -> dict[str, list[str]]:
    """By method, what tells its spots apart in some panel."""
    found: dict[str, list[str]] = {}
    for panel in panels:
        for method in {name[2] for name, *_ in panel}:
            mine = [dict(zip(_NAMED, name, strict=True)) for name, *_ in panel if name[2] == method]
            differing = [tag for tag in _TELLING if len({each[tag] for each in mine}) > 1]
            found.setdefault(method, []).extend(differing)
    return found


def _words(name: _Name, told: Mapping[str, Collection[str]]) -> str:
    """The method, and behind it what tells its spots apart."""
    tags = dict(zip(_NAMED, name, strict=True))
    words = [how.format(tags[tag]) for tag, how in _TELLING.items() if tag in told[tags["method"]]]
    return f"{tags['method']} ({', '.join(words)})" if words else tags["method"]


def _names(data: pd.DataFrame, by: Sequence[str]) -> list[_Name]:
    """What each line of a frame goes by; None where it lacks something."""
    lines = zip(*(data[tag] for tag in by), strict=True)
    return [tuple(None if pd.isna(value) else value for value in line) for line in lines]


def _sets(rows: Iterable[Mapping[str, Any]]) -> dict[_Name, _Seeds]:
    """The sets that updates made; but for those that lack a part yet."""
    sets: dict[_Name, _Seeds] = {}
    for row in rows:
        if row["current"] and row["cell"]["kind"] == "distil" and row["cost"]["updates"]:
            for tags in (row["tags"], *row.get("also", ())):
                name = tuple(tags[tag] for tag in _NAMED)
                sets.setdefault(name, {}).setdefault(tags["seed"], []).append(row)
    whole = {
        name: {seed: parts for seed, parts in seeds.items() if _images(parts) == name[1]}
        for name, seeds in sets.items()
    }
    return {name: seeds for name, seeds in whole.items() if seeds}


def _images(parts: Iterable[Mapping[str, Any]]) -> int:
    return sum(row["cell"]["ipc"] for row in parts)


def _updates(seeds: _Seeds) -> int:
    """The updates of a set: as many for every seed."""
    return sum(row["cost"]["updates"] for row in next(iter(seeds.values())))


def _per_update(measures: Iterable[Mapping[str, Any]], device: str) -> dict[_Name, float]:
    """Seconds of an update as measured by itself on a device of this model."""
    data = overhead.measured(measures)
    if data.empty:
        return {}
    there = data[(data["how"] == "run") & (data["device"] == device) & data["seconds"].notna()]
    return dict(zip(_names(there, _NAMED[:-1]), there["seconds"], strict=True))


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
