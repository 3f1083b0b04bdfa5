"""Statistics over distillation seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """A sample's mean, standard deviation (n - 1 in the denominator; None where n = 1) and size."""

    mean: float
    std: float | None
    n: int

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """The 95% interval of the mean by Student's t; (None, None) where n = 1."""
        if self.std is None:
            return None, None
        from scipy.special import stdtrit  # what scipy.stats.t.ppf calls, without a second of imports

        half = float(stdtrit(self.n - 1, 0.975)) * self.std / math.sqrt(self.n)
        return self.mean - half, self.mean + half


def summarise(values: Sequence[float]) -> Summary | None:
    """The summary of a sample, or None of an empty one."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(mean, None, 1)
    return Summary(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)), n)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Summary | None:
    """The summary of ``first - second`` over the seeds that both have, or None where there is none."""
    return summarise([first[seed] - second[seed] for seed in first if seed in second])
