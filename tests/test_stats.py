import itertools
import math

import numpy as np
import pytest
import scipy.stats
from scipy.special import stdtrit

from bench.stats import (
    Summary,
    detectable,
    differences,
    holm,
    paired,
    pairs_needed,
    sign_flip,
    summarise,
)


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
    assert differences({3: 5.0, 0: 1.0, 7: 9.0}, {0: 0.5, 3: 7.0, 4: 100.0}) == [-2.0, 0.5]


def test_sign_flips_by_hand():
    # Sums by signs: 7, 5, 3, 1 and their negatives; only 7 and -7 are as far from 0 as 1 + 2 + 4.
    assert sign_flip([1.0, 2.0, 4.0]) == 2 / 8
    # 1 + 2 - 4 = -1: so far or farther are all eight.
    assert sign_flip([1.0, 2.0, -4.0]) == 1
    # -1 + 2 + 4 = 5: also 7, and both negatives.
    assert sign_flip([-1.0, 2.0, 4.0]) == 4 / 8
    assert sign_flip([3.0]) == sign_flip([]) == sign_flip([0.0, 0.0]) == 1
    assert sign_flip([-2.0] * 6) == 2 / 64


def test_flips_that_tie_but_for_rounding_count():
    assert -0.4 + 0.6 + 0.3 - 0.9 != -0.4
    exact = [-4, 6, 3, -9]
    flips = [4 * a + 6 * b + 3 * c + 9 * d for a, b, c, d in itertools.product((-1, 1), repeat=4)]
    expected = sum(abs(flip) >= abs(sum(exact)) for flip in flips) / 16
    assert sign_flip([value / 10 for value in exact]) == expected


@pytest.mark.parametrize("n", [2, 3, 6, 8, 11])
@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_sign_flips_agree_with_scipy(n, shift):
    rng = np.random.default_rng(n)
    first, second = rng.normal(30 + shift, 1, n), rng.gamma(2, 15, n)
    for values in (first - 30, first - second):
        expected = scipy.stats.permutation_test(
            (values, np.zeros(n)),
            lambda a, b, axis: np.mean(a - b, axis=axis),
            permutation_type="samples",
            n_resamples=np.inf,
            vectorized=True,
        )
        assert sign_flip(values.tolist()) == pytest.approx(expected.pvalue, abs=1e-12)


def test_many_values_are_flipped_at_random_and_alike():
    rng = np.random.default_rng(5)
    values = rng.normal(0.4, 1, 17)
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    exact = np.mean(np.abs(sums) >= abs(values.sum()) * (1 - 1e-12))
    assert 0.01 < exact < 0.5
    found = sign_flip(values.tolist())
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact / 2**16))
    assert found == sign_flip(values.tolist())
    assert sign_flip([1.0] * 30) == 1 / 2**16  # never 0


def test_holm_by_hand():
    # 4 x 0.005; 3 x 0.01; 2 x 0.03; then 1 x 0.04, which may not be below the one before.
    assert holm([[0.01], [0.04], [0.03], [0.005]]) == [
        [pytest.approx(0.03)],
        [pytest.approx(0.06)],
        [pytest.approx(0.06)],
        [pytest.approx(0.02)],
    ]
    assert holm([[0.6], [0.5]]) == [[1.0], [1.0]]
    assert holm([[0.03]]) == [[0.03]]
    assert holm([]) == []


def test_holm_passes_a_share_to_a_comparison_s_own_next_test_first():
    # 2 x 0.01; 2 x 0.02, of the same comparison; both done, so 1 x 0.045; 1 x 0.9.
    found = holm([[0.045, 0.9], [0.01, 0.02]])
    assert found == [[pytest.approx(0.045), pytest.approx(0.9)], [pytest.approx(0.02), pytest.approx(0.04)]]
    # The second test of the first holds its share back, so the other's 0.03 counts twice.
    assert holm([[0.001, 0.5], [0.03]]) == [
        [pytest.approx(0.002), pytest.approx(0.5)],
        [pytest.approx(0.06)],
    ]
    # What comes first is not above what comes next, however small that is.
    assert holm([[0.4, 0.0001]]) == [[0.4, 0.4]]


def test_holm_is_what_its_definition_says():
    """The largest, over all p that are not larger, of p times how many are at least as large."""
    rng = np.random.default_rng(3)
    for size in (1, 2, 5, 9):
        ps = rng.beta(0.3, 1, size)
        expected = [min(1, max(q * sum(ps >= q) for q in ps if q <= p)) for p in ps]
        assert [each for (each,) in holm([[p] for p in ps])] == pytest.approx(expected, rel=1e-12)


def test_pairs_that_a_verdict_needs():
    assert [pairs_needed(comparisons) for comparisons in range(1, 6)] == [6, 7, 7, 8, 8]
    for comparisons in range(1, 6):
        n = pairs_needed(comparisons)
        assert sign_flip([1.0] * n) * comparisons <= 0.05 < sign_flip([1.0] * (n - 1)) * comparisons


@pytest.mark.parametrize("comparisons", [1, 5])
def test_the_detectable_effect_is_found_as_often_as_it_says(comparisons):
    n, effect = pairs_needed(comparisons), detectable(comparisons)
    assert effect == pytest.approx({1: 1.79, 5: 1.92}[comparisons], abs=0.01)
    samples = np.random.default_rng(1).normal(effect, 1, (2000, n))
    found = np.mean([sign_flip(sample.tolist()) * comparisons <= 0.05 for sample in samples])
    assert found == pytest.approx(0.8, abs=0.03)
