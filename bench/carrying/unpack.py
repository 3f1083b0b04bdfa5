"""Opening a pack (:mod:`bench.carrying.pack`): all of it is verified before anything is put in its place.

What is here already stays as it is: a cell with the same key and other results is named, not replaced. Of two
checkpoints of a cell the newer one is kept; both lead to the same bits. No torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from bench.carrying.pack import (
    CELL_FILE,
    FORMAT,
    HEAD,
    MANIFEST,
    PARTIAL,
    RESULT_FILE,
    ROWS,
    VERSION,
    is_row,
    pieces,
    sound_row,
)
from bench.disk import naming
from bench.errors import UserError
from bench.files import copy, sha256, sync, write_text
from bench.results import Results
from bench.store import held

_CHUNK = 2**20


@dataclass
class Unpacked:
    """What a pack brought.

    Attributes:
        cells: finished cells that were not here.
        known: finished cells, and published rows, that were here with the same results.
        checkpoints: those put in their place.
        rows: published rows that were not here.
        sets: files of published sets that were not here.
        differ: keys of cells that are here with other results, and files with other bytes: left as they are.
        running: keys of cells that another process is making here; left alone.
        missing: keys of cells that ran where the pack was made, and so are not in it.

    """

    cells: int = 0
    known: int = 0
    checkpoints: int = 0
    rows: int = 0
    sets: int = 0
    differ: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def unpack(file: Path, store: Path, results: Path) -> Unpacked:
    """Put a pack's cells and checkpoints into a store, and its published rows and sets among the results.

    Args:
        file: the pack, or the name that its pieces have without their numbers.
        store: the folder of finished cells; made if there is none.
        results: the folder of published results; likewise.

    Raises:
        UserError: the pack is missing, damaged, of a newer version, or holds what no pack may hold; nothing
            was written then.
    """
    with _opened(file) as (tar, reader):
        members, manifest = _verified(file, tar, reader)
        with naming(store), _made(store), TemporaryDirectory(prefix=".unpack.", dir=store) as staging:
            stage = Path(staging)
            for member in members:
                tar.extract(member, stage, filter="data")
            cells = sorted(path for path in stage.glob("store/*/*/*") if path.suffix != PARTIAL)
            rows = {folder: _checked_row(file, folder) for folder in cells}
            published = {path: _checked_rows(file, path) for path in sorted(stage.glob("results/*/*.jsonl"))}
            found = Unpacked(missing=list(manifest["running"]))
            _Placing(stage, store, results, found).all(rows, published)
    return found


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder that is there, or is made; what was made goes again where nothing comes into it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # by now something is in there
            for path in missing:
                path.rmdir()
        raise


@contextmanager
def _opened(file: Path) -> Iterator[tuple[tarfile.TarFile, IO[bytes]]]:
    """The archive, and what it is read from."""
    paths = [file] if file.is_file() else pieces(file)
    if not paths:
        raise UserError(f"{file}: no such pack; neither it nor {file.name}.001 is there")
    if paths != [file]:
        for number, path in enumerate(paths, start=1):
            if int(path.suffix[1:]) != number:
                raise UserError(f"{file}: the piece {file.name}.{number:03} is missing")
    with io.BufferedReader(_Joined(paths)) as reader:
        try:
            tar = tarfile.open(fileobj=reader, mode="r:")  # noqa: SIM115
        except tarfile.TarError:
            raise UserError(f"{file}: not a pack, or its beginning is damaged") from None
        with tar:
            yield tar, reader


def _verified(
    file: Path, tar: tarfile.TarFile, reader: IO[bytes]
) -> tuple[list[tarfile.TarInfo], Mapping[str, Any]]:
    """The files of a pack and its manifest, every byte compared with its checksum."""
    head = _json(file, tar, tar.next(), HEAD)
    if head.get("format") != FORMAT or not isinstance(head.get("version"), int):
        raise UserError(f"{file}: not a pack")
    if head["version"] > VERSION:
        raise UserError(
            f"{file}: a pack of version {head['version']}, and this metadd-bench reads up to {VERSION}; "
            "update it here, or pack with this version there"
        )
    try:
        _, *members = tar.getmembers()
    except (tarfile.TarError, EOFError, OSError, ValueError):
        members = []
    if not members or members[-1].name != MANIFEST:
        raise UserError(f"{file}: damaged: its end is missing, or cannot be read")
    last = members.pop()
    for member in members:
        if not member.isreg() or not (CELL_FILE.fullmatch(member.name) or RESULT_FILE.fullmatch(member.name)):
            raise UserError(
                f"{file}: refused: it holds {member.name!r}, which is no file of a store or of results"
            )
    manifest = _json(file, tar, last, MANIFEST)
    try:
        listed = {name: (about["sha256"], about["bytes"]) for name, about in manifest["members"].items()}
        whole, running = str(manifest["sha256"]), [str(key) for key in manifest["running"]]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{file}: damaged: its manifest cannot be read") from None
    if sorted(member.name for member in members) != sorted(listed):
        raise UserError(f"{file}: damaged: it does not hold what its manifest lists")
    for member in members:
        content = tar.extractfile(member)
        assert content is not None
        if (_digest(content, member.size), member.size) != listed[member.name]:
            raise UserError(f"{file}: damaged: the checksum of {member.name} differs")
    reader.seek(0)
    if _digest(reader, last.offset) != whole:
        raise UserError(f"{file}: damaged: its checksum differs")
    return members, {"running": running}


def _json(file: Path, tar: tarfile.TarFile, member: tarfile.TarInfo | None, name: str) -> dict[str, Any]:
    """A member that is JSON."""
    try:
        content = tar.extractfile(member) if member is not None and member.name == name else None
        value = json.loads(content.read()) if content is not None else None
    except (ValueError, tarfile.TarError, OSError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{file}: not a pack, or its {name} is damaged")
    return value


def _checked_row(file: Path, folder: Path) -> dict[str, Any]:
    """The row of a staged cell, which must be that of its key and list its files."""
    row = sound_row(folder, folder.iterdir())
    if row is None:
        raise UserError(f"{file}: refused: its cell {folder.name} is not what its key says")
    return row


def _checked_rows(file: Path, path: Path) -> list[dict[str, Any]]:
    """Published rows, each of which must be that of its key."""
    try:
        rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_bytes().splitlines()]
        sound = all(is_row(row) for row in rows)
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError(
            f"{file}: refused: a row of its {path.parent.name}/{path.name} is not what its key says"
        )
    return rows


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows of a cell say the same: cost and provenance are of a run and not of the cell."""
    return all(one[name] == other[name] for name in ("result", "artifacts"))


def _newest(folder: Path) -> float:
    """When the latest file of a folder was written; 0 where there is none."""
    return max((path.stat().st_mtime for path in folder.glob("*")), default=0.0)


def _digest(content: IO[bytes], size: int) -> str:
    """SHA-256 of the next ``size`` bytes, in hex."""
    digest = hashlib.sha256()
    while size and (chunk := content.read(min(size, _CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


class _Joined(io.RawIOBase):
    """Pieces of a file, to be read as one."""

    def __init__(self, paths: list[Path]) -> None:
        self._files = [path.open("rb") for path in paths]
        sizes = [path.stat().st_size for path in paths]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self._size, self._at = sum(sizes), 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte of the whole."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Bytes from here on, up to the end of the piece."""
        if self._at >= self._size:
            return 0
        number = bisect_right(self._starts, self._at) - 1
        self._files[number].seek(self._at - self._starts[number])
        read = self._files[number].readinto(buffer)
        self._at += read
        return read

    def close(self) -> None:
        """Close all pieces."""
        for file in self._files:
            file.close()
        super().close()


class _Placing:
    """Puts what was staged and verified in its place."""

    def __init__(self, stage: Path, store: Path, results: Path, found: Unpacked) -> None:
        self._stage, self._store, self._results, self._found = stage, store, results, found
        folders = results.glob("*") if results.is_dir() else ()
        published = (Results(folder) for folder in folders if (folder / ROWS[0]).exists())
        #: What is published here, read before anything of the pack is.
        self._published = {key: row for each in published for key, row in each.rows.items()}

    def all(
        self, cells: Mapping[Path, dict[str, Any]], published: Mapping[Path, list[dict[str, Any]]]
    ) -> None:
        """Place cells, then checkpoints, then published rows and sets."""
        for staged, row in cells.items():
            self._cell(staged, row)
        for staged in sorted(self._stage.glob(f"store/*/*/*{PARTIAL}")):
            self._checkpoint(staged)
        for path, rows in published.items():
            self._rows(path, rows)
        for path in sorted(self._stage.glob("results/*/sets/*/*")):
            self._set(path)

    def _cell(self, staged: Path, row: dict[str, Any]) -> None:
        folder = self._store / staged.relative_to(self._stage / "store")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with held(folder) as mine:
            if not mine:
                self._found.running.append(folder.name)
                return
            here = self._here(row)
            if here is not None and not _same(here, row):
                self._differs(folder.name)
            elif (folder / "row.json").exists():
                self._found.known += 1
                for path in staged.iterdir():  # artifacts that did not travel, or not with this cell, before
                    if not (folder / path.name).exists():
                        sync(path)
                        path.rename(folder / path.name)
                sync(folder)
            else:
                self._found.cells += 1
                sync(*staged.iterdir(), staged)
                staged.rename(folder)
                sync(folder.parent)
                folder.with_name(f"{folder.name}.failed.json").unlink(missing_ok=True)
                shutil.rmtree(folder.with_name(folder.name + PARTIAL), ignore_errors=True)

    def _checkpoint(self, staged: Path) -> None:
        partial = self._store / staged.relative_to(self._stage / "store")
        folder = partial.with_name(partial.name.removesuffix(PARTIAL))
        partial.parent.mkdir(parents=True, exist_ok=True)
        with held(folder) as mine:
            if not mine:
                self._found.running.append(folder.name)
            elif not (folder / "row.json").exists() and _newest(staged) > _newest(partial):
                self._found.checkpoints += 1
                shutil.rmtree(partial, ignore_errors=True)
                sync(*staged.iterdir(), staged)
                staged.rename(partial)
                sync(partial.parent)

    def _rows(self, path: Path, rows: list[dict[str, Any]]) -> None:
        """Published rows that are not here go behind those that are."""
        target = self._results / path.relative_to(self._stage / "results")
        ours = target.read_text(encoding="utf-8") if target.exists() else ""
        listed = {row["key"]: row for row in map(json.loads, ours.splitlines())}
        new = []
        for row in rows:
            here = listed.get(row["key"]) or self._here(row)
            if here is not None and not _same(here, row):
                self._differs(row["key"])
            elif row["key"] in listed:
                self._found.known += 1
            else:
                new.append(json.dumps(row, sort_keys=True, allow_nan=False) + "\n")
        self._found.rows += len(new)
        if new:
            write_text(target, ours + "".join(new))

    def _set(self, path: Path) -> None:
        target = self._results / path.relative_to(self._stage / "results")
        if target.exists():
            if sha256(target) != sha256(path):
                self._differs(str(target))
            return
        self._found.sets += 1
        copy(path, target)

    def _differs(self, name: str) -> None:
        if name not in self._found.differ:
            self._found.differ.append(name)

    def _here(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row of this cell that is in the store or published; None where there is none."""
        key = row["key"]
        path = self._store / row["cell"]["kind"] / key[:2] / key / "row.json"
        if path.exists():
            here: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return here
        return self._published.get(key)
