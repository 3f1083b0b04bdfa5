"""Which measure cells a suite has, and its published measures. No torch.

Measured is what a suite's rows distil (of the first seed the largest part), and once each kind of thing that
they need or that is done to them: classifiers, experts, generators, matrices, relabelling.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from baselines import METHODS
from bench.cells import (
    FILE,
    RHO_IS_OF,
    TEST_IMAGES,
    WHOLE_TRAINING_SET,
    AnalyseCell,
    Cell,
    DistilCell,
    EvaluateCell,
    MeasureCell,
    PretrainCell,
    RelabelCell,
    key_of,
)
from bench.plan import Plan, Planned
from bench.results import Results

How = Literal["estimate", "run"]
Kind = Literal["cpu", "cuda"]

#: What tells rows apart, and how the output calls it.
ABOUT = {"dataset": "Dataset", "method": "Method", "ipc": "IPC", "distilled_on": "Distilled on"}
#: What the tags of a measure say, beside the seed, which is always the first.
_TAGS = ("dataset", "ipc", "method", "plugin", "distilled_on", "protocol")
#: What of a cell neither memory nor time depends on, or what goes by keys.
_LEFT_OUT = {"evaluation_seed", "images", "labels", "networks", "number", "part", "seed", "teacher", "uses"}
#: What of the settings of a pretrain cell says what the cells that use it are given.
_SHAPE = ("network", "latent", "dim", "mapping_layers", "width")


def rows(plan: Plan, only: Mapping[str, str]) -> Iterator[tuple[Mapping[str, Any], list[DistilCell]]]:
    """The tags of each row that distils, and the cells of its first seed.

    Args:
        plan: the cells.
        only: what the plan was narrowed by; a cell may be in rows besides.
    """
    found: dict[tuple[Any, ...], tuple[Mapping[str, Any], dict[int, list[DistilCell]]]] = {}
    for item in plan:
        cell = item.cell
        if not isinstance(cell, DistilCell) or not METHODS[cell.method].settings.learns:
            continue
        for tags in item.all_tags:
            if all(str(tags[tag]) == value for tag, value in only.items() if tag in tags):
                about = tuple(tags[tag] for tag in (*ABOUT, "protocol"))
                _, seeds = found.setdefault(about, (tags, {}))
                of_seed = seeds.setdefault(cell.seed, [])
                if cell not in of_seed:  # once for each recipe that the set is evaluated by
                    of_seed.append(cell)
    for tags, seeds in found.values():
        yield tags, next(iter(seeds.values()))


def _relabelled(plan: Plan) -> dict[tuple[Any, ...], list[RelabelCell]]:
    """The labels of each set (:func:`_set`): recipes may differ in what they show a teacher."""
    found: dict[tuple[Any, ...], list[RelabelCell]] = {}
    for item in plan:
        if isinstance(item.cell, RelabelCell):
            for name in dict.fromkeys(_set(tags, item.cell.images) for tags in item.all_tags):
                found.setdefault(name, []).append(item.cell)
    return found


def _set(tags: Mapping[str, Any], parts: Iterable[str]) -> tuple[Any, ...]:
    """What a row's set goes by: several rows may have the same parts, and labels of their own."""
    return (frozenset(parts), *(tags[tag] for tag in (*ABOUT, "protocol")))


def value_of(cell: Cell, plan: Plan) -> dict[str, Any]:
    """What memory and time of a cell depend on, as a JSON value: the ``of`` of its measures."""
    found = {name: value for name, value in cell.value.items() if name not in _LEFT_OUT}
    if isinstance(cell, DistilCell):
        found["plugin"] = {name: value for name, value in cell.plugin.items() if name != RHO_IS_OF}
    if isinstance(cell, DistilCell | PretrainCell):
        used = {name: {"number": len(keys), **_shape(keys[0], plan)} for name, keys in cell.uses.items()}
        return found | {"uses": used}
    assert isinstance(cell, AnalyseCell | EvaluateCell | RelabelCell)
    found["images"] = cell.images if has_real_images(cell) else images_of(cell, plan)
    if isinstance(cell, RelabelCell):
        found["teacher"] = _shape(cell.teacher, plan)
    if isinstance(cell, AnalyseCell):
        found["networks"] = [_shape(key, plan) for key in cell.networks]
    return found


def has_real_images(cell: AnalyseCell | EvaluateCell | RelabelCell) -> bool:
    """Whether a cell goes through images of the dataset, and not those of a set."""
    return cell.images in ((TEST_IMAGES,), (WHOLE_TRAINING_SET,))


def images_of(cell: AnalyseCell | EvaluateCell | RelabelCell, plan: Plan) -> int:
    """How many images the set has that a cell goes through."""
    parts = [plan.planned[key].cell for key in cell.images]
    return sum(part.ipc for part in parts if isinstance(part, DistilCell)) * cell.dataset.classes


def _shape(key: str, plan: Plan) -> dict[str, Any]:
    """What is used, as far as memory and time of its user go."""
    if key.startswith(FILE):
        return {"file": key}
    made = plan.planned[key].cell
    assert isinstance(made, PretrainCell)
    return {"what": made.what} | {name: made.settings[name] for name in _SHAPE if name in made.settings}


def name_of(value: Mapping[str, Any]) -> str:
    """What a measured cell goes by among a row's ``stages``: a hash of its :func:`value_of`."""
    return key_of(value)


@dataclass(frozen=True)
class Measured:
    """A measure cell as planned, and the cell that it measures."""

    planned: Planned
    target: Cell

    @property
    def cell(self) -> MeasureCell:
        """The measure cell."""
        return cast(MeasureCell, self.planned.cell)


class Measures:
    """The measure cells of a plan by key; what others need comes first.

    The tag ``stages`` of a distillation says what else a set takes: how many of each, by :func:`name_of`.

    Args:
        plan: of the suite; with all that its cells need.
        only: what it was narrowed by.
        how: from shapes (then of distillations alone), or executed.
        device: the kind of device.
        updates: timed ones.
        warmup: updates before those.
    """

    def __init__(
        self, plan: Plan, only: Mapping[str, str], how: How, device: Kind, updates: int, warmup: int
    ) -> None:
        self.plan = plan
        self._how, self._device, self._updates, self._warmup = how, device, updates, warmup
        self._found: dict[str, Measured] = {}
        relabelled = _relabelled(plan)
        for tags, cells in rows(plan, only):
            about = {tag: tags[tag] for tag in _TAGS} | {"seed": 0}
            stages: dict[str, int] = {}
            for made in self._needed(cells):
                network = made.settings.get("network")
                blank: dict[str, Any] = dict.fromkeys(_TAGS)
                blank |= {"dataset": about["dataset"], "seed": 0, "what": made.what, "network": network}
                self._count(stages, made, blank)
            for labels in relabelled.get(_set(tags, (cell.key for cell in cells)), ()):
                self._count(stages, labels, about)
            self._add(max(cells, key=lambda cell: cell.ipc), {**about, "stages": stages})

    def __iter__(self) -> Iterator[Measured]:
        return iter(self._found.values())

    def __len__(self) -> int:
        return len(self._found)

    def of(self, cell: Cell) -> Measured | None:
        """The measure of a cell, if it is among these."""
        return self._found.get(self._measure(cell).key)

    def collected(self, made: Iterable[Mapping[str, Any]], results: Results) -> list[dict[str, Any]]:
        """What the suite's published measures are now: these rows, and those there of the same cells.

        Of rows of one cell, by the same means and on the same kind of device, the one ``made`` counts.

        Args:
            made: rows of measure cells of the suite, without tags.
            results: the suite's measures.
        """
        known: dict[tuple[str, ...], Mapping[str, Any]] = {}
        for row in (*(row for row in results.rows.values() if row["current"]), *made):
            cell = row["cell"]
            known[name_of(cell["of"]), cell["how"], cell["device"]] = row
        tags: dict[str, dict[str, Any]] = {}
        for measured in self:
            planned = measured.planned
            also = {"also": [dict(each) for each in planned.also]} if planned.also else {}
            tags[name_of(measured.cell.of)] = {"tags": dict(planned.tags), **also}
        order = {name: place for place, name in enumerate(tags)}
        names = sorted((name for name in known if name[0] in tags), key=lambda it: (order[it[0]], *it[1:]))
        return [{**_untagged(known[name]), **tags[name[0]]} for name in names]

    def _needed(self, cells: Iterable[DistilCell]) -> list[PretrainCell]:
        """What some cells need, and what that needs, each once."""
        found: dict[str, PretrainCell] = {}
        waiting: list[Cell] = list(cells)
        while waiting:
            for key in waiting.pop().needs:
                made = self.plan.planned[key].cell
                if isinstance(made, PretrainCell) and key not in found:
                    found[key] = made
                    waiting.append(made)
        return list(found.values())[::-1]

    def _count(self, stages: dict[str, int], cell: Cell, tags: Mapping[str, Any]) -> None:
        if self._how == "estimate":  # distillations alone
            return
        name = name_of(self._add(cell, tags).of)
        stages[name] = stages.get(name, 0) + 1

    def _add(self, target: Cell, tags: Mapping[str, Any]) -> MeasureCell:
        cell = self._measure(target)
        there = self._found.get(cell.key)
        if there is None:
            self._found[cell.key] = Measured(Planned(cell, tags), target)
        elif tags not in there.planned.all_tags:
            also = (*there.planned.also, tags)
            self._found[cell.key] = replace(there, planned=replace(there.planned, also=also))
        return cell

    def _measure(self, target: Cell) -> MeasureCell:
        what = cast(Literal["distil", "pretrain", "relabel"], target.kind)
        how, updates, warmup = self._how, self._updates, self._warmup
        value = value_of(target, self.plan)
        return MeasureCell(target.dataset, value, what, how, self._device, updates, warmup)


def _untagged(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("tags", "also", "current")}
