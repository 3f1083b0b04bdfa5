"""What MetaDD and GLaD add to a method, in whatever a frame of sets has as ``value``; without torch.

A frame has a line per set: the tags that tell sets apart, ``seed``, ``without`` (see
:mod:`bench.tabulating.pairs`), ``cell_method`` (the method's name in the registry), ``device`` (a model's
name), and ``keys`` of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bench.measuring.measures import name_of
from bench.stats import paired, summarise
from bench.tabulating import pairs
from bench.tabulating.table import TableCell, text_of

COLUMNS = ("alone", "+ MetaDD", "difference (MetaDD)", "+ GLaD", "difference (GLaD)", "ratio")
#: The columns of :data:`COLUMNS` that are of sets themselves, in the order of :attr:`Overhead.sets`.
OF_SETS = ("alone", "+ MetaDD", "+ GLaD")
METADD, _GLAD = "metadd", "glad"
_DEVICES = {"cpu": "CPU", "cuda": "GPU"}
NOT_MEASURED = TableCell(missing="not measured")
#: What tells sets apart, and with ``seed`` one set of a row from another.
SET = ["dataset", "ipc", "protocol", "method", "plugin", "distilled_on", "cell_method"]

Sets = pd.DataFrame | None
#: Makes a text of a value; the other is what it is a difference of, or the value itself.
Number = Callable[[float, float], str]


@dataclass(frozen=True)
class Overhead:
    """A row of a table of overheads.

    Attributes:
        first: one of its sets, for what the row is about.
        sets: alone, with MetaDD, and under GLaD.
        cells: of :data:`COLUMNS`.

    """

    first: pd.Series[Any]
    sets: tuple[Sets, Sets, Sets]
    cells: dict[str, TableCell]

    @property
    def numbers(self) -> int:
        """How many of its cells have one."""
        return sum(cell.summary is not None for cell in self.cells.values())

    def about(self, by: Sequence[str]) -> tuple[str, ...]:
        """What stands before the numbers: the row's tags, and behind the method a variant of MetaDD."""
        named = {**self.first, "method": _name(self.first)}
        return tuple(text_of(named[tag]) for tag in by)


def overheads(data: pd.DataFrame, by: Sequence[str], number: Number) -> Iterator[Overhead]:
    """The rows of a frame; ``number`` makes a text of a value."""
    for row, alone, plugged in _pairs(data, by):
        glad = _under_glad(data, row, alone)
        cells = _cells(by_seed(alone), by_seed(plugged), by_seed(glad), row["cell_method"], number)
        yield Overhead(row, (alone, plugged, glad), _with_keys(cells, alone, plugged, glad))


def by_seed(sets: Sets) -> dict[int, float]:
    """The values of some sets by their seeds."""
    return {} if sets is None else dict(zip(sets["seed"], sets["value"], strict=True))


def by_about(data: pd.DataFrame, by: Sequence[str], number: Number) -> dict[tuple[str, ...], Overhead]:
    """The rows of a frame, which may be empty, by what they are about."""
    if data.empty:
        return {}
    return {found.about(by): found for found in overheads(data, by, number)}


def fullest(
    sources: Mapping[str, Mapping[tuple[str, ...], Overhead]],
) -> dict[tuple[str, ...], tuple[str, Overhead]]:
    """Of the rows of several sources about the same, the one with most numbers, and its source."""
    best: dict[tuple[str, ...], tuple[str, Overhead]] = {}
    for source, found in sources.items():
        for about, each in found.items():
            if about not in best or each.numbers > best[about][1].numbers:
                best[about] = source, each
    return best


def of_most(data: pd.DataFrame) -> pd.DataFrame:
    """The sets of the device that most are of."""
    return data if data.empty else data[data["device"] == data["device"].mode().iloc[0]]


def measured(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The current measures of distillations as a frame of sets.

    Columns more: ``how`` and ``kind`` (of device), ``peak_live_bytes``, ``peak_allocated_bytes``, ``seconds``
    (of an update: the median), and ``total``: those of a whole set with all that it needs, extrapolated, by
    the rows of ``total_keys``; NaN where a stage of it was not measured on the same device.
    """
    rows = [row for row in rows if row["current"]]
    stages = {
        (name_of(row["cell"]["of"]), row["provenance"]["device"]): row
        for row in rows
        if row["cell"]["how"] == "run"
    }
    found = []
    for row in rows:
        cell, result = row["cell"], row["result"]
        if cell["what"] != "distil":
            continue
        about = {"seed": 0, "cell_method": cell["of"]["method"], "how": cell["how"], "kind": cell["device"]}
        about |= {name: result[name] for name in ("peak_live_bytes", "peak_allocated_bytes")}
        about |= {"device": row["provenance"]["device"], "trouble": result["trouble"]}
        about["seconds"] = (result["seconds_per_update"] or {}).get("median")
        for tags in (row["tags"], *row.get("also", ())):
            if tags["plugin"] in (pairs.NONE, METADD):
                total, keys = _total(row, tags, stages)
                about |= {"total": total, "total_keys": keys, "keys": (row["key"],)}
                found.append({tag: tags[tag] for tag in SET[:-1]} | about)
    if not found:
        return pd.DataFrame()
    numbers = ("peak_live_bytes", "peak_allocated_bytes", "seconds", "total")
    return pairs.with_plain_names(pd.DataFrame(found).astype(dict.fromkeys(numbers, "float64")))


def _total(
    row: Mapping[str, Any], tags: Mapping[str, Any], stages: Mapping[tuple[str, str], Mapping[str, Any]]
) -> tuple[float | None, tuple[str, ...]]:
    """The seconds of a set with all that it needs, and the keys of the rows that say so."""
    parts = [(row, tags["ipc"] / row["cell"]["of"]["ipc"])]
    for name, count in tags["stages"].items():
        if (stage := stages.get((name, row["provenance"]["device"]))) is None:
            return None, (row["key"],)
        parts.append((stage, count))
    keys = tuple(part["key"] for part, _ in parts)
    if any("whole" not in part["cost"] for part, _ in parts):
        return None, keys
    return sum(count * part["cost"]["whole"]["seconds"] for part, count in parts), keys


def generator(found: Overhead) -> dict[str, None]:
    """The name of the row that stands for GLaD, if one does."""
    glad = found.sets[2]
    return {} if glad is None else {glad["method"].iloc[0]: None}


def troubles(measured: pd.DataFrame) -> Iterator[str]:
    """What of :func:`measured` has no numbers, and why."""
    for _, each in measured[measured["trouble"].notna()].iterrows():
        means = "estimated" if each["how"] == "estimate" else f"measured on a {_DEVICES[each['kind']]}"
        about = f"{each['dataset']}, {each['method']}, IPC {each['ipc']}"
        yield f"{about} could not be {means}: {each['trouble']}."


_Found = tuple["pd.Series[Any]", pd.DataFrame | None, pd.DataFrame | None]


def _pairs(data: pd.DataFrame, by: Sequence[str]) -> Iterator[_Found]:
    """What each row is about (one of its sets), and its sets without and with MetaDD.

    A method with several variants of MetaDD has a row for each. Variants whose method has no row alone come
    last.
    """
    plain, plugged = (data[(data["plugin"] == pairs.NONE) == there] for there in (True, False))
    variants = [group for _, group in plugged.groupby(SET, sort=False, dropna=False)]
    partners = [pairs.without(data, variant.iloc[0]) for variant in variants]
    for _, alone in plain.groupby(list(by), sort=False, dropna=False):
        mine = [
            variant
            for variant, partner in zip(variants, partners, strict=True)
            if partner is not None and partner.index[0] in alone.index
        ]
        for variant in mine:
            yield variant.iloc[0], alone, variant
        if not mine:
            yield alone.iloc[0], alone, None
    for variant, partner in zip(variants, partners, strict=True):
        if partner is None:
            yield variant.iloc[0], None, variant


def _under_glad(data: pd.DataFrame, row: pd.Series[Any], alone: pd.DataFrame | None) -> pd.DataFrame | None:
    """The sets of a method under GLaD, without a plug-in; of several generators, with the smallest value."""
    glad = _GLAD if row["cell_method"] == "dm" else f"{_GLAD}({row['cell_method']})"
    alike = (data["cell_method"] == glad) & (data["plugin"] == pairs.NONE)
    alike &= (data["dataset"] == row["dataset"]) & (data["ipc"] == row["ipc"])
    if alone is not None:
        alike &= data["distilled_on"] == alone["distilled_on"].iloc[0]
    found = [group for _, group in data[alike].groupby(SET, sort=False, dropna=False)]
    return min(found, key=lambda group: float(group["value"].mean()), default=None)


def _name(row: pd.Series[Any]) -> str:
    """The method's name, and behind it the plug-in's where that is a variant of MetaDD."""
    label = pairs.plugin_label(row)
    return (
        row["without"] if row["plugin"] == pairs.NONE or label == "MetaDD" else f"{row['without']}: {label}"
    )


def _cells(
    alone: Mapping[int, float],
    plugged: Mapping[int, float],
    glad: Mapping[int, float],
    method: str,
    number: Number,
) -> dict[str, TableCell]:
    """A row's cells, from the values by seed."""
    found = [_value(alone, number), _value(plugged, number), _added(plugged, alone, number)]
    found += [_value(glad, number), _added(glad, alone, number)]
    found.append(_ratio(alone, plugged, glad))
    if method.partition("(")[0] == _GLAD:
        found[3:] = [TableCell()] * 3  # GLaD under GLaD is nothing
    return dict(zip(COLUMNS, found, strict=True))


def _value(values: Mapping[int, float], number: Number) -> TableCell:
    summary = summarise(list(values.values()))
    return TableCell(summary, text=number(summary.mean, summary.mean)) if summary else NOT_MEASURED


def _added(values: Mapping[int, float], alone: Mapping[int, float], number: Number) -> TableCell:
    """What is added to a method alone, of the seeds that have both."""
    summary = paired(values, alone)
    base = summarise([alone[seed] for seed in values if seed in alone])
    if summary is None or base is None:
        return NOT_MEASURED
    percent = 100 * summary.mean / base.mean
    sign = "-" if summary.mean < 0 else "+"
    text = f"{sign}{number(abs(summary.mean), base.mean)}, {percent:+.1f}%"
    return TableCell(summary, difference=True, text=text, details={"percent_of_alone": f"{percent:.4f}"})


def _ratio(alone: Mapping[int, float], plugged: Mapping[int, float], glad: Mapping[int, float]) -> TableCell:
    """What MetaDD adds over what GLaD adds, of the seeds that have all three."""
    seeds = [seed for seed in alone if seed in plugged and seed in glad]
    if not seeds:
        return NOT_MEASURED
    if any(glad[seed] <= alone[seed] for seed in seeds):
        return TableCell()
    summary = summarise([(plugged[seed] - alone[seed]) / (glad[seed] - alone[seed]) for seed in seeds])
    return TableCell(summary, text=f"{summary.mean:.2f}" if summary else None)


def _with_keys(cells: Mapping[str, TableCell], *sets: pd.DataFrame | None) -> dict[str, TableCell]:
    """A row's cells with the keys of the sets alone, with MetaDD and under GLaD that each is made of."""
    alone, plugged, glad = sets
    of = [(alone,), (plugged,), (plugged, alone), (glad,), (glad, alone), (alone, plugged, glad)]
    return {
        column: replace(cells[column], keys=_keys(*made_of)) if cells[column].summary else cells[column]
        for column, made_of in zip(COLUMNS, of, strict=True)
    }


def _keys(*made_of: pd.DataFrame | None) -> tuple[str, ...]:
    """The keys of some sets, of the seeds that all of them have."""
    there = [sets for sets in made_of if sets is not None]
    seeds = set.intersection(*(set(sets["seed"]) for sets in there))
    return tuple(key for sets in there for keys in sets.loc[sets["seed"].isin(seeds), "keys"] for key in keys)
