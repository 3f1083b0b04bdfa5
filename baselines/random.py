"""Random real images: the row every method has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from baselines.base import Images, Method, Optimisers, Tools
from baselines.defaults.random import RandomSettings

if TYPE_CHECKING:
    from torch import Tensor


class Random(Method[RandomSettings]):
    """The initial images are the result; there are no iterations."""

    def optimisers(self, params: Mapping[str, Tensor]) -> Optimisers:
        """Nothing is optimised."""
        return Optimisers([])

    def iteration(self, k: int, images: Images, tools: Tools) -> Iterator[Tensor]:
        """Nothing is done."""
        yield from ()
