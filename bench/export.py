"""A distilled set for use elsewhere: tensors, a folder of images, and a card that says how it was made.

Without torch: what is written is what the cells left, and pictures of it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bench.cells import DatasetId, DistilCell, RelabelCell, canonical
from bench.errors import UserError, near
from bench.exporting import cards, labelcards
from bench.exporting.labelcards import Labels
from bench.files import sync, write_text
from bench.results import PLATE, Results
from bench.store import Store

#: What an export holds.
TENSORS, MATRICES, IMAGES, CARD = "set.safetensors", "zca.safetensors", "images", "README.md"

_ARTIFACT = "images.safetensors"
_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Chosen:
    """A whole set among published results: the rows of its parts in order, and of what was trained on it."""

    suite: str
    results: Results
    tags: Mapping[str, Any]
    parts: tuple[_Row, ...]

    @property
    def words(self) -> str:
        """The set in a few words."""
        tags = self.tags
        return f"{tags['method']}, {tags['dataset']}, IPC {tags['ipc']}, seed {tags['seed']} ({self.suite})"

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of its cells."""
        return tuple(row["key"] for row in self.parts)

    @property
    def evaluations(self) -> list[_Row]:
        """The current rows of networks that were trained on it."""
        rows = self.results.rows.values()
        return [
            row
            for row in rows
            if row["current"]
            and row["cell"]["kind"] == "evaluate"
            and tuple(row["cell"]["images"]) == self.keys
        ]

    @property
    def labels(self) -> list[Labels]:
        """What teachers said of it, for networks that were trained on that."""
        rows = self.results.rows
        return [
            Labels(row, rows.get(row["cell"]["teacher"]))
            for row in rows.values()
            if row["current"]
            and row["cell"]["kind"] == "relabel"
            and tuple(row["cell"]["images"]) == self.keys
        ]


@dataclass(frozen=True)
class Exported:
    """What was written, and how many of the pixels' values a picture could not hold."""

    folder: Path
    what: str
    images: int
    clamped: int
    values: int


def choose(
    results: Path, suite: str | None = None, cell: str | None = None, only: Mapping[str, str] | None = None
) -> Chosen:
    """The one distilled set that is asked for.

    Args:
        results: the folder of published results.
        suite: of this suite; of any by default.
        cell: the key, or its beginning, of one of the set's cells.
        only: tags that it must have, such as ``{"method": "DM", "seed": "0"}``.

    Raises:
        UserError: none fits, several do, or the set is not finished.
    """
    if not cell and not only:
        raise UserError("say which set: the key of a cell of it (or its beginning), or --only KEY=VALUE")
    found = list(_sets(_published(results, suite)))
    if not found:
        raise UserError(f"--results {results}: no distilled set of {suite or 'any suite'} is published there")
    _check_tags(found, only or {})
    fitting = [each for each in found if _fits(each, cell or "", only or {})]
    if not fitting:
        raise UserError(_none(results, suite, cell, only or {}))
    different = list({each.keys: each for each in reversed(fitting)}.values())[::-1]
    if len(different) > 1:
        listed = "; ".join(each.words for each in different[:6])
        more = f"; … ({len(different)} in all)" if len(different) > 6 else ""
        raise UserError(f"several sets fit; say which by --suite or --only KEY=VALUE: {listed}{more}")
    (chosen,) = different
    if (images := sum(row["cell"]["ipc"] for row in chosen.parts)) != chosen.tags["ipc"]:
        raise UserError(
            f"{chosen.words}: only {images} of {chosen.tags['ipc']} images per class are finished; "
            f"`metadd-bench run {chosen.suite}` makes the others"
        )
    return chosen


def export(
    chosen: Chosen,
    folder: Path,
    store: Path = Path("store"),
    about_suite: str = "",
    soft_labels: bool = False,
) -> Exported:
    """Write a set to ``folder``, which comes into being whole or not at all.

    Args:
        chosen: from :func:`choose`.
        folder: new or empty.
        store: the folder of finished cells, for sets too large to be published.
        about_suite: what a reader must know of the suite.
        soft_labels: also what teachers said of the images, which may take more space than these.

    Raises:
        UserError: the folder is in use; or images or labels are not here, or damaged.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise UserError(f"--to {folder}: {what}; a new or empty folder is expected")
    opened = Store(store, chosen.results)
    found, labels = _Pixels.of(chosen, opened), chosen.labels
    files = [_artifact(opened, _cell(each.row), labelcards.FILE) for each in labels] if soft_labels else []
    if soft_labels and not files:
        raise UserError(f"{chosen.words}: --soft-labels: no teacher has labelled this set")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        found.save(work, chosen)
        labels = [replace(each, there=soft_labels) for each in labels]
        for each, file in zip(labels, files, strict=False):  # no files where they are not asked for
            (work / each.path).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, work / each.path)
        clamped, values = found.save_pictures(work / IMAGES)
        rows, cell = chosen.results.rows, chosen.parts[0]["cell"]
        facts = cards.Facts(
            suite=chosen.suite,
            about_suite=about_suite,
            tags=chosen.tags,
            parts=chosen.parts,
            evaluations=chosen.evaluations,
            labels=labels,
            used={name: [(key, rows.get(key)) for key in keys] for name, keys in cell["uses"].items()},
            space=found.space,
            step_size=None if found.step_size is None else float(found.step_size),
            classes=found.classes,
            images=len(found.images),
            size=int(found.images.shape[-1]),
            clamped=clamped,
            values=values,
        )
        write_text(work / CARD, cards.card(facts))
        sync(*(path for path in work.rglob("*")), work)
        work.chmod(0o755)
        work.rename(folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Exported(folder, chosen.words, len(found.images), clamped, values)


@dataclass(frozen=True)
class _Pixels:
    """The arrays of a set: images [N, 3, H, W] in their space, labels [N] or [N, C]; what goes with them."""

    images: np.ndarray
    labels: np.ndarray
    space: Mapping[str, Any]
    classes: tuple[str, ...]
    step_size: np.ndarray | None
    #: The file of the matrices of a whitened space.
    matrices: Path | None

    @classmethod
    def of(cls, chosen: Chosen, store: Store) -> _Pixels:
        """As the cells left them, their checksums verified."""
        images, labels, records, step_sizes = [], [], [], []
        cells = [_cell(row) for row in chosen.parts]
        for cell in cells:
            with safe_open(_artifact(store, cell, _ARTIFACT), framework="numpy") as file:
                images.append(file.get_tensor("images"))
                labels.append(file.get_tensor("labels"))
                records.append(json.loads(file.metadata()["metadd"]))
                has = "step_size" in file.keys()  # noqa: SIM118  (it is no mapping)
                step_sizes.append(file.get_tensor("step_size") if has else None)
        space = records[0]["space"]
        if any(record["space"] != space for record in records) or any(s != step_sizes[0] for s in step_sizes):
            raise UserError(f"{chosen.words}: its parts differ in pixel space or step size")
        matrices = _artifact(store, cells[0], MATRICES) if space["kind"] == "zca" else None
        with Image.open(_artifact(store, cells[0], PLATE)) as plate:
            classes = tuple(json.loads(plate.info["metadd"])["classes"])
        return cls(np.concatenate(images), np.concatenate(labels), space, classes, step_sizes[0], matrices)

    @property
    def unit(self) -> np.ndarray:
        """The images in [0, 1] units, not clamped: what :mod:`bench.pixels` decodes, float32."""
        if self.matrices is None:
            mean, std = (np.float32(self.space[name]).reshape(-1, 1, 1) for name in ("mean", "std"))
            return self.images * std + mean if self.space["kind"] == "normalised" else self.images
        found = load_file(self.matrices)
        flat = self.images.reshape(len(self.images), -1) @ found["unwhiten"]
        return np.asarray(flat.reshape(self.images.shape) + found["mean"])

    def save(self, folder: Path, chosen: Chosen) -> None:
        """Write the tensors with a record that :func:`bench.sets.read` understands."""
        tensors = {"images": self.images, "labels": self.labels}
        tensors |= {} if self.step_size is None else {"step_size": self.step_size}
        about = {
            "space": self.space,
            "labels": "hard" if self.labels.ndim == 1 else "soft",
            "cell": chosen.parts[0]["cell"],
            "cells": chosen.keys,
            "classes": self.classes,
            "tags": chosen.tags,
        }
        save_file(tensors, folder / TENSORS, metadata={"metadd": json.dumps(about, sort_keys=True)})
        if self.matrices is not None:
            shutil.copyfile(self.matrices, folder / MATRICES)

    def save_pictures(self, folder: Path) -> tuple[int, int]:
        """Write ``CLASS/00000.png``, in the set's order within a class.

        Returns:
            How many values were clamped to [0, 1], and of how many.
        """
        unit = self.unit
        pictures = (np.clip(unit, 0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
        hard = self.labels if self.labels.ndim == 1 else self.labels.argmax(1)
        for label, name in enumerate(folder_names(self.classes)):
            (folder / name).mkdir(parents=True)
            for number, picture in enumerate(pictures[hard == label]):
                Image.fromarray(picture).save(folder / name / f"{number:05d}.png")
        return int(((unit < 0) | (unit > 1)).sum()), unit.size


def folder_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Names for the folders of classes, in their order.

    Loaders number folders by name, sorted. Where that is another order than the dataset's, or a name cannot
    be a folder's, the folders are called by number.
    """
    plain = all(name.strip() == name and name[:1] not in ("", ".") and "/" not in name for name in classes)
    if plain and list(classes) == sorted(set(classes)):
        return classes
    return tuple(f"{label:05d}" for label in range(len(classes)))


def _published(results: Path, suite: str | None) -> list[Results]:
    folders = [results / suite] if suite else sorted(path.parent for path in results.glob("*/rows.jsonl"))
    return [Results(folder) for folder in folders]


def _sets(published: Iterable[Results]) -> Iterator[Chosen]:
    """Every set of these results, under each name that tables know it by."""
    for results in published:
        found: dict[str, tuple[Mapping[str, Any], dict[int, _Row]]] = {}
        for row in results.rows.values():
            if row["current"] and row["cell"]["kind"] == "distil":
                for tags in (row["tags"], *row.get("also", ())):
                    found.setdefault(canonical(tags), (tags, {}))[1][row["cell"]["part"]] = row
        for tags, parts in found.values():
            yield Chosen(results.folder.name, results, tags, tuple(parts[part] for part in sorted(parts)))


def _check_tags(found: Iterable[Chosen], only: Mapping[str, str]) -> None:
    known = sorted({tag for each in found for tag in each.tags})
    for tag, value in only.items():
        if tag not in known:
            raise UserError(f"--only {tag}={value}: no such key; {near(tag, known)}")


def _fits(each: Chosen, cell: str, only: Mapping[str, str]) -> bool:
    return any(key.startswith(cell) for key in each.keys) and all(
        str(each.tags.get(tag)) == value for tag, value in only.items()
    )


def _none(results: Path, suite: str | None, cell: str | None, only: Mapping[str, str]) -> str:
    """Why no set fits, in one line."""
    wanted = [f"whose key begins with {cell}"] if cell else []
    wanted += [f"--only {tag}={value}" for tag, value in only.items()]
    text = f"--results {results / suite if suite else results}: no distilled set {', '.join(wanted)}"
    for of_suite in _published(results, suite) if cell else []:
        kinds = [row["cell"]["kind"] for key, row in of_suite.rows.items() if key.startswith(str(cell))]
        if kinds and "distil" not in kinds:
            return f"{text}; that is a cell of kind {kinds[0]}, and only distil cells leave images"
    methods = {each.tags["method"] for each in _sets(_published(results, suite))}
    if "method" in only and only["method"] not in methods:
        text += f"; {near(only['method'], sorted(methods))}"
    return text


_KINDS: dict[str, type[DistilCell] | type[RelabelCell]] = {"distil": DistilCell, "relabel": RelabelCell}


def _cell(row: _Row) -> DistilCell | RelabelCell:
    """The cell that a row is of."""
    about = {name: value for name, value in row["cell"].items() if name not in ("kind", "version")}
    about["dataset"] = DatasetId(**about["dataset"])
    known = _KINDS[row["cell"]["kind"]]
    cell = known(**about) if about.keys() <= {each.name for each in fields(known)} else None
    if cell is None or cell.key != row["key"]:
        raise UserError(f"cell {row['key'][:12]} was made by another version of this suite; run it again")
    return cell


def _artifact(store: Store, cell: DistilCell | RelabelCell, name: str) -> Path:
    path = store.artifact(cell, name)
    if path is None:
        raise UserError(
            f"cell {cell.key[:12]}: only its row is here, not its {name}; say by --store where its store is"
        )
    return path
