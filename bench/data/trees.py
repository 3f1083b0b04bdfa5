"""A tree of files that may lie in a folder or in a zip archive: read in place, never unpacked to disk."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.data.images import SUFFIXES
from bench.errors import UserError, near

Stat = tuple[str, int, int]  # name relative to the tree's root with "/", bytes, mtime_ns


@dataclass(frozen=True)
class Tree:
    """Names of files and folders relative to the root, with ``/``; hidden ones (``.x``) are left out.

    ``read`` gives the bytes of a file; ``where`` the name to show for it in an error.
    """

    root: Path
    files: tuple[str, ...]
    folders: frozenset[str]
    read: Callable[[str], bytes]

    def where(self, name: str) -> str:
        """Return a file's or folder's name for an error: root and name together."""
        return str(self.root / name)


def scan(root: Path, tops: Sequence[str]) -> tuple[list[Stat], list[str]]:
    """Return all files and all folders under ``root/top`` for each of ``tops``, sorted by name.

    A top may be a file, and may be missing. One ``stat`` per file and nothing is opened: 60,000 files take
    0.2 s.
    """
    files: list[Stat] = []
    folders: list[str] = []
    pending: list[str] = []
    for top in tops:
        path = root / top
        if path.is_dir():
            pending.append(top)
        elif path.is_file():
            status = path.stat()
            files.append((top, status.st_size, status.st_mtime_ns))
    while pending:
        folder = pending.pop()
        folders.append(folder)
        if folder.count("/") > 8:
            raise UserError(
                f"{root / folder}: folders nested this deep are not a dataset (a link to itself?)"
            )
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = f"{folder}/{entry.name}"
                if entry.is_dir():
                    pending.append(name)
                else:
                    status = entry.stat()
                    files.append((name, status.st_size, status.st_mtime_ns))
    return sorted(files), sorted(folders)


def folder_fingerprint(recipe: str, root: Path, tops: Sequence[str]) -> str:
    """SHA-256 over ``recipe``, the folder's place, and every file's relative name, size and mtime_ns.

    The place counts as well: files of fixed size with reset times (a copy of a reproducible archive) look the
    same in two different datasets, and a second decoding is cheaper than the wrong pixels.
    """
    files, folders = scan(root, tops)
    digest = hashlib.sha256(f"{recipe}\0{root.resolve()}\0".encode())
    digest.update("\n".join(folders).encode("utf-8", "surrogateescape"))
    lines = "".join(f"\n{name}\0{size}\0{time}" for name, size, time in files)
    digest.update(lines.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def folder_tree(root: Path, tops: Sequence[str]) -> Tree:
    """Return the tree of the files on disk under ``root``, looking at ``tops`` alone."""
    files, folders = scan(root, tops)
    names = tuple(name for name, _, _ in files)
    return Tree(root, names, frozenset(folders), lambda name: (root / name).read_bytes())


@contextmanager
def zip_tree(archive: Path, prefix: str) -> Iterator[Tree]:
    """Return the tree of the members of ``archive`` below ``prefix/``; members elsewhere are never looked at.

    Raises UserError where the archive or a member is damaged.
    """
    try:
        opened = zipfile.ZipFile(archive)
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive} is not a whole zip archive ({error})") from error

    def read(name: str) -> bytes:
        try:
            return opened.read(f"{prefix}/{name}")
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
            raise UserError(f"{archive}: its member {prefix}/{name} is damaged ({error})") from error

    with opened:
        below = [n.removeprefix(f"{prefix}/") for n in opened.namelist() if n.startswith(f"{prefix}/")]
        below = [n for n in below if not any(piece.startswith(".") for piece in n.split("/"))]
        files = sorted(name for name in below if name and not name.endswith("/"))
        # Archives need not list their folders: each file's parents are folders all the same.
        folders = {name.rstrip("/") for name in below if name.endswith("/")}
        folders |= {f.rsplit("/", depth)[0] for f in files for depth in range(1, f.count("/") + 1)}
        yield Tree(archive / prefix, tuple(files), frozenset(folders), read)


def natural(name: str) -> list[str | int]:
    """Return the sort key of file names within a class: ``x_2`` before ``x_10``."""
    return [int(piece) if odd else piece for odd, piece in _pieces(name)]


def _pieces(name: str) -> Iterator[tuple[bool, str]]:
    # split() with a group alternates text, digits, text, …, so equal places compare like with like.
    for place, piece in enumerate(re.split(r"([0-9]+)", name)):
        yield bool(place % 2), piece


def class_groups(tree: Tree, split: str) -> dict[str, list[str]]:
    """Return the images of ``split/<class>/*`` by class, classes sorted by name, images in natural order.

    Raises UserError for a class without images, a file that is no image, a folder inside a class or a file
    beside the class folders: leaving these out in silence would run on less than the user thinks.
    """
    found: dict[str, list[str]] = {}
    for folder in sorted(f for f in tree.folders if f.startswith(f"{split}/")):
        _, _, name = folder.partition("/")
        if "/" in name:
            raise UserError(f"{tree.where(folder)}: a class folder holds images only, no folders")
        found[name] = []
    for file in tree.files:
        top, _, rest = file.partition("/")
        name, slash, image = rest.partition("/")
        if top != split:
            continue
        if not slash:
            raise UserError(f"{tree.where(file)}: {split} holds one folder per class, no files")
        check_suffix(tree, file, image)
        found[name].append(file)
    for name, files in found.items():
        if not files:
            raise UserError(f"{tree.where(f'{split}/{name}')}: the class {name!r} has no images")
        files.sort(key=lambda file: (natural(file), file))
    return found


def check_suffix(tree: Tree, file: str, name: str) -> None:
    """Raise UserError unless ``name`` ends like an image."""
    if not name.lower().endswith(SUFFIXES):
        raise UserError(f"{tree.where(file)} is not an image ({', '.join(SUFFIXES)}): move it elsewhere")


def check_classes(tree: Tree, split: str, found: Sequence[str], right: Sequence[str], whose: str) -> None:
    """Raise UserError, naming the first class, unless ``split`` has exactly the classes of ``whose``."""
    for name in found:
        if name not in right:
            raise UserError(
                f"{tree.where(f'{split}/{name}')}: not a class of {whose}; {near(name, tuple(right))}"
            )
    for name in right:
        if name not in found:
            raise UserError(f"{tree.where(split)} lacks the class {name!r} of {whose}")


def check_counts(tree: Tree, split: str, groups: dict[str, list[str]], expected: int) -> None:
    """Raise UserError, naming the first class, unless every class has ``expected`` images."""
    for name, files in groups.items():
        if len(files) != expected:
            raise UserError(
                f"{tree.where(split)}: the class {name!r} has {len(files)} images instead of {expected} (an "
                f"unfinished copy?); a dataset of your own is imagefolder:PATH"
            )
