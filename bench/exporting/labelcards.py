"""What a card says of a set's soft labels: whose they are, how they were made, where, and how to use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_Row = Mapping[str, Any]
#: The file that a relabel cell leaves (:data:`bench.training.softlabels.FILE`, whose module costs torch), and
#: the folder of an export with such files.
FILE, FOLDER = "labels.safetensors", "soft-labels"


@dataclass(frozen=True)
class Labels:
    """The soft labels of one set by one teacher for one recipe: the row of their cell, and the teacher's."""

    row: _Row
    #: None where it is not published.
    teacher: _Row | None
    #: Whether the export holds them.
    there: bool = False

    @property
    def path(self) -> str:
        """Where they are in an export."""
        return f"{FOLDER}/{self.row['key'][:12]}.safetensors"


def section(found: Sequence[Labels], tags: Mapping[str, Any], images: int, classes: int) -> Iterator[str]:
    """The card's part on soft labels; nothing where there are none.

    Args:
        found: the soft labels of the set.
        tags: the set's.
        images: how many it has.
        classes: of how many classes.
    """
    if not found:
        return
    yield "## Soft labels"
    yield (
        "“A teacher's” labels, above, are not those of `set.safetensors`, which are the classes that the "
        "images were made for. They are what a teacher says of each image as it is augmented and mixed anew "
        f"in each epoch: logits, float16 [epochs, {images}, {classes}], in the order in which a student sees "
        "the images."
    )
    lines = [
        "| file | teacher | epochs | batch | augmentation | mixing | seed | agreement | size |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {' | '.join(_columns(each))} |" for each in found]
    yield "\n".join(lines)
    yield (
        "“agreement”: of the images, not augmented, how many the teacher sees as of their class. "
        "The images are drawn again from the seed, by metadd-bench of the version above."
    )
    if (given := [each for each in found if each.there]) != []:
        code = _CODE.format(
            draws=", ".join(f"{name}={value!r}" for name, value in given[0].row["cell"]["draws"].items()),
            dataset=tags["dataset"],
            path=given[0].path,
        )
        yield f"A student's batches, with the labels to train on:\n\n```python\n{code}\n```"
    else:
        yield (
            "They are not part of this export: `metadd-bench export` with `--soft-labels` brings them, where "
            f"the store has them (`relabel/`, each in a folder called by its key, as `{FILE}`). "
            "`metadd-bench run` makes them again, to the same bits on the same kind of machine."
        )


def _columns(each: Labels) -> Iterator[str]:
    row = each.row
    cell, result, draws = row["cell"], row["result"], row["cell"]["draws"]
    yield f"`{each.path}`" if each.there else f"cell `{row['key']}`"
    yield _teacher(cell["teacher"], each.teacher)
    yield str(draws["epochs"])
    yield str(draws["batch"])
    yield draws["augment"]
    yield draws["mix"] + (f" ({draws['mix_alpha']:g})" if draws["mix"] != "none" else "")
    yield str(cell["seed"])
    yield f"{result['agreement']:.1f}%" if "agreement" in result else "not known"
    yield f"{result['bytes'] / 2**20:,.1f} MiB" if "bytes" in result else "not known"


def _teacher(key: str, row: _Row | None) -> str:
    if row is None:
        return f"`{key[:12]}`"
    return f"{row['cell']['settings']['network']}, accuracy {row['result']['accuracy']:.1f}% (`{key[:12]}`)"


#: Tested as it stands (tests/test_export_labels.py).
_CODE = """\
from pathlib import Path

import torch

from bench import data, sets
from bench.training.batches import Augmentation, SyntheticSet, batches, training_space
from bench.training.recipes import SoftRecipe
from bench.training.softlabels import SoftLabels

device, recipe = torch.device("cpu"), SoftRecipe(name="sre2l", {draws})
real = data.load("{dataset}")  # its mean, deviation and size
found = sets.stored([Path("set.safetensors")])
space = training_space(found, real)
images = SyntheticSet(found.encoded(space), found.labels)
labels = SoftLabels(Path("{path}"), device)
for epoch in range(recipe.epochs):
    shown = batches(images, recipe, Augmentation.of(real, space, device), labels.stream(epoch))
    for (batch, _), logits in zip(shown, labels.epoch(epoch).split(recipe.batch), strict=True):
        ...  # batch [n, 3, H, W], the teacher's logits [n, classes]"""
