"""The official archives: name, host, size and checksum."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.errors import UserError


@dataclass(frozen=True)
class Archive:
    """One official archive; ``base_url`` without the file's name, ``sha256`` in hexadecimal."""

    file: str
    base_url: str
    size: int
    sha256: str


# Sizes and checksums agree in several independent public loaders. Tests replace entries of this table.
ARCHIVES: dict[str, Archive] = {
    "cifar10": Archive(
        "cifar-10-binary.tar.gz",
        "https://www.cs.toronto.edu/~kriz",
        170_052_171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    "cifar100": Archive(
        "cifar-100-binary.tar.gz",
        "https://www.cs.toronto.edu/~kriz",
        168_513_733,
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ),
    "tiny-imagenet": Archive(
        "tiny-imagenet-200.zip",
        "https://cs231n.stanford.edu",
        248_100_043,
        "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    ),
}


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mismatch(path: Path, archive: Archive) -> str | None:
    """How ``path`` differs from the official archive, in words; None if it is the official archive."""
    size = path.stat().st_size
    if size != archive.size:
        return f"{size} bytes instead of {archive.size}"
    got = sha256_file(path)
    return None if got == archive.sha256 else f"SHA-256 {got[:12]}… instead of {archive.sha256[:12]}…"


def verify(name: str, path: Path) -> None:
    """Raise UserError unless ``path`` is the official archive of the dataset ``name``."""
    if wrong := mismatch(path, ARCHIVES[name]):
        raise UserError(f"{path} is damaged ({wrong}): delete it, then {download_command(name, path.parent)}")


def fingerprint(recipe: str, name: str, path: Path) -> str:
    """SHA-256 over ``recipe``, place, size, mtime_ns and the checksum that decoding verifies."""
    status = path.stat()
    values = [recipe, str(path.resolve()), status.st_size, status.st_mtime_ns, asdict(ARCHIVES[name])]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def download_command(name: str, data_dir: Path) -> str:
    """Return what to type to get the archive."""
    return f"metadd-bench data {name} --data-dir {data_dir}"


def missing(name: str, data_dir: Path, looked: tuple[str, ...]) -> UserError:
    """Return the error for a dataset that is in none of the places."""
    state = "" if data_dir.is_dir() else " (there is no such folder)"
    return UserError(
        f"{name} is not in {data_dir}{state}: looked for {', '.join(looked)}; get it with: "
        f"{download_command(name, data_dir)}"
    )
