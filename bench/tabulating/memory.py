"""The table of memory, from rows alone, without torch: a method's peak, and what MetaDD and GLaD add."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from bench.spec import TableSpec
from bench.tabulating import growth, overhead, pairs
from bench.tabulating.overhead import COLUMNS, NOT_MEASURED, OF_SETS, Overhead
from bench.tabulating.table import NAMES, Table, TableCell, TableRow, row_tags

_LIVE, _ALLOCATED = "peak_live_bytes", "peak_allocated_bytes"
#: What is measured, by its name in a row's cost, and how the table says it.
_MEASURES = {
    _LIVE: "the peak of live tensor bytes, counted on a CPU in two updates",
    _ALLOCATED: "the peak of what PyTorch allocated on a GPU, over the whole distillation",
}
_DETAILS = ("percent_of_alone", "measure")
#: With measures beside the runs: where a row's numbers come from, and what a GPU took.
_FROM = "From"
_ON_GPU = tuple(f"{column} (GPU)" for column in OF_SETS)
#: Where numbers come from, from the first choice on.
_RUNS, _COUNTED, _AS_GPU, _AS_CPU, _GPU = (
    "runs",
    "measured on a CPU",
    "estimate, as on a GPU",
    "estimate, as on a CPU",
    "measured on a GPU",
)


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The current distil rows as a frame: one line per set, however many evaluations it has.

    A column per tag that tells sets apart; ``without`` (see :mod:`bench.tabulating.pairs`); ``cell_method``,
    the method's name in the registry; ``device``, what it was distilled on; and each measure in bytes, of the
    largest part of the set. Where the parts were made on several devices it names them all, and there is no
    peak of a GPU. Left out are sets that lack a part yet, and those that no update was made for.
    """
    parts = [
        {tag: tags[tag] for tag in (*overhead.SET[:-1], "seed")}
        | {"cell_method": row["cell"]["method"], "key": row["key"], "images": row["cell"]["ipc"]}
        | {"device": row["provenance"]["device"]}
        | {name: row["cost"].get(name) for name in _MEASURES}
        for row in rows
        if row["current"] and row["cell"]["kind"] == "distil" and row["cost"]["updates"]
        for tags in (row["tags"], *row.get("also", ()))
        if tags["plugin"] in (pairs.NONE, overhead.METADD)
    ]
    if not parts:
        return pd.DataFrame()
    one = [*overhead.SET, "seed"]
    found = pd.DataFrame(parts).drop_duplicates([*one, "key"])  # evaluated by several recipes
    found = found.astype(dict.fromkeys(_MEASURES, "float64"))
    sets = found.groupby(one, sort=False, dropna=False).agg(
        images=("images", "sum"),
        device=("device", lambda models: " and ".join(dict.fromkeys(models))),
        devices=("device", "nunique"),
        keys=("key", tuple),
        **{name: (name, _largest) for name in _MEASURES},
    )
    sets.loc[sets.pop("devices") > 1, _ALLOCATED] = float("nan")
    sets = sets.reset_index()
    return pairs.with_plain_names(sets[sets["images"] == sets["ipc"]].reset_index(drop=True))


def _largest(peaks: pd.Series[float]) -> float:
    """The largest peak of a set's parts; NaN where one has none."""
    return float(peaks.max(skipna=False))


def memory_table(
    name: str,
    spec: TableSpec,
    distilled: pd.DataFrame,
    header: Sequence[str] = (),
    measures: Iterable[Mapping[str, Any]] = (),
) -> Table:
    """Peak memory of each method in MiB: alone, with MetaDD, under GLaD, and what these two add to it.

    A CPU's count and a GPU's peak are never mixed. Of runs alone, the one that more sets have is shown; with
    ``measures``, the count or the estimate, and beside it what a GPU allocated.

    Args:
        name: the table's.
        spec: what it declares.
        distilled: the sets of runs (:func:`frame`).
        header: what stands before it.
        measures: rows of measures.
    """
    measures = list(measures)
    if not (measured := overhead.measured(measures)).empty:
        table = _side_by_side(name, spec, distilled, measured, header)
        return replace(table, notes=(*table.notes, *_growth(measures)))
    empty = Table(name, spec.title, tuple(header), notes=("No finished distillation yet.",), details=_DETAILS)
    if distilled.empty:
        return empty
    measure = max(_MEASURES, key=lambda each: distilled[each].count())
    data = _of(distilled, measure)
    if data.empty:
        return empty
    by = row_tags(spec, data[data["plugin"] == pairs.NONE])
    by += [] if "method" in by else ["method"]
    rows = []
    under: dict[str, None] = {}
    for found in overhead.overheads(data, by, _mib):
        under |= overhead.generator(found)
        cells = {column: _with_measure(cell, measure) for column, cell in found.cells.items()}
        rows.append(TableRow(found.about(by), cells))
    header = (*header, _measured(measure, data))
    notes = (*_notes(under), *_left_out(len(distilled) - len(data)))
    names = tuple(NAMES[tag] for tag in by)
    return Table(name, spec.title, header, names, COLUMNS, tuple(rows), notes, _DETAILS)


def _side_by_side(
    name: str, spec: TableSpec, distilled: pd.DataFrame, measured: pd.DataFrame, header: Sequence[str]
) -> Table:
    """The table with measures: of each row the count or estimate that has most, and a GPU's peaks."""
    sources = _sources(distilled, measured)
    there = pd.concat([data for data in sources.values() if not data.empty] or [pd.DataFrame()])
    if there.empty:
        notes = ("No memory was measured yet.", *overhead.troubles(measured))
        return Table(name, spec.title, tuple(header), notes=notes, details=_DETAILS)
    by = row_tags(spec, there[there["plugin"] == pairs.NONE])
    by += [] if "method" in by else ["method"]
    blocks = {source: overhead.by_about(data, by, _mib) for source, data in sources.items()}
    rows = []
    under: dict[str, None] = {}
    for about, (source, found) in overhead.fullest(blocks).items():
        under |= overhead.generator(found)
        measure = _ALLOCATED if source == _GPU else _LIVE
        cells = {column: _with_measure(cell, measure) for column, cell in found.cells.items()}
        gpu, estimate = (blocks[each].get(about) for each in (_GPU, _AS_GPU))
        for column, shown in zip(OF_SETS, _ON_GPU, strict=True):
            cells[shown] = _with_measure(_on_gpu(column, gpu, estimate), _ALLOCATED)
        rows.append(TableRow((*about, source), cells))
    gpus = sorted(sources[_GPU]["device"].unique()) if not sources[_GPU].empty else []
    header = (
        *header,
        "Memory in MiB: the peak of live tensor bytes, counted while updates ran or estimated.",
    )
    notes = (*_notes(under), _gpu_note(gpus), *overhead.troubles(measured))
    names = (*(NAMES[tag] for tag in by), _FROM)
    return Table(name, spec.title, header, names, (*COLUMNS, *_ON_GPU), tuple(rows), notes, _DETAILS)


def _sources(distilled: pd.DataFrame, measured: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The sets of each source, with their peaks; of GPUs those of the model that most are of."""
    run, cpu = measured["how"] == "run", measured["kind"] == "cpu"
    gpu = [_of(measured[run & ~cpu], _ALLOCATED), *([_of(distilled, _ALLOCATED)] if len(distilled) else [])]
    # A set that was measured by itself counts, and not its run.
    devices = overhead.of_most(pd.concat(gpu)).drop_duplicates([*overhead.SET, "seed"])
    return {
        _RUNS: _of(distilled, _LIVE) if len(distilled) else distilled,
        _COUNTED: _of(measured[run & cpu], _LIVE),
        _AS_GPU: _of(measured[~run & ~cpu], _LIVE),
        _AS_CPU: _of(measured[~run & cpu], _LIVE),
        _GPU: devices.reset_index(drop=True),
    }


def _of(sets: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The sets that a measure is known of, in MiB."""
    there = sets[sets[measure].notna()]
    return there.assign(column=there["plugin"], value=there[measure] / 2**20)


def _on_gpu(column: str, device: Overhead | None, estimate: Overhead | None) -> TableCell:
    """A GPU's peak, and how many times the estimate that is."""
    if device is None:
        return NOT_MEASURED
    cell, expected = device.cells[column], estimate.cells[column].summary if estimate else None
    if cell.summary is None or expected is None:
        return cell
    return replace(cell, text=f"{cell.text}, ×{cell.summary.mean / expected.mean:.2f}")


def _mib(value: float, of: float) -> str:
    return f"{value:.1f}"


def _with_measure(cell: TableCell, measure: str) -> TableCell:
    return replace(cell, details={"percent_of_alone": "", **cell.details, "measure": measure})


def _measured(measure: str, data: pd.DataFrame) -> str:
    devices = ", ".join(sorted(data["device"].unique()))
    where = f" ({devices})" if measure == _ALLOCATED else ""
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


def _gpu_note(gpus: Sequence[str]) -> str:
    where = f" ({', '.join(gpus)})" if gpus else ""
    return (
        f"“{_FROM}” says where a row's numbers come from, but for those of a GPU; an estimate or a measure "
        f"is of one set: (1). “(GPU)”: the peak of what PyTorch allocated on a GPU{where}, and behind × over "
        "the estimate as on a GPU, where there is one."
    )


def _growth(measures: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """How estimates grow, where some differ in one thing; before it how to read it."""
    found = list(growth.notes(growth.curves(measures)))
    if found:
        yield (
            "Growth is the slope of the line of least squares, “from” its value at none; “no line” where a "
            f"point is further from it than {growth.STRAIGHT:.0%} of the largest; two points (“and”) are no "
            "evidence of a line. Where images per class change, so does what the authors set by them."
        )
    yield from found


def _left_out(count: int) -> tuple[str, ...]:
    if not count:
        return ()
    return (f"Left out: {count} set(s), of which this was not measured; no other measure is mixed in.",)
