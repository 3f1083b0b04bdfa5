"""A plug-in alone: real images, moved by its gradient and nothing else. A control; no paper has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from baselines.adam import Adam
from baselines.base import Images, Method, Optimisers, Tools
from baselines.defaults.alone import AloneSettings

if TYPE_CHECKING:
    from torch import Tensor


class Alone(Method[AloneSettings]):
    """Starts from the images of ``random`` for the same seed; one update an iteration, by Adam."""

    def optimisers(self, params: Mapping[str, Tensor]) -> Optimisers:
        """Adam, which leaves the pixels as they are, to the bit, as long as no gradient is added."""
        return Optimisers([Adam(list(params.values()), self.settings.lr)])

    def iteration(self, k: int, images: Images, tools: Tools) -> Iterator[Tensor]:
        """Adds no gradient; the loss is 0."""
        yield images.images.new_zeros(())
