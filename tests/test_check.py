"""The regression gate: what it calls worse, by rows alone, and how it ends."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from command_line import TINY, is_one_line, rekeyed, run_here, write_tables

from bench.cells import key_of
from bench.check import compare
from bench.checking.drops import change
from bench.checking.findings import MEMORY, Outcome
from bench.checking.moved import lines

METHODS = {"DM": 30.0, "DC": 25.0}


def made(seeds=6, methods=METHODS, device="A processor"):
    """Rows of a suite on CIFAR-10: each set distilled, and evaluated on two networks."""
    rows = []
    rng = np.random.default_rng(0)
    for method, mean in methods.items():
        for seed in range(seeds):
            tags = {"dataset": "cifar10", "ipc": 1, "protocol": "authors", "method": method, "plugin": "none"}
            tags |= {"recipe": "dsa", "distilled_on": "convnet", "seed": seed}
            rows.append(row("distil", tags, {"last_loss": 1.0}, 10**7, device, part=0))
            for network in ("convnet", "vgg11"):
                accuracy = round(mean + rng.normal(), 2)
                more = {"network": network, "evaluation_seed": 0, "seen": network == "convnet"}
                result = {"accuracy": accuracy, "test_images": 10_000}
                rows.append(row("evaluate", tags | more, result, 10**6, device))
    return rows


def row(kind, tags, result, peak, device, **cell):
    dataset = {"name": "cifar10", "content": "c0", "classes": 10, "size": 32}
    cell = {"kind": kind, "dataset": dataset, "name": [*tags.values()], **cell}
    return {
        "key": key_of(cell),
        "current": True,
        "tags": tags,
        "cell": cell,
        "result": result,
        "cost": {"peak_live_bytes": peak, "seconds": 1.0, "seconds_per_update": 0.5},
        "provenance": {
            "device": device,
            "device_kind": "cpu",
            "threads": 1,
            "versions": {"torch": "2"},
            "finished": "2026-01-02T03:04:05+00:00",
            "commit": "abc",
        },
        "artifacts": {},
    }


def moved(rows, points=0.0, other=True, **tags):
    """A copy whose evaluations with these tags are so many points better; of other cells, if so asked."""
    rows = copy.deepcopy(rows)
    for each in rows:
        if other:
            each |= rekeyed(each, other=True)
        if "accuracy" in each["result"] and tags.items() <= each["tags"].items():
            each["result"]["accuracy"] += points
    return rows


def text(found):
    return "\n".join(lines(found, "reference"))


def test_the_same_rows_are_the_same():
    found = compare("s", made(), made())
    assert found.outcome is Outcome.same_or_better
    assert [each.change.mean for each in found.accuracy] == [0, 0]
    assert (found.promised, found.differing, found.missing, found.notes) == (36, (), (), ())
    assert "Bits: 36 of 36 cells of equal key" in text(found)
    assert "Memory: 6 of 6 rows within 2%." in text(found)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_the_unpaired_test_is_scipy_s(n):
    rng = np.random.default_rng(n)
    old, new = rng.normal(50, 2, n), rng.normal(48, 2, n + 1)
    found = change(dict(enumerate(old)), dict(enumerate(new)), same_cells=False, step=0.01)
    expected = scipy.stats.ttest_ind(new, old, alternative="less")
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    two_sided = scipy.stats.ttest_ind(new, old).confidence_interval(0.95)
    assert found.interval == pytest.approx(tuple(two_sided), rel=1e-9)


def test_the_paired_test_is_scipy_s_and_shares_the_level():
    rng = np.random.default_rng(1)
    old = rng.normal(50, 5, 6)
    new = old - 0.5 + rng.normal(0, 0.2, 6)
    found = change(dict(enumerate(old)), dict(enumerate(new)), same_cells=True, step=0.01)
    paired = scipy.stats.ttest_rel(new, old, alternative="less").pvalue
    assert found.p == pytest.approx(2 * paired, rel=1e-9)
    assert paired < scipy.stats.ttest_ind(new, old, alternative="less").pvalue
    interval = scipy.stats.ttest_rel(new, old).confidence_interval(0.95)
    assert found.interval == pytest.approx(tuple(interval), rel=1e-9)
    assert len(change({0: 1.0, 1: 2.0, 2: 4.0}, {0: 2.0, 1: 2.5, 2: 4.0}, True, 0.01).tests) == 1  # too few


def test_by_hand():
    # Both have variance 1; 3 + 3 seeds; the error is sqrt(1/3 + 1/3).
    found = change({0: 1.0, 1: 2.0, 2: 3.0}, {3: 0.0, 4: 1.0, 5: 2.0}, False, 0.01)
    assert found.mean == -1
    assert found.tests[0].error == pytest.approx(np.sqrt(2 / 3))
    assert found.tests[0].degrees == 4
    assert change({0: 1.0}, {0: 2.0}, False, 0.01).tests == ()
    assert change({0: 1.0}, {}, False, 0.01) is None
    # Equal results are not taken for certainty: as if they spread by one test image.
    assert change({0: 1.0, 1: 1.0}, {0: 0.9, 1: 0.9}, False, 0.1).tests[0].error == pytest.approx(0.1)


def test_a_drop_is_worse_and_named():
    found = compare("s", made(), moved(made(), -4, method="DC"))
    assert found.outcome is Outcome.worse
    assert found.worse == ("accuracy: cifar10, IPC 1, DC, dsa",)
    dm, dc = found.accuracy
    assert dm.outcome is Outcome.same_or_better
    assert dc.change.mean == pytest.approx(-4)
    assert (dc.now.n, dc.p < 0.01) == (6, True)
    assert "**worse** |" in text(found)
    assert text(found).endswith("Worse: accuracy: cifar10, IPC 1, DC, dsa.")
    assert compare("s", made(), moved(made(), 4)).outcome is Outcome.same_or_better


def test_a_row_is_the_mean_over_its_networks_by_seed():
    rows = made(seeds=2)
    tested = [each for each in rows[:6] if "network" in each["tags"]]
    each = {(r["tags"]["network"], r["tags"]["seed"]): r["result"]["accuracy"] for r in tested}
    (first, *_) = compare("s", rows, rows).accuracy
    by_seed = [np.mean([each[network, seed] for network in ("convnet", "vgg11")]) for seed in (0, 1)]
    assert first.reference.mean == pytest.approx(np.mean(by_seed))
    assert first.reference.std == pytest.approx(np.std(by_seed, ddof=1))


def test_p_are_adjusted_over_the_rows():
    found = compare("s", made(), moved(made(), -1, method="DC"))
    dc = found.accuracy[1]
    assert dc.p == pytest.approx(2 * dc.change.p)
    alone = compare("s", made(methods={"DC": 25.0}), moved(made(methods={"DC": 25.0}), -1)).accuracy[0]
    assert alone.p == alone.change.p
    assert alone.detectable / alone.change.tests[0].error < dc.detectable / dc.change.tests[0].error


def test_noise_that_cancels_between_networks_does_not_make_the_smallest_drop_smaller():
    rows = made(methods={"DM": 30.0})
    values = {"convnet": [28.0, 32.0, 29.0, 31.0, 30.0, 30.0], "vgg11": [32.0, 28.0, 31.0, 29.0, 30.0, 30.3]}
    for each in rows:
        if "accuracy" in each["result"]:
            each["result"]["accuracy"] = values[each["tags"]["network"]][each["tags"]["seed"]]
    (row,) = compare("s", rows, rows).accuracy
    (test,) = row.change.tests
    error = lambda of: np.std(of, ddof=1) * np.sqrt(2 / 6)  # noqa: E731
    assert test.error == pytest.approx(error(np.mean([*values.values()], axis=0)))
    assert test.apart == pytest.approx(np.hypot(*map(error, values.values())) / 2)
    alone = change(dict.fromkeys(range(6), 30.0), dict(enumerate(values["convnet"])), False, 0.01)
    assert row.detectable / test.apart == pytest.approx(alone.detectable(1) / alone.tests[0].error)
    # Where all networks go up and down together the row's own spread is larger.
    for each in rows:
        if "accuracy" in each["result"]:
            each["result"]["accuracy"] = values["convnet"][each["tags"]["seed"]]
    (row,) = compare("s", rows, rows).accuracy
    (test,) = row.change.tests
    assert test.apart == pytest.approx(test.error / np.sqrt(2))
    assert row.detectable / test.error == pytest.approx(alone.detectable(1) / alone.tests[0].error)


def test_one_seed_can_tell_nothing():
    found = compare("s", made(seeds=1), moved(made(seeds=1), -10))
    assert found.outcome is Outcome.cannot_tell
    assert "Cannot tell: no row has the seeds" in text(found)
    assert "none" in text(found)
    assert found.outcome.value == 3


def test_where_not_even_a_drop_to_chance_would_be_found_nothing_can_be_told():
    few = made(seeds=2, methods={"DM": 10.0})
    found = compare("s", few, moved(few, -0.5))
    assert found.outcome is Outcome.cannot_tell
    assert "0 of 1 rows can be judged" in text(found)
    assert all(each.detectable > each.room for each in found.accuracy)
    assert [each.room for each in found.accuracy] == [each.reference.mean - 10 for each in found.accuracy]


def test_a_missing_cell_is_always_worse():
    rows = made()
    for i in range(len(rows)):
        found = compare("s", rows, rows[:i] + rows[i + 1 :])
        assert found.outcome is Outcome.worse
        assert len(found.missing) == 1
    (name,) = found.missing
    assert name == "evaluate, cifar10, ipc 1, authors, DC, dsa, convnet, vgg11, seed 5, evaluation_seed 0"
    more = compare("s", rows[1:], rows)
    assert more.outcome is Outcome.same_or_better
    assert "1 cells are new" in more.notes[0]


def test_parts_and_cells_of_one_name_are_counted():
    rows = made()
    twice = [*rows, {**rows[0], "key": "another"}]
    assert len(compare("s", twice, rows).missing) == 1
    part = {**rows[0], "cell": {**rows[0]["cell"], "part": 1}}
    assert compare("s", [*rows, part], rows).missing[0].endswith("seed 0, part 1")


@pytest.mark.parametrize("place", range(0, 36, 5))
def test_a_tenth_more_memory_is_always_worse_wherever_it_is(place):
    rows = made()
    rows[place]["cost"]["peak_live_bytes"] *= 1.1
    found = compare("s", made(), rows)
    assert found.outcome is Outcome.worse
    assert len(found.worse) == 1
    assert found.worse[0].startswith("memory: ")
    assert "more: " in text(found)
    assert "(x 1.100)" in text(found)


def test_within_the_tolerance_memory_is_the_same_and_less_is_told():
    rows = made()
    for each in rows:
        each["cost"]["peak_live_bytes"] *= MEMORY - 0.001
    assert compare("s", made(), rows).outcome is Outcome.same_or_better
    for each in rows:
        each["cost"]["peak_live_bytes"] /= 2
    found = compare("s", made(), rows)
    assert found.outcome is Outcome.same_or_better
    assert "Memory: 0 of 6 rows within 2%:" in text(found)
    assert "- less: distil, cifar10" in text(found)


def test_a_peak_that_is_no_longer_measured_is_missing_but_not_on_another_device():
    rows = made()
    del rows[0]["cost"]["peak_live_bytes"]
    assert compare("s", made(), rows).missing[0].endswith("seed 0: its memory")
    rows[0]["provenance"]["device_kind"] = "cuda"
    rows[0]["cost"]["peak_allocated_bytes"] = 10**9
    assert compare("s", made(), rows).outcome is Outcome.same_or_better


def test_time_is_told_and_judged_only_where_asked_and_on_the_same_device():
    rows = made()
    for each in rows:
        each["cost"]["seconds_per_update"] *= 2
    found = compare("s", made(), rows)
    assert found.outcome is Outcome.same_or_better
    assert "told, not judged): 0 of 6 rows within 25%" in text(found)
    assert "(x 2.000)" in text(found)
    assert compare("s", made(), rows, slower=1.5).outcome is Outcome.worse
    assert compare("s", made(), rows, slower=3).outcome is Outcome.same_or_better
    for each in rows:
        each["provenance"]["device"] = "Another processor"
    elsewhere = compare("s", made(), rows, slower=1.5)
    assert elsewhere.outcome is Outcome.same_or_better
    assert elsewhere.time == ()
    assert elsewhere.notes == ("Made on Another processor; the reference on A processor.",)


def test_bits_that_are_promised_and_differ_are_told():
    rows = moved(made(), 0.01, other=False, seed=3, network="vgg11", method="DM")
    found = compare("s", made(), rows)
    assert found.outcome is Outcome.same_or_better
    assert len(found.differing) == 1
    assert "Bits: 35 of 36" in text(found)
    assert "They should be, and are not: evaluate, cifar10, ipc 1, authors, DM" in text(found)
    for each in rows:
        each["provenance"]["threads"] = 2
    assert compare("s", made(), rows).promised == 0


def test_other_images_are_told():
    rows = copy.deepcopy(made())
    for each in rows:
        each["cell"]["dataset"]["content"] = "c1"
    assert "`cifar10` has other content" in text(compare("s", made(), rows))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tables(tmp_path / "t.yaml", tiny={**TINY, "tables": ["accuracy"]})
    publish(made())
    return tmp_path


def publish(rows):
    path = Path("results/tiny/rows.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))


def checked(monkeypatch, capfd, *more):
    return run_here(monkeypatch, capfd, "check", "tiny", "--tables", "t.yaml", *more)


def test_from_the_first_reference_to_an_accepted_drop(folder, monkeypatch, capfd):
    is_one_line(checked(monkeypatch, capfd), "reference/tiny: no reference", "--update --reason TEXT")
    other = checked(monkeypatch, capfd, "--against", "other")
    is_one_line(other, "check tiny --results results --against other --update --reason TEXT")
    is_one_line(checked(monkeypatch, capfd, "--update"), "--reason: say why")
    assert checked(monkeypatch, capfd, "--update", "--reason", "the first").status == 0
    assert checked(monkeypatch, capfd).status == 0
    publish([*moved(made(), -5, method="DM"), {**rekeyed(made()[0], old=True), "current": False}])
    done = checked(monkeypatch, capfd)
    assert (done.status, done.err) == (1, "")
    assert "### Check of tiny against results/reference: worse" in done.out
    done = checked(monkeypatch, capfd, "--update", "--reason", "a simpler\nloss")
    assert done.status == 0
    assert "**worse**" in done.out
    assert checked(monkeypatch, capfd).status == 0
    log = (folder / "results/reference/tiny/accepted.jsonl").read_text().splitlines()
    first, second = map(json.loads, log)
    assert first == {
        "reason": "the first",
        "cells": 36,
        "commit": "abc",
        "finished": "2026-01-02T03:04:05+00:00",
        "outcome": "first reference",
        "worse": [],
    }
    assert (second["reason"], second["outcome"]) == ("a simpler loss", "worse")
    assert second["worse"] == ["accuracy: cifar10, IPC 1, DM, dsa"]
    kept = (folder / "results/reference/tiny/rows.jsonl").read_text().splitlines()
    assert len(kept) == 36


def test_too_few_seeds_end_with_three(folder, monkeypatch, capfd):
    publish(made(seeds=1))
    assert checked(monkeypatch, capfd, "--update", "--reason", "few").status == 0
    assert checked(monkeypatch, capfd).status == 3


def test_mistakes_are_one_line(folder, monkeypatch, capfd):
    is_one_line(run_here(monkeypatch, capfd, "check", "tinny", "--tables", "t.yaml"), "did you mean 'tiny'")
    is_one_line(checked(monkeypatch, capfd, "--slower", "0.9"), "--slower 0.9: more than 1")
    is_one_line(checked(monkeypatch, capfd, "--reason", "x"), "only --update takes one")
    is_one_line(checked(monkeypatch, capfd, "--update", "--reason", " "), "--reason: say why")
    is_one_line(checked(monkeypatch, capfd, "--results", "nowhere"), "nowhere/tiny: no rows")
