"""Real datasets: found, decoded once into a cache, verified, memory-mapped. Costs no torch.

``digits`` (comes with scikit-learn), ``cifar10``, ``cifar100``, ``tiny-imagenet`` and ``imagefolder:PATH``;
each with ``[k]`` behind it for its first k classes, ``[tuning]`` for the split of its training images that
settings are chosen on, or ``[k,tuning]``. The data folder is the argument, else ``METADD_DATA``,
else ``./data``; the cache the argument, else ``METADD_CACHE``, else the user's cache folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.data import cache
from bench.data.fetch import fetch
from bench.data.places import cache_folder, data_folder, plain_errors
from bench.data.spec import KINDS, NAMES, DatasetSpec, check_subset, parse
from bench.data.types import Dataset, Identity, Split, counts_of
from bench.errors import UserError

__all__ = [
    "NAMES",
    "Dataset",
    "DatasetSpec",
    "Identity",
    "Split",
    "fetch",
    "identify",
    "load",
    "parse",
]


def identify(
    spec: str | DatasetSpec, data_dir: Path | None = None, cache_dir: Path | None = None
) -> Identity:
    """Return what the dataset is, without its pixels.

    The first time decodes it into the cache; later the source is only looked at (names, sizes, times) and the
    cache's ``meta.json`` read. Raises UserError for a mistaken spec and for missing or damaged data.
    """
    asked, entry = _prepare(spec, data_dir, cache_dir)
    return _identity(asked, entry.meta)


def load(spec: str | DatasetSpec, data_dir: Path | None = None, cache_dir: Path | None = None) -> Dataset:
    """Return the dataset, its images memory-mapped and read-only; ``Split`` says shapes and order.

    Decodes it into the cache the first time, and verifies the cache's checksums every time. A subset
    (``cifar10[5]``) shares cache and content id with the whole. Raises UserError as ``identify`` does.

    ``[tuning]`` has none of the test images: of each class, the last fifth of the training images (rounded
    down, at least one) is the test set and the others are the training set. Last in the stored order, not
    drawn: the official datasets' is random enough. That of a folder is the order of its file names.
    """
    asked, entry = _prepare(spec, data_dir, cache_dir)
    identity = _identity(asked, entry.meta)
    kind = KINDS[asked.name]
    train = cache.open_split(entry, "train").narrowed(len(identity.classes))
    if asked.tuning:
        train, test = train.parted(identity.train)
    else:
        test = cache.open_split(entry, "test").narrowed(len(identity.classes))
    return Dataset(
        spec=identity.spec,
        content=identity.content,
        classes=identity.classes,
        size=identity.size,
        mean=kind.mean,
        std=kind.std,
        train=train,
        test=test,
    )


def _prepare(
    spec: str | DatasetSpec, data_dir: Path | None, cache_dir: Path | None
) -> tuple[DatasetSpec, cache.Entry]:
    asked = parse(spec) if isinstance(spec, str) else spec
    place = asked.path or data_folder(data_dir)
    with plain_errors(place):
        source = KINDS[asked.name].find(place)
    return asked, cache.prepare(asked.name, source, cache_folder(cache_dir))


def _identity(asked: DatasetSpec, meta: cache.Meta) -> Identity:
    total = len(meta.classes)
    if asked.classes is not None:
        check_subset(str(asked), asked.classes, total)
        if asked.classes == total:
            asked = replace(asked, classes=None)
    kept = total if asked.classes is None else asked.classes
    train, test = (counts_of(split.offsets)[:kept] for split in (meta.train, meta.test))
    if asked.tuning:
        test = tuple(max(1, count // 5) for count in train)
        train = tuple(count - held_out for count, held_out in zip(train, test, strict=True))
        if 0 in train:
            raise UserError(
                f"{asked}: class {meta.classes[train.index(0)]!r} has only 1 training image; "
                "with `tuning`, 2 are needed, for one is held out"
            )
    return Identity(
        spec=str(asked),
        content=meta.content,
        classes=meta.classes[:kept],
        size=meta.size,
        train=train,
        test=test,
    )
