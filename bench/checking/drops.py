"""Has an accuracy dropped? One-sided tests of a row against stored results, and how small a drop they find.

Both samples are of distillation seeds and noisy. Each row has one or two tests:

* unpaired: Student's t with the variance pooled over both, because without a change both are draws of the
  same distribution;
* paired by seed as well, where at least four seeds were made anew from the very same cells: what a seed does
  to both then cancels. The two tests share the row's part of the level.

Holm's correction over the rows keeps the chance of any false alarm in a suite at most at the level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from bench.stats import LEVEL, differences

#: From so many pairs on a paired test is more than a formality (3 degrees of freedom).
_PAIRS = 4
#: A drop is called detectable where it is found with this chance.
POWER = 0.8
#: Nodes of each of the two integrals over what a standard deviation is found to be.
_NODES = 300


@dataclass(frozen=True)
class Estimate:
    """A mean's standard error, and how many degrees of freedom it was estimated with."""

    error: float
    degrees: int
    #: What the error would be if the networks that the mean is over had no noise in common.
    apart: float = 0.0


@dataclass(frozen=True)
class Change:
    """The mean of one sample less that of another, with the error of each test; none where it is not known.

    The last test is the paired one, where there is one.
    """

    mean: float
    tests: tuple[Estimate, ...]

    @property
    def p(self) -> float:
        """How often chance alone makes it as low as this, at most; 1 where that is not known."""
        from scipy.special import stdtr

        ps = [float(stdtr(test.degrees, self.mean / test.error)) for test in self.tests]
        return min(1.0, len(ps) * min(ps, default=1.0))

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """The two-sided 95% interval, the paired one where there is one; (None, None) where none is known."""
        if not self.tests:
            return None, None
        from scipy.special import stdtrit

        half = float(stdtrit(self.tests[-1].degrees, 0.975)) * self.tests[-1].error
        return self.mean - half, self.mean + half

    def detectable(self, rows: int) -> float:
        """The smallest drop that tests like these, among so many rows, find in 80% of cases.

        Infinite where no error is known. A few seeds that were good for one network and bad for another make
        a row's spread smaller than a rerun's will be, so that the larger of the two errors counts: that of
        the row, and that of its networks each by itself.
        """
        shares = rows * len(self.tests)
        return min(
            (_multiple(test.degrees, shares) * max(test.error, test.apart) for test in self.tests),
            default=math.inf,
        )

    def over(self, networks: Sequence[Change]) -> Change:
        """The same change, with what it was for each of the networks that it is the mean over, by seed."""
        tests = []
        for k, test in enumerate(self.tests):
            errors = [each.tests[k].error for each in networks if k < len(each.tests)]
            tests.append(replace(test, apart=math.hypot(*errors) / len(networks)))
        return replace(self, tests=tuple(tests))


def change(
    reference: Mapping[int, float], now: Mapping[int, float], same_cells: bool, step: float
) -> Change | None:
    """``now`` less ``reference``, each by seed; None where one of them is empty.

    Args:
        reference: accuracies in percent.
        now: as well.
        same_cells: whether equal seeds are results of cells with equal keys.
        step: what one test image more or less is worth, in percent. No standard deviation is taken to be
            smaller: a few results that happen to be equal say no more than that.
    """
    if not reference or not now:
        return None
    first, second = _moments(list(reference.values())), _moments(list(now.values()))
    n, m = len(reference), len(now)
    tests = []
    if degrees := n + m - 2:
        variance = max((first[1] + second[1]) / degrees, step**2)
        tests.append(Estimate(math.sqrt(variance * (1 / n + 1 / m)), degrees))
    if same_cells and reference.keys() == now.keys() and n >= _PAIRS:
        differing = differences(now, reference)
        if any(differing):  # the same bits say nothing about the noise of a rerun
            squares = _moments(differing)[1]
            tests.append(Estimate(math.sqrt(max(squares / (n - 1), step**2) / n), n - 1))
    return Change(second[0] - first[0], tuple(tests))


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the sum of squares around it."""
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values)


@cache
def _multiple(degrees: int, shares: int) -> float:
    """The detectable drop in standard errors, where one test has one of so many shares of the level.

    The error that it is a multiple of is itself an estimate, and the next run has another one. With both
    ratios of estimate to truth, u printed and v when tested, a drop of k u errors is found with probability
    E[Phi(k u - t v)], t being the critical value; k is where this is the power. So a drop as large as
    printed is found so often on average over what is printed.
    """
    from scipy.special import chdtri, ndtr, stdtrit

    critical = float(stdtrit(degrees, 1 - LEVEL / shares))
    tail = (np.arange(_NODES) + 0.5) / _NODES
    ratio = np.sqrt(chdtri(degrees, tail) / degrees)
    low, high = 0.0, 100 * (critical + 1)
    for _ in range(40):
        middle = (low + high) / 2
        power = float(np.mean(ndtr(middle * ratio[:, None] - critical * ratio[None, :])))
        low, high = (middle, high) if power < POWER else (low, middle)
    return high
