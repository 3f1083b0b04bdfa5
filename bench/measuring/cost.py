"""What a suite will take on a GPU, before it is started: hours and memory of its cells; what a budget buys.

Seconds per update come from the suite's measures where there are some of the device, and else from operation
counts (:mod:`bench.measuring.operations`) and an assumed rate: an update takes its operations at that rate,
or so long per operator that is started, whichever is longer. Neither counts loading,
checkpoints, or the CPU's own work.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from bench.cells import (
    TEST_IMAGES,
    AnalyseCell,
    Cell,
    DatasetId,
    DistilCell,
    EvaluateCell,
    PretrainCell,
    RelabelCell,
    canonical,
)
from bench.data import Dataset
from bench.errors import UserError
from bench.measuring import measures
from bench.measuring.operations import Operations, Work, updates_of
from bench.plan import Plan, Planned, has_tags
from bench.planning import pretraining
from bench.results import Results
from bench.training import recipes
from bench.training.recipes import Recipe, SoftRecipe

#: 30% of what NVIDIA states for an H100 SXM in 32-bit floating point, 67 TFLOPS. The share is ours.
RATE = 20e12
#: Seconds that starting an operator takes at least (ours).
PER_OPERATOR = 10e-6
#: Images per forward of a test (:data:`bench.training.loop.TEST_BATCH`).
_TEST_BATCH = 500
#: What the values of a row stand for.
STAGES = {"distil": "distilling", "relabel": "relabelling", "evaluate": "evaluating", "analyse": "analysing"}


@dataclass(frozen=True)
class Cost:
    """What one cell takes: seconds, whether they rest on a measure, and bytes at the peak where known."""

    seconds: float
    measured: bool = False
    memory: int | None = None


@dataclass
class Sum:
    """What several cells take together."""

    cells: int = 0
    seconds: float = 0.0
    measured: int = 0
    memory: int | None = None

    def add(self, cost: Cost) -> None:
        """One more cell."""
        self.cells += 1
        self.seconds += cost.seconds
        self.measured += cost.measured
        if cost.memory is not None:
            self.memory = max(self.memory or 0, cost.memory)


@dataclass
class Bought:
    """A selection of ``first``: its cells that no earlier one has, and how many of them a budget reaches."""

    words: str
    all: Sum = field(default_factory=Sum)
    reached: int = 0


class Costs:
    """The costs of a plan's cells.

    Args:
        plan: the cells.
        datasets: their shapes.
        operations: counts what was not measured.
        known: rows of measures (:func:`published`).
        rate: operations a second.
        device: the kind of device whose measures count.
    """

    def __init__(
        self,
        plan: Plan,
        datasets: Mapping[DatasetId, Dataset],
        operations: Operations,
        known: Iterable[Mapping[str, Any]] = (),
        rate: float = RATE,
        device: str = "cuda",
    ) -> None:
        self.plan, self.rate = plan, rate
        self._datasets, self._operations = datasets, operations
        self._measures: dict[tuple[str, str], Mapping[str, Any]] = {}
        for row in known:
            if row["cell"]["device"] == device:
                self._measures[measures.name_of(row["cell"]["of"]), row["cell"]["how"]] = row["result"]
        #: By key, and by all that a cost depends on.
        self._known: dict[str, Cost] = {}
        self._costs: dict[str, Cost] = {}

    def of(self, item: Planned) -> Cost:
        """What a cell takes; cells that differ by seed, number or part alone share it."""
        key = item.cell.key
        if key not in self._known:
            about = canonical(measures.value_of(item.cell, self.plan))
            if about not in self._costs:
                self._costs[about] = self._cost(item.cell)
            self._known[key] = self._costs[about]
        return self._known[key]

    def group(self, item: Planned) -> tuple[Any, ...]:
        """Dataset, kind, method or what is made, IPC, network and recipe of a cell."""
        tags, cell = item.tags, item.cell
        what = tags.get("method") or tags.get("what")
        recipe = tags.get("recipe") if cell.kind in ("evaluate", "relabel") else None
        network = tags.get("network") or tags.get("role")
        return (cell.dataset.name, cell.kind, what, tags.get("ipc"), network, recipe)

    def groups(self) -> dict[tuple[Any, ...], Sum]:
        """The sums of each group, in the plan's order."""
        found: dict[tuple[Any, ...], Sum] = {}
        for item in self.plan:
            found.setdefault(self.group(item), Sum()).add(self.of(item))
        return found

    def bought(self, seconds: float) -> list[Bought]:
        """How far a budget goes in the order in which a run makes the cells."""
        found = [Bought(_words(wanted)) for wanted in self.plan.first]
        found.append(Bought("all others, in the grid's order" if found else "all, in the grid's order"))
        number = {}
        for key, item in self.plan.planned.items():
            wanted = (n for n, each in enumerate(self.plan.first) if has_tags(item, each))
            number[key] = next(wanted, len(found) - 1)
        # What is needed comes as early as who needs it.
        for key, item in reversed(list(self.plan.planned.items())):
            for needed in item.cell.needs:
                number[needed] = min(number[needed], number[key])
        left = seconds
        for item in self.plan.by_importance():
            cost, here = self.of(item), found[number[item.cell.key]]
            here.all.add(cost)
            left -= cost.seconds
            here.reached += left >= 0
        return found

    def _cost(self, cell: Cell) -> Cost:
        if isinstance(cell, DistilCell | PretrainCell | RelabelCell):
            name = measures.name_of(measures.value_of(cell, self.plan))
            run, estimate = (self._measures.get((name, how), {}) for how in ("run", "estimate"))
            memory = run.get("peak_allocated_bytes") or estimate.get("peak_live_bytes")
            if timed := run.get("seconds_per_update"):
                return Cost(timed["median"] * self._updates(cell), measured=True, memory=memory)
            return Cost(self._counted(cell), memory=memory)
        return Cost(self._counted(cell))

    def _counted(self, cell: Cell) -> float:
        about, counted = cell.dataset, self._operations
        if isinstance(cell, DistilCell):
            return self._seconds(counted.iteration(cell), cell.settings["iterations"])
        if isinstance(cell, EvaluateCell):
            recipe, tests = recipes.load(cell.recipe), len(self._datasets[about].test.images)
            if cell.test_per_class is not None:
                tests = min(tests, cell.test_per_class * about.classes)
            return self._training(cell.network, recipe, about, self._images(cell), tests)
        if isinstance(cell, RelabelCell):
            teacher, draws = self._network(cell.teacher), SoftRecipe(name="labels", **cell.draws)
            return draws.epochs * self._seeing(teacher, about, self._images(cell), draws.batch)
        if isinstance(cell, AnalyseCell):
            names = [self._network(key) for key in cell.networks]
            return math.fsum(self._seeing(name, about, self._images(cell), 64) for name in names)
        assert isinstance(cell, PretrainCell)
        if cell.what == "generator":
            return self._seconds(counted.generator_step(cell), cell.settings["steps"])
        trained = self._images(cell)
        if cell.what == "zca":
            # The covariance, and its eigenvectors: 9 n^3 (Golub and Van Loan, section 8.3).
            side = 3 * about.size**2
            return self._seconds(Work(2.0 * trained * side**2 + 9.0 * side**3), 1)
        recipe = _pretraining(cell)
        tests = len(self._datasets[about].test.images)
        return self._training(cell.settings["network"], recipe, about, trained, tests)

    def _training(self, network: str, recipe: Recipe, about: DatasetId, images: int, tests: int) -> float:
        step, _ = self._operations.training(network, recipe, about)
        steps = math.ceil(images / recipe.batch)
        trained = self._seconds(Work(step.operations * images / steps, step.operators), recipe.epochs * steps)
        return trained + self._seeing(network, about, tests, _TEST_BATCH)

    def _seeing(self, network: str, about: DatasetId, images: int, batch: int) -> float:
        """Seconds of a forward of some images."""
        _, forward = self._operations.training(network, Recipe(name="seen", epochs=1), about)
        batches = math.ceil(images / batch)
        return self._seconds(Work(forward.operations * images / batches, forward.operators), batches)

    def _seconds(self, work: Work, times: float) -> float:
        return times * max(work.operations / self.rate, work.operators * PER_OPERATOR)

    def _network(self, key: str) -> str:
        cell = cast(PretrainCell, self.plan.planned[key].cell)
        return str(cell.settings["network"])

    def _images(self, cell: Cell) -> int:
        """The images that a cell goes through: a set's, a training set's, or some test images."""
        if isinstance(cell, DistilCell):
            return cell.ipc * cell.dataset.classes
        if isinstance(cell, AnalyseCell) and cell.images == (TEST_IMAGES,):
            return (cell.per_class or 0) * cell.dataset.classes
        assert isinstance(cell, PretrainCell | AnalyseCell | EvaluateCell | RelabelCell)
        if isinstance(cell, PretrainCell) or measures.has_real_images(cell):
            return len(self._datasets[cell.dataset].train.images)
        return measures.images_of(cell, self.plan)

    def _updates(self, cell: DistilCell | PretrainCell | RelabelCell) -> int:
        """Updates of a measure's kind in a cell: steps of what is trained, batches of what is labelled."""
        if isinstance(cell, DistilCell):
            return int(cell.settings["iterations"]) * updates_of(cell)
        if isinstance(cell, RelabelCell):
            return int(cell.draws["epochs"]) * math.ceil(self._images(cell) / int(cell.draws["batch"]))
        if cell.what in ("generator", "zca"):
            return int(cell.settings.get("steps", 1))
        recipe = _pretraining(cell)
        return recipe.epochs * math.ceil(self._images(cell) / recipe.batch)


def published(results: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of all measures under a folder of results.

    Raises:
        UserError: one is damaged.
    """
    for folder in sorted(results.glob("*")) if results.is_dir() else ():
        yield from Results(folder).measures.rows.values()


def costs(
    suite: str,
    *,
    rate: float = RATE,
    device: str = "cuda",
    only: Mapping[str, str] | None = None,
    results: Path = Path("results"),
    tables: Path | None = None,
    data_dir: Path | None = None,
    method_paths: Collection[Path] = (),
) -> Costs:
    """The costs of a suite; of the official datasets the shapes are known, so they need not be there.

    Raises:
        UserError: something is misspelt, missing, damaged or impossible.
    """
    from bench.measuring import standins
    from bench.own import add_methods
    from bench.plan import Dataset as Identified
    from bench.plan import plan
    from bench.spec import find_suite, read

    add_methods(list(method_paths))
    datasets: dict[DatasetId, Dataset] = {}

    def identify(name: str) -> Identified:
        seen = standins.identify(name, data_dir)
        found = Identified(DatasetId.of(seen), seen.spec, min(seen.train), min(seen.test))
        datasets[found.id] = standins.dataset(seen)
        return found

    planned = plan(suite, find_suite(read(tables), suite), identify)
    planned = planned.only(only) if only else planned
    operations = Operations(standins.StandIns(planned), datasets)
    return Costs(planned, datasets, operations, published(results), rate, device)


def parse_rate(text: str) -> float:
    """Operations a second of ``20TFLOPS``.

    Raises:
        UserError: the text is no rate.
    """
    units = {"GFLOPS": 1e9, "TFLOPS": 1e12, "PFLOPS": 1e15}
    return _parsed("--rate", text, units, "20TFLOPS")


def parse_hours(text: str) -> float:
    """Hours of ``24h``, ``90m`` or ``2d``.

    Raises:
        UserError: the text is no time.
    """
    return _parsed("--budget", text, {"m": 1 / 60, "h": 1, "d": 24}, "24h")


def _parsed(option: str, text: str, units: Mapping[str, float], example: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+) ?([A-Za-z]+)", text.strip())
    value = float(match[1]) * units.get(match[2], 0.0) if match else 0.0
    if value <= 0:
        raise UserError(f"{option} {text}: such as {example} is expected; units: {', '.join(units)}")
    return value


def _pretraining(cell: PretrainCell) -> Recipe:
    values = {name: value for name, value in cell.settings.items() if name != "version"}
    return cast(Recipe, pretraining.model(cell.what).model_validate(values))


def _words(wanted: Mapping[str, Collection[str]]) -> str:
    return "; ".join(f"{tag}: {', '.join(values)}" for tag, values in wanted.items())
