"""Finished cells on disk.

``STORE/<kind>/<key[:2]>/<key>/`` holds ``row.json`` (the cell, its result, cost, provenance and the
checksums of its artifacts) and the artifacts. A cell is written to a temporary folder, synced, and renamed,
so what is there is whole. Beside the folder stand ``<key>.lock`` (an OS file lock: a killed run leaves
none), ``<key>.partial/`` (the checkpoint of an unfinished cell) and ``<key>.failed.json`` (why a cell could
not be finished; never a hit). Results that are committed count as finished cells as well.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.cells import Cell
from bench.disk import is_closed
from bench.errors import UserError
from bench.files import sha256, sync, write_json
from bench.results import Results

#: What every row has, besides its key.
_FIELDS = frozenset({"cell", "result", "cost", "provenance", "artifacts"})


class State(StrEnum):
    """What a store knows of a cell. ``finished`` is a hit; ``failed`` and ``missing`` are run."""

    FINISHED = "finished"
    FAILED = "failed"
    RUNNING = "running"
    MISSING = "missing"


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold the lock of the cell in (or to be in) this folder of a store; False where another process does.

    Where no lock may be made (a store that is only read), nobody makes cells, so that it counts as held.
    """
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    except OSError as error:
        if not is_closed(error):
            raise
        yield True
        return
    try:
        yield True
    finally:
        lock.release()


class Store:
    """The finished cells under ``root``, and those among committed ``results``.

    Nothing is written before the first cell begins.
    """

    def __init__(self, root: Path, results: Results | None = None) -> None:
        self.root = root
        self._results = results
        #: Rows read so far: a finished cell's does not change.
        self._rows: dict[str, dict[str, Any]] = {}

    def state(self, cell: Cell) -> State:
        """Where a cell stands, without reading its row."""
        there = (self._folder(cell) / "row.json").exists()
        if there or (self._results and cell.key in self._results.rows):
            return State.FINISHED
        if self._is_locked(cell):
            return State.RUNNING
        return State.FAILED if self._beside(cell, ".failed.json").exists() else State.MISSING

    def row(self, cell: Cell) -> dict[str, Any] | None:
        """The row of a finished cell, or None.

        Raises:
            UserError: the row is damaged.
        """
        if cell.key in self._rows:
            return self._rows[cell.key]
        path = self._folder(cell) / "row.json"
        try:
            row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            whole = row["key"] == cell.key and row.keys() >= _FIELDS
        except FileNotFoundError:
            return self._results.rows.get(cell.key) if self._results else None
        except (ValueError, TypeError, KeyError):
            whole = False
        if not whole:
            raise UserError(f"{path}: damaged; delete the folder {path.parent} to make the cell again")
        self._rows[cell.key] = row
        return row

    def failure(self, cell: Cell) -> str | None:
        """Why a cell failed the last time, or None.

        Raises:
            UserError: the record is damaged.
        """
        path = self._beside(cell, ".failed.json")
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["reason"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{path}: damaged; delete it") from None

    def failed_at(self, cell: Cell) -> int | None:
        """When a cell failed the last time, in nanoseconds of the file system's clock, or None."""
        try:
            return self._beside(cell, ".failed.json").stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def artifact(self, cell: Cell, name: str) -> Path | None:
        """A finished cell's artifact, its checksum verified, or None where only its row is known.

        Raises:
            UserError: the file is not the one that the cell left.
        """
        row, path = self.row(cell), self._where(cell, name)
        if row is None or path is None:
            return None
        if sha256(path) != row["artifacts"].get(name):
            raise UserError(f"{path}: damaged (its checksum differs); delete {path.parent} to make it again")
        return path

    def has_artifacts(self, cell: Cell) -> bool:
        """Whether the artifacts of a finished cell are here, not only its row."""
        row = self.row(cell)
        return row is not None and all(self._where(cell, name) is not None for name in row["artifacts"])

    @contextmanager
    def claim(self, cell: Cell) -> Iterator[bool]:
        """Hold a cell's lock while making it; False where another process holds it."""
        folder = self._folder(cell)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with held(folder) as mine:
            yield mine

    def partial(self, cell: Cell) -> Path:
        """The folder for a cell's checkpoint; it outlives a killed run and goes when the cell is finished."""
        return self._beside(cell, ".partial")

    @contextmanager
    def workspace(self, cell: Cell) -> Iterator[Path]:
        """A temporary folder for the artifacts of a claimed cell, beside where :meth:`finish` will put it.

        What a killed run left of the cell is cleared away.
        """
        parent, prefix = self._folder(cell).parent, f".{cell.key}."
        for left in parent.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def finish(self, cell: Cell, workspace: Path, row: Mapping[str, Any]) -> None:
        """Make the ``workspace`` with its ``row`` the finished cell, at once."""
        artifacts = {path.name: sha256(path) for path in sorted(workspace.iterdir())}
        write_json(workspace / "row.json", {**row, "key": cell.key, "artifacts": artifacts})
        sync(*workspace.iterdir(), workspace)
        folder = self._folder(cell)
        workspace.chmod(0o755)
        if folder.exists():  # its row was asked to be made again for its artifacts
            shutil.rmtree(folder)
        workspace.rename(folder)
        self._rows.pop(cell.key, None)
        sync(folder.parent)
        self._beside(cell, ".failed.json").unlink(missing_ok=True)
        shutil.rmtree(self.partial(cell), ignore_errors=True)

    def fail(self, cell: Cell, reason: str) -> None:
        """Record why a cell could not be finished. Its checkpoint goes: it led to the failure."""
        write_json(self._beside(cell, ".failed.json"), {"reason": reason, "cell": cell.value})
        shutil.rmtree(self.partial(cell), ignore_errors=True)

    def _where(self, cell: Cell, name: str) -> Path | None:
        """Where an artifact is: in the store, or among the committed results."""
        places = [self._folder(cell) / name]
        if self._results:
            places.append(self._results.artifact(cell.key, name))
        return next((path for path in places if path.exists()), None)

    def _folder(self, cell: Cell) -> Path:
        return self.root / cell.kind / cell.key[:2] / cell.key

    def _beside(self, cell: Cell, suffix: str) -> Path:
        folder = self._folder(cell)
        return folder.with_name(folder.name + suffix)

    def _is_locked(self, cell: Cell) -> bool:
        if not self._beside(cell, ".lock").exists():
            return False
        with held(self._folder(cell)) as free:
            return not free
