"""Tiny-ImageNet: 100,000 + 10,000 images of 64x64 in 200 classes, named and ordered by sorted WordNet id.

The test split is the official ``val/``, put into classes by ``val_annotations.txt``; the official ``test/``
has no labels and is never read. Some images are greyscale; they become RGB.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from bench.data import images, trees
from bench.data.archives import ARCHIVES, fingerprint, missing, verify
from bench.data.trees import Tree
from bench.data.types import Contents, Kind, Source
from bench.errors import UserError

NAME = "tiny-imagenet"
TRAIN_PER_CLASS = 500
TEST_PER_CLASS = 50
CLASSES = 200
_RECIPE = "tiny-imagenet 1"
_FOLDER = "tiny-imagenet-200"
_SIDE = 64
_TOPS = ("wnids.txt", "train", "val")
_ANNOTATIONS = "val/val_annotations.txt"


def find(data_dir: Path) -> Source:
    """Find the official archive, else the same unpacked; UserError where ``data_dir`` holds neither."""
    archive, folder = data_dir / ARCHIVES[NAME].file, data_dir / _FOLDER
    if archive.is_file():
        return Source(lambda: fingerprint(_RECIPE, NAME, archive), lambda: _from_archive(archive))
    if folder.is_dir():
        return Source(
            lambda: trees.folder_fingerprint(_RECIPE, folder, _TOPS),
            lambda: _contents(nullcontext(trees.folder_tree(folder, _TOPS))),
        )
    raise missing(NAME, data_dir, (archive.name, f"{_FOLDER}/"))


# ImageNet's statistics, as DC, DSA, DM and MTT use them here; SRe2L takes Tiny-ImageNet's own.
KIND = Kind(NAME, CLASSES, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), find)


def _from_archive(archive: Path) -> AbstractContextManager[Contents]:
    verify(NAME, archive)
    return _contents(trees.zip_tree(archive, _FOLDER))


@contextmanager
def _contents(opened: AbstractContextManager[Tree]) -> Iterator[Contents]:
    with opened as tree:
        classes = tuple(sorted(_text(tree, "wnids.txt").split()))
        if len(set(classes)) != CLASSES or len(classes) != CLASSES:
            raise UserError(
                f"{tree.where('wnids.txt')} names {len(set(classes))} classes instead of {CLASSES}"
            )
        train, test = _train(tree, classes), _test(tree, classes)
        trees.check_counts(tree, "train", train, TRAIN_PER_CLASS)
        trees.check_counts(tree, "val", test, TEST_PER_CLASS)
        parts = [
            images.part([groups[name] for name in classes], tree.read, tree.where, _SIDE)
            for groups in (train, test)
        ]
        yield Contents(classes, _SIDE, *parts)


def _train(tree: Tree, classes: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the images of ``train/<wnid>/images/`` by class; the bounding boxes beside them are left out."""
    found = [f.partition("/")[2] for f in tree.folders if f.startswith("train/") and f.count("/") == 1]
    trees.check_classes(tree, "train", sorted(found), classes, "wnids.txt")
    groups: dict[str, list[str]] = {name: [] for name in classes}
    for file in tree.files:
        match file.split("/"):
            case ["train", wnid, "images", name] if wnid in groups:
                trees.check_suffix(tree, file, name)
                groups[wnid].append(file)
    return _in_order(tree, "train", groups)


def _test(tree: Tree, classes: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the images of ``val/images/`` by class, checked one to one against the annotations."""
    where = tree.where(_ANNOTATIONS)
    present = {file for file in tree.files if file.startswith("val/images/")}
    groups: dict[str, list[str]] = {name: [] for name in classes}
    seen: set[str] = set()
    for number, line in enumerate(_text(tree, _ANNOTATIONS).splitlines(), start=1):
        name, *rest = line.split("\t")
        wnid, file = rest[0] if rest else "", f"val/images/{name}"
        if file not in present:
            raise UserError(f"{where}, line {number}: there is no image {name!r} in val/images")
        if wnid not in groups:
            raise UserError(f"{where}, line {number}: {wnid!r} is not a class of wnids.txt")
        if file in seen:
            raise UserError(f"{where}, line {number}: {name!r} has a class already")
        seen.add(file)
        groups[wnid].append(file)
    if left := sorted(present - seen):
        raise UserError(f"{where} says nothing about {left[0]} ({len(left)} such images)")
    return _in_order(tree, "val", groups)


def _in_order(tree: Tree, split: str, groups: dict[str, list[str]]) -> dict[str, list[str]]:
    for name, files in groups.items():
        if not files:
            raise UserError(f"{tree.where(split)}: the class {name!r} has no images")
        files.sort(key=lambda file: (trees.natural(file), file))
    return groups


def _text(tree: Tree, name: str) -> str:
    if name not in tree.files:
        raise UserError(f"{tree.root} lacks {name}: the official layout is needed")
    try:
        return tree.read(name).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{tree.where(name)} is damaged: it is not text ({error})") from error
