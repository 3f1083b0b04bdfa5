"""The table of time, from rows alone, without torch: seconds per update, and what a whole set takes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from bench.cells import FILE
from bench.spec import TableSpec
from bench.tabulating import overhead, pairs
from bench.tabulating.overhead import NOT_MEASURED, OF_SETS, Overhead
from bench.tabulating.table import NAMES, Table, TableCell, TableRow, row_tags
from bench.training import recipes

#: Of a method per update, as for memory but for the ratio; of a whole set; and of a GPU beside a CPU.
_UPDATE = overhead.COLUMNS[:-1]
_SET = tuple(f"set {column.removeprefix('+ ') if column == 'alone' else column}" for column in OF_SETS)
_ON_GPU = tuple(f"{column} (GPU)" for column in OF_SETS)
_DETAILS = ("percent_of_alone", "unit", "source")
_FROM = "From"
_MEASURED, _RUNS = "measured", "runs"
#: What one set of a row goes by, but for the method's name in the registry.
_ONE = (*overhead.SET[:-1], "seed")
#: Stands before what was extrapolated.
_ABOUT = "≈ "
#: No sets.
_NONE = pd.DataFrame(columns=["seconds", "device"])


def runs(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The current distil rows as a frame of sets, for :mod:`bench.tabulating.overhead`.

    Columns more: ``kind`` (of device), ``seconds`` (of an update), and ``total``: those of a set with all
    that was made for it, its soft labels (of each recipe) too, by the rows of ``total_keys``; NaN where the
    row of a stage is not there, or is of another device. Where the parts were made on several devices,
    ``device`` names them all and both are NaN. Left out are sets that lack a part yet, and those that no
    update was made for.
    """
    current = {row["key"]: row for row in rows if row["current"]}
    labels = _labels(current.values())
    found: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    asked: dict[tuple[Any, ...], set[str]] = {}
    for key, row in current.items():
        if row["cell"]["kind"] == "distil" and row["cost"]["updates"]:
            for tags in (row["tags"], *row.get("also", ())):
                if tags["plugin"] in (pairs.NONE, overhead.METADD):
                    about = (*(tags[tag] for tag in _ONE), row["cell"]["method"])
                    found.setdefault(about, {})[key] = row
                    asked.setdefault(about, set()).update({tags["recipe"]} & recipes.SOFT)
    sets = []
    for about, parts in found.items():
        named = dict(zip((*_ONE, "cell_method"), about, strict=True))
        if sum(row["cell"]["ipc"] for row in parts.values()) != named["ipc"]:
            continue
        updates = sum(row["cost"]["updates"] for row in parts.values())
        seconds = sum(map(_seconds, parts.values())) / updates
        mine = [labels.get((frozenset(parts), recipe, *about[:-1])) for recipe in sorted(asked[about])]
        total, keys = None, tuple(parts)
        if None not in mine:
            done = {row["key"]: row for each in mine for row in each or ()}
            total, keys = _total(parts, done, current)
        devices = dict.fromkeys(row["provenance"]["device"] for row in parts.values())
        named |= {"seconds": seconds if len(devices) == 1 else None, "keys": tuple(parts)}
        named |= {"total": total, "total_keys": keys, "device": " and ".join(devices)}
        named |= {"kind": next(iter(parts.values()))["provenance"]["device_kind"]}
        sets.append(named)
    if not sets:
        return pd.DataFrame()
    return pairs.with_plain_names(pd.DataFrame(sets).astype({"seconds": "float64", "total": "float64"}))


def _labels(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """The rows of soft labels by their set: its parts, the recipe, and what else a set goes by."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["cell"]["kind"] == "relabel":
            for tags in (row["tags"], *row.get("also", ())):
                about = (frozenset(row["cell"]["images"]), tags["recipe"], *(tags[tag] for tag in _ONE))
                found.setdefault(about, []).append(row)
    return found


def _total(
    parts: Mapping[str, Mapping[str, Any]],
    labels: Mapping[str, Mapping[str, Any]],
    current: Mapping[str, Mapping[str, Any]],
) -> tuple[float | None, tuple[str, ...]]:
    """The seconds of a set with its labels and all that these need, and the keys of the rows that say so."""
    needed: dict[str, Mapping[str, Any]] = {}
    for made in (parts, labels):
        needed |= made
        waiting = list(made.values())
        while waiting:
            cell = waiting.pop()["cell"]
            used = [[cell["teacher"]]] if cell["kind"] == "relabel" else cell["uses"].values()
            for key in (key for keys in used for key in keys):
                if key.startswith(FILE) or key in needed:
                    continue
                if key not in current:
                    return None, tuple(parts)
                needed[key] = current[key]
                waiting.append(current[key])
    if len({row["provenance"]["device"] for row in needed.values()}) > 1:
        return None, tuple(parts)
    return sum(map(_seconds, needed.values())), tuple(needed)


def _seconds(row: Mapping[str, Any]) -> float:
    """What a cell took. Its updates where they are counted: they add up over the pieces of a run."""
    cost = row["cost"]
    return float(cost["updates"] * cost["seconds_per_update"] if cost.get("updates") else cost["seconds"])


def time_table(
    name: str,
    spec: TableSpec,
    rows: Iterable[Mapping[str, Any]],
    header: Sequence[str] = (),
    measures: Iterable[Mapping[str, Any]] = (),
) -> Table:
    """Seconds per update alone, with MetaDD and under GLaD, and minutes per whole set.

    An update is taken from measures where there are some, else from runs; a whole set from runs where all
    that was made for it has a row of the same device, else it is extrapolated from measures. Times of two
    devices are never compared: of a CPU the model that most sets are of is shown, and beside it a GPU.
    """
    measured = overhead.measured(measures)
    sources = {_MEASURED: _executed(measured), _RUNS: runs(rows)}
    without = () if measured.empty else overhead.troubles(measured[measured["how"] == "run"])
    known = pd.concat([data for data in sources.values() if not data.empty] or [_NONE])
    there = known[known["seconds"].notna()]
    if there.empty:
        notes = ("No time was measured yet.", *_left_out(known, ()), *without)
        return Table(name, spec.title, tuple(header), notes=notes, details=_DETAILS)
    kind = "cpu" if (there["kind"] == "cpu").any() else "cuda"
    device = overhead.of_most(there[there["kind"] == kind])["device"].iloc[0]
    here = {source: _on(data, "device", device) for source, data in sources.items()}
    gpus = {source: _on(data, "kind", "cuda") for source, data in sources.items()}
    by = row_tags(spec, _plain(pd.concat(here.values())))
    by += [] if "method" in by else ["method"]
    updates, on_gpu = (
        overhead.fullest({source: overhead.by_about(data, by, significant) for source, data in each.items()})
        for each in (here, gpus)
    )
    wholes = {source: overhead.by_about(_wholes(data), by, significant) for source, data in here.items()}
    shown = (*_UPDATE, *_SET, *(_ON_GPU if kind == "cpu" else ()))
    made = []
    generators: dict[str, dict[str, None]] = {"+ GLaD": {}, _SET[2]: {}}
    for about in {**updates, **on_gpu}:
        source, found = updates.get(about) or on_gpu[about]
        cells = dict.fromkeys(_UPDATE, NOT_MEASURED)
        generators["+ GLaD"] |= overhead.generator(found)
        if about in updates:
            cells = {column: _with(found.cells[column], "s per update", source) for column in _UPDATE}
        whole = {each: sets[about] for each, sets in wholes.items() if about in sets}
        for each in whole.values():
            generators[_SET[2]] |= overhead.generator(each)
        for column, of_set, of_gpu in zip(OF_SETS, _SET, _ON_GPU, strict=True):
            cells[of_set] = _whole(column, whole)
            cells[of_gpu] = NOT_MEASURED
            if about in on_gpu:
                cells[of_gpu] = _with(on_gpu[about][1].cells[column], "s per update", on_gpu[about][0])
        if found.first["cell_method"].startswith("glad"):  # GLaD under GLaD is nothing
            cells |= dict.fromkeys((_SET[2], _ON_GPU[2]), TableCell())
        made.append(TableRow((*about, source), cells))
    names = (*(NAMES[tag] for tag in by), _FROM)
    header = (*header, _header(device))
    models = {str(model) for data in gpus.values() if not data.empty for model in data["device"]}
    notes = (_note(models), *_generators(generators), *_left_out(known, {device} | models), *without)
    return Table(name, spec.title, header, names, shown, tuple(made), notes, _DETAILS)


def _executed(measured: pd.DataFrame) -> pd.DataFrame:
    return measured if measured.empty else measured[(measured["how"] == "run") & measured["seconds"].notna()]


def _on(data: pd.DataFrame, where: str, value: str) -> pd.DataFrame:
    """The sets of one device, with seconds per update; of a kind of device those of the model most are of."""
    if data.empty:
        return data
    there = overhead.of_most(data[(data[where] == value) & data["seconds"].notna()])
    return there.assign(column=there["plugin"], value=there["seconds"]).reset_index(drop=True)


def _plain(data: pd.DataFrame) -> pd.DataFrame:
    return data[data["plugin"] == pairs.NONE]


def _wholes(data: pd.DataFrame) -> pd.DataFrame:
    """The sets whose whole time is known, in minutes."""
    if data.empty:
        return data
    return data.assign(value=data["total"] / 60, keys=data["total_keys"]).dropna(subset="value")


def _whole(column: str, sources: Mapping[str, Overhead]) -> TableCell:
    """The minutes of whole sets, of runs where they are known."""
    for source in (_RUNS, _MEASURED):
        found = sources.get(source)
        if found is not None and found.cells[column].summary is not None:
            cell = found.cells[column]
            about = _ABOUT if source == _MEASURED else ""
            return _with(replace(cell, text=f"{about}{cell.text}"), "min per set", source)
    return NOT_MEASURED


def _with(cell: TableCell, unit: str, source: str) -> TableCell:
    return replace(cell, details={"percent_of_alone": "", **cell.details, "unit": unit, "source": source})


def significant(value: float, of: float) -> str:
    """A number with three digits that say something, and never an exponent.

    A difference has no more decimals than what it is a difference ``of``; that is ``value`` itself else.
    """
    places = [max(0, 2 - math.floor(math.log10(abs(each)))) for each in (value, of) if each]
    return f"{value:.{min(places, default=0)}f}"


def _header(device: str) -> str:
    return (
        f"Time on {device}. Up to “difference (GLaD)”: seconds per update. “set …”: minutes per whole set, "
        "with the teachers, experts, generators and networks that it needs and its soft labels, as if they "
        "were made for it alone."
    )


def _note(gpus: Iterable[str]) -> str:
    there = f" ({', '.join(sorted(gpus))})" if gpus else ""
    return (
        "Mean (n) over n distillation seeds. Differences are from the same seeds of the method alone, in "
        "seconds and in % of alone. “From” says where an update's time comes from: `measured` is the median "
        "of a few updates of one set in a process of their own: (1), `runs` the mean of all updates of a "
        "run, by the clock: what else the machine did then counts too. A set's is of "
        f"runs, or, behind {_ABOUT.strip()}, extrapolated: medians times updates. “(GPU)”: seconds per "
        f"update on a GPU{there}. “not measured” is not 0."
    )


def _generators(found: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """Which of several generators stands for GLaD: not always the same for an update and for a set."""
    parts = [f"“{column}” {', '.join(names)}" for column, names in found.items() if names]
    if parts:
        yield f"The same method under GLaD, with the generator that takes least: {'; '.join(parts)}."


def _left_out(sets: pd.DataFrame, shown: Collection[str]) -> Iterator[str]:
    """The sets of devices that are not shown."""
    others = sets[~sets["device"].isin(shown)]
    if not others.empty:
        counts = Counter(zip(others["method"], others["device"], strict=True))
        words = "; ".join(f"{method} ({n} on {device})" for (method, device), n in counts.items())
        yield f"Left out are sets that were made on another device: {words}."
