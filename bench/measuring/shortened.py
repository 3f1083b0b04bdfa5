"""Repeated pieces of an update left out where its memory is estimated: the peak stays, to the byte.

On fake tensors nothing depends on values, so of equal pieces that free what they used the second takes what
all later ones take: it also finds what its forerunner leaves behind. Methods and plug-ins know nothing of
this; :func:`few_pieces` replaces the functions of theirs that go through the pieces, from outside.
``tests/test_shortened.py`` compares every form of it with the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from torch import Tensor

from baselines.dc import DC
from bench.data import Dataset
from bench.synthetic import Rendered
from metadd.cam import CAM
from metadd.plugin import MetaDD


@contextmanager
def few_pieces(dataset: Dataset) -> Iterator[None]:
    """Inside, an update goes through some of its pieces only; for fake tensors, and not for two threads.

    * MetaDD: the first two chunks of images and the last; of the pass that keeps the maps also the last but
      one, and for the others maps of the right size.
    * GLaD: the first two chunks that are rendered, and the last.
    * DC and DSA: the first two classes (or chunks of classes) and, as what augmentation takes depends on the
      operation drawn, the first of each operation (or of each row of them).

    Args:
        dataset: classes with fewer real images than others are gone through too.
    """
    maps = _Maps()
    classes = _Classes(dataset)
    with ExitStack() as undo:

        def replace(owner: type, name: str, made: Callable[[Callable[..., Any]], Any]) -> None:
            whole = getattr(owner, name)
            undo.callback(setattr, owner, name, whole)
            setattr(owner, name, wraps(whole)(made(whole)))

        replace(MetaDD, "maps", maps.passing)
        replace(MetaDD, "_chunks", maps.chunks)
        replace(CAM, "forward", maps.forward)
        replace(Rendered, "_chunks", _rendered)
        replace(DC, "_real_gradient", classes.real_gradient)
        replace(DC, "_match_classes", classes.match)
        yield


def _ends(pieces: Sequence[slice]) -> list[slice]:
    """The first two and the last; all where there are no more."""
    return [*pieces[:2], *pieces[2:][-1:]]


def _rendered(whole: Callable[..., list[slice]]) -> Callable[..., list[slice]]:
    def chunks(images: Rendered, total: int) -> list[slice]:
        if not hasattr(images, "images"):  # the first rendering: not counted, and all of it is needed
            return [slice(0, total)]
        return _ends(whole(images, total))

    return chunks


class _Maps:
    """MetaDD's chunks. The pass without a graph keeps every chunk's maps, so it makes them all."""

    def __init__(self) -> None:
        self._keeping = False
        self._chunks = 0
        #: The network whose turn it is, and its chunks so far.
        self._turn: tuple[CAM | None, int] = None, 0

    def passing(self, whole: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def maps(plugin: MetaDD, images: Tensor, labels: Tensor) -> Tensor:
            self._keeping, self._turn = True, (None, 0)
            try:
                return whole(plugin, images, labels)
            finally:
                self._keeping, self._turn = False, (None, 0)

        return maps

    def chunks(self, whole: Callable[..., list[slice]]) -> Callable[..., list[slice]]:
        def chunks(plugin: MetaDD, total: int) -> list[slice]:
            found = whole(plugin, total)
            self._chunks = len(found)
            return found if self._keeping else _ends(found)

        return chunks

    def forward(self, whole: Callable[..., Any]) -> Callable[..., Any]:
        def forward(cam: CAM, images: Tensor, labels: Tensor) -> Any:
            if not self._keeping:
                return whole(cam, images, labels)
            last, turn = self._turn
            turn = turn + 1 if last is cam else 1
            self._turn = cam, turn
            if 2 < turn < self._chunks - 1:
                return None, images.new_empty(len(images), *cam.site.shape)
            return whole(cam, images, labels)

        return forward


class _Classes:
    """DC's classes, in their chunks: a chunk is left out where one like it had its turn in this update."""

    def __init__(self, dataset: Dataset) -> None:
        self._counts = dataset.train.counts
        self._seen: set[Any] = set()
        self._left_out = False

    def real_gradient(self, whole: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
        def gradient(
            method: DC, network: Any, classes: range, step: int, draw: Any, tools: Any
        ) -> list[Tensor]:
            like = (tuple(min(self._counts[c], method.settings.batch_real) for c in classes), _kinds(draw))
            if classes.start == 0:
                self._seen.clear()
            self._left_out = like in self._seen
            if classes.start:  # the first finds nothing left behind
                self._seen.add(like)
            if self._left_out:  # what stays until the next has its own
                several = [len(classes)] if len(classes) > 1 else []
                return [p.new_empty([*several, *p.shape]) for p in network.parameters()]
            return whole(method, network, classes, step, draw, tools)

        return gradient

    def match(self, whole: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def match(method: DC, network: Any, images: Any, *arguments: Any) -> Tensor:
            if self._left_out:
                none: Tensor = images.images.new_zeros(())
                return none
            return whole(method, network, images, *arguments)

        return match


def _kinds(draw: Any) -> Any:
    """What of a draw bears on memory: the operation of each class, and whether it mirrors."""
    return None if draw is None else (draw.ops, tuple(bool(first > 0) for first in draw.params[:, 0]))
