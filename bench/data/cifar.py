"""What CIFAR-10 and CIFAR-100 share: the binary records, and the same images as one file each."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data import images, trees
from bench.data.archives import ARCHIVES, fingerprint, missing, verify
from bench.data.types import Contents, Part, Pixels, Source, offsets_of
from bench.errors import UserError

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_BLOCK = 4096


@dataclass(frozen=True)
class Layout:
    """How one of the two is stored: files of ``records`` records each, of label bytes and 3072 pixel bytes.

    The class is the last of the ``label_bytes`` (CIFAR-100 puts the coarse label first).
    """

    name: str
    recipe: str
    classes: tuple[str, ...]
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    train_records: int
    test_records: int
    label_bytes: int

    def per_class(self, split: str) -> int:
        """Return the number of images of every class."""
        records = len(self.train) * self.train_records if split == "train" else self.test_records
        return records // len(self.classes)


def find(layout: Layout, data_dir: Path) -> Source:
    """Find the archive, else the unpacked archive, else the folders ``NAME/{train,test}/<class>/*``.

    Raises UserError where ``data_dir`` holds none of them.
    """
    archive = data_dir / ARCHIVES[layout.name].file
    binary, folder = data_dir / layout.folder, data_dir / layout.name
    if archive.is_file():
        return Source(
            lambda: fingerprint(layout.recipe, layout.name, archive), lambda: _from_archive(layout, archive)
        )
    if binary.is_dir():
        files = (*layout.train, *layout.test)
        return Source(
            lambda: trees.folder_fingerprint(layout.recipe, binary, files),
            lambda: _from_binary(layout, binary),
        )
    if folder.is_dir():
        return Source(
            lambda: trees.folder_fingerprint(layout.recipe, folder, ("train", "test")),
            lambda: _from_images(layout, folder),
        )
    places = (archive.name, f"{layout.folder}/", f"{layout.name}/train/<class>/*.png")
    raise missing(layout.name, data_dir, places)


@contextmanager
def _from_archive(layout: Layout, archive: Path) -> Iterator[Contents]:
    verify(layout.name, archive)
    wanted = {f"{layout.folder}/{file}": file for file in (*layout.train, *layout.test)}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isfile() and member.name in wanted and (opened := tar.extractfile(member)):
                    found[wanted[member.name]] = opened.read()
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise UserError(f"{archive} is not a whole tar.gz archive ({error})") from error

    def read(file: str) -> bytes:
        if file not in found:
            raise UserError(f"{archive} has no member {layout.folder}/{file}")
        return found[file]

    yield _contents(layout, read, archive / layout.folder)


@contextmanager
def _from_binary(layout: Layout, folder: Path) -> Iterator[Contents]:
    def read(file: str) -> bytes:
        if not (folder / file).is_file():
            raise UserError(f"{folder} lacks {file}")
        return (folder / file).read_bytes()

    yield _contents(layout, read, folder)


def _contents(layout: Layout, read: Callable[[str], bytes], where: Path) -> Contents:
    parts = []
    for split, files, records in (
        ("train", layout.train, layout.train_records),
        ("test", layout.test, layout.test_records),
    ):
        rows = np.concatenate([_records(layout, read(file), records, where / file) for file in files])
        labels = rows[:, layout.label_bytes - 1]
        expected = layout.per_class(split)
        top = len(layout.classes) - 1
        if labels.max() > top:
            raise UserError(
                f"{where}: a record of {split} has the label {labels.max()}, above {top}: damaged"
            )
        counts = np.bincount(labels, minlength=top + 1)
        for name, count in zip(layout.classes, counts, strict=True):
            if count != expected:
                raise UserError(f"{where}: the class {name!r} of {split} has {count} images, not {expected}")
        parts.append(_part(layout, rows, labels, [int(count) for count in counts]))
    return Contents(layout.classes, _SIDE, *parts)


def _part(layout: Layout, rows: Pixels, labels: Pixels, counts: list[int]) -> Part:
    # Stable, so that within a class the order of the archive stays.
    order = np.argsort(labels, kind="stable")

    def blocks() -> Iterator[Pixels]:
        for start in range(0, len(order), _BLOCK):
            chosen = rows[order[start : start + _BLOCK], layout.label_bytes :]
            yield chosen.reshape(-1, 3, _SIDE, _SIDE)

    return Part(offsets_of(counts), blocks)


def _records(layout: Layout, data: bytes, records: int, where: Path) -> Pixels:
    expected = records * (layout.label_bytes + _PIXELS)
    if len(data) != expected:
        raise UserError(f"{where} has {len(data)} bytes instead of {expected}: it is damaged")
    return np.frombuffer(data, np.uint8).reshape(records, -1)


@contextmanager
def _from_images(layout: Layout, folder: Path) -> Iterator[Contents]:
    tree = trees.folder_tree(folder, ("train", "test"))
    parts = []
    for split in ("train", "test"):
        groups = trees.class_groups(tree, split)
        trees.check_classes(tree, split, tuple(groups), layout.classes, layout.name)
        trees.check_counts(tree, split, groups, layout.per_class(split))
        parts.append(images.part([groups[name] for name in layout.classes], tree.read, tree.where, _SIDE))
    yield Contents(layout.classes, _SIDE, *parts)
