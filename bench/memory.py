"""Memory as the peak of live tensor bytes, counted while the code runs, on real or on fake tensors.

What is counted: the bytes of every storage that an operator has returned, from that moment until nothing
refers to the storage any more. Views and in-place results share their storage and add nothing. What an
operator allocates and frees inside itself (a convolution's workspace) is not seen, nor is an allocator's
rounding: on a GPU, :func:`device_peak` has those.

On fake tensors (``torch._subclasses.FakeTensorMode``) nothing is computed, so the peak of a large cell is
known in seconds on a laptop. Both ways count the same stream of operators and so the same bytes.
"""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")

_LIFT_FRESH = torch.ops.aten.lift_fresh.default


class _Active(threading.local):
    """The counters that are running in this thread."""

    def __init__(self) -> None:
        self.counters: list[LiveBytes] = []


_active = _Active()


class LiveBytes(TorchDispatchMode):
    """Count live tensor bytes while the context is open.

    ``held`` is what exists before and counts from the start: tensors, modules, optimisers, or lists and
    dicts of them (gradients and optimiser states included). Any other tensor from before the context counts
    from the first operator that reads it, so a tensor left out of ``held`` can be missed at the peak.

    To count on fake tensors, open the context inside or outside of ``FakeTensorMode``; PyTorch gives every
    operator to this mode first in either order, and what the fake mode does inside an operator is not seen.

    Python's cyclic garbage collector is run on entry and is off until exit: when it would run depends on
    how many Python objects there are, and fake tensors make more of them. So cycles keep their tensors
    alive here. Autograd behaves as it does under any dispatch mode: where it would add two gradients in
    place, it makes a third tensor.

    Attributes:
        peak: the most bytes alive at any time. Kept after exit.
        current: the bytes alive now, or at exit.
        held_bytes: the bytes of ``held`` on entry.

    """

    def __init__(self, held: object = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self.current = self.held_bytes = 0
        self._held: object = held
        self._opened = False
        self._paused = 0
        self._live: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}
        self._on_exit = ExitStack()

    def __enter__(self) -> LiveBytes:
        if self._opened:
            raise RuntimeError("a LiveBytes counts once; make a new one")
        self._opened = True
        gc.collect()
        self.watch(self._held)
        self._held = ()  # so that what the caller lets go of can die
        self.held_bytes = self.current
        with ExitStack() as undo:
            undo.callback(self._live.clear)
            if gc.isenabled():
                gc.disable()
                undo.callback(gc.enable)
            _active.counters.append(self)
            undo.callback(_active.counters.remove, self)
            super().__enter__()  # type: ignore[no-untyped-call]
            undo.push(super().__exit__)
            self._on_exit = undo.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._on_exit.__exit__(*exception)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # The default guards __torch_dispatch__ against torch.compile, and imports all of it for that.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator; count the storages of its inputs and outputs that are new or have a new size."""
        kwargs = kwargs or {}
        # The input of lift_fresh is the result itself, or the constant that a fake result is made from.
        if not self._paused and func is not _LIFT_FRESH:
            self._see((args, kwargs))
        result = func(*args, **kwargs)
        if not self._paused:
            self._see(result)
        return result

    def watch(self, held: object) -> None:
        """Count tensors from now on that no operator has returned; ``held`` as for the class."""
        for tensor in _tensors(held):
            self._count(tensor)
        self.peak = max(self.peak, self.current)

    def _see(self, values: Any) -> None:
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                self._count(value)
        self.peak = max(self.peak, self.current)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        known = self._live.get(key)
        if known is None:
            # The storage's Python object lives exactly as long as the storage: PyTorch sees to it.
            self._live[key] = weakref.ref(storage, partial(self._died, key)), size
            self.current += size
        elif known[1] != size:
            self._live[key] = known[0], size
            self.current += size - known[1]

    def _died(self, key: int, _: weakref.ref[torch.UntypedStorage]) -> None:
        self.current -= self._live.pop(key)[1]


def _tensors(held: object) -> Iterator[Tensor]:
    """All tensors of an object, gradients of leaves included; some may come twice."""
    if isinstance(held, Tensor):
        yield held
        if held.is_leaf and held.grad is not None:
            yield held.grad
    elif isinstance(held, nn.Module):
        for module in held.modules():
            yield from _tensors([*module.parameters(recurse=False), *module.buffers(recurse=False)])
            yield from _tensors([value for value in vars(module).values() if isinstance(value, Tensor)])
    elif isinstance(held, torch.optim.Optimizer):
        yield from _tensors([group["params"] for group in held.param_groups])
        yield from _tensors(list(held.state.values()))
    elif isinstance(held, Mapping):
        yield from _tensors(list(held.values()))
    elif isinstance(held, list | tuple | set | frozenset):
        for item in held:
            yield from _tensors(item)
    elif held is not None and not isinstance(held, str | int | float):
        raise TypeError(f"cannot find the tensors of a {type(held).__name__}")


@contextmanager
def real_tensors() -> Iterator[FakeTensorMode | None]:
    """Make real tensors inside a run on fake ones, to build what cannot be built from fakes.

    Gives the fake mode that was set aside, for :func:`to_fake`, or None where there was none: then nothing
    changes. What is made in between is not counted by an open :class:`LiveBytes`; what :func:`to_fake`
    returns is, so a network built for real and converted counts once::

        with real_tensors() as mode:
            network = build()
        if mode is not None:
            network = to_fake(mode, network)
    """
    with unset_fake_temporarily() as mode, _uncounted() if mode is not None else ExitStack():
        if mode is not None and not isinstance(mode, FakeTensorMode):
            raise TypeError(f"{type(mode).__name__} stands where a FakeTensorMode was expected")
        yield mode


@contextmanager
def _uncounted() -> Iterator[None]:
    counters = list(_active.counters)
    for counter in counters:
        counter._paused += 1
    try:
        yield
    finally:
        for counter in counters:
            counter._paused -= 1


def to_fake(mode: FakeTensorMode, value: T) -> T:
    """Copy ``value`` with every tensor in it replaced by a fake one of ``mode``; the original stays as it is.

    ``value`` is a tensor, a module, an optimiser, or a list or dict of them. Parameters stay parameters,
    ``requires_grad`` and gradients stay, tied tensors stay tied and shared storages shared, also between
    calls: the same real tensor always gives the same fake one. An optimiser must be converted in the same
    list as its module. An open :class:`LiveBytes` counts the fake tensors from here on.
    """
    with unset_fake_temporarily(), _uncounted():
        fakes: dict[int, Any] = {id(tensor): mode.from_tensor(tensor) for tensor in _tensors(value)}
        fake = copy.deepcopy(value, fakes)
    for counter in _active.counters:
        counter.watch(fake)
    return fake


def reset_peak(device: torch.device) -> None:
    """Let the next :func:`device_peak` of a GPU begin at what is allocated now."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)


def device_peak(device: torch.device) -> dict[str, int]:
    """Give a GPU's peak bytes since :func:`reset_peak`: in tensors, and reserved from the driver."""
    torch.cuda.synchronize(device)
    return {
        "allocated": torch.cuda.max_memory_allocated(device),
        "reserved": torch.cuda.max_memory_reserved(device),
    }
