"""What a table's primary comparisons show: tests, words, and which differences are bold.

From the differences alone, without torch. The words follow one rule (docs/tables.md): an exact sign-flip test
of the differences by distillation seed, Holm over a table's primary comparisons, and no verdict from fewer
pairs than could ever give one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.spec import MOST_PRIMARY, Primary
from bench.stats import LEVEL, detectable, holm, pairs_needed, sign_flip
from bench.tabulating import pairs

if TYPE_CHECKING:
    import pandas as pd

    from bench.tabulating.table import TableCell, TableRow

#: The plug-in whose differences are primary where a table declares none.
_DEFAULT = "MetaDD"


@dataclass(frozen=True)
class Verdict:
    """One test of ``n`` pairs: its p, Holm's adjusted p, and how many pairs a verdict needs."""

    #: The sum of the differences, whose sign is the direction.
    total: float
    n: int
    p: float
    adjusted: float
    needed: int

    @property
    def shown(self) -> bool:
        """Whether this is better or worse, which is what tables print in bold."""
        return self.n >= self.needed and self.adjusted <= LEVEL

    def __str__(self) -> str:
        if self.n < self.needed:
            return f"cannot tell ({self.n} {'pair' if self.n == 1 else 'pairs'}; {self.needed} needed)"
        if not self.shown:
            return f"no difference shown ({self.n} pairs)"
        return f"{'better' if self.total > 0 else 'worse'} ({self.n} pairs)"


def verdicts(comparisons: Sequence[Sequence[Sequence[float]]], absent: int = 0) -> list[list[Verdict]]:
    """The verdicts on comparisons, each with one or more samples of differences, tested in this order.

    Args:
        comparisons: for each, its samples; of an empty one nothing can be told.
        absent: how many more comparisons are planned that have no sample yet; they count as well.
    """
    ps = [[sign_flip(sample) for sample in samples] for samples in comparisons]
    adjusted = holm([*ps, *([1.0] for _ in range(absent))])
    needed = pairs_needed(len(comparisons) + absent)
    return [
        [
            Verdict(math.fsum(sample), len(sample), p, q, needed)
            for sample, p, q in zip(samples, mine, after, strict=True)
        ]
        for samples, mine, after in zip(comparisons, ps, adjusted, strict=False)
    ]


def judged(
    rows: Sequence[TableRow],
    changes: Mapping[int, pd.Series[Any]],
    columns: Sequence[str],
    declared: Sequence[Primary] | None = None,
) -> tuple[tuple[TableRow, ...], tuple[str, ...]]:
    """The rows with verdicts in bold, and the notes on a table's primary comparisons.

    Args:
        rows: of a table of accuracy.
        changes: the places of its differences, with the tags of the rows with a plug-in that they are about.
        columns: where differences are tested, in this order, each only once the one before has a verdict.
            Those after the first are left out where they have no pair.
        declared: what the table declares as primary; None: every "METHOD: MetaDD − without".
    """
    primary = [place for place, row in changes.items() if _is_primary(declared, row)]
    tested = {place: _columns(rows[place], columns) for place in primary}
    absent = [each for each in declared or () if not any(each.is_about(row) for row in changes.values())]
    number = len(tested) + len(absent)
    if not changes or not number:
        return tuple(rows), ()
    if number > MOST_PRIMARY:
        many = f"{number} differences would be primary comparisons, and at most {MOST_PRIMARY} may be"
        return tuple(rows), (f"No verdicts: {many} (`primary` in the tables file).",)
    samples = [[_differences(rows[place], column) for column in of_row] for place, of_row in tested.items()]
    marked, notes = list(rows), [_method(number, columns)]
    for (place, of_row), found in zip(tested.items(), verdicts(samples, len(absent)), strict=True):
        each = dict(zip(of_row, found, strict=True))
        notes.append(_note(rows[place], each))
        bold = {name: replace(rows[place].cells[name], bold=True) for name in each if each[name].shown}
        marked[place] = replace(rows[place], cells={**rows[place].cells, **bold})
    notes += [f"{each}: cannot tell (no result yet; {pairs_needed(number)} pairs needed)." for each in absent]
    return tuple(marked), tuple(notes)


def _is_primary(declared: Sequence[Primary] | None, row: pd.Series[Any]) -> bool:
    if declared is None:
        return pairs.plugin_label(row) == _DEFAULT
    return any(each.is_about(row) for each in declared)


def _columns(row: TableRow, columns: Sequence[str]) -> list[str]:
    return [*columns[:1], *(column for column in columns[1:] if _differences(row, column))]


def _differences(row: TableRow, column: str) -> tuple[float, ...]:
    cell = row.cells.get(column)
    return cell.differences if cell else ()


def _method(number: int, columns: Sequence[str]) -> str:
    """How the verdicts below it are reached, and what they could have found."""
    needed = pairs_needed(number)
    many = f"the {number} primary comparisons" if number > 1 else "one primary comparison"
    order = ", and where that shows one on ".join(f"“{column}”" for column in columns)
    return (
        f"Verdicts on {many}, on {order}: exact two-sided sign-flip test of the mean difference by "
        f"distillation seed, p adjusted by Holm, at {100 * LEVEL:.0f}% for the whole table; bold: better or "
        f"worse. {needed} pairs are needed; so many find an effect of {detectable(number):.1f} standard "
        "deviations of a difference in 80% of cases, and a smaller one less often."
    )


def _note(row: TableRow, found: Mapping[str, Verdict]) -> str:
    """Effect, interval, p, adjusted p, verdict and pairs needed of one comparison, column by column."""
    name = ", ".join(row.about)
    texts = [f"“{column}” {_numbers(row.cells.get(column), each)}{each}" for column, each in found.items()]
    needed = next(iter(found.values())).needed
    return f"{name}: {'; '.join(texts)}. Pairs needed: {needed}."


def _numbers(cell: TableCell | None, verdict: Verdict) -> str:
    if cell is None or cell.summary is None:
        return ""
    (low, high), places = cell.summary.interval, cell.decimals
    between = "" if low is None else f" [{low:.{places}f}, {high:.{places}f}]"
    ps = f"p = {_p(verdict.p)}, adjusted {_p(verdict.adjusted)}"
    return f"{cell.summary.mean:+.{places}f}{between}, {ps}: "


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"
