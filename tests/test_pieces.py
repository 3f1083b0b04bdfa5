"""Runs in pieces: what matters most first, and carried to another machine halfway, to the same bits."""

import json
import re
import shutil

import pytest
from command_line import TINY, finish, run_here, start, suite, write_tables
from test_plan import identify
from test_resume import RUN, bits, nothing_left, written

from bench.errors import UserError
from bench.plan import plan
from bench.spec import Suite


@pytest.fixture(scope="module")
def at_once(tmp_path_factory, cache):
    """The folder of one run from start to end."""
    folder = written(tmp_path_factory.mktemp("at_once"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METADD_CACHE", str(cache))
        assert finish(start(folder, *RUN), folder).status == 0
    return folder


def carried(here, there, monkeypatch, capfd, largest="64KiB"):
    """Pack all that is in one folder, and unpack it in another."""
    for folder, verb in ((here, "pack"), (there, "unpack")):
        monkeypatch.chdir(folder)
        done = run_here(
            monkeypatch, capfd, verb, here / "a.pack", *(["--max-size", largest] * (folder == here))
        )
        assert (done.status, done.err) == (0, "")
    return done.out


def test_pieces_carried_halfway_give_the_bits_of_one_run(at_once, tmp_path, monkeypatch, capfd):
    first, second = written(tmp_path / "first"), written(tmp_path / "second")
    ends = []
    for folder, limit in ((first, 0), (first, 0.001), (first, 0.03), (second, 0.001), (second, 0.05)):
        if folder == second and not (second / "store").exists():
            assert re.search("[1-9] checkpoints", carried(first, second, monkeypatch, capfd))
            shutil.rmtree(first)
        ends.append(finish(start(folder, *RUN, "--time-limit", limit), folder).status)
    last = finish(start(second, *RUN), second)
    assert (ends, last.status, last.err) == ([4] * 5, 0, "")
    assert bits(second) == bits(at_once)
    assert nothing_left(second)


@pytest.mark.slow
def test_smoke_in_pieces_of_twenty_seconds(tmp_path, monkeypatch, capfd):
    """The whole of it: half an hour and more on one core."""
    run = ("run", "smoke", "--device", "cpu")
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    assert finish(start(whole, *run), whole, seconds=3600).status == 0
    pieces, folder, status = 0, first, 4
    while status == 4:
        status = finish(start(folder, *run, "--time-limit", 20), folder).status
        pieces += 1
        if pieces == 15:  # about halfway
            second.mkdir()
            carried(first, second, monkeypatch, capfd, "4MiB")
            shutil.rmtree(first)
            folder = second

    def published(where):
        rows = map(json.loads, (where / "results/smoke/rows.jsonl").read_text().splitlines())
        return [{name: row[name] for name in ("key", "result", "artifacts", "tags")} for row in rows]

    print(f"{pieces} pieces")
    assert (status, pieces > 15) == (0, True)
    assert published(second) == published(whole)


# What comes first.

GRID = [{"method": "dm", "settings": {"iterations": 1}}, {"method": "sre2l"}]


def planned(**changes):
    teacher = {"network": "convnet@w8@bn", "epochs": 1}
    given = suite(ipc=[1, 2], seeds=2, grid=GRID, teacher=teacher, **changes)
    return plan("tiny", Suite.model_validate(given), identify)


def order(found):
    """Kind, method, IPC and seed of the cells, in the order in which they are made."""
    made, seen = found.by_importance(), set()
    assert sorted(item.cell.key for item in made) == sorted(found.planned)
    for item in made:
        assert set(item.cell.needs) <= seen
        seen.add(item.cell.key)
    return [(item.cell.kind, *(item.tags.get(tag) for tag in ("method", "ipc", "seed"))) for item in made]


def test_nothing_said_means_the_order_of_the_grid():
    found = planned()
    assert [item.cell.key for item in found.by_importance()] == list(found.planned)


def test_what_is_said_comes_first_in_its_order_with_what_it_needs():
    first = [{"method": "SRe2L", "ipc": 2, "seed": 1}, {"method": "DM", "ipc": [2], "seed": [0, 1]}]
    made = order(planned(first=first))
    assert made[0] == ("pretrain", None, None, None)
    assert [kind for kind, *_ in made[1:4]] == ["distil", "distil", "evaluate"]
    dm = [(kind, "DM", 2, seed) for seed in (0, 1) for kind in ("distil", "evaluate")]
    assert made[4:8] == dm
    rest = [cell for cell in order(planned()) if cell not in made[:8]]
    assert [cell for cell in made[8:] if cell in rest] == rest


def test_what_is_needed_late_is_made_late():
    made = order(planned(first=[{"method": "DM"}]))
    assert made.index(("pretrain", None, None, None)) == 8


def test_a_narrowed_plan_keeps_the_order():
    found = planned(first=[{"method": "DM", "seed": 1}, {"ipc": 2}]).only({"method": "DM", "ipc": "1"})
    assert order(found) == [(kind, "DM", 1, seed) for seed in (1, 0) for kind in ("distil", "evaluate")]


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ([{"metod": "DM"}], r"suites\.tiny\.first\.0: no such key 'metod'; did you mean 'method'"),
        ([{"ipc": 1}, {"method": "DC"}], r"suites\.tiny\.first\.1: no cell of the suite"),
        ([{"method": "DM", "ipc": 3}], r"suites\.tiny\.first\.0: no cell"),
    ],
)
def test_a_selection_that_says_nothing_is_a_mistake(first, words):
    with pytest.raises(UserError, match=words):
        planned(first=first)


@pytest.mark.parametrize("first", [[{}], [{"ipc": []}], {"ipc": 1}, [{"ipc": {"is": 1}}], [{"ipc": None}]])
def test_a_selection_is_tags_with_values(first):
    with pytest.raises(ValueError, match="first"):
        planned(first=first)


def test_a_run_makes_what_comes_first_first(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_tables(tmp_path / "tables.yaml", tiny={**TINY, "seeds": 3, "first": [{"seed": 2}]})
    watched = []

    class Stop(Exception):
        pass

    def distil(cell, context):
        watched.append(cell.seed)
        raise Stop

    monkeypatch.setattr("bench.runner.distill.run", distil)
    with pytest.raises(Stop):
        run_here(monkeypatch, capfd, *RUN)
    assert watched == [2]


def test_a_suite_on_several_datasets_has_the_cells_of_each():
    both = planned(dataset=["digits[3]", "cifar10"])
    assert len(both) == len(planned(dataset="digits[3]")) + len(planned(dataset="cifar10"))
    assert set(both.planned) == {*planned(dataset="digits[3]").planned, *planned(dataset=["cifar10"]).planned}
    assert set(both.sources.values()) == {"digits[3]", "cifar10"}
