import math

import numpy as np
import pytest
import scipy.stats
from scipy.special import stdtrit

from bench.stats import Summary, paired, summarise


def test_by_hand():
    found = summarise([1.0, 2.0, 4.0, 5.0])
    assert (found.mean, found.n) == (3.0, 4)
    assert found.std == pytest.approx(math.sqrt(10 / 3))
    low, high = found.interval  # 3.182446 is the 97.5% point of Student's t with 3 degrees, as printed
    assert (low, high) == pytest.approx(
        (3 - 3.182446 * math.sqrt(10 / 12), 3 + 3.182446 * math.sqrt(10 / 12)), abs=1e-5
    )


def test_one_value_has_no_spread():
    assert summarise([7.5]) == Summary(7.5, None, 1)
    assert summarise([7.5]).interval == (None, None)


def test_nothing_is_nothing():
    assert summarise([]) is None


def test_equal_values_have_spread_zero():
    assert summarise([0.1] * 3).std == pytest.approx(0)
    assert summarise([2.0, 2.0]).interval == (2.0, 2.0)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_agrees_with_numpy_and_scipy(n):
    values = np.random.default_rng(n).normal(30, 4, n)
    found = summarise(values.tolist())
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.std == pytest.approx(values.std(ddof=1), rel=1e-12)
    expected = scipy.stats.t.interval(0.95, n - 1, values.mean(), scipy.stats.sem(values))
    assert found.interval == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 99])
def test_stdtrit_is_the_quantile_of_t(degrees):
    assert stdtrit(degrees, 0.975) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=1e-12)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    samples = np.random.default_rng(1).normal(0, 1, (4000, 5))
    intervals = [summarise(sample.tolist()).interval for sample in samples]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert covered == pytest.approx(0.95, abs=0.012)


def test_pairs_are_of_the_seeds_that_both_have():
    found = paired({3: 5.0, 0: 1.0, 7: 9.0}, {0: 0.5, 3: 7.0, 4: 100.0})
    assert (found.mean, found.n) == (-0.75, 2)
    assert found.std == pytest.approx(2.5 / math.sqrt(2))
    assert paired({0: 1.0}, {1: 2.0}) is None
