"""What a distillation method is to the harness, and what the harness hands it.

The one loop (``bench/stages/distill.py``) runs every method::

    method.begin(tools)
    x = Synthetic(...)                                 # its initial images, or its parametrization
    optimisers = method.optimisers(x.params | method.extras())
    for k in range(method.settings.iterations):
        for loss in method.iteration(k, x, tools.at(k)):   # the method adds its gradient to x ...
            ...                                        # the loop adds the plug-in's, steps, re-renders
        ...                                            # the loop checkpoints

Tried on paper against each method before it was fixed:

* DM: one ``yield`` an iteration; classes in chunks, a graph alive for one chunk only.
* DC, DSA: one ``yield`` per outer step; between two of them the method trains its network on
  ``x.images``, which the loop has stepped meanwhile. An iteration starts from a new network, so nothing
  local outlives it and it is the unit of resume.
* MTT: experts are an artifact in ``needs``; the step size is an extra, its gradient set on the tensor
  itself before the ``yield``; it has its own optimiser; student steps add to ``x`` one at a time. The loop
  reads the extras back with the losses, and ``trouble`` says what is wrong with them.
* SRe2L: ``parts`` gives one part per image id, each a cell of its own with its own Adam and cosine
  (``Optimisers.schedules``); ``project`` clamps; the teacher is an artifact in ``needs``.
* GLaD: ``parametrization`` gives latents and what renders them: ``x.leaf`` is the rendered batch, ``x.add``
  takes the gradient at the rendered pixels, and the loop pulls it back to the latents chunk by chunk.

This module and ``baselines/defaults`` are read while planning, so they import no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Task:
    """What is distilled: a dataset by name, its number of classes, the image side in pixels, and IPC."""

    dataset: str
    classes: int
    size: int
    ipc: int

    @property
    def base(self) -> str:
        """The dataset's name without what stands in brackets: what authors' settings go by."""
        return self.dataset.partition("[")[0]


class Unsuitable(Exception):
    """A method cannot work with what it was given; the message says with what it could."""


@dataclass(frozen=True)
class Need:
    """Something made from the real data beforehand, in cells of its own that other cells share.

    ``what`` is a kind of pretraining that the harness knows (``expert``, ``classifier``, ``generator``),
    ``settings`` what it shall do otherwise than the dataset's defaults, ``count`` how many: each is a cell
    of its own. ``file`` (instead of all that) is ``file:PATH``, made elsewhere.
    """

    what: Literal["expert", "classifier", "generator"]
    settings: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1
    file: str | None = None


def later(default: Any, **about: Any) -> Any:
    """A field of settings that was not there from the start: at its ``default`` it is in no cell and no key.

    So cells of before keep their keys. The default must change no result; to change it later is to change
    results for equal keys, so ``version`` is raised then.

    Args:
        default: what cells that do not say otherwise had before there was a choice.
        about: as for :func:`pydantic.Field`.
    """
    return Field(default, exclude_if=lambda value: value == default, **about)


class MethodSettings(BaseModel):
    """The settings of a method, all of them part of the cell's key (but see :func:`later`).

    Subclasses add fields with the authors' values, and :meth:`defaults` for what depends on the dataset or
    on IPC. ``version`` is raised whenever results change for equal settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    version: ClassVar[int] = 1
    #: The name in tables.
    label: ClassVar[str]
    #: Whether the method distils at all; ``random`` only chooses images.
    learns: ClassVar[bool] = True
    #: Whether its settings name the networks that it distils with; the suite's then has no part in it.
    names_networks: ClassVar[bool] = False
    #: Whether it has a gradient of its own, for a plug-in's to be a share of.
    has_loss: ClassVar[bool] = True
    #: The recipe that its authors evaluate with.
    recipe: ClassVar[str] = "dsa"

    iterations: int = Field(ge=0, description="outer iterations")
    pixels: Literal["unit", "normalised", "zca"] = Field("normalised", description="pixel space")

    @classmethod
    def defaults(cls, task: Task) -> dict[str, Any]:
        """The authors' values that depend on the dataset or on IPC; a mapping of field to value."""
        return {}

    @classmethod
    def resolve(cls, task: Task, overrides: Mapping[str, Any]) -> Self:
        """The settings for ``task``: the authors' values, then the ``overrides`` of a suite.

        Raises:
            pydantic.ValidationError: an override is unknown, of a wrong type or out of range.
        """
        return cls.model_validate({**cls.defaults(task), **overrides})

    def parts(self, ipc: int) -> Sequence[int]:
        """Images per class of each independent part; each part is a cell. By default one part, all images."""
        return [ipc]

    @property
    def cell_version(self) -> int:
        """The version in a cell: more than ``version`` where the results of such settings alone changed."""
        return self.version

    @property
    def row_label(self) -> str:
        """The name in tables of a row with these settings."""
        return self.label

    def distils_with(self, network: str) -> tuple[str, ...]:
        """The networks that take part by name, where the suite's is ``network``: by default that one alone.

        What ``needs`` names (SRe2L's teacher) takes part besides. A name among the settings is checked and
        brought to its canonical spelling by the harness, there too.
        """
        return (network,) if self.learns else ()

    def needs(self, network: str) -> Mapping[str, Need]:
        """What ``tools.artifacts`` must hold, by name, for a distillation with this network."""
        return {}


class Images(Protocol):
    """The images being distilled, as a method sees them: ``ipc`` images of class 0, then of 1, and so on."""

    #: The current images [N, 3, H, W] in the pixel space, without a graph.
    images: Tensor
    #: Their classes, int64 [N].
    labels: Tensor
    ipc: int
    classes: int

    def rows(self, first: int, last: int) -> slice:
        """The rows of classes ``first`` (included) to ``last`` (excluded)."""

    def leaf(self, rows: slice) -> Tensor:
        """A leaf of the *current* images in ``rows``, requiring grad; ask again after each ``yield``."""

    def add(self, rows: slice, gradient: Tensor) -> None:
        """Add a gradient at the pixels of ``rows``; any number of times before a ``yield``."""


class Augment(Protocol):
    """Differentiable Siamese augmentation, handed in so that a method need not import the harness."""

    def draw_siamese(self, rng: np.random.Generator, groups: int) -> Any:
        """One operation and its parameters for each of ``groups`` classes, shared by a class's images."""

    def draw_batch(self, rng: np.random.Generator, n: int) -> Any:
        """One operation for a whole batch, with parameters of its own for each of ``n`` images."""

    def apply(self, images: Tensor, draw: Any) -> Tensor:
        """Images [G, K, 3, H, W] or [N, 3, H, W] under the draw."""


class Parametrization(Protocol):
    """What makes the images, where the optimiser does not move their pixels: a generator's latents, say."""

    #: Leaves by name, each with one row per image (class-major); the optimiser moves them in place.
    params: Mapping[str, Tensor]
    #: Images rendered at once; the graph of no more is ever alive.
    chunk: int

    def render(self, params: Mapping[str, Tensor]) -> Tensor:
        """Images [n, 3, H, W] in [0, 1] units (not clamped) of n rows of ``params``; differentiable."""


class Experts(Protocol):
    """Networks in training on the real data: their parameters, flat, at the start and after each epoch."""

    def __len__(self) -> int:
        """The number of experts."""

    def parameters(self, expert: int, epoch: int) -> Tensor:
        """All parameters [P] of an expert after so many epochs, in the order of ``network.parameters()``."""


class Tools(Protocol):
    """What the harness lends a method for one iteration; draws come from (axis, seed, part, iteration)."""

    @property
    def task(self) -> Task:
        """What is distilled."""

    @property
    def device(self) -> torch.device:
        """Where the images are."""

    @property
    def augment(self) -> Augment:
        """The dataset's augmentation."""

    @property
    def artifacts(self) -> Mapping[str, Any]:
        """What the settings' ``needs`` names, by name.

        :class:`Experts`; or a trained classifier or a generator, on the device, frozen, in evaluation mode.
        """

    @property
    def per_forward(self) -> int:
        """Images per forward without a graph, where a method may split: with more, nothing gets faster."""

    @property
    def limits(self) -> tuple[Tensor, Tensor]:
        """What black and white, 0 and 1, are in the pixel space, per channel: two tensors [3, 1, 1]."""

    def encode(self, unit: Tensor) -> Tensor:
        """Images [..., 3, H, W] in [0, 1] units to the pixel space; differentiable."""

    def rng(self, axis: str, *numbers: int) -> np.random.Generator:
        """The NumPy generator for this axis in this iteration, or for what comes before the first."""

    def tensor(self, values: np.ndarray) -> Tensor:
        """An array on the device (or as a fake tensor, where memory is counted without computing)."""

    def network(self, name: str | None = None) -> nn.Module:
        """The named network, or the suite's, with fresh random weights; those of the iteration at every call.

        The harness keeps the latest only. A method that asks for another lets go of the one before.
        """

    def real(self, first: int, last: int, per_class: int, *draw: int) -> Tensor:
        """Real images [last - first, K, 3, H, W] of these classes in the pixel space, without replacement.

        K is ``per_class``, or the size of the smallest of these classes where that is less. Which images
        are drawn for a class does not depend on the other classes asked for. The numbers of ``draw`` tell
        several draws of one iteration apart: the same numbers give the same images.
        """


@dataclass
class Optimisers:
    """The optimisers of one distillation, stepped together, with what schedules them."""

    optimisers: Sequence[torch.optim.Optimizer]
    schedules: Sequence[torch.optim.lr_scheduler.LRScheduler] = field(default_factory=tuple)

    def step(self) -> None:
        """One update of everything that is distilled."""
        for optimiser in self.optimisers:
            optimiser.step()
        for schedule in self.schedules:
            schedule.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """All states, for a checkpoint."""
        return [thing.state_dict() for thing in self._stateful]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Take up the states of :meth:`state_dict`."""
        for thing, state in zip(self._stateful, states, strict=True):
            thing.load_state_dict(state)

    @property
    def _stateful(self) -> list[Any]:
        return [*self.optimisers, *self.schedules]


S = TypeVar("S", bound=MethodSettings)


class Method(ABC, Generic[S]):
    """One distillation method: settings, initial images, optimisers, and what one iteration does."""

    def __init__(self, settings: S, task: Task) -> None:
        self.settings = settings
        self.task = task

    @property
    def kinds_of_updates(self) -> int:
        """After how many updates they repeat, as to memory."""
        return 1

    def begin(self, tools: Tools) -> None:
        """Called once, before all else: where a method makes the tensors that it keeps.

        Raises:
            Unsuitable: an artifact or the network is none that it can work with.
        """

    @property
    def fallback(self) -> str | None:
        """After :meth:`begin`, what it does in place of a setting that cannot be had, in words for a row."""
        return None

    def initial(self, tools: Tools) -> Tensor:
        """The images to start from, [N, 3, H, W] in the pixel space: random real ones.

        Or Gaussian noise, where the settings have an ``init`` that says ``noise``.
        """
        if getattr(self.settings, "init", "real") == "noise":
            return self.noise(tools)
        return tools.real(0, self.task.classes, self.task.ipc).flatten(0, 1)

    def noise(self, tools: Tools) -> Tensor:
        """Gaussian noise of mean 0 and variance 1 in the pixel space, to start from instead."""
        shape = (self.task.classes * self.task.ipc, 3, self.task.size, self.task.size)
        return tools.tensor(tools.rng("initial noise").standard_normal(shape, dtype="float32"))

    def parametrization(self, tools: Tools) -> Parametrization | None:
        """What makes the images, instead of :meth:`initial`; None where their pixels are moved themselves.

        Raises:
            Unsuitable: as :meth:`begin` does.
        """
        return None

    def extras(self) -> dict[str, Tensor]:
        """Scalars learnt besides the images (MTT's step size); checkpointed, and exported with the set."""
        return {}

    def trouble(self, extras: Mapping[str, float]) -> str | None:
        """What is wrong with the ``extras`` after an update, in a sentence that names what to change."""
        return None

    @abstractmethod
    def optimisers(self, params: Mapping[str, Tensor]) -> Optimisers:
        """The optimisers of ``params``: ``pixels`` (or a generator's latents), and the extras by name."""

    def project(self, params: Mapping[str, Tensor], tools: Tools) -> None:
        """Bring ``params`` back where they may be, in place, after each step (SRe2L clamps ``pixels``)."""

    @abstractmethod
    def iteration(self, k: int, images: Images, tools: Tools) -> Iterator[Tensor]:
        """One outer iteration, the unit of resume: nothing local outlives it.

        Adds gradients to ``images`` and yields the detached scalar loss each time an update is due.
        """
