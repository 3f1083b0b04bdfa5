"""Decoded datasets on disk: memory-mapped arrays beside a ``meta.json``, made once per state of the source.

An entry is a folder ``<name>-<fingerprint>`` with ``train.npy``, ``test.npy`` and ``meta.json``. It is made
under a file lock in a temporary folder and renamed, so an entry that exists is whole, and two processes never
decode at once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock

from bench.data.places import plain_errors
from bench.data.types import Contents, Part, Pixels, Source, Split
from bench.errors import UserError

_FORMAT = 1  # of the entry on disk; another number is another folder
_SPLITS = ("train", "test")


@dataclass(frozen=True)
class ArrayMeta:
    """One array file: where its classes start, and the SHA-256 of its pixels (the file after its header)."""

    offsets: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Meta:
    """What ``meta.json`` holds."""

    classes: tuple[str, ...]
    size: int
    train: ArrayMeta
    test: ArrayMeta

    @property
    def content(self) -> str:
        """The content id: SHA-256 over class names, side, offsets and pixels, wherever these came from."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A finished entry of the cache."""

    folder: Path
    meta: Meta


def prepare(name: str, source: Source, cache_dir: Path) -> Entry:
    """Return the entry of ``source``, decoded now if the cache does not have it.

    Raises UserError where the source or the entry is damaged, or the cache cannot be written.
    """
    with plain_errors(cache_dir):
        fingerprint = source.fingerprint()
        folder = cache_dir / f"{name}-v{_FORMAT}-{fingerprint[:24]}"
        if not folder.is_dir():
            cache_dir.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.is_dir():
                    _make(name, source, fingerprint, folder)
        return Entry(folder, _read_meta(folder))


def open_split(entry: Entry, split: str) -> Split:
    """Verify the checksum of ``train`` or ``test`` and return its images, memory-mapped and read-only.

    Raises UserError where the file is not what was written.
    """
    meta: ArrayMeta = getattr(entry.meta, split)
    path = entry.folder / f"{split}.npy"
    shape = (meta.offsets[-1], 3, entry.meta.size, entry.meta.size)
    try:
        with path.open("rb", buffering=0) as file:
            start = _header(file)
            if file.seek(0, 2) - start != int(np.prod(shape)):
                raise _damaged(entry.folder, f"{path.name} has the wrong size")
            file.seek(start)
            if hashlib.file_digest(file, "sha256").hexdigest() != meta.sha256:
                raise _damaged(entry.folder, f"{path.name} has another checksum")
        images: Pixels = np.memmap(path, np.uint8, "r", offset=start, shape=shape)
    except (OSError, ValueError) as error:
        raise _damaged(entry.folder, f"{path.name}: {error}") from error
    return Split(images, meta.offsets)


def _header(file: BinaryIO | Any) -> int:
    """Where the pixels start; ValueError if this is not an array file."""
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return int(file.tell())


def _make(name: str, source: Source, fingerprint: str, folder: Path) -> None:
    # Only the holder of the lock makes temporary folders for this entry: those found here are of killed runs.
    prefix = f".{folder.name}-"
    for stale in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        with source.read() as contents:
            arrays = {split: _write(contents, split, temporary / f"{split}.npy") for split in _SPLITS}
        if source.fingerprint() != fingerprint:
            raise UserError(
                f"the files of {name} changed while they were read: run again when they are in place"
            )
        meta = Meta(contents.classes, contents.size, arrays["train"], arrays["test"])
        stored = {"content": meta.content, "fingerprint": fingerprint, **asdict(meta)}
        (temporary / "meta.json").write_text(json.dumps(stored, indent=1))
        temporary.chmod(0o755)  # mkdtemp's 0700 would shut out others who share the cache
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(contents: Contents, split: str, path: Path) -> ArrayMeta:
    """Write the blocks behind each other, so that memory holds a few of them and never the dataset."""
    part: Part = getattr(contents, split)
    shape = (part.offsets[-1], 3, contents.size, contents.size)
    digest, written = hashlib.sha256(), 0
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for block in part.blocks():
            if block.dtype != np.uint8 or block.shape[1:] != shape[1:]:
                raise ValueError(f"a block of {block.dtype} {block.shape} for an array of {shape}")
            data = np.ascontiguousarray(block).data
            digest.update(data)
            file.write(data)
            written += len(block)
    if written != shape[0]:
        raise ValueError(f"{written} images written where the offsets say {shape[0]}")
    return ArrayMeta(part.offsets, digest.hexdigest())


def _read_meta(folder: Path) -> Meta:
    try:
        raw = json.loads((folder / "meta.json").read_text())
        arrays = [ArrayMeta(tuple(raw[s]["offsets"]), raw[s]["sha256"]) for s in _SPLITS]
        meta = Meta(tuple(raw["classes"]), raw["size"], *arrays)
        # The content id covers every field, so one comparison finds any change to them.
        whole = raw["content"] == meta.content
        whole = whole and all(start < stop for a in arrays for start, stop in pairwise(a.offsets))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"meta.json: {type(error).__name__} {error}") from error
    if not whole:
        raise _damaged(folder, "meta.json does not agree with itself")
    return meta


def _damaged(folder: Path, what: str) -> UserError:
    return UserError(f"the cache folder {folder} is damaged ({what}): delete it and run again")
