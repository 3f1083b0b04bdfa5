"""Sets from elsewhere, evaluated by the suite's recipes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from bench import data
from bench.cells import DatasetId, EvaluateCell
from bench.errors import UserError, near
from bench.networks.names import parse
from bench.stats import Summary, summarise
from bench.training import recipes
from bench.validation import explain


@dataclass(frozen=True)
class Score:
    """What one network reached on the sets of a file.

    ``of`` says what the standard deviation is over: ``sets`` (each the mean of its networks), or
    ``evaluation networks`` where the file has one set, so that it is evaluation noise only.
    """

    network: str
    summary: Summary
    of: Literal["sets", "evaluation networks"]
    per_set: int
    chance: float
    test_images: int

    @property
    def at_chance(self) -> bool:
        """Whether the accuracy is within the noise of guessing: three standard errors of a guess."""
        noise = 100 * math.sqrt(self.chance / 100 * (1 - self.chance / 100) / self.test_images)
        return self.summary.mean < self.chance + max(3 * noise, 0.5)


def evaluate(
    file: Path,
    dataset: str,
    networks: Sequence[str],
    *,
    recipe: str = "dsa",
    overrides: Mapping[str, Any] | None = None,
    pixels: Literal["unit", "normalised", "uint8", "zca"] | None = None,
    seeds: int = 5,
    test_per_class: int | None = None,
    data_dir: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Iterator[Score]:
    """Train networks on a set from elsewhere and test them; a score per network as it is done.

    Args:
        file: ``.npz``, ``.safetensors`` or ``.pt`` file, or a folder of images; see :func:`bench.sets.read`.
        dataset: the dataset to test on.
        networks: names, such as ``convnet`` or ``resnet18@w16``.
        recipe: the recipe's name.
        overrides: recipe settings that differ.
        pixels: the pixel space of float images, where the file does not say it; ``zca`` is fitted anew on the
            real images (half a minute for CIFAR-10) unless the matrices lie beside the file.
        seeds: networks trained on each set.
        test_per_class: test images per class; all by default.
        data_dir: where datasets are (default: ``METADD_DATA``, else ``data``).
        device: ``auto`` takes a GPU if there is one.

    Of a set of ours, network ``n`` is the one of evaluation seed ``n`` in its suite: same recipe, same
    accuracy.

    Raises:
        UserError: a name is unknown, or the file does not fit the dataset.
        CellFailure: a network diverged.
    """
    if recipe not in recipes.RECIPES:
        raise UserError(f"no recipe {recipe!r}; {near(recipe, list(recipes.RECIPES))}")
    about = data.identify(dataset, data_dir)
    try:
        chosen = recipes.resolve(recipe, overrides or {}, about.size)
    except ValidationError as error:
        raise UserError(explain(error, recipes.model(recipe), f"recipe {recipe}")) from None
    if chosen.soft:
        raise UserError(
            f"recipe {recipe}: its labels are a teacher's, which this set comes without; "
            "run the set's method in a suite, or take another recipe"
        )
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: at least 1 network is needed")
    names = [str(parse(name)) for name in networks]
    if test_per_class is not None and not 1 <= test_per_class <= min(about.test):
        raise UserError(f"--test-per-class {test_per_class}: 1 to {min(about.test)} for {about.spec}")
    at = DatasetId.of(about)

    from bench import sets, zca
    from bench.device import choose, computing
    from bench.pixels import PixelSpace
    from bench.stages import Context
    from bench.stages.evaluate import train_and_test

    loaded = data.load(dataset, data_dir)
    normalised = PixelSpace("normalised", loaded.mean, loaded.std)
    found = sets.read(file, about, normalised, pixels, lambda: zca.fit(loaded.train.images))
    where = choose(device)
    for network in names:
        per_set: list[list[float]] = []
        for one in found:
            accuracies = []
            for seed in range(seeds):
                cell = EvaluateCell(
                    *(at, ("file:",), None, network, chosen.values), test_per_class, one.number, seed
                )
                with tempfile.TemporaryDirectory() as folder, computing(where):
                    context = Context(loaded, where, {}, Path(folder), Path(folder))
                    outcome = train_and_test(cell, one, context)
                accuracies.append(outcome.result["accuracy"])
            per_set.append(accuracies)
        yield _score(network, per_set, 100 / at.classes, outcome.result["test_images"])


def _score(network: str, per_set: list[list[float]], chance: float, test_images: int) -> Score:
    seeds = len(per_set[0])
    several = len(per_set) > 1
    of: Literal["sets", "evaluation networks"] = "sets" if several else "evaluation networks"
    means = [math.fsum(accuracies) / seeds for accuracies in per_set]
    summary = summarise(means if several else per_set[0])
    assert summary is not None
    return Score(network, summary, of, seeds, chance, test_images)
