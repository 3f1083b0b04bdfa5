"""The table of meta features, from rows alone, without torch: what maps share, by method and networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.planning.analyses import ROLES
from bench.spec import TableSpec
from bench.stats import paired, summarise
from bench.tabulating import pairs
from bench.tabulating.table import NAMES, Table, TableCell, TableRow, row_tags, text_of


@dataclass(frozen=True)
class _Measure:
    """A number of an analyse cell's result, and how a table shows it."""

    key: str
    name: str
    times: float
    decimals: int


_MEASURES = (
    _Measure("meta", "meta %", 100, 1),
    _Measure("heterogeneous", "heterogeneous %", 100, 1),
    _Measure("iou", "IoU", 1, 3),
    _Measure("divergence", "divergence", 1, 3),
    _Measure("cross_entropy", "CE", 1, 3),
)


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The current analyse rows as a frame: a column per tag, and one per measure in the table's units."""
    flat = []
    for row in rows:
        if row["current"] and row["cell"]["kind"] == "analyse":
            numbers = {each.key: each.times * row["result"][each.key] for each in _MEASURES}
            about = {"key": row["key"], "cell": row["cell"], "result": row["result"]}
            flat.append({**row["tags"], **numbers, **about})
    found = pd.DataFrame(flat)
    return found.astype({"ipc": "Int64"}) if flat else found  # real images have none


def meta_table(name: str, spec: TableSpec, analyses: pd.DataFrame, header: Sequence[str] = ()) -> Table:
    """What the maps of the auxiliary and of unseen networks share: mean ± standard deviation over seeds.

    Below each method with a plug-in stands what the plug-in changes: the difference from the same seeds
    without it, paired.
    """
    if analyses.empty:
        return Table(name, spec.title, tuple(header), notes=("No finished analysis yet.",), details=())
    data = analyses.assign(column=analyses["role"])
    by = row_tags(spec, data)
    rows = []
    for _, group in data.groupby(by, sort=False, dropna=False):
        first = group.iloc[0]
        rows.append(TableRow(tuple(text_of(first[tag]) for tag in by), _cells(group)))
        if changes := _differences(group, data):
            change = {**first, "method": pairs.change_label(first)}
            rows.append(TableRow(tuple(text_of(change[tag]) for tag in by), changes))
    columns = tuple(_column(role, each) for role in ROLES for each in _MEASURES)
    names = tuple(NAMES[tag] for tag in by)
    return Table(name, spec.title, tuple(header), names, columns, tuple(rows), _notes(data), details=())


def _cells(group: pd.DataFrame) -> dict[str, TableCell]:
    return {
        _column(role, each): TableCell(
            summarise(part[each.key].tolist()), decimals=each.decimals, keys=tuple(part["key"])
        )
        for role, part in group.groupby("role", sort=False)
        for each in _MEASURES
    }


def _differences(group: pd.DataFrame, data: pd.DataFrame) -> dict[str, TableCell]:
    """With the plug-in minus without it, of the seeds that have both; nothing where nothing has both."""
    return {
        _column(role, each): TableCell(
            paired(_by_seed(part, each), _by_seed(plain, each)),
            difference=True,
            decimals=each.decimals,
            keys=_of_both(part, plain),
        )
        for role, part in group.groupby("role", sort=False)
        if (plain := pairs.without(data, part.iloc[0])) is not None
        for each in _MEASURES
    }


def _of_both(part: pd.DataFrame, plain: pd.DataFrame) -> tuple[str, ...]:
    """The keys of two groups of rows, of the seeds that both have."""
    pairs_of = ((part, plain), (plain, part))
    return tuple(key for one, other in pairs_of for key in one.loc[one["seed"].isin(other["seed"]), "key"])


def _by_seed(part: pd.DataFrame, measure: _Measure) -> dict[int, float]:
    return dict(zip(part["seed"], part[measure.key], strict=True))


def _column(role: object, measure: _Measure) -> str:
    return f"{role}: {measure.name}"


def _notes(data: pd.DataFrame) -> tuple[str, ...]:
    settings = data["cell"].iloc[0]["settings"]
    grid = settings["grid"]
    measures = (
        f"Class activation maps of the images' own classes, on a grid of {grid} x {grid} positions. meta %: "
        f"share of positions where the maps of all networks reach {settings['threshold']}. heterogeneous %: "
        "where those of some but not all do. IoU: of where two networks' maps reach it, the mean over pairs. "
        "divergence: mean KL, in nats, from the mean of the maps, as distributions over the positions "
        f"(temperature {settings['temperature']}); 0 where they agree. CE: mean cross-entropy."
    )
    numbers = (
        "Mean ± standard deviation (n) over n distillation seeds; with n = 1 there is no ±. "
        f"{pairs.NOTE} —: no result, or not applicable."
    )
    return (measures, numbers, _networks(data))


def _networks(data: pd.DataFrame) -> str:
    """Which networks stand behind each role."""
    found: dict[str, dict[str, None]] = {}
    for dataset, role, result in zip(data["dataset"], data["role"], data["result"], strict=True):
        place = role if data["dataset"].nunique() == 1 else f"{role} on {dataset}"
        found.setdefault(place, {}).update(dict.fromkeys(result["accuracies"]))
    return "Networks: " + "; ".join(f"{place}: {', '.join(names)}" for place, names in found.items()) + "."
