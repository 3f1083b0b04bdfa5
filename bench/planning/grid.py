"""One block of a suite's grid as cells: what it lists, times seeds, with all that these cells need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from baselines import METHODS, Entry, MethodSettings, Task
from baselines.base import Need
from bench.arithmetic import Arithmetic
from bench.cells import (
    AUXILIARY,
    RHO_IS_OF,
    WHOLE_TRAINING_SET,
    AnalyseCell,
    Cell,
    DatasetId,
    DistilCell,
    EvaluateCell,
    PretrainCell,
    RelabelCell,
)
from bench.errors import UserError, near
from bench.networks.names import parse as parse_network
from bench.own import NotKnown
from bench.planning.analyses import Analyses
from bench.planning.needs import TEACHER, Needs, checked_network
from bench.spec import Block, NamedPlugin, Suite
from bench.training import recipes
from bench.training.recipes import Recipe, SoftRecipe
from bench.validation import explain
from metadd import PLUGINS, PluginSettings

#: The row of the whole training set: nothing is distilled, its images are the dataset's own.
FULL = "full"
#: The method whose images every set with soft labels is compared with.
RANDOM = "random"


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
    #: Its tags in the other rows that share it (a part of sets of several sizes, say).
    also: tuple[Mapping[str, Any], ...] = ()

    @property
    def all_tags(self) -> tuple[Mapping[str, Any], ...]:
        """Its tags in each row that it is in."""
        return (self.tags, *self.also)

    @property
    def name(self) -> tuple[Any, ...]:
        """All that tables know it by; two cells of a suite may not share it."""
        if isinstance(self.cell, PretrainCell | RelabelCell):  # no table has them as rows of their own
            return (self.cell.kind, self.cell.key)
        return (self.cell.kind, getattr(self.cell, "part", None), *self.tags.values())

    @property
    def words(self) -> str:
        """The cell in a few words, for messages."""
        tags = self.tags
        if "what" in tags:
            number = f"number {tags['number']}" if tags["number"] else ""
            about = [tags["what"], tags["network"] or "", number]
        else:
            about = [tags["method"], f"IPC {tags['ipc']}" if tags["ipc"] else "", f"seed {tags['seed']}"]
            part = self.cell.part if isinstance(self.cell, DistilCell) else 0
            about += [f"part {part}"] if part else []
        if isinstance(self.cell, AnalyseCell):
            about += [f"through {tags['role']} networks"]
        if "evaluation_seed" in tags:
            about += [f"on {tags['network']}", f"({tags['evaluation_seed']})"]
        return f"{self.cell.kind} {' '.join(text for text in about if text)}"


@dataclass(frozen=True)
class _Distilled:
    """How the distil cells of one row are made (one per part), checked once and not per seed."""

    dataset: DatasetId
    method: str
    settings: Mapping[str, Any]
    parts: Sequence[int]
    network: str | None
    plugin: Mapping[str, Any]
    uses: Mapping[str, tuple[str, ...]]
    arithmetic: Mapping[str, Any]

    def cells(self, seed: int) -> list[DistilCell]:
        return [
            DistilCell(
                *(self.dataset, self.method, self.settings, images, part),
                *(self.network, _of_all(self.plugin, images * self.dataset.classes), seed, self.uses),
                arithmetic=self.arithmetic,
            )
            for part, images in enumerate(self.parts)
        ]


def _of_all(plugin: Mapping[str, Any], images: int) -> Mapping[str, Any]:
    """The plug-in of a cell with so many images; its key says where `rho` is of more than the plug-in sees.

    It once was of those alone, and the plug-in the weaker the more images there were (:mod:`bench.plugins`).
    """
    if plugin.get("weight") is not None or plugin.get("images_per_update", images) >= images:
        return plugin
    return {**plugin, RHO_IS_OF: "all images"}


class Rows:
    """The cells of one block, each after those that it needs; iterate over it once.

    Args:
        suite: what the block takes defaults from.
        block: the block.
        where: its place in the file, for messages.
        dataset: the block's dataset.
        files: takes up where things made elsewhere are, by ``file:SHA256``.
    """

    def __init__(
        self, suite: Suite, block: Block, where: str, dataset: Dataset, files: dict[str, Path]
    ) -> None:
        self._suite, self._block, self._where = suite, block, where
        self._dataset = dataset
        self._evaluation = block.evaluate or suite.evaluate
        teacher = suite.teacher if block.teacher is None else block.teacher
        # Teachers and experts are shared by blocks, so they are made in the suite's arithmetic.
        common = Arithmetic(suite.precision, suite.channels_last)
        self._needs = Needs(dataset.id, teacher, files, common)
        self._arithmetic = common.but(block.precision, block.channels_last).value
        if (asked := self._evaluation.test_per_class) and asked > dataset.smallest_test:
            raise UserError(
                f"{where}.evaluate.test_per_class: {asked} asked for, but the smallest test class of "
                f"{dataset.id.name} has {dataset.smallest_test}"
            )
        self._networks = [checked_network(n, f"{where}.evaluate.networks") for n in self._evaluation.networks]
        self._network = checked_network(block.network or suite.network, f"{where}.network")
        self._tags = {"dataset": dataset.id.name, "protocol": block.protocol or suite.protocol}
        place = where.partition(".grid.")[0] + ".analyse"
        self._analyses = Analyses(suite.analyse, place, dataset.id, dataset.smallest_test, self._needs)

    def __iter__(self) -> Iterator[Planned]:
        yield from self._with_needs(self._analyses.of_real_images())
        for method in self._block.method:
            if method == FULL:
                yield from self._full()
                continue
            for ipc, plugin in product(
                self._block.ipc or self._suite.ipc, self._block.plugin or self._suite.plugin
            ):
                yield from self._row(method, self._entry(method), ipc, plugin)

    @property
    def _seeds(self) -> list[int]:
        return self._block.seeds or self._suite.seeds

    def _full(self) -> Iterator[Planned]:
        for field in ("settings", "ipc", "plugin", "network", "teacher"):
            if getattr(self._block, field):
                raise UserError(
                    f"{self._where}.{field}: the whole training set (`full`) takes none; "
                    "give it a block of its own"
                )
        recipe = self._recipe(FULL)
        if recipe.soft:
            raise UserError(
                f"{self._where}.evaluate.recipe: {recipe.name} has soft labels, which `full` lacks"
            )
        row: dict[str, Any] = {
            **self._tags,
            "recipe": recipe.name,
            "method": self._block.label or "Full data",
        }
        row |= {"plugin": "none", "ipc": None, "distilled_on": None}
        for seed in self._seeds:
            yield from self._evaluations((WHOLE_TRAINING_SET,), None, recipe, seed, row, set())

    def _row(
        self, method: str, entry: type[MethodSettings], ipc: int, plugin: NamedPlugin
    ) -> Iterator[Planned]:
        """A method at one IPC, with or without a plug-in; and what it must be compared with."""
        settings = self._settings(method, entry, ipc)
        distilled, seen = self._distilled(method, settings, ipc, plugin)
        recipe = self._recipe(entry.recipe)
        plugged = self._plugin(plugin)
        suffix = f" + {plugin.label or plugged.row_label}" if plugged else ""
        row: dict[str, Any] = {**self._tags, "recipe": recipe.name}
        plain = self._block.label or settings.row_label
        row |= {"method": plain + suffix, "plugin": plugin.name}
        row |= {"ipc": ipc, "distilled_on": "+".join(sorted(seen)) or None}
        yield from self._sets(distilled, recipe, row, seen)
        for seed in self._seeds:
            parts, about = distilled.cells(seed), {**row, "seed": seed}
            yield from self._with_needs(self._analyses.of_set(parts, about, plain, seen))
        if isinstance(recipe, SoftRecipe) and entry.learns:
            yield from self._same_labels(recipe, ipc, row)

    def _same_labels(self, recipe: SoftRecipe, ipc: int, row: Mapping[str, Any]) -> Iterator[Planned]:
        """Random real images with the same teacher's labels: in the literature they beat SRe2L."""
        entry = METHODS[RANDOM].settings
        settings = entry.resolve(self._task(ipc), {})
        distilled, _ = self._distilled(RANDOM, settings, ipc, NamedPlugin(name="none"))
        whose = f" as {self._block.label}" if self._block.label else ""
        about = {"method": f"{entry.label}, same soft labels{whose}", "plugin": "none", "distilled_on": None}
        yield from self._sets(distilled, recipe, {**row, **about}, set())

    def _sets(
        self, distilled: _Distilled, recipe: Recipe, row: Mapping[str, Any], seen: set[str]
    ) -> Iterator[Planned]:
        teacher = None
        if isinstance(recipe, SoftRecipe):
            need = Need("classifier", recipe.teacher)
            (teacher,) = self._needs.need(TEACHER, need, f"{self._where}.evaluate.recipe.teacher").keys
        yield from self._with_needs(())
        for seed in self._seeds:
            cells = distilled.cells(seed)
            for cell in cells:
                yield Planned(cell, {**row, "seed": seed})
            images = tuple(cell.key for cell in cells)
            labels = None
            if isinstance(recipe, SoftRecipe):
                assert teacher is not None
                labelled = RelabelCell(
                    *(self._dataset.id, images, teacher, recipe.draws, seed), arithmetic=self._arithmetic
                )
                yield Planned(labelled, {**row, "seed": seed})
                labels = labelled.key
            yield from self._evaluations(images, labels, recipe, seed, row, seen)

    def _with_needs(self, cells: Iterable[tuple[Cell, Mapping[str, Any]]]) -> Iterator[Planned]:
        """Some cells with their tags, after what was planned for them."""
        cells = list(cells)
        for made, tags in (*self._needs.take(), *cells):
            yield Planned(made, tags)

    def _evaluations(
        self,
        images: tuple[str, ...],
        labels: str | None,
        recipe: Recipe,
        seed: int,
        row: Mapping[str, Any],
        seen: set[str],
    ) -> Iterator[Planned]:
        values = recipe.values
        architectures = {parse_network(name).base for name in seen}
        seen_here = {name: parse_network(name).base in architectures for name in self._networks}
        for network, evaluation_seed in product(self._networks, self._evaluation.seeds):
            cell = EvaluateCell(
                *(self._dataset.id, images, labels, network, values),
                *(self._evaluation.test_per_class, seed, evaluation_seed),
                arithmetic=self._arithmetic,
            )
            tags = {**row, "seed": seed, "network": network, "evaluation_seed": evaluation_seed}
            yield Planned(cell, tags | {"seen": seen_here[network]})

    def _entry(self, method: str) -> type[MethodSettings]:
        if method not in METHODS:
            raise NotKnown(f"{self._where}.method", "method", method, [*METHODS, FULL])
        found: Entry = METHODS[method]
        return found.settings

    def _task(self, ipc: int) -> Task:
        dataset = self._dataset.id
        return Task(dataset.name, dataset.classes, dataset.size, ipc)

    def _settings(self, method: str, entry: type[MethodSettings], ipc: int) -> MethodSettings:
        if ipc > self._dataset.smallest_train:
            raise UserError(
                f"{self._where}.ipc: {ipc} images per class asked for, but the smallest class of "
                f"{self._dataset.id.name} has {self._dataset.smallest_train}"
            )
        try:
            return entry.resolve(self._task(ipc), self._block.settings)
        except ValidationError as error:
            raise UserError(explain(error, entry, f"{self._where}.settings")) from None

    def _distilled(
        self, method: str, settings: MethodSettings, ipc: int, plugin: NamedPlugin
    ) -> tuple[_Distilled, set[str]]:
        """How the cells of a row are made, and the networks that take part in that."""
        values = {"version": settings.cell_version, **settings.model_dump(mode="json")}
        seen = set()
        for name in settings.distils_with(self._network):
            seen.add(canonical := checked_network(name, f"{self._where}.settings"))
            values = _replaced(values, name, canonical)
        network = self._network if self._network in seen and not settings.names_networks else None
        if source := METHODS[method].source:
            values["source"] = source
        uses: dict[str, tuple[str, ...]] = {}
        for name, need in settings.needs(self._network).items():
            if need.file:
                uses[name] = self._needs.file(need.file, f"{self._where}.settings").keys
                values = _replaced(values, need.file, uses[name][0])
                continue
            made = self._needs.need(name, need, f"{self._where}.settings.{name}")
            uses[name] = made.keys
            if need.what == "expert" and made.network != network:
                raise UserError(f"{self._where}.settings: experts of {made.network} cannot teach {network}")
            seen |= {made.network} if made.network else set()
        if settings.pixels == "zca":
            uses["zca"] = self._needs.zca(f"{self._where}.settings").keys
        plugged, auxiliary = self._plugged(plugin, settings, method)
        uses |= {AUXILIARY + name: keys for name, keys in auxiliary.items()}
        seen |= auxiliary.keys()
        parts = settings.parts(ipc)
        arithmetic = self._arithmetic if settings.learns else {}
        about = (self._dataset.id, method, values, parts, network, plugged, uses, arithmetic)
        return _Distilled(*about), seen

    def _recipe(self, own: str) -> Recipe:
        """The block's recipe; ``own`` is the method's, for ``authors``."""
        named, where = self._evaluation.recipe, f"{self._where}.evaluate.recipe"
        name = own if named.name == recipes.AUTHORS else named.name
        if name not in recipes.RECIPES:
            raise UserError(f"{where}: no recipe {name!r}; {near(name, [recipes.AUTHORS, *recipes.RECIPES])}")
        if "version" in named.overrides:
            raise UserError(f"{where}: version: cannot be chosen; it says what the code does")
        try:
            recipe = recipes.resolve(name, named.overrides, self._dataset.id.size)
        except ValidationError as error:
            raise UserError(explain(error, recipes.model(name), where)) from None
        for network in recipe.lr_by_network:
            if checked_network(network, f"{where}.lr_by_network") != network or "@" in network:
                raise UserError(f"{where}.lr_by_network: {network!r}: a network without @ is expected")
        return recipe

    def _plugged(
        self, named: NamedPlugin, settings: MethodSettings, method: str
    ) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
        """What a cell holds of its plug-in, and the keys of the networks that this needs, by their names."""
        chosen = self._plugin(named)
        if chosen is None:
            return {"name": "none"}, {}
        where = f"{self._where}.plugin"
        if not settings.learns:
            raise UserError(f"{where}: {method} distils nothing, so it takes no plug-in; use `none`")
        if not settings.has_loss and chosen.weight is None:
            raise UserError(
                f"{where}: {method} has no loss of its own, so `rho` is a share of nothing; say `weight`"
            )
        values = {"name": named.name, "version": chosen.version, **chosen.model_dump(mode="json")}
        if source := PLUGINS[named.name].source:
            values["source"] = source
        keys: dict[str, tuple[str, ...]] = {}
        for name, training in chosen.auxiliary.items():
            made = self._needs.need(name, Need("classifier", training), f"{where}.training.{name}")
            values = _replaced(values, name, str(made.network))
            keys[str(made.network)] = made.keys
        return values, keys

    def _plugin(self, named: NamedPlugin) -> PluginSettings | None:
        """The plug-in's settings; None for ``none``."""
        where = f"{self._where}.plugin"
        if named.name == "none":
            if named.overrides:
                raise UserError(f"{where}: `none` is no plug-in and takes no {', '.join(named.overrides)}")
            return None
        if named.name not in PLUGINS:
            raise NotKnown(where, "plug-in", named.name, ["none", *PLUGINS])
        model = PLUGINS[named.name].settings
        try:
            return model.model_validate(named.overrides)
        except ValidationError as error:
            raise UserError(explain(error, model, where)) from None


def _replaced(value: Any, old: str, new: str) -> Any:
    """A JSON value with one text in it replaced by another."""
    if isinstance(value, Mapping):
        return {name: _replaced(each, old, new) for name, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, old, new) for each in value]
    return new if value == old else value
