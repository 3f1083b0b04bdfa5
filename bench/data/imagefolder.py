"""Your own images: ``PATH/train/<class>/*`` and ``PATH/test/<class>/*`` (or ``val``), classes sorted by name.

All images square, of one size, a multiple of 8. Where both ``test`` and ``val`` exist, ``test`` is used and
``val`` is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.data import images, trees
from bench.data.types import Contents, Kind, Source
from bench.errors import UserError

_RECIPE = "imagefolder 1"


def find(path: Path) -> Source:
    """Find the folder; UserError where it, its ``train`` or both of ``test`` and ``val`` are missing."""
    path = path.expanduser()
    if not path.is_dir():
        raise UserError(f"imagefolder: there is no folder {path}")
    test = next((name for name in ("test", "val") if (path / name).is_dir()), None)
    if test is None or not (path / "train").is_dir():
        lacking = "train" if test else "test (or val)"
        raise UserError(
            f"imagefolder: {path} has no folder {lacking}; needed are train/<class>/* and test/<class>/*"
        )
    tops = ("train", test)
    return Source(
        lambda: trees.folder_fingerprint(_RECIPE, path, tops), lambda: _contents(path, "train", tops[1])
    )


# ImageNet's statistics: what most networks for photographs expect.
KIND = Kind("imagefolder", None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), find)


@contextmanager
def _contents(path: Path, train: str, test: str) -> Iterator[Contents]:
    tree = trees.folder_tree(path, (train, test))
    groups = {split: trees.class_groups(tree, split) for split in (train, test)}
    classes = tuple(groups[train])
    if len(classes) < 2:
        raise UserError(f"{tree.where(train)} has {len(classes)} class folders; at least 2 are needed")
    trees.check_classes(tree, test, tuple(groups[test]), classes, train)
    first = groups[train][classes[0]][0]
    size = images.side(tree.read(first), tree.where(first))
    parts = [
        images.part([groups[split][name] for name in classes], tree.read, tree.where, size)
        for split in (train, test)
    ]
    yield Contents(classes, size, *parts)
