"""From a suite to the graph of its cells, without torch: cheap enough to plan ten thousand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import ValidationError

from baselines import METHODS, Task
from bench import recipes
from bench.cells import WHOLE_TRAINING_SET, Cell, DatasetId, DistilCell, EvaluateCell
from bench.errors import UserError, near
from bench.networks.names import parse as parse_network
from bench.recipes import Recipe
from bench.spec import Block, Evaluation, Named, Suite, explain
from metadd import PLUGINS

#: The row of the whole training set: nothing is distilled, its images are the dataset's own.
FULL = "full"


@dataclass(frozen=True)
class Dataset:
    """What planning needs to know of a dataset: its id, and how many images its smallest classes have."""

    id: DatasetId
    #: What it is loaded by; only this may hold a path.
    spec: str
    smallest_train: int
    smallest_test: int


@dataclass(frozen=True)
class Planned:
    """A cell of a plan with what tables call it (method, plug-in, IPC, network, seeds, …)."""

    cell: Cell
    tags: Mapping[str, Any]

    @property
    def name(self) -> tuple[Any, ...]:
        """All that tables know it by; two cells of a suite may not share it."""
        return (self.cell.kind, getattr(self.cell, "part", None), *self.tags.values())


class Plan:
    """The cells of a suite by key, each after those it needs."""

    def __init__(self, suite: str, planned: Mapping[str, Planned], sources: Mapping[DatasetId, str]) -> None:
        self.suite = suite
        self.planned = planned
        #: What each dataset of the plan is loaded by.
        self.sources = sources

    def __len__(self) -> int:
        return len(self.planned)

    def __iter__(self) -> Iterator[Planned]:
        return iter(self.planned.values())

    def only(self, wanted: Mapping[str, str]) -> Plan:
        """The cells whose tags have these values (as text), and the cells that those need.

        Raises:
            UserError: a tag is unknown, or no cell is left.
        """
        known = sorted({tag for item in self for tag in item.tags})
        for tag in wanted:
            if tag not in known:
                raise UserError(f"--only {tag}=…: no such key; {near(tag, known)}")
        keep: set[str] = set()
        for key, item in reversed(list(self.planned.items())):  # what needs comes after what is needed
            if key in keep or all(str(item.tags.get(tag)) == value for tag, value in wanted.items()):
                keep.update((key, *item.cell.needs))
        if not keep:
            values = {tag: sorted({str(item.tags.get(tag)) for item in self}) for tag in wanted}
            there = "; ".join(f"{tag} is one of {', '.join(found)}" for tag, found in values.items())
            raise UserError(f"--only leaves no cell of suite {self.suite!r}: {there}")
        return Plan(
            self.suite, {key: item for key, item in self.planned.items() if key in keep}, self.sources
        )


def plan(name: str, suite: Suite, identify: Callable[[str], Dataset]) -> Plan:
    """The graph of a suite's cells.

    Args:
        name: the suite's name, for messages and tags.
        suite: its grid.
        identify: from a dataset's name to its id; may raise :class:`UserError` where it is missing.

    Raises:
        UserError: a name is unknown, or a combination impossible; the message says where in the suite.
    """
    seen: dict[str, Dataset] = {}
    planned: dict[str, Planned] = {}
    names: dict[tuple[Any, ...], str] = {}
    for number, block in enumerate(suite.grid):
        where = f"suites.{name}.grid.{number}"
        spec = block.dataset or suite.dataset
        if spec not in seen:
            seen[spec] = identify(spec)
        for item in _block(suite, block, where, seen[spec]):
            if names.setdefault(item.name, item.cell.key) != item.cell.key:
                raise UserError(
                    f"{where}: {item.tags['method']} stands in this suite with other settings already; "
                    "give one of the blocks a `label`, or tables would take the two for one"
                )
            planned.setdefault(item.cell.key, item)
    return Plan(name, planned, {dataset.id: dataset.spec for dataset in seen.values()})


def _block(suite: Suite, block: Block, where: str, dataset: Dataset) -> Iterator[Planned]:
    evaluation = block.evaluate or suite.evaluate
    recipe = _recipe(evaluation.recipe, f"{where}.evaluate.recipe")
    if (asked := evaluation.test_per_class) and asked > dataset.smallest_test:
        raise UserError(
            f"{where}.evaluate.test_per_class: {asked} asked for, but the smallest test class of "
            f"{dataset.id.name} has {dataset.smallest_test}"
        )
    networks = [_network(n, f"{where}.evaluate.networks") for n in evaluation.networks]
    network = _network(block.network or suite.network, f"{where}.network")
    tags: dict[str, Any] = {"dataset": dataset.id.name, "protocol": suite.protocol, "recipe": recipe.name}
    for method in block.method:
        if method == FULL:
            _refuse_for_full(block, where)
            full = {**tags, "method": block.label or "Full data", "plugin": "none", "ipc": None}
            full |= {"distilled_on": None}
            for seed in block.seeds or suite.seeds:
                yield from _evaluations(
                    dataset.id, (WHOLE_TRAINING_SET,), networks, recipe, evaluation, seed, full, set()
                )
            continue
        for ipc, plugin in product(block.ipc or suite.ipc, block.plugin or suite.plugin):
            distil = _distil(dataset, method, block, ipc, plugin, network, where)
            entry = METHODS[method].settings
            suffix = "" if plugin.name == "none" else f" + {PLUGINS[plugin.name].settings.label}"
            row = {**tags, "method": (block.label or entry.label) + suffix, "plugin": plugin.name}
            row |= {"ipc": ipc, "distilled_on": network if entry.learns else None}
            for seed in block.seeds or suite.seeds:
                cells = [make(seed) for make in distil]
                for cell in cells:
                    yield Planned(cell, {**row, "seed": seed})
                keys = tuple(cell.key for cell in cells)
                seen = {network} if entry.learns else set()
                yield from _evaluations(dataset.id, keys, networks, recipe, evaluation, seed, row, seen)


def _distil(
    dataset: Dataset, method: str, block: Block, ipc: int, plugin: Named, network: str, where: str
) -> Sequence[Callable[[int], DistilCell]]:
    """What makes the distil cells of one row (one per part) from a seed; checked once, not per seed."""
    if method not in METHODS:
        raise UserError(f"{where}.method: no method {method!r}; {near(method, [*METHODS, FULL])}")
    if ipc > dataset.smallest_train:
        raise UserError(
            f"{where}.ipc: {ipc} images per class asked for, but the smallest class of "
            f"{dataset.id.name} has {dataset.smallest_train}"
        )
    entry = METHODS[method].settings
    task = Task(dataset.id.name, dataset.id.classes, dataset.id.size, ipc)
    try:
        settings = entry.resolve(task, block.settings)
    except ValidationError as error:
        raise UserError(explain(error, entry, f"{where}.settings")) from None
    resolved = {"version": entry.version, **settings.model_dump(mode="json")}
    with_plugin = _plugin(plugin, entry.learns, method, where)

    def part(number: int, images: int) -> Callable[[int], DistilCell]:
        return lambda seed: DistilCell(
            dataset.id,
            method,
            resolved,
            images,
            number,
            network if entry.learns else None,
            with_plugin,
            seed,
            uses={},
        )

    return [part(number, images) for number, images in enumerate(settings.parts(ipc))]


def _evaluations(
    dataset: DatasetId,
    images: tuple[str, ...],
    networks: Sequence[str],
    recipe: Recipe,
    evaluation: Evaluation,
    seed: int,
    row: Mapping[str, Any],
    seen: set[str],
) -> Iterator[Planned]:
    values = recipe.model_dump(mode="json")
    for network, evaluation_seed in product(networks, evaluation.seeds):
        cell = EvaluateCell(
            dataset, images, None, network, values, evaluation.test_per_class, seed, evaluation_seed
        )
        tags = {**row, "seed": seed, "network": network, "evaluation_seed": evaluation_seed}
        yield Planned(cell, tags | {"seen": network in seen})


def _recipe(named: Named, where: str) -> Recipe:
    if named.name not in recipes.RECIPES:
        raise UserError(f"{where}: no recipe {named.name!r}; {near(named.name, list(recipes.RECIPES))}")
    try:
        recipe = recipes.resolve(named.name, named.overrides)
    except ValidationError as error:
        raise UserError(explain(error, Recipe, where)) from None
    for network in recipe.lr_by_network:
        if _network(network, f"{where}.lr_by_network") != network or "@" in network:
            raise UserError(f"{where}.lr_by_network: {network!r}: a network without @ is expected")
    return recipe


def _plugin(named: Named, learns: bool, method: str, where: str) -> dict[str, Any]:
    if named.name == "none":
        if named.overrides:
            raise UserError(f"{where}.plugin: `none` is no plug-in and takes no {', '.join(named.overrides)}")
        return {"name": "none"}
    if named.name not in PLUGINS:
        raise UserError(f"{where}.plugin: no plug-in {named.name!r}; {near(named.name, ['none', *PLUGINS])}")
    if not learns:
        raise UserError(f"{where}.plugin: {method} distils nothing, so it takes no plug-in; use `none`")
    model = PLUGINS[named.name].settings
    try:
        settings = model.model_validate(named.overrides)
    except ValidationError as error:
        raise UserError(explain(error, model, f"{where}.plugin")) from None
    return {"name": named.name, "version": model.version, **settings.model_dump(mode="json")}


def _network(name: str, where: str) -> str:
    try:
        return str(parse_network(name))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _refuse_for_full(block: Block, where: str) -> None:
    for field in ("settings", "ipc", "plugin", "network"):
        if getattr(block, field):
            raise UserError(
                f"{where}.{field}: the whole training set (`full`) takes none; give it a block of its own"
            )
