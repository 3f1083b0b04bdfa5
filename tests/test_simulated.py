"""What is said where nothing changed, over thousands of simulated tables and reruns of a suite."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from committed import RESULTS, WITH_ROWS
from scipy.stats import beta

from bench.check import Sample, _samples, accuracies, compare, rows_of
from bench.checking.findings import Outcome
from bench.stats import LEVEL
from bench.tabulating.verdicts import verdicts

#: A suite: the seeds and the spread of its rows, like those of the committed ones.
ROWS = [(2, 0.5), (2, 4.0), (3, 0.3), (3, 0.9), (3, 1.4), (3, 6.0), (5, 2.8), (5, 0.6), (6, 1.0), (8, 2.0)]
RUNS = 5000
#: How much of a row's spread a seed brings to every run of the same cells.
COMMON = 0.9


def bounds(count, of=RUNS):
    """Clopper and Pearson's 95% interval of a share."""
    return beta.ppf(0.025, count, of - count + 1), beta.ppf(0.975, count + 1, of - count)


def noise(kind, rng, n):
    """Noise of mean 0 and variance 1."""
    return rng.normal(size=n) if kind == "normal" else rng.exponential(size=n) - 1


def shared(kind, rng, rows):
    return [noise(kind, rng, n) for n, _ in rows]


def run(kind, rng, rows=ROWS, key="a", common=None, drop=0.0):
    """A run of a suite, around 60%: cells are the same where the key is; the drop is of its first row."""
    made = {}
    for i, (n, spread) in enumerate(rows):
        values = noise(kind, rng, n)
        if common is not None:
            values = COMMON * common[i] + np.sqrt(1 - COMMON**2) * values
        values = (60 + spread * values - (0 if i else drop)).tolist()
        keys = {seed: frozenset([f"{key}{i}.{seed}"]) for seed in range(n)}
        sample = Sample({"convnet": dict(enumerate(values))}, keys, classes=10, images=10_000)
        made[str(i)] = ({"method": str(i)}, sample)
    return made


def worse(found):
    return [each.outcome is Outcome.worse for each in found]


@pytest.mark.parametrize(("kind", "same"), [("normal", False), ("skewed", False), ("normal", True)])
def test_a_rerun_of_a_suite_hardly_ever_alarms(kind, same):
    """Whether its cells are others, or the same with much of the noise in common."""
    rng = np.random.default_rng([same, kind == "normal"])
    count = 0
    for _ in range(RUNS):
        common = shared(kind, rng, ROWS) if same else None
        first, second = (run(kind, rng, key=key, common=common) for key in ("a", "a" if same else "b"))
        count += any(worse(accuracies(first, second)))
    assert bounds(count)[1] <= 0.06
    assert count > 0.01 * RUNS  # nor is it deaf


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("same", ["other cells", "the same cells", "the same cells and noise"])
def test_a_drop_as_large_as_printed_is_found_in_the_next_run(n, same):
    rng = np.random.default_rng([n, len(same)])
    rows, runs, found = [(n, 1.0), *ROWS], 400, 0
    key = "b" if same == "other cells" else "a"
    for _ in range(runs):
        common = shared("normal", rng, rows) if same == "the same cells and noise" else None
        first = run("normal", rng, rows, common=common)
        printed = accuracies(first, run("normal", rng, rows, key, common))[0].detectable
        found += worse(accuracies(first, run("normal", rng, rows, key, common, printed)))[0]
    assert found / runs >= 0.8


def rerun(rows, rng, drop=None, points=0.0):
    """Committed rows with other accuracies: around each row's mean, with its spread; some rows' lower."""
    values, made = {}, []
    for row in rows:
        if row["cell"]["kind"] == "evaluate":
            values.setdefault(place(row), []).append(row["result"]["accuracy"])
    for row in rows:
        if row["cell"]["kind"] == "evaluate":
            there = values[place(row)]
            spread = np.std(there, ddof=1) if len(there) > 1 else 0
            accuracy = (
                np.mean(there) + spread * rng.normal() - (points if row["tags"]["method"] == drop else 0)
            )
            made.append(
                {**row, "key": f"new {row['key']}", "result": {**row["result"], "accuracy": accuracy}}
            )
        else:
            made.append(row)
    return made


def place(row):
    return tuple(row["tags"][name] for name in ("method", "ipc", "recipe", "network"))


def test_reruns_of_a_committed_suite_are_the_same_or_better_and_printed_drops_are_found():
    """From rows to verdict, fewer times: tiny-cpu, with its own spreads."""
    rows, rng = rows_of(RESULTS / "tiny-cpu"), np.random.default_rng(0)
    alarms = sum(compare("tiny-cpu", rows, rerun(rows, rng)).outcome is Outcome.worse for _ in range(60))
    assert alarms <= 6
    printed = {each.about["method"]: each.detectable for each in compare("tiny-cpu", rows, rows).accuracy}
    found = 0
    for _ in range(40):
        checked = compare("tiny-cpu", rows, rerun(rows, rng, "DM", printed["DM"]))
        (dm,) = (each for each in checked.accuracy if each.about["method"] == "DM")
        found += dm.outcome is Outcome.worse
    assert found >= 0.8 * 40


def whole(sample):
    """A sample's seeds that have a result on each of its networks."""
    seeds = [seed for seed in sample.keys if all(seed in of for of in sample.by_network.values())]
    values = {network: {seed: of[seed] for seed in seeds} for network, of in sample.by_network.items()}
    return replace(sample, by_network=values, keys={seed: sample.keys[seed] for seed in seeds})


def again(sample, rng, noise, drop, key):
    """A rerun of a stored row: around its means, with its spread or with that of each of its networks."""
    seeds = [*sample.keys]
    spreads = [np.std([*of.values()], ddof=1) for of in sample.by_network.values()]
    if noise == "the row's":  # all networks go up and down together
        means = np.mean([[*of.values()] for of in sample.by_network.values()], axis=0)
        spreads = [np.std(means, ddof=1)] * len(spreads)
        fresh = np.tile(rng.normal(size=len(seeds)), (len(spreads), 1))
    else:
        fresh = rng.normal(size=(len(spreads), len(seeds)))
    values = {
        network: dict(zip(seeds, np.mean([*of.values()]) - drop + spread * row, strict=True))
        for (network, of), spread, row in zip(sample.by_network.items(), spreads, fresh, strict=True)
    }
    return replace(sample, by_network=values, keys={s: frozenset([key, *sample.keys[s]]) for s in seeds})


@pytest.mark.parametrize("noise", ["the row's", "its networks'"])
@pytest.mark.parametrize("folder", WITH_ROWS, ids=lambda folder: folder.name)
def test_printed_drops_of_every_committed_row_are_found_in_reruns(folder, noise):
    """What `check` prints of a suite and itself, in reruns with fresh noise of the spread stored."""
    every = {name: (about, whole(sample)) for name, (about, sample) in _samples(rows_of(folder)).items()}
    stored = {name: each for name, each in every.items() if len(each[1].keys) > 1}
    printed = {name: each.detectable for name, each in zip(stored, accuracies(stored, stored), strict=True)}
    rng, runs, found = np.random.default_rng(len(noise)), 50, dict.fromkeys(stored, 0)
    for run in range(runs):
        # Every other rerun is of the very same cells, where a paired test may take part.
        key = "" if run % 2 else "new"
        now = {
            name: (about, again(sample, rng, noise, printed[name], key))
            for name, (about, sample) in stored.items()
        }
        for name, each in zip(stored, accuracies(stored, now), strict=True):
            found[name] += each.change.p * len(stored) <= LEVEL  # as if it alone had dropped
    assert min(found.values()) >= 0.8 * runs


def said(differences):
    """Of each table, a comparison a row: whether a verdict says better or worse, as by :func:`verdicts`."""
    tables, comparisons, n = differences.shape
    signs = np.array(list(itertools.product((-1, 1), repeat=n)))
    flat = differences.reshape(-1, n)
    p = np.mean(np.abs(flat @ signs.T) >= np.abs(flat.sum(1, keepdims=True)) - 1e-9, axis=1)
    return (p.reshape(tables, comparisons).min(axis=1) * comparisons <= 0.05).astype(int)


#: Of tables without an effect, the share in percent that says better or worse, by number of comparisons and
#: pairs: what docs/tables.md tells its readers.
TOLD = {(1, 6): 7, (1, 8): 9, (1, 10): 10, (5, 8): 13, (5, 10): 16}


@pytest.mark.parametrize(("comparisons", "n"), TOLD)
def test_lopsided_differences_are_told_too_often_and_the_docs_say_how_often(comparisons, n):
    """An exponential less its mean: no effect on average, and yet the signs say one."""
    rng = np.random.default_rng([n, comparisons])
    shape = (1000, comparisons, n)
    even = sum(said(rng.normal(size=shape)).sum() for _ in range(5))
    lopsided = sum(said(rng.exponential(size=shape) - 1).sum() for _ in range(5))
    assert bounds(even)[1] <= 0.06
    assert 100 * lopsided / RUNS == pytest.approx(TOLD[comparisons, n], abs=1.2)
    text = (RESULTS.parent / "docs/tables.md").read_text()
    assert f"| {comparisons} | {n} | {TOLD[comparisons, n]}% |" in text


def test_the_fast_test_of_tables_is_that_of_verdicts():
    differences = np.random.default_rng(3).normal(0.7, 1, (40, 2, 8))
    expected = [
        any(
            str(each).startswith(("better", "worse"))
            for (each,) in verdicts([[row.tolist()] for row in table])
        )
        for table in differences
    ]
    assert said(differences).tolist() == expected
    assert 0 < sum(expected) < 40
