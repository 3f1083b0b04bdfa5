"""Cells: the units of work, as values with a key.

A cell holds everything that its result depends on, resolved. Its key is the SHA-256 of its canonical
JSON; store, resume, tables and the regression gate all go by the key and nothing else. Equal bits are
promised for equal key, device kind, thread count and package versions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from bench.data import Identity, parse

#: Raised whenever a stage (or what it shares with others: augmentation, networks, seeds, training) gives
#: other results for equal cells. ``tests/test_golden.py`` fails until it is.
VERSIONS = {"analyse": 1, "distil": 1, "evaluate": 1, "measure": 1, "pretrain": 1, "relabel": 1}

#: The ``images`` of an evaluate cell that trains on the whole real training set.
WHOLE_TRAINING_SET = "train"
#: The ``images`` of an analyse cell that looks at real test images.
TEST_IMAGES = "test"


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(value: Any) -> str:
    """The key of a cell of this :attr:`Cell.value`: SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


@dataclass(frozen=True)
class DatasetId:
    """Which dataset, by name (with its class subset, without a path) and by content (a SHA-256)."""

    name: str
    content: str
    classes: int
    size: int

    @classmethod
    def of(cls, identity: Identity) -> DatasetId:
        """The id of an identified dataset: a folder's path is where it is, not what it is."""
        name = str(replace(parse(identity.spec), path=None))
        return cls(name, identity.content, len(identity.classes), identity.size)


@dataclass(frozen=True, eq=False)
class Cell:
    """What every kind of cell has. Cells are equal where their keys are."""

    kind: ClassVar[str]
    dataset: DatasetId

    @cached_property
    def value(self) -> dict[str, Any]:
        """The cell as a JSON value, with its kind and the version of its stage."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        if not own.get("arithmetic"):  # keys from before there was a choice stay what they were
            own.pop("arithmetic", None)
        # Not asdict of the whole cell: its copy of the settings took half of the time of planning.
        return {"kind": self.kind, "version": VERSIONS[self.kind], **own, "dataset": asdict(self.dataset)}

    @cached_property
    def key(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return key_of(self.value)

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the cells whose artifacts this one reads."""
        return ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


#: How a key of ``uses`` begins that is no cell's: something made elsewhere, by its content.
FILE = "file:"
#: What a cell's plug-in has where it sees some of the images in an update: of which images `rho` is a share.
RHO_IS_OF = "rho_is_of"
#: How the names in ``uses`` begin of the networks that a plug-in looks through.
AUXILIARY = "auxiliary:"


@dataclass(frozen=True, eq=False)
class PretrainCell(Cell):
    """Make something from the real data that other cells share (:mod:`bench.planning.pretraining`)."""

    kind: ClassVar[Literal["pretrain"]] = "pretrain"

    what: str
    settings: Mapping[str, Any]
    #: Which of several (experts); it places them in the random streams.
    number: int
    #: Keys of the cells whose artifacts this one needs, by name.
    uses: Mapping[str, tuple[str, ...]]
    #: What is not the default of how its networks compute (:class:`bench.arithmetic.Arithmetic`).
    arithmetic: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def needs(self) -> tuple[str, ...]:
        """The cells in ``uses``."""
        return _cells(self.uses)


@dataclass(frozen=True, eq=False)
class DistilCell(Cell):
    """Distil one part of a set: ``ipc`` images of each class."""

    kind: ClassVar[Literal["distil"]] = "distil"

    method: str
    settings: Mapping[str, Any]
    ipc: int
    part: int
    network: str | None
    plugin: Mapping[str, Any]
    seed: int
    #: Keys of the cells whose artifacts the method or the plug-in needs, by name (experts, a teacher, …), or
    #: ``file:SHA256`` for what was made elsewhere.
    uses: Mapping[str, tuple[str, ...]]
    #: What is not the default of how its networks compute (:class:`bench.arithmetic.Arithmetic`).
    arithmetic: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def needs(self) -> tuple[str, ...]:
        """The cells in ``uses``."""
        return _cells(self.uses)


@dataclass(frozen=True, eq=False)
class RelabelCell(Cell):
    """Let a teacher label the images of a set, augmented and mixed as a student will see them."""

    kind: ClassVar[Literal["relabel"]] = "relabel"

    #: Keys of the distil cells that make the set up.
    images: tuple[str, ...]
    #: Key of the pretrain cell of the teacher.
    teacher: str
    #: Epochs, batch and augmentation (:attr:`bench.training.recipes.SoftRecipe.draws`).
    draws: Mapping[str, Any]
    seed: int
    #: What is not the default of how its networks compute (:class:`bench.arithmetic.Arithmetic`).
    arithmetic: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def needs(self) -> tuple[str, ...]:
        """The cells of the set, and the teacher."""
        return (*self.images, self.teacher)


@dataclass(frozen=True, eq=False)
class EvaluateCell(Cell):
    """Train a fresh network on a set and test it once, after the last step."""

    kind: ClassVar[Literal["evaluate"]] = "evaluate"

    #: Keys of the distil cells that make the set up; ``train`` for the whole real training set; or
    #: ``file:SHA256`` for a set from elsewhere.
    images: tuple[str, ...]
    #: Key of the relabel cell that gives soft labels; None for the labels of the set itself.
    labels: str | None
    network: str
    recipe: Mapping[str, Any]
    test_per_class: int | None
    seed: int
    evaluation_seed: int
    #: What is not the default of how its networks compute (:class:`bench.arithmetic.Arithmetic`).
    arithmetic: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def needs(self) -> tuple[str, ...]:
        """The distil cells of the set, and the cell of its labels."""
        made = [i for i in self.images if i != WHOLE_TRAINING_SET and not i.startswith(FILE)]
        return (*made, *([self.labels] if self.labels else []))


@dataclass(frozen=True, eq=False)
class AnalyseCell(Cell):
    """Look at images through several networks, by their class activation maps."""

    kind: ClassVar[Literal["analyse"]] = "analyse"

    #: Keys of the distil cells that make the set up; ``test`` for real test images.
    images: tuple[str, ...]
    #: Of real test images, the first so many of each class; None of a set, which is looked at whole.
    per_class: int | None
    #: Keys of the pretrain cells of the networks, in order.
    networks: tuple[str, ...]
    #: Grid of the maps, threshold of what counts as seen, temperature of the divergence.
    settings: Mapping[str, Any]

    @property
    def needs(self) -> tuple[str, ...]:
        """The cells of the set, and the networks."""
        return (*(i for i in self.images if i != TEST_IMAGES), *self.networks)


@dataclass(frozen=True, eq=False)
class MeasureCell(Cell):
    """What a cell of another kind takes, in memory and time, over some updates; nothing that it makes."""

    kind: ClassVar[Literal["measure"]] = "measure"

    #: The measured cell's value, without seeds, numbers and parts, and with the shapes of what it uses where
    #: that has keys: nothing needs to be trained (:func:`bench.measuring.measures.value_of`).
    of: Mapping[str, Any]
    #: The kind of the measured cell.
    what: Literal["distil", "pretrain", "relabel"]
    #: From shapes alone, or executed.
    how: Literal["estimate", "run"]
    #: The kind of device; of an estimate, as on which.
    device: Literal["cpu", "cuda"]
    #: Updates that are timed, after those of the warm-up.
    updates: int
    warmup: int


def _cells(uses: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The keys in ``uses`` that are cells."""
    return tuple(key for keys in uses.values() for key in keys if not key.startswith(FILE))
