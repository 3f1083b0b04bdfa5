"""``run --evaluate-together``: rows of networks trained at once, and of those that cannot be."""

import math
import shutil
from contextlib import ExitStack

import pytest
import torch
from command_line import TINY, rows, run_here, suite, write_tables
from test_resume import nothing_left

from bench import runner
from bench.api import open_suite
from bench.stages import Context, OutOfTime, checkpoint, evaluate, together
from bench.training.ensembles import Ensemble
from bench.walk import Silent

pytestmark = pytest.mark.usefixtures("one_thread")

EVALUATE = {**TINY["evaluate"], "recipe": {"name": "dsa", "epochs": 4}, "seeds": 3}
SUITE = suite(grid=[{"method": "random"}], evaluate=EVALUATE)


def run(monkeypatch, capfd, folder, *options, made=SUITE):
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    write_tables(folder / "tables.yaml", tiny=made)
    return run_here(monkeypatch, capfd, "run", "tiny", "--tables", "tables.yaml", "--device", "cpu", *options)


def evaluated(folder):
    """The rows of evaluations, by evaluation seed."""
    found = (row for row in rows(folder) if row["cell"]["kind"] == "evaluate")
    return {row["cell"]["evaluation_seed"]: row for row in found}


def said(folder, name):
    return [row["cost"].get(name) for row in evaluated(folder).values()]


def results(folder):
    return {seed: row["result"] for seed, row in evaluated(folder).items()}


@pytest.fixture(scope="module")
def both(tmp_path_factory, cache):
    """The folders of a run one by one, and of one together."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METADD_CACHE", str(cache))
        for name, further in (("alone", []), ("together", ["--evaluate-together", "3"])):
            folder = tmp_path_factory.mktemp(name)
            patch.chdir(folder)
            write_tables(folder / "tables.yaml", tiny=SUITE)
            arguments = ["metadd-bench", "run", "tiny", "--tables", "tables.yaml", "--device", "cpu"]
            patch.setattr("sys.argv", [*arguments, *further])
            from bench import cli

            with pytest.raises(SystemExit) as end:
                cli.main()
            assert not end.value.code
            found.append(folder)
    return found


def test_rows_are_those_of_one_by_one_but_for_rounding(both):
    alone, at_once = map(evaluated, both)
    assert list(at_once) == list(alone) == [0, 1, 2]
    for seed, row in at_once.items():
        assert (row["key"], row["cell"], row["tags"]) == tuple(
            alone[seed][name] for name in ("key", "cell", "tags")
        )
        assert row["result"].keys() == alone[seed]["result"].keys()
        assert row["result"]["train_loss"] == pytest.approx(alone[seed]["result"]["train_loss"], rel=1e-3)
        assert abs(row["result"]["correct"] - alone[seed]["result"]["correct"]) <= 1
        assert row["cost"]["updates"] == alone[seed]["cost"]["updates"] == 4
        assert row["cost"]["peak_live_bytes"] > 1.5 * alone[seed]["cost"]["peak_live_bytes"]
        assert 0 < row["cost"]["seconds_per_update"] < row["cost"]["seconds"]
    assert len({row["result"]["train_loss"] for row in at_once.values()}) == 3


def test_rows_say_how_they_were_made(both):
    alone, at_once = both
    assert (said(alone, "together"), said(at_once, "together")) == ([None] * 3, [3] * 3)
    commands = [row["provenance"]["command"] for row in evaluated(at_once).values()]
    assert commands == ["metadd-bench run tiny --device cpu --evaluate-together 3"] * 3
    assert len(set(said(at_once, "seconds"))) == 1  # an equal part of what all took
    assert nothing_left(at_once)


def test_what_is_finished_is_left_out(monkeypatch, capfd, tmp_path, both):
    one = suite(grid=[{"method": "random"}], evaluate={**EVALUATE, "seeds": 1})
    run(monkeypatch, capfd, tmp_path, "--evaluate-together", 5, made=one)
    done = run(monkeypatch, capfd, tmp_path, "--evaluate-together", 5)
    assert (done.status, done.out.splitlines()[-1].partition(" — ")[0]) == (
        0,
        "4 cells: 2 hits, 2 made, 0 failed",
    )
    assert said(tmp_path, "together") == [None, 2, 2]
    assert results(tmp_path)[0] == results(both[0])[0]


def refuses(self):
    raise RuntimeError("vmap: no\nand more")


def has_no_room(self):
    raise torch.OutOfMemoryError("too much\nby far")


@pytest.mark.parametrize(
    ("where", "broken", "reason"),
    [
        ("try_one_step", refuses, "vmap: no"),
        ("try_one_step", has_no_room, "too much"),
        ("epoch", has_no_room, "out of memory on the GPU: too much"),
    ],
)
def test_what_cannot_be_trained_together_is_made_one_by_one(
    monkeypatch, capfd, tmp_path, both, where, broken, reason
):
    tries, work = [], together.run
    monkeypatch.setattr(Ensemble, where, broken)
    monkeypatch.setattr(together, "run", lambda *given: (tries.append(given), work(*given))[1])
    done = run(monkeypatch, capfd, tmp_path, "--evaluate-together", 3)
    assert (done.status, done.err, len(tries)) == (0, "", 1)
    assert said(tmp_path, "together") == [None] * 3
    assert [text.startswith(reason) for text in said(tmp_path, "alone")] == [True] * 3
    assert results(tmp_path) == results(both[0])
    assert nothing_left(tmp_path)


def test_one_that_diverges_fails_alone(monkeypatch, capfd, tmp_path, both):
    fresh = evaluate.Lesson.training

    def spoilt(self, cell):
        training = fresh(self, cell)
        if cell.evaluation_seed == 1:
            next(training.network.parameters()).data.fill_(math.nan)
        return training

    monkeypatch.setattr(evaluate.Lesson, "training", spoilt)
    done = run(monkeypatch, capfd, tmp_path, "--evaluate-together", 3)
    assert done.status == 1
    assert "convnet@w8 diverged by epoch 4 (loss nan)" in done.err + done.out
    assert said(tmp_path, "together") == [3, 3]
    assert list(evaluated(tmp_path)) == [0, 2]
    for seed, result in results(tmp_path).items():
        assert result == pytest.approx(results(both[1])[seed], rel=1e-6)


def test_pieces_give_the_bits_of_one_run(monkeypatch, capfd, tmp_path, both):
    """One epoch a run, as with a time limit that ends there; each leaves a checkpoint of every member."""

    def stop(self, save):
        save()
        raise OutOfTime

    shutil.copytree(both[1] / "store/distil", tmp_path / "store/distil")
    with monkeypatch.context() as patch:
        patch.setattr(Context, "may_stop", stop)
        for piece in (1, 2, 3):
            assert run(monkeypatch, capfd, tmp_path, "--evaluate-together", 3).status == 4
            left = tmp_path.glob("store/evaluate/*/*.partial/checkpoint.pt")
            states = [torch.load(path, weights_only=True) for path in left]
            assert [(state["epochs_done"], state["together"]) for state in states] == [(piece, 3)] * 3
            assert not list(tmp_path.glob("store/evaluate/*/*/row.json"))
    assert run(monkeypatch, capfd, tmp_path, "--evaluate-together", 3).status == 0
    assert results(tmp_path) == results(both[1])
    assert said(tmp_path, "together") == [3] * 3
    assert nothing_left(tmp_path)


@pytest.fixture
def walk(monkeypatch, tmp_path, both):
    """A walk through the suite whose set is made, and its three evaluations."""
    monkeypatch.chdir(tmp_path)
    write_tables(tmp_path / "tables.yaml", tiny=SUITE)
    opened = open_suite("tiny", tables=tmp_path / "tables.yaml")
    options = runner.Options(None, torch.device("cpu"), "test", together=3)
    found = runner._Walk(opened.plan, opened.store, options, Silent())
    return found, [item for item in opened.plan if item.cell.kind == "evaluate"]


def group(walk, items):
    with ExitStack() as claims:
        found = [item.cell.evaluation_seed for item in walk._group(items[0], claims)]
        states = {item.cell.evaluation_seed: str(walk.store.state(item.cell)) for item in items}
    assert [seed for seed, state in states.items() if state == "running"] == found[1:]
    assert all(walk.store.state(item.cell) != "running" for item in items)
    return found


def test_a_group_is_what_is_free(walk):
    walk, items = walk
    assert group(walk, items) == [0, 1, 2]
    with walk.store.claim(items[1].cell), ExitStack() as claims:
        assert [item.cell.evaluation_seed for item in walk._group(items[0], claims)] == [0, 2]
    walk.store.fail(items[2].cell, "no")
    assert group(walk, items) == [0, 1]


def test_a_group_has_checkpoints_of_one_epoch(walk):
    walk, items = walk
    for item, epochs in zip(items, (2, 1, 2), strict=True):
        checkpoint.save(walk.store.partial(item.cell), {"epochs_done": epochs, "network": torch.zeros(3)})
    assert group(walk, items) == [0, 2]
