"""A suite's results folder: what is committed, published, and turned into tables without torch.

``RESULTS/<suite>/rows.jsonl`` has one row a line, in the plan's order, ``measures.jsonl`` those of measured
memory and time; ``sets/<key>/`` the artifacts of small distilled sets; ``tables/`` and ``figures/`` what was
made of them. A row that the suite no longer
plans (other data, an older version) stays in the file, marked ``"current": false``, and is left out of
tables: nothing that was measured is thrown away by a run.
"""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.cells import key_of
from bench.errors import UserError
from bench.files import copy, write_text

#: The file of a suite's rows, and that of the rows of ``metadd-bench measure``.
ROWS, MEASURES = "rows.jsonl", "measures.jsonl"
#: Artifacts of a distil cell larger than this (together) stay in the store only.
SMALL_SET = 1_250_000
#: The picture of a distilled set, which figures are made of.
PLATE = "plate.png"
#: The picture of an analysis: images and what networks see in them.
CAMS = "cams.png"
#: What every published row has.
_FIELDS = frozenset({"key", "current", "tags", "cell", "result", "cost", "provenance", "artifacts"})


#: What every row has that is a JSON object.
_OBJECTS = ("tags", "cell", "result", "cost", "provenance", "artifacts")
#: What tables compute with; a cost that was not measured is null, or not there.
_COSTS = ("seconds", "seconds_per_update", "peak_live_bytes", "peak_allocated_bytes")


def _what_is_wrong(row: Any) -> str | None:
    """Why a value out of JSON is no published row; None if it is one."""
    if not isinstance(row, dict) or not row.keys() >= _FIELDS:
        return "not a row"
    for name in _OBJECTS:
        if not isinstance(row[name], dict):
            return f"not a row (its {name} is no JSON object)"
    if row["key"] != (right := key_of(row["cell"])):
        return f"key {row['key']} is not that of the row's cell, which is {right}"
    if row["cell"].get("kind") == "evaluate" and not isinstance(row["result"].get("accuracy"), int | float):
        return "not a row (its result has no accuracy that is a number)"
    for name in _COSTS:
        if not isinstance(row["cost"].get(name), int | float | None):
            return f"not a row (the {name} of its cost is no number)"
    return None


def has_rows(folder: Path) -> bool:
    """Whether a suite has published any, of its cells or of measures."""
    return any((folder / file).exists() for file in (ROWS, MEASURES))


class Results:
    """The results of one suite under ``folder`` (``RESULTS/<suite>``), which need not exist yet.

    Args:
        folder: where they are.
        file: which of the suite's rows: those of its cells, or of :data:`MEASURES`.
    """

    def __init__(self, folder: Path, file: str = ROWS) -> None:
        self.folder, self._file = folder, folder / file

    @property
    def measures(self) -> Results:
        """The rows of what the suite's cells take, measured by themselves."""
        return Results(self.folder, MEASURES)

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Every row by key, as read when first asked for.

        Raises:
            UserError: a line is no JSON row, or its key is not that of its cell.
        """
        path = self._file
        rows: dict[str, dict[str, Any]] = {}
        if not path.exists():
            return rows
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                row = json.loads(line)
                wrong = _what_is_wrong(row)
            except ValueError:
                wrong = "not a row"
            if wrong:
                raise UserError(f"{path}, line {number}: {wrong}; restore the file or delete the line")
            rows[row["key"]] = row
        return rows

    def artifact(self, key: str, name: str) -> Path:
        """Where a committed artifact is or would be."""
        return self.folder / "sets" / key / name

    def write(self, current: Iterable[Mapping[str, Any]]) -> bool:
        """Write the ``current`` rows (with their tags, in the plan's order), then the others.

        Returns:
            Whether that changed the file.
        """
        rows = {row["key"]: {**row, "current": True} for row in current}
        vars(self).pop("rows", None)  # another run may have published since they were read
        others = sorted(key for key in self.rows if key not in rows)
        rows |= {key: {**self.rows[key], "current": False} for key in others}
        lines = [json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in rows.values()]
        path, text = self._file, "".join(lines)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return False
        write_text(path, text)
        vars(self).pop("rows", None)
        return True

    def keep(self, key: str, paths: Iterable[Path]) -> None:
        """Copy a set's artifacts where they are small (together), and its picture in any case.

        A copy with other bytes (the set was made again, on another machine) is replaced.
        """
        paths = list(paths)
        small = sum(path.stat().st_size for path in paths) <= SMALL_SET
        for path in paths:
            target = self.artifact(key, path.name)
            wanted = path != target and (small or path.name == PLATE)
            if wanted and not (target.exists() and filecmp.cmp(path, target, shallow=False)):
                copy(path, target)
