"""The peak of a distillation split by what holds it: who was at work when each tensor was made.

Methods, plug-ins and generators know nothing of this. While :func:`count_by_holder` counts, the few
functions through which the loop hands work to one of them are wrapped from outside, and every storage is
entered under whoever was at work when it was first seen. A tensor that outlives its maker keeps that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from baselines.base import Optimisers
from bench import device as devices
from bench import plugins, synthetic, zca
from bench.augment import DSA
from bench.cells import AUXILIARY, DistilCell
from bench.data import Dataset
from bench.memory import LiveBytes
from bench.plugins import Plugged
from bench.stages import distill, tools
from bench.stages.tools import HarnessTools
from metadd import plugin as metadd_plugin

CPU = torch.device("cpu")


class Holder(StrEnum):
    """What memory is for."""

    #: What the optimisers move, its gradient and their state; the rendered images, where they are rendered.
    images = "images"
    #: The method's networks and graph, and all that has no other holder.
    method = "method"
    #: The plug-in's networks and graph.
    plugin = "plug-in"
    #: The generator, and the graph of rendering through it.
    generator = "generator"
    #: Real images, augmented or not; on a GPU the whole training set, which lies there.
    real = "real images"
    #: Random draws, class indices, the matrices of ZCA.
    other = "other"


class ByHolder(LiveBytes):
    """Live bytes by holder; counts what :class:`LiveBytes` counts, to the byte.

    Args:
        owners: whose a module is that is held from the start, by ``id``; other modules are the method's and
            tensors the images'.
        away: modules that are elsewhere than where the bytes are counted, and count for nothing.

    Attributes:
        at_peak: the bytes of each holder when the sum of all was largest. Kept after exit.

    """

    def __init__(self, owners: Mapping[int, Holder], away: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self._away = {
            id(tensor.untyped_storage())
            for module in away
            for tensor in (*module.parameters(), *module.buffers())
        }
        self.at_peak: dict[Holder, int] = dict.fromkeys(Holder, 0)
        self._owners = owners
        self._at_work = [Holder.method]
        self._bytes = dict.fromkeys(Holder, 0)
        self._holders: dict[int, Holder] = {}
        self._from_start: list[Any] = []

    def holding(self, held: list[Any]) -> ByHolder:
        """Hold more from the start (see :class:`LiveBytes`); gives the counter itself."""
        self._from_start += held
        return self

    def __enter__(self) -> ByHolder:
        super().__enter__()
        for thing in self._from_start:
            owner = Holder.method if isinstance(thing, nn.Module) else Holder.images
            with self.at_work(self._owners.get(id(thing), owner)):
                self.watch(thing)
        self._from_start.clear()
        self.held_bytes = self.current
        return self

    @contextmanager
    def at_work(self, holder: Holder) -> Iterator[None]:
        """What is made in this context belongs to ``holder``, but for what an inner context says."""
        self._at_work.append(holder)
        try:
            yield
        finally:
            self._at_work.pop()

    def holder_of(self, tensor: Tensor) -> Holder | None:
        """Whose a tensor is; None where it was not seen yet."""
        return self._holders.get(id(tensor.untyped_storage()))

    def hand_over(self, tensor: Tensor, holder: Holder) -> None:
        """Let a tensor that has been seen belong to ``holder`` from now on."""
        key = id(tensor.untyped_storage())
        size = self._live[key][1]
        self._bytes[self._holders[key]] -= size
        self._bytes[holder] += size
        self._holders[key] = holder

    def watch(self, held: object) -> None:
        """Count tensors from now on; see :class:`LiveBytes`."""
        before = self.peak
        super().watch(held)
        self._look(before)

    def _see(self, values: Any) -> None:
        before = self.peak
        super()._see(values)
        self._look(before)

    def _look(self, before: int) -> None:
        if self.peak > before:
            self.at_peak = dict(self._bytes)

    def _count(self, tensor: Tensor) -> None:
        if id(tensor.untyped_storage()) in self._away:
            return
        before = self.current
        super()._count(tensor)
        if self.current != before:  # a new storage, or one of a new size
            holder = self._holders.setdefault(id(tensor.untyped_storage()), self._at_work[-1])
            self._bytes[holder] += self.current - before

    def _died(self, key: int, storage: Any) -> None:
        before = self.current
        super()._died(key, storage)
        if key in self._holders:  # an empty storage has no holder
            self._bytes[self._holders.pop(key)] -= before - self.current


def count_by_holder(
    cell: DistilCell, dataset: Dataset, device: torch.device, used: Mapping[str, Any]
) -> dict[Holder, int]:
    """What :func:`bench.stages.distill.count_live_bytes` counts, by holder: bytes at the peak.

    The tensors are on the CPU, fake or real. ``device`` says only as where: a GPU is given larger batches,
    the stored training images lie on it, and with ``offload`` one of MetaDD's networks at a time. Not for two
    threads at once.

    Raises:
        CellFailure: the method cannot work with what it is given.
    """
    owners = {id(thing): _owner(name) for name, thing in used.items()}
    stored, away = list[Tensor](), list[nn.Module]()
    if device.type != "cpu":
        stored = [torch.empty(dataset.train.images.shape, dtype=torch.uint8)]
        owners[id(stored[0])] = Holder.real
        if cell.plugin.get("offload"):
            away = [thing for name, thing in used.items() if name.startswith(AUXILIARY)]
    counter = ByHolder(owners, away)
    with ExitStack() as undo:

        def replace(owner: Any, name: str, value: Any) -> None:
            undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        replace(distill, "LiveBytes", lambda held: counter.holding([*held, *stored]))
        replace(tools, "images_per_forward", lambda _, size: devices.images_per_forward(device, size))
        replace(plugins, "images_with_graph", lambda _, size: devices.images_with_graph(device, size))
        if away:
            replace(metadd_plugin, "_called_with", _visiting(metadd_plugin._called_with))
        for owner, name, holder in _WORK:
            replace(owner, name, _working(getattr(owner, name), counter, holder))
        replace(DSA, "apply", _augmenting(DSA.apply, counter))
        replace(zca.ZCA, "_like", _placing(zca.ZCA._like, counter))
        replace(synthetic.Rendered, "pull_back", _pulling_back(synthetic.Rendered.pull_back, counter))
        distill.count_live_bytes(cell, dataset, CPU, used)
    return counter.at_peak


#: The functions through which work is handed on, and to whom.
_WORK: tuple[tuple[type, str, Holder], ...] = (
    (Plugged, "add_to", Holder.plugin),
    (synthetic.Rendered, "pull_back", Holder.generator),
    (synthetic.Rendered, "render", Holder.generator),
    (Optimisers, "step", Holder.images),
    (HarnessTools, "network", Holder.method),
    (HarnessTools, "real", Holder.real),
    (HarnessTools, "tensor", Holder.other),
    (zca.ZCA, "_like", Holder.other),
)


def _owner(name: str) -> Holder:
    if name.startswith(AUXILIARY):
        return Holder.plugin
    return Holder.generator if name == "generator" else Holder.method


def _working(function: Callable[..., Any], counter: ByHolder, holder: Holder) -> Callable[..., Any]:
    """The function, with ``holder`` at work."""

    @wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        with counter.at_work(holder):
            return function(*arguments, **named)

    return wrapped


def _augmenting(apply: Callable[..., Tensor], counter: ByHolder) -> Callable[..., Tensor]:
    """Augmentation: what becomes of real images are real images; of others, the graph of who asked."""
    of_real = _working(apply, counter, Holder.real)

    @wraps(apply)
    def wrapped(augment: DSA, images: Tensor, *arguments: Any) -> Tensor:
        real = counter.holder_of(images) is Holder.real
        return (of_real if real else apply)(augment, images, *arguments)

    return wrapped


def _visiting(called_with: Callable[..., Any]) -> Callable[..., Any]:
    """Networks that visit the device: there they are copies, which their host lets go of after their turn."""

    @wraps(called_with)
    def wrapped(module: nn.Module, state: dict[str, Tensor]) -> Any:
        state.update({name: tensor.clone() for name, tensor in state.items()})
        return called_with(module, state)

    return wrapped


def _placing(like: Callable[..., Tensor], counter: ByHolder) -> Callable[..., Tensor]:
    """ZCA's matrices: where they were placed before the count, the first reader is not their holder."""

    @wraps(like)
    def wrapped(*arguments: Any) -> Tensor:
        found = like(*arguments)
        with counter.at_work(Holder.other):
            counter.watch(found)
        return found

    return wrapped


def _pulling_back(pull_back: Callable[..., None], counter: ByHolder) -> Callable[..., None]:
    """The gradient of the latents, which the first call makes, is the images'."""

    @wraps(pull_back)
    def wrapped(images: synthetic.Rendered) -> None:
        pull_back(images)
        for param in images.params.values():
            assert param.grad is not None
            counter.hand_over(param.grad, Holder.images)

    return wrapped
