"""Tables from rows alone, without torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.spec import TableSpec
from bench.stats import Summary, summarise

#: How a table calls what its rows are told apart by.
_NAMES = {
    "dataset": "Dataset",
    "ipc": "IPC",
    "method": "Method",
    "recipe": "Recipe",
    "distilled_on": "Distilled on",
    "protocol": "Protocol",
}
_MISSING = "—"


@dataclass(frozen=True)
class TableRow:
    """One row: what it is about, and per column (and for ``mean``) the statistics, or None where missing."""

    about: tuple[str, ...]
    cells: Mapping[str, Summary | None]
    #: Networks trained on each set, per column.
    networks: Mapping[str, int]


@dataclass(frozen=True)
class Table:
    """A table ready to be printed in any format."""

    name: str
    title: str
    notes: tuple[str, ...]
    row_names: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The current evaluate rows as a frame: a column per tag, ``accuracy``, and ``key``."""
    flat = [
        {**row["tags"], "accuracy": row["result"]["accuracy"], "key": row["key"]}
        for row in rows
        if row["current"] and row["cell"]["kind"] == "evaluate"
    ]
    found = pd.DataFrame(flat)
    return found.astype({"ipc": "Int64"}) if flat else found  # IPC is missing for the whole training set


def accuracy_table(name: str, spec: TableSpec, evaluations: pd.DataFrame, notes: Sequence[str] = ()) -> Table:
    """Test accuracy: mean ± standard deviation over distillation seeds.

    The networks trained on one set are averaged first, because the distillation seed is the unit of
    statistics. The last column is the mean over the columns, of the seeds that have them all.
    """
    if evaluations.empty:
        return Table(name, spec.title, (*notes, "No finished evaluation yet."), (), (), ())
    data = evaluations.assign(column=evaluations[spec.columns].astype(str))
    columns = list(data["column"].unique())
    rows = []
    for about, group in data.groupby(list(spec.rows), sort=False, dropna=False):
        per_set = group.groupby(["column", "seed"])["accuracy"].agg(["mean", "count"])
        means: pd.DataFrame = per_set["mean"].unstack("column").reindex(columns=columns)  # seeds x columns
        cells = {column: summarise(means[column].dropna().tolist()) for column in columns}
        cells["mean"] = summarise(means.dropna().mean(axis="columns").tolist())
        networks = {str(column): int(n) for column, n in per_set["count"].groupby("column").max().items()}
        rows.append(TableRow(tuple(_text(value) for value in about), cells, networks))
    names = tuple(_NAMES[name] for name in spec.rows)
    return Table(name, spec.title, (*notes, _explanation(rows)), names, (*columns, "mean"), tuple(rows))


def _text(value: Any) -> str:
    return _MISSING if pd.isna(value) else str(value)


def _explanation(rows: Sequence[TableRow]) -> str:
    each = {count for row in rows for count in row.networks.values() if count}
    of_each = f"{min(each)}" if len(each) == 1 else f"{min(each)} to {max(each)}"
    return (
        "Test accuracy in %, after the last training step: mean ± standard deviation (n) over n distillation "
        f"seeds; each is the mean of {of_each} network(s) trained on that seed's set. ± needs n > 1. "
        f"“mean” is over the columns. {_MISSING}: no result."
    )


def to_markdown(table: Table) -> str:
    """A Markdown table with its title and notes."""
    head = [*table.row_names, *table.columns]
    lines = [f"### {table.title}", ""]
    if table.rows:
        body = [[*row.about, *(_shown(row.cells[column]) for column in table.columns)] for row in table.rows]
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
        rule = ["-" * width for width in widths]
        for i in range(len(table.row_names), len(head)):
            rule[i] = rule[i][:-1] + ":"
        for line in [head, rule, *body]:
            lines.append(
                "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
            )
        lines.append("")
    for note in table.notes:
        lines += [note, ""]
    return "\n".join(lines)


def to_csv(table: Table) -> str:
    """One line per row and column, with full precision: mean, std, n, the 95% interval, networks per set."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*table.row_names, "column", "mean", "std", "n", "low95", "high95", "networks_per_set"])
    for row in table.rows:
        for column in table.columns:
            cell = row.cells[column]
            numbers = [cell.mean, cell.std, cell.n, *cell.interval] if cell else [None, None, 0, None, None]
            shown = [f"{x:.4f}" if isinstance(x, float) else x for x in numbers]
            writer.writerow([*row.about, column, *shown, row.networks.get(column, "")])
    return out.getvalue()


def _shown(cell: Summary | None) -> str:
    if cell is None:
        return _MISSING
    if cell.std is None:
        return f"{cell.mean:.1f} (1)"
    return f"{cell.mean:.1f} ± {cell.std:.1f} ({cell.n})"
