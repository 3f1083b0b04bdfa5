"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from bench.disk import naming


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` at once, synced to disk first."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by these bytes at once, synced to disk first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with naming(path), os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """:func:`write_text` of indented JSON; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def copy(source: Path, target: Path) -> None:
    """Replace ``target`` by the bytes of ``source`` at once, synced to disk first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with naming(target):
            shutil.copyfile(source, temporary)
            sync(temporary)
            temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(*paths: Path) -> None:
    """Put files and folders (their list of names) on disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder, in hex."""
    if path.is_file():
        return sha256(path)
    names = sorted(str(each.relative_to(path)) for each in path.rglob("*") if each.is_file())
    if not names:
        raise FileNotFoundError(2, "no such file, or an empty folder")
    listed = "".join(f"{sha256(path / name)}  {name}\n" for name in names)
    return hashlib.sha256(listed.encode()).hexdigest()
