"""Rows, sets, checkpoints and teachers, carried between machines in one file or in several of a stated size.

A pack is a plain tar archive, not compressed (tensors hardly shrink). Its first member, ``pack.json``, says
the version of the format; then come the files, under ``store/`` and ``results/``, named as they are there;
the last, ``manifest.json``, has the SHA-256 and the size of each, and the SHA-256 of all bytes before itself.
FILE.001, FILE.002, … are pieces of such an archive: ``cat FILE.*`` is the whole. How a pack is opened is in
:mod:`bench.carrying.unpack`.

No torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from bench.cells import key_of
from bench.disk import naming
from bench.errors import UserError
from bench.files import sha256, sync
from bench.results import MEASURES, Results
from bench.results import ROWS as CELLS
from bench.store import held

FORMAT, VERSION = "metadd-bench pack", 1
#: The first member of a pack, and the last.
HEAD, MANIFEST = "pack.json", "manifest.json"
#: What of a suite's results folder travels, besides the sets; its tables and figures can be made again.
ROWS = (CELLS, MEASURES)
PARTIAL = ".partial"
#: Smaller pieces than this would be mostly names.
SMALLEST_PIECE = 64 * 2**10
_KEY, NAME = "[0-9a-f]{64}", r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"
#: Where the members of a pack may be; nothing else is packed or unpacked.
CELL_FILE = re.compile(
    rf"store/(?P<kind>[a-z]+)/(?P<two>[0-9a-f]{{2}})/(?P<cell>{_KEY}(?:\.partial)?)/{NAME}"
)
RESULT_FILE = re.compile(
    rf"results/(?P<suite>{NAME})/(?:{'|'.join(map(re.escape, ROWS))}|sets/{_KEY}/{NAME})"
)


@dataclass
class Packed:
    """What was packed, and what was not.

    Attributes:
        files: the pack, or its pieces in order.
        cells: finished cells of the store.
        checkpoints: unfinished ones.
        suites: whose published rows are in it.
        running: the keys of cells that another process holds; they were left out.
        damaged: the folders of cells that are not what their rows say, and checkpoints that cannot be read;
            they were left out.
        left_out: the files larger than was asked for, as ``KEY/NAME``; their cells' rows are in it.

    """

    files: list[Path] = field(default_factory=list)
    cells: int = 0
    checkpoints: int = 0
    suites: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def pack(
    file: Path,
    store: Path,
    results: Path,
    *,
    suites: Mapping[str, Collection[str]] | None = None,
    max_size: int | None = None,
    largest: int | None = None,
) -> Packed:
    """Write a pack of a store and of published results; nothing is left of one that could not be finished.

    Args:
        file: the pack; with ``max_size`` the pieces are FILE.001 and so on.
        store: the folder of finished cells and checkpoints.
        results: the folder of published results.
        suites: names of suites with the keys of their cells; None packs everything.
        max_size: the most bytes of a piece.
        largest: artifacts of more bytes stay behind; None takes all.

    Raises:
        UserError: the file or a piece of it is there already, there is nothing to pack, or a published row is
            damaged.
    """
    if max_size is not None and max_size < SMALLEST_PIECE:
        raise UserError(f"--max-size: pieces of {max_size} bytes are too small; take at least 64KiB")
    if there := ([file] if file.exists() else []) + pieces(file):
        raise UserError(f"{there[0]}: is there already; delete it, or give the pack another name")
    file.parent.mkdir(parents=True, exist_ok=True)
    packed = Packed()
    with naming(file), TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
        with _Pieces(Path(folder) / file.name, max_size) as written:
            writer = _Writer(written)
            _pack_cells(writer, store, suites, largest, packed)
            _pack_results(writer, results, suites, packed)
            if not writer.members:
                raise UserError(
                    f"nothing to pack: neither {store} nor {results} has anything finished or begun"
                )
            writer.finish(packed.running)
        for piece in written.paths:
            packed.files.append(piece.rename(file.parent / piece.name))
    sync(file.parent)
    return packed


def pieces(file: Path) -> list[Path]:
    """The pieces of a pack that are there, FILE.001 and so on, in order."""
    found = [
        path for path in file.parent.glob(f"{file.name}.*") if re.fullmatch("[0-9]{3,}", path.suffix[1:])
    ]
    return sorted(found, key=lambda path: int(path.suffix[1:]))


def _pack_cells(
    writer: _Writer,
    store: Path,
    suites: Mapping[str, Collection[str]] | None,
    largest: int | None,
    packed: Packed,
) -> None:
    wanted = None if suites is None else {key for keys in suites.values() for key in keys}
    # A cell is known by its folder, its checkpoint or its lock: a running one may have nothing else.
    entries = [path for path in store.glob("*/*/*") if not path.name.startswith(".")]
    folders = {path.with_name(path.name.partition(".")[0]) for path in entries}
    for folder in sorted(folders):
        if not re.fullmatch(_KEY, folder.name) or (wanted is not None and folder.name not in wanted):
            continue
        partial = folder.with_name(folder.name + PARTIAL)
        with held(folder) as mine:
            if not mine:
                packed.running.append(folder.name)
            elif (folder / "row.json").exists():
                large = [path for path in _files(folder) if _is_larger(path, largest)]
                files = [path for path in _files(folder) if path not in large]
                if sound_row(folder, files) is None:
                    packed.damaged.append(folder)
                    continue
                packed.cells += 1
                packed.left_out += [f"{folder.name}/{path.name}" for path in large]
                for path in files:
                    writer.add(f"store/{path.relative_to(store).as_posix()}", path)
            elif partial.is_dir():
                files = [path for path in _files(partial) if zipfile.is_zipfile(path)]  # by torch.save
                packed.damaged += [path for path in _files(partial) if path not in files]
                packed.checkpoints += bool(files)
                for path in files:
                    writer.add(f"store/{path.relative_to(store).as_posix()}", path)


def _is_larger(path: Path, most: int | None) -> bool:
    """Whether a file is too large to be packed; rows always travel."""
    return most is not None and path.name != "row.json" and path.stat().st_size > most


def sound_row(folder: Path, files: Iterable[Path]) -> dict[str, Any] | None:
    """The row of the finished cell in ``folder``; None unless it is of the folder's key and of these files.

    Artifacts may be missing (they were too large to travel); the store then makes the cell again when another
    needs them.
    """
    try:
        row: dict[str, Any] = json.loads((folder / "row.json").read_text(encoding="utf-8"))
        there = {path.name: sha256(path) for path in files if path.name != "row.json"}
        kind, two, key = folder.parts[-3:]
        sound = is_row(row) and there.items() <= row["artifacts"].items()
        sound = sound and (kind, two, key) == (row["cell"]["kind"], row["key"][:2], row["key"])
    except (FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return row if sound else None


def is_row(row: dict[str, Any]) -> bool:
    """Whether a value out of JSON is a row of a cell and has the cell's key."""
    return key_of(row["cell"]) == row["key"] and {"result", "cost", "provenance", "artifacts"} <= row.keys()


def _pack_results(
    writer: _Writer, results: Path, suites: Mapping[str, Collection[str]] | None, packed: Packed
) -> None:
    for folder in sorted(path for path in results.glob("*") if path.is_dir()):
        if suites is not None and folder.name not in suites:
            continue
        rows = [folder / name for name in ROWS if Results(folder, name).rows]  # a damaged one is refused
        if rows:
            packed.suites.append(folder.name)
        for path in (*rows, *(each for kept in sorted(folder.glob("sets/*")) for each in _files(kept))):
            writer.add(f"results/{path.relative_to(results).as_posix()}", path)


def _files(folder: Path) -> list[Path]:
    """The files of a folder; what a killed process left half-written begins with a dot."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


class _Writer:
    """The members of a pack, one after the other."""

    def __init__(self, file: _Pieces) -> None:
        self._file = file
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        #: Size and SHA-256 of each file, by the member's name.
        self.members: dict[str, dict[str, Any]] = {}
        self._add_json(HEAD, {"format": FORMAT, "version": VERSION})

    def add(self, name: str, path: Path) -> None:
        """Add a file; its checksum is that of the very bytes that are packed."""
        if not (CELL_FILE.fullmatch(name) or RESULT_FILE.fullmatch(name)) or path.is_symlink():
            raise UserError(f"{path}: no file of a store or of results; move it away to pack the others")
        with path.open("rb") as file:
            seen = _Hashing(file)
            about = self._about(name, path.stat().st_size)
            about.mtime = int(path.stat().st_mtime)
            self._tar.addfile(about, seen)
        self.members[name] = {"sha256": seen.digest.hexdigest(), "bytes": about.size}

    def finish(self, running: list[str]) -> None:
        """Add the manifest, and end the archive."""
        before = self._file.digest.hexdigest()
        self._add_json(MANIFEST, {"members": self.members, "sha256": before, "running": running})
        self._tar.close()

    def _add_json(self, name: str, value: Any) -> None:
        content = (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
        self._tar.addfile(self._about(name, len(content)), io.BytesIO(content))

    def _about(self, name: str, size: int) -> tarfile.TarInfo:
        about = tarfile.TarInfo(name)
        about.size, about.mode = size, 0o644
        return about


class _Hashing(io.RawIOBase):
    """A file that remembers the SHA-256 of what was read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        content = self._file.read(size)
        self.digest.update(content)
        return content


class _Pieces(io.RawIOBase):
    """A file to write to that goes on in another one where a piece is full.

    Attributes:
        paths: the pieces so far; one, without a number, where ``most`` is None.
        digest: SHA-256 of all that was written.

    """

    def __init__(self, file: Path, most: int | None) -> None:
        self._base, self._most = file, most
        self.paths: list[Path] = []
        self.digest = hashlib.sha256()
        self._open: BinaryIO | None = None
        self._written = self._in_piece = 0

    def write(self, content: Any) -> int:
        """Write all of the bytes."""
        left = memoryview(content)
        self.digest.update(left)
        while left:
            if self._open is None or self._in_piece == self._most:
                self._next()
            room = len(left) if self._most is None else self._most - self._in_piece
            assert self._open is not None
            self._open.write(left[:room])
            self._in_piece += len(left[:room])
            left = left[room:]
        self._written += len(content)
        return len(content)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._written

    def close(self) -> None:
        """Put the last piece on disk."""
        if self._open is not None:
            self._open.close()
            sync(*self.paths)
            self._open = None
        super().close()

    def _next(self) -> None:
        if self._open is not None:
            self._open.close()
        number = "" if self._most is None else f".{len(self.paths) + 1:03}"
        self.paths.append(self._base.with_name(self._base.name + number))
        self._open, self._in_piece = self.paths[-1].open("wb"), 0
