"""Rows as a report carries them: what many share said once, what each has of its own in a short list.

A suite of the paper's size has some 20,000 rows. As they stand they would be 40 MB; so they are 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.cells import canonical

#: What of a cell tells one from another of its group; all else is settings.
_OWN = ("seed", "evaluation_seed", "part", "number")
_KEY = re.compile(r"[0-9a-f]{64}")
#: So much of a key is shown: enough to find it among rows, and for ``export``.
_SHORT = 16
#: Significant digits of what is measured.
_DIGITS = 6


class Records:
    """The current rows of a suite, numbered as they stand; a page's script reads :attr:`data`."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.rows = [row for row in rows if row["current"]]
        self._numbers = {row["key"]: number for number, row in enumerate(self.rows)}
        short = len({row["key"][:_SHORT] for row in self.rows}) == len(self.rows)
        self._shown = _SHORT if short else None

    def numbers(self, keys: Iterable[str]) -> str:
        """The rows of these keys by number, as ``0-4,7``; keys of no row are left out."""
        return ranges(sorted({self._numbers[key] for key in keys if key in self._numbers}))

    @property
    def data(self) -> dict[str, Any]:
        """All rows, for JSON.

        ``records``: of each row its key, the number of its group, its own values, when it was finished, its
        results, its costs, and the rows that it needs. ``groups``: what the rows of a group share, with the
        names of those values. ``sources``: the provenances that groups name by number.
        """
        groups, sources = _Interned(), _Interned()
        records = []
        for row in self.rows:
            cell, result, cost = row["cell"], row["result"], row["cost"]
            provenance = dict(row["provenance"])
            finished = str(provenance.pop("finished", ""))[:16].replace("T", " ")
            own = [name for name in _OWN if name in cell]
            group = {
                "kind": cell["kind"],
                "tags": _shared(row["tags"]),
                "also": [_shared(tags) for tags in row.get("also", ())],
                "cell": _without_keys(_shared(cell)),
                "source": sources.number(provenance),
                "own": own,
                "result": sorted(result),
                "cost": sorted(cost),
            }
            records.append(
                [
                    row["key"][: self._shown],
                    groups.number(group),
                    [cell[name] for name in own],
                    finished,
                    [_short(result[name]) for name in group["result"]],
                    [_short(cost[name]) for name in group["cost"]],
                    self.numbers(_keys(cell)),
                ]
            )
        return {"records": records, "groups": groups.values, "sources": sources.values}


class _Interned:
    """Values by number, equal ones once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[str, int] = {}

    def number(self, value: Any) -> int:
        number = self._numbers.setdefault(canonical(value), len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


def ranges(numbers: Sequence[int]) -> str:
    """Whole numbers that rise, as text: ``0-4,7``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in parts)


def _shared(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _OWN}


def _keys(value: Any) -> list[str]:
    """Every text in a value that is a key of a cell."""
    if isinstance(value, Mapping):
        return [key for inner in value.values() for key in _keys(inner)]
    if isinstance(value, list | tuple):
        return [key for inner in value for key in _keys(inner)]
    return [value] if _is_key(value) else []


def _without_keys(value: Any) -> Any:
    """A value with a word in place of keys: a record has those rows by number."""
    if isinstance(value, Mapping):  # a dataset's content is a digest too
        return {name: _without_keys(inner) if name != "content" else inner for name, inner in value.items()}
    if isinstance(value, list | tuple):
        if value and all(map(_is_key, value)):
            return f"{len(value)} {'cell' if len(value) == 1 else 'cells'}"
        return [_without_keys(inner) for inner in value]
    return "1 cell" if _is_key(value) else value


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def _short(value: Any) -> Any:
    """A result with its numbers to six significant digits."""
    if isinstance(value, Mapping):
        return {name: _short(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_short(inner) for inner in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
