"""The table of memory, from rows alone, without torch: a method's peak, and what MetaDD and GLaD add."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from bench import pairs
from bench.spec import TableSpec
from bench.stats import paired, summarise
from bench.tables import NAMES, Table, TableCell, TableRow, row_tags, text_of

#: What is measured, by its name in a row's cost, and how the table says it.
_MEASURES = {
    "peak_live_bytes": "the peak of live tensor bytes, counted on a CPU in two updates",
    "peak_allocated_bytes": "the peak of what PyTorch allocated on a GPU, over the whole distillation",
}
_COLUMNS = ("alone", "+ MetaDD", "difference (MetaDD)", "+ GLaD", "difference (GLaD)", "ratio")
_DETAILS = ("percent_of_alone", "measure")
_METADD, _GLAD = "metadd", "glad"
_NOT_MEASURED = TableCell(missing="not measured")
#: What tells sets apart, and with ``seed`` one set of a row from another.
_SET = ["dataset", "ipc", "protocol", "method", "plugin", "distilled_on", "cell_method"]


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The current distil rows as a frame: one line per set, however many evaluations it has.

    A column per tag that tells sets apart; ``without`` (see :mod:`bench.pairs`); ``cell_method``, the
    method's name in the registry; ``device``, what it was distilled on; and each measure in bytes, of the
    largest part of the set. Left out are sets that lack a part yet, and those that no update was made for.
    """
    parts = [
        {tag: tags[tag] for tag in (*_SET[:-1], "seed")}
        | {"cell_method": row["cell"]["method"], "key": row["key"], "images": row["cell"]["ipc"]}
        | {"device": row["provenance"]["device"]}
        | {name: row["cost"].get(name) for name in _MEASURES}
        for row in rows
        if row["current"] and row["cell"]["kind"] == "distil" and row["cost"]["updates"]
        for tags in (row["tags"], *row.get("also", ()))
        if tags["plugin"] in (pairs.NONE, _METADD)
    ]
    if not parts:
        return pd.DataFrame()
    one = [*_SET, "seed"]
    found = pd.DataFrame(parts).drop_duplicates([*one, "key"])  # evaluated by several recipes
    found = found.astype(dict.fromkeys(_MEASURES, "float64"))
    sets = found.groupby(one, sort=False, dropna=False).agg(
        images=("images", "sum"),
        device=("device", "first"),
        **{name: (name, _largest) for name in _MEASURES},
    )
    sets = sets.reset_index()
    return pairs.with_plain_names(sets[sets["images"] == sets["ipc"]].reset_index(drop=True))


def _largest(peaks: pd.Series[float]) -> float:
    """The largest peak of a set's parts; NaN where one has none."""
    return float(peaks.max(skipna=False))


def memory_table(name: str, spec: TableSpec, distilled: pd.DataFrame, header: Sequence[str] = ()) -> Table:
    """Peak memory of each method in MiB: alone, with MetaDD, under GLaD, and what these two add to it.

    A CPU's count and a GPU's peak are never mixed: the one that more sets have is shown.
    """
    empty = Table(name, spec.title, tuple(header), notes=("No finished distillation yet.",), details=_DETAILS)
    if distilled.empty:
        return empty
    measure = max(_MEASURES, key=lambda each: distilled[each].count())
    data = distilled[distilled[measure].notna()]
    if data.empty:
        return empty
    data = data.assign(column=data["plugin"], mib=data[measure] / 2**20)
    by = row_tags(spec, data[data["plugin"] == pairs.NONE])
    by += [] if "method" in by else ["method"]
    rows = []
    under: dict[str, None] = {}
    for row, alone, plugged in _pairs(data, by):
        glad = _under_glad(data, row, alone)
        if glad is not None:
            under[glad["method"].iloc[0]] = None
        about = {**row, "method": _name(row)}
        cells = _cells(_by_seed(alone), _by_seed(plugged), _by_seed(glad), row["cell_method"])
        cells = {column: _with_measure(cell, measure) for column, cell in cells.items()}
        rows.append(TableRow(tuple(text_of(about[tag]) for tag in by), cells))
    header = (*header, _measured(measure, data))
    notes = (*_notes(under), *_left_out(len(distilled) - len(data)))
    names = tuple(NAMES[tag] for tag in by)
    return Table(name, spec.title, header, names, _COLUMNS, tuple(rows), notes, _DETAILS)


_Found = tuple["pd.Series[Any]", pd.DataFrame | None, pd.DataFrame | None]


def _pairs(data: pd.DataFrame, by: Sequence[str]) -> Iterator[_Found]:
    """What each row is about (one of its sets), and its sets without and with MetaDD.

    A method with several variants of MetaDD has a row for each. Variants whose method has no row alone come
    last.
    """
    plain, plugged = (data[(data["plugin"] == pairs.NONE) == there] for there in (True, False))
    variants = [group for _, group in plugged.groupby(_SET, sort=False, dropna=False)]
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
    """The sets of a method under GLaD, without a plug-in; of several generators, with the smallest peak."""
    glad = _GLAD if row["cell_method"] == "dm" else f"{_GLAD}({row['cell_method']})"
    same = (data["cell_method"] == glad) & (data["plugin"] == pairs.NONE)
    same &= (data["dataset"] == row["dataset"]) & (data["ipc"] == row["ipc"])
    if alone is not None:
        same &= data["distilled_on"] == alone["distilled_on"].iloc[0]
    found = [group for _, group in data[same].groupby(_SET, sort=False, dropna=False)]
    return min(found, key=lambda group: float(group["mib"].mean()), default=None)


def _name(row: pd.Series[Any]) -> str:
    """The method's name, and behind it the plug-in's where that is a variant of MetaDD."""
    label = pairs.plugin_label(row)
    return (
        row["without"] if row["plugin"] == pairs.NONE or label == "MetaDD" else f"{row['without']}: {label}"
    )


def _by_seed(sets: pd.DataFrame | None) -> dict[int, float]:
    return {} if sets is None else dict(zip(sets["seed"], sets["mib"], strict=True))


def _cells(
    alone: Mapping[int, float], plugged: Mapping[int, float], glad: Mapping[int, float], method: str
) -> dict[str, TableCell]:
    """A row's cells, from the peaks by seed."""
    found = [_peak(alone), _peak(plugged), _added(plugged, alone), _peak(glad), _added(glad, alone)]
    found.append(_ratio(alone, plugged, glad))
    if method.partition("(")[0] == _GLAD:
        found[3:] = [TableCell()] * 3  # GLaD under GLaD is nothing
    return dict(zip(_COLUMNS, found, strict=True))


def _peak(by_seed: Mapping[int, float]) -> TableCell:
    summary = summarise(list(by_seed.values()))
    return TableCell(summary, text=f"{summary.mean:.1f}") if summary else _NOT_MEASURED


def _added(peaks: Mapping[int, float], alone: Mapping[int, float]) -> TableCell:
    """What is added to a method alone, of the seeds that have both."""
    summary = paired(peaks, alone)
    base = summarise([alone[seed] for seed in peaks if seed in alone])
    if summary is None or base is None:
        return _NOT_MEASURED
    percent = 100 * summary.mean / base.mean
    text = f"{summary.mean:+.1f}, {percent:+.1f}%"
    return TableCell(summary, difference=True, text=text, details={"percent_of_alone": f"{percent:.4f}"})


def _ratio(alone: Mapping[int, float], plugged: Mapping[int, float], glad: Mapping[int, float]) -> TableCell:
    """What MetaDD adds over what GLaD adds, of the seeds that have all three."""
    seeds = [seed for seed in alone if seed in plugged and seed in glad]
    if not seeds:
        return _NOT_MEASURED
    if any(glad[seed] <= alone[seed] for seed in seeds):
        return TableCell()
    summary = summarise([(plugged[seed] - alone[seed]) / (glad[seed] - alone[seed]) for seed in seeds])
    return TableCell(summary, text=f"{summary.mean:.2f}" if summary else None)


def _with_measure(cell: TableCell, measure: str) -> TableCell:
    return replace(cell, details={"percent_of_alone": "", **cell.details, "measure": measure})


def _measured(measure: str, data: pd.DataFrame) -> str:
    devices = ", ".join(sorted(data["device"].unique()))
    where = f" ({devices})" if measure == "peak_allocated_bytes" else ""
    return f"Memory in MiB: {_MEASURES[measure]}{where}."


def _notes(under: Iterable[str]) -> tuple[str, ...]:
    numbers = (
        "Mean (n) over n distillation seeds, of each set's largest part. Differences are from the same seeds "
        "of the method alone, in MiB and in % of alone. “ratio”: what MetaDD adds, over what GLaD adds, by "
        "seed; — where GLaD adds nothing, or does not apply. “not measured” is not 0. “METHOD: NAME” is a "
        "variant of MetaDD that goes by this name."
    )
    glad = "“+ GLaD”: the same method under GLaD, with the generator that makes the smallest peak"
    named = "; ".join(under)
    return (numbers, f"{glad}: {named}.") if named else (numbers,)


def _left_out(count: int) -> tuple[str, ...]:
    if not count:
        return ()
    return (f"Left out: {count} set(s), of which this was not measured; no other measure is mixed in.",)
