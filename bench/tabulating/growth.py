"""How a method's peak grows with one thing at a time: measures as curves, and straight lines through them.

Of rows as ``measures.jsonl`` has them. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.cells import canonical

#: What a peak may grow with, what one more of it is called, and how a range of it is.
AXES = {
    "ipc": ("one more image per class", "IPC {}"),
    "steps": ("one more student step", "{} steps"),
    "networks": ("one more auxiliary network", "{} networks"),
    "size": ("a thousand pixels more in an image", "{} pixels a side"),
}
#: A curve is a line where no point is further from it than this share of the largest.
STRAIGHT = 0.01
#: So many points can be a line: two always are.
_FEWEST = 3
_MIB = 2**20
#: What tells methods apart where their name does not: it may have the number in it that the curve is about.
_SAME = {"steps": "settings", "networks": "plain"}
#: In place of a variant of MetaDD: the method alone.
_ALONE = ""


@dataclass(frozen=True)
class Curve:
    """Peaks of one method that differ in one thing: ``points`` are (its value, MiB), rising."""

    axis: str
    method: str
    dataset: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Law:
    """The line of least squares through a curve.

    Attributes:
        slope: MiB for one more (:data:`AXES`: of the image's side not one pixel, but a thousand of its area).
        intercept: MiB at none.
        off: how far the furthest point is from the line, as a share of the largest peak.

    """

    slope: float
    intercept: float
    off: float

    @property
    def straight(self) -> bool:
        """Whether the line says how the peak grows."""
        return self.off <= STRAIGHT


def curves(rows: Iterable[Mapping[str, Any]]) -> list[Curve]:
    """The curves of two points or more; rows are of one that agree in all but its axis.

    Of estimates those as on a GPU, where there are such. Against auxiliary networks each variant of MetaDD,
    by its settings but for these, has a curve, of which the method without a plug-in is the point at 0;
    where it has other networks in the same number, none of these is a point. Against the image's side
    datasets with as many classes are one.
    """
    known = [row for row in rows if _counts(row)]
    devices = {row["cell"]["device"] for row in known}
    known = [row for row in known if row["cell"]["device"] == max(devices)]  # "cuda" before "cpu"
    found: dict[tuple[Any, ...], dict[int, float]] = {}
    names: dict[tuple[Any, ...], str] = {}
    variants: dict[tuple[Any, ...], dict[str, list[_Peak]]] = {}
    # A measure may be in several rows of a table: a part of SRe2L's set is the same at each IPC.
    tagged = [(row, tags) for row in known for tags in (row["tags"], *row.get("also", ()))]
    for row, tags in tagged:
        where, mib = _coordinates(row, tags), row["result"]["peak_live_bytes"] / _MIB
        for axis in AXES:
            if where[axis] is None:
                continue
            dataset = f"{where['classes']} classes" if axis == "size" else where["dataset"]
            others = tuple(where[other] for other in AXES if other not in (axis, "size"))
            same = (axis, where[_SAME.get(axis, "method")], dataset, where["on"], others)
            points = found.setdefault(same, {})
            names.setdefault(same, where["family"])
            if axis == "networks":
                peak = (len(where["through"]), where["through"], mib, where["method"])
                variants.setdefault(same, {}).setdefault(where["variant"], []).append(peak)
            else:
                points[where[axis]] = mib
    made = []
    for same, points in found.items():
        named = _variants(same[1], variants[same]) if same in variants else {names[same]: points}
        made += [
            Curve(same[0], name, same[2], tuple(sorted(each.items())))
            for name, each in named.items()
            if len(each) > 1
        ]
    return made


#: How many networks, which, MiB, and the method's name.
_Peak = tuple[int, tuple[str, ...], float, str]


def _variants(method: str, peaks: Mapping[str, list[_Peak]]) -> dict[str, dict[int, float]]:
    """By the name of each variant of MetaDD, MiB by the number of networks."""
    variants = [each for variant, each in peaks.items() if variant != _ALONE]
    found = {}
    for plugged in variants:
        there: dict[int, dict[tuple[str, ...], float]] = {}
        for number, through, mib, _ in (*peaks.get(_ALONE, ()), *plugged):
            there.setdefault(number, {})[through] = mib
        name = f"{method} + MetaDD" if len(variants) == 1 else max(plugged)[3]
        found[name] = {
            number: mib for number, each in there.items() if len(each) == 1 for mib in each.values()
        }
    return found


def law(curve: Curve) -> Law:
    """The line through a curve; against the image's side through its square, the number of pixels."""
    x, y = np.array(curve.points, float).T
    if curve.axis == "size":
        x = x**2 / 1000
    slope, intercept = np.polynomial.Polynomial.fit(x, y, 1).convert(domain=(-1, 1)).coef[::-1].tolist()
    off = float(np.abs(y - (intercept + slope * x)).max() / y.max())
    return Law(slope, intercept, off)


def notes(found: Iterable[Curve]) -> Iterator[str]:
    """How the peaks of methods alone grow, a sentence for each axis; against networks those with MetaDD.

    Of two points there is the slope and no claim that it is a line; against networks, which differ, nothing.
    """
    by_axis: dict[str, dict[str, list[str]]] = {axis: {} for axis in AXES}
    for curve in found:
        two = len(curve.points) < _FEWEST
        if two if curve.axis == "networks" else " + " in curve.method:
            continue
        first, last = curve.points[0], curve.points[-1]
        span = AXES[curve.axis][1].format(f"{first[0]} {'and' if two else 'to'} {last[0]}")
        line = law(curve)
        words = f"{curve.method} {line.slope:+,.2f}"
        if not line.straight:
            words = f"{curve.method} no line, {first[1]:,.1f} to {last[1]:,.1f}"
        elif not two:
            words += f" from {line.intercept:,.1f}"
        by_axis[curve.axis].setdefault(f"{curve.dataset}, {span}", []).append(words)
    for axis, groups in by_axis.items():
        if groups:
            parts = [f"{about}: {', '.join(words)}" for about, words in groups.items()]
            yield f"Estimated growth by {AXES[axis][0]}, in MiB. {'; '.join(parts)}."


def _counts(row: Mapping[str, Any]) -> bool:
    """Whether a row is a current estimate of a distillation."""
    cell, peak = row["cell"], row["result"]["peak_live_bytes"]
    return bool(row["current"] and cell["what"] == "distil" and cell["how"] == "estimate" and peak)


def _coordinates(row: Mapping[str, Any], tags: Mapping[str, Any]) -> dict[str, Any]:
    """Where a row stands on each axis (None: it does not), and what else tells it from others."""
    of = row["cell"]["of"]
    settings = of["settings"]
    inner = settings.get("inner")
    steps = (inner if isinstance(inner, Mapping) else settings).get("syn_steps")
    plugin = of["plugin"]
    through = tuple(plugin.get("networks", ())) if plugin["name"] == "metadd" else ()
    variant = canonical({name: value for name, value in plugin.items() if name != "networks"})
    return {
        "ipc": tags["ipc"],
        "steps": steps,
        "networks": len(through) if plugin["name"] in ("none", "metadd") else None,
        "through": through,
        "variant": _ALONE if plugin["name"] == "none" else variant,
        "size": of["dataset"]["size"],
        "classes": of["dataset"]["classes"],
        "dataset": tags["dataset"],
        "method": tags["method"],
        "settings": canonical({name: value for name, value in settings.items() if name != "syn_steps"}),
        "family": re.sub(r", \d+ steps$", "", tags["method"]),
        "plain": tags["method"].partition(" + ")[0],
        "on": of["network"],
    }
