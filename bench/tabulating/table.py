"""What all kinds of tables are made of: cells, rows, a table, and the words in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bench.spec import TableSpec
from bench.stats import Summary
from bench.tabulating import pairs

#: What rows are told apart by, and what a table calls it. What differs inside a cell becomes part of the
#: row's name even where the table does not ask for it: only seeds are ever averaged over.
NAMES = {
    "dataset": "Dataset",
    "ipc": "IPC",
    "method": "Method",
    "recipe": "Recipe",
    "distilled_on": "Distilled on",
    "protocol": "Protocol",
    "network": "Network",
    "test_images": "Test images",
}
MISSING = "—"
WHOLE = "all"
SEEN = "†"


@dataclass(frozen=True)
class TableCell:
    """One number: the statistics (None where there is no result) and what they are made of."""

    summary: Summary | None = None
    #: Networks trained on each set, at least and at most; (0, 0) where there is no result.
    networks: tuple[int, int] = (0, 0)
    #: Whether every network here took part in distilling.
    seen: bool = False
    #: Whether this is a difference between two rows: printed with its sign and its interval.
    difference: bool = False
    #: What a difference between accuracies is the mean of, one for each seed.
    differences: tuple[float, ...] = ()
    #: Whether a test shows this difference.
    bold: bool = False
    #: Decimals, in every form but CSV.
    decimals: int = 1
    #: There too, what stands before the n in place of the statistics, and where there is no result.
    text: str | None = None
    missing: str = MISSING
    #: Of the table's ``details``, those that no other field gives.
    details: Mapping[str, str] = field(default_factory=dict)
    #: The keys of the rows that it was computed from, as a report shows them; none where there is no result.
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableRow:
    """One row: what it is about, and a cell per column (and for ``mean``)."""

    about: tuple[str, ...]
    cells: Mapping[str, TableCell]


@dataclass(frozen=True)
class Table:
    """A table ready to be printed in any format: ``header`` comes before the rows, ``notes`` after them."""

    name: str
    title: str
    header: tuple[str, ...]
    row_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[TableRow, ...] = ()
    notes: tuple[str, ...] = field(default=())
    #: What the CSV form says of a number besides its statistics.
    details: tuple[str, ...] = ("networks_per_set", "seen")
    #: Those of the notes on its primary comparisons: first how they are tested, then one for each.
    verdicts: tuple[str, ...] = ()


def row_tags(spec: TableSpec, data: pd.DataFrame) -> list[str]:
    """The tags that make a row: those asked for, and those that would differ inside a cell.

    With a plug-in always the method, because a difference goes by its name.
    """
    by: list[str] = list(spec.rows)
    if "method" not in by and (data["plugin"] != pairs.NONE).any():
        by.append("method")
    inside = data.groupby([*by, "column"], dropna=False)
    for tag in NAMES:
        if tag in data and tag not in (*by, spec.columns) and (inside[tag].nunique(dropna=False) > 1).any():
            by.append(tag)
    return by


def text_of(value: Any) -> str:
    """A tag as a table shows it."""
    return MISSING if pd.isna(value) else str(value)


def column_of(value: Any) -> str:
    """The column of a tag's value; of the IPC that the whole training set has not, too."""
    return WHOLE if pd.isna(value) else str(value)


def range_of(low: int, high: int) -> str:
    """Two numbers as text, or one where they are equal."""
    return f"{low}" if low == high else f"{low} to {high}"
