"""Statistics over distillation seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: A verdict's chance, at most, of being said anywhere in a table where nothing has an effect.
LEVEL = 0.05
#: Up to so many values every flip of signs is tried.
_EXACT = 16


@dataclass(frozen=True)
class Summary:
    """A sample's mean, standard deviation (n - 1 in the denominator; None where n = 1) and size.

    A size of 0 is one that is not known: a paper's, whose ``std`` may then be missing too.
    """

    mean: float
    std: float | None
    n: int

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """The 95% interval of the mean by Student's t; (None, None) where n = 1 or is not known."""
        if self.std is None or not self.n:
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
    return summarise(differences(first, second))


def differences(first: Mapping[int, float], second: Mapping[int, float]) -> list[float]:
    """``first - second``, one per seed that both have."""
    return [first[seed] - second[seed] for seed in first if seed in second]


def sign_flip(values: Sequence[float]) -> float:
    """The two-sided p of a mean by sign flips: how often random signs make it at least as far from 0.

    Exact over all 2^n signs up to n = 16, so that no p is below 2 / 2^n; beyond, over 65,535 random ones of a
    fixed seed and the observed one (Phipson and Smyth 2010, which keeps the test from saying too small a p).
    Assumes that without an effect a difference and its negative are equally likely. 1 of an empty sample.
    """
    if len(values) <= _EXACT:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
    else:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (2**_EXACT - 1, len(values)))
        sums = np.append(signs @ np.asarray(values), math.fsum(values))
    rounding = 1e-12 * math.fsum(map(abs, values))  # a flip that ties with the observed signs counts
    return float(np.mean(np.abs(sums) >= abs(math.fsum(values)) - rounding))


def holm(comparisons: Sequence[Sequence[float]]) -> list[list[float]]:
    """Adjusted p values of several comparisons, each with one or more tests in an order of its own.

    With one test each it is Holm (1979): the smallest p times their number, the next times one less, never
    falling. With more, a comparison's share of the level goes from each of its tests to the next, and to the
    other comparisons only after its last (a graph of Bretz et al. 2009, Statistics in Medicine 28, 586).
    Either way the chance of any wrong verdict is at most the level.
    """
    adjusted: list[list[float]] = [[] for _ in comparisons]
    largest = 0.0
    while open_ := [i for i, tests in enumerate(comparisons) if len(adjusted[i]) < len(tests)]:
        p, i = min((comparisons[i][len(adjusted[i])], i) for i in open_)
        largest = max(largest, min(1.0, p * len(open_)))
        adjusted[i].append(largest)
    return adjusted


def pairs_needed(comparisons: int) -> int:
    """The least number of pairs whose smallest p by :func:`sign_flip` can be a verdict among comparisons."""
    n = 1
    while 2 / 2**n * comparisons > LEVEL:
        n += 1
    return n


def detectable(comparisons: int, power: float = 0.8) -> float:
    """The effect, in standard deviations of a difference, that as many pairs as are needed find.

    With this power, for normal differences. Of so few pairs only such as all point one way give a verdict,
    so that the power is ``Phi(effect) ** n``.
    """
    from scipy.special import ndtri

    return float(ndtri(power ** (1 / pairs_needed(comparisons))))
