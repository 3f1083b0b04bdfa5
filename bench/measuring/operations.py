"""What cells compute, counted on fake tensors: floating point operations, and operators started.

A multiplication and an addition are two operations; counted are matrix products, convolutions and attention,
by PyTorch's own formulas (``torch.utils.flop_counter``), which is nearly all. An operator is one call into
PyTorch that makes something; on a GPU each starts a kernel or two.

What repeats is counted once and multiplied: classes of DC and DSA and epochs of their training, steps of
MTT's student, the plug-in's share apart from the method's, chunks of images all at once.
``tests/test_operations.py`` compares each of these with the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from baselines.dc import DC
from baselines.defaults.generator import GeneratorSettings
from baselines.generators.compact import CompactGenerator, Discriminator
from baselines.generators.training import GANTraining
from bench import plugins, seeds
from bench.augment import for_dataset
from bench.cells import AUXILIARY, DatasetId, DistilCell, PretrainCell, canonical
from bench.data import Dataset, parse
from bench.device import images_with_graph
from bench.measuring.fit import changed
from bench.measuring.standins import StandIns
from bench.memory import to_fake
from bench.networks.build import build
from bench.pixels import PixelSpace
from bench.stages import tools
from bench.stages.distill import Distillation
from bench.synthetic import Rendered
from bench.training.batches import Augmentation, mixed
from bench.training.optimise import optimiser
from bench.training.recipes import Recipe, SoftRecipe

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
#: Images of the step that is counted for any batch: operations grow with images, operators do not.
_IMAGES = 2
#: So many at once that there is one chunk.
_ALL = 2**30


@dataclass(frozen=True)
class Work:
    """Floating point operations, and operators started."""

    operations: float = 0.0
    operators: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.operators + other.operators)

    def __sub__(self, other: Work) -> Work:
        return self + other * -1

    def __mul__(self, times: float) -> Work:
        return Work(self.operations * times, self.operators * times)


class Counted(TorchDispatchMode):
    """Counts the work that is done while the context is open."""

    work: Work

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()

    def __enter__(self) -> Counted:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # As :class:`bench.memory.LiveBytes`: the default imports all of torch.compile.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator and count it."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            formula = flop_registry.get(func.overloadpacket)
            operations = formula(*args, **(kwargs or {}), out_val=result) if formula else 0
            self.work += Work(operations, 1)
        return result


class Operations:
    """The work of cells of a plan; what they share is counted once.

    Args:
        stand_ins: what they use, untrained.
        datasets: their shapes (:func:`bench.measuring.standins.dataset`).
    """

    def __init__(self, stand_ins: StandIns, datasets: Mapping[DatasetId, Dataset]) -> None:
        self._stand_ins, self._datasets = stand_ins, datasets
        self._known: dict[str, Work] = {}

    def iteration(self, cell: DistilCell) -> Work:
        """A mean iteration of a distillation.

        Raises:
            CellFailure: the cell cannot be made.
            UserError: a file that it uses cannot be read.
        """
        uses = {name: keys for name, keys in cell.uses.items() if not name.startswith(AUXILIARY)}
        plain = replace(cell, plugin={"name": "none"}, uses=uses)
        work = self._once(plain, self._shortened)
        if cell.plugin["name"] == "none":
            return work
        return work + self._once(cell, self._plugged) * updates_of(cell)

    def training(self, network: str, recipe: Recipe, about: DatasetId) -> tuple[Work, Work]:
        """Operations per image and operators per step, of training; then of a forward."""
        with_epochs = recipe.model_dump(mode="json")
        key = canonical([network, {**with_epochs, "epochs": 0}, about.name])
        if key not in self._known:
            self._known[key], self._known[f"{key} test"] = self._trained(network, recipe, about)
        return self._known[key], self._known[f"{key} test"]

    def generator_step(self, cell: PretrainCell) -> Work:
        """A mean step of training a generator: the gradient penalty is due now and then."""
        return self._once(cell, self._generator_step)

    def _once(self, cell: Any, count: Callable[[Any], Work]) -> Work:
        key = canonical([count.__name__, {**cell.value, "seed": 0, "part": 0, "number": 0}])
        if key not in self._known:
            self._known[key] = count(cell)
        return self._known[key]

    def _shortened(self, cell: DistilCell) -> Work:
        """An iteration of a method without a plug-in, from shorter ones."""
        nested = isinstance(cell.settings.get("inner"), Mapping)
        settings: Mapping[str, Any] = cell.settings["inner"] if nested else cell.settings

        def of(**values: int) -> Work:
            made = cell.settings
            for name, value in values.items():
                made = changed(made, ("inner", name) if nested else (name,), value)
            return self._iteration(replace(cell, settings=made))

        if "outer" in settings and settings.get("chunk", 1) > 1:
            # PyTorch's formula takes the groups of a convolution's backward for one of all classes' channels.
            path = ("inner", "chunk") if nested else ("chunk",)
            alone = self._shortened(replace(cell, settings=changed(cell.settings, path, 1)))
            return Work(alone.operations, self._looped(of, settings).operators)
        if "outer" in settings:
            return self._looped(of, settings)
        batch, steps = settings.get("batch_syn"), int(settings.get("syn_steps", 0))
        images = cell.ipc * cell.dataset.classes
        if steps > 3 and images % min(batch or images, images) == 0:
            two, three = (of(syn_steps=n) for n in (2, 3))
            return two + (three - two) * (steps - 2)
        return self._iteration(cell)

    def _looped(self, of: Callable[..., Work], settings: Mapping[str, Any]) -> Work:
        """An iteration of DC, ``of`` being one with other loops: each step and each epoch adds the same."""
        outer, inner = int(settings["outer"]), int(settings["inner"])
        matching = of(outer=1, inner=0)
        if outer == 1 or inner == 0:
            return matching * outer
        one, two = (of(outer=2, inner=n) - matching * 2 for n in (1, 2))
        return matching * outer + (one + (two - one) * (inner - 1)) * (outer - 1)

    def _iteration(self, cell: DistilCell) -> Work:
        """A mean iteration as it stands, but that one class stands for all where DC goes through them."""
        with self._job(cell) as (job, counted, one_class):
            before = counted.work
            iterations = job.method.kinds_of_updates
            for _ in range(iterations):
                for _ in job.updates():
                    pass
                job.iterations_done += 1
            whole = counted.work - before + one_class.others(cell.dataset.classes)
        return whole * (1 / iterations)

    def _plugged(self, cell: DistilCell) -> Work:
        """The plug-in's share of a mean update. Operators are those of each chunk that a GPU goes through."""
        with self._job(cell) as (job, counted, _):
            assert job.plugin is not None
            before = counted.work
            job.plugin.add_to(job.x, 0, job.tools.at(0))
            work, settings = counted.work - before, job.plugin.settings
        seen = min(settings.images_per_update, cell.ipc * cell.dataset.classes)
        chunks = math.ceil(seen / (cell.plugin["chunk"] or images_with_graph(CUDA, cell.dataset.size)))
        return Work(work.operations, work.operators * chunks) * (1 / settings.every)

    @contextmanager
    def _job(self, cell: DistilCell) -> Iterator[tuple[Distillation, Counted, _OneClass]]:
        """A distillation on fake tensors, all images in one chunk; open as long as the context is."""
        mode, counted = FakeTensorMode(), Counted()
        used = self._stand_ins.used(cell, mode)
        one_class = _OneClass(counted)
        with ExitStack() as undo:

            def patch(owner: Any, name: str, value: Any) -> None:
                undo.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)

            patch(tools, "images_per_forward", lambda device, size: _ALL)
            patch(plugins, "images_with_graph", lambda device, size: _ALL)
            patch(Rendered, "_chunks", lambda images, total: [slice(0, total)])
            patch(DC, "_real_gradient", one_class.real_gradient(DC._real_gradient))
            patch(DC, "_match_classes", one_class.match(DC._match_classes))
            undo.enter_context(mode)
            undo.enter_context(counted)
            yield Distillation(cell, self._datasets[cell.dataset], CPU, used), counted, one_class

    def _trained(self, name: str, recipe: Recipe, about: DatasetId) -> tuple[Work, Work]:
        dataset, mode = self._datasets[about], FakeTensorMode()
        with torch.random.fork_rng(devices=[]):
            network = to_fake(mode, build(name, about.classes, about.size))
        rng = seeds.rng("counted step")
        with mode, sdpa_kernel(SDPBackend.MATH):
            augmentation = Augmentation.of(dataset, PixelSpace("normalised", dataset.mean, dataset.std), CPU)
            steps = optimiser(recipe, network.parameters(), recipe.lr)
            images = torch.zeros(_IMAGES, 3, about.size, about.size)
            labels = torch.zeros(_IMAGES, dtype=torch.int64)
            for _ in range(2):  # the first step makes the optimiser's state
                with Counted() as counted:
                    seen = augmentation.apply(recipe.augment, images, rng)
                    if isinstance(recipe, SoftRecipe):
                        seen = mixed(seen, recipe.mix, recipe.mix_alpha, rng)
                    loss = F.cross_entropy(network(seen), labels)
                    steps.zero_grad()
                    loss.backward()
                    steps.step()
            tested = _forward(network.eval(), images)
        return _per_image(counted.work), _per_image(tested)

    def _generator_step(self, cell: PretrainCell) -> Work:
        values = {name: value for name, value in cell.settings.items() if name != "version"}
        settings, about = GeneratorSettings.model_validate(values), cell.dataset
        with torch.random.fork_rng(devices=[]):
            generator = CompactGenerator.from_settings(settings, about.classes, about.size)
            discriminator = Discriminator(about.classes, about.size, settings.width)
        gan = GANTraining(generator, discriminator, settings, for_dataset(parse(about.name).name, about.size))
        images, labels = (
            torch.zeros(_IMAGES, 3, about.size, about.size),
            torch.zeros(_IMAGES, dtype=torch.int64),
        )
        work = []
        for step in range(
            2
        ):  # with the penalty, without it; executed, as its networks' copies cannot be faked
            with Counted() as counted:
                gan.step(images, labels, seeds.rng("counted step", step))
            one = _per_image(counted.work)
            work.append(Work(one.operations * settings.batch, one.operators))
        every = settings.r1_every if settings.r1 else _ALL
        return work[1] + (work[0] - work[1]) * (1 / every)


class _OneClass:
    """DC's classes: the first (or their first chunk) has its turn; its work stands for each of the others."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted
        self._before = Work()
        self._target: Any = None
        #: How many the first are.
        self._chunk = 1
        #: What they took, in all updates so far.
        self._work = Work()

    def others(self, classes: int) -> Work:
        """The work of all that were left out, where there are so many classes."""
        chunks = classes / self._chunk
        work = self._work
        return Work(work.operations * (chunks - 1), work.operators * (math.ceil(chunks) - 1))

    def real_gradient(self, whole: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(whole)
        def gradient(method: DC, network: Any, classes: range, *arguments: Any) -> Any:
            if classes.start == 0:
                self._before, self._chunk = self._counted.work, len(classes)
                self._target = whole(method, network, classes, *arguments)
            return self._target

        return gradient

    def match(self, whole: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(whole)
        def match(method: DC, network: Any, images: Any, classes: range, *arguments: Any) -> Any:
            if classes.start:
                return images.images.new_zeros(())
            found = whole(method, network, images, classes, *arguments)
            self._work += self._counted.work - self._before
            return found

        return match


def updates_of(cell: DistilCell) -> int:
    """Updates in an iteration."""
    inner = cell.settings.get("inner")
    return int((inner if isinstance(inner, Mapping) else cell.settings).get("outer", 1))


@torch.no_grad()
def _forward(network: nn.Module, images: torch.Tensor) -> Work:
    with Counted() as counted:
        network(images)
    return counted.work


def _per_image(work: Work) -> Work:
    return Work(work.operations / _IMAGES, work.operators)
