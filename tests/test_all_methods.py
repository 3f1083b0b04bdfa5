"""Every method through the whole house: planned with what it needs, run, killed, resumed, tabled, drawn."""

import copy
import json
from itertools import pairwise

import pytest
from command_line import TINY, finish, run_here, start, write_tables

from baselines import METHODS

RUN = ("run", "tiny", "--tables", "tables.yaml", "--device", "cpu")
TEACHER = {"network": "resnet18@w2@bn", "epochs": 2, "batch": 16}
GENERATOR = {"width": 8, "latent": 8, "dim": 8, "steps": 4, "batch": 6, "judge": TEACHER}
MTT = {"syn_steps": 2, "max_start_epoch": 1, "expert_epochs": 1, "batch_syn": 2}
EXPERTS = {"experts": 2, "expert": {"epochs": 1, "batch": 64}}
#: Each method's settings: as small as they can be with everything that they have in use.
SETTINGS = {
    "random": {},
    "dc": {"iterations": 2, "batch_real": 4, "outer": 2, "inner": 1},
    "dsa": {"iterations": 2, "batch_real": 4, "outer": 2, "inner": 1},
    "dm": {"iterations": 2, "batch_real": 4},
    "mtt": {"iterations": 2, **MTT, **EXPERTS, "pixels": "normalised"},
    "sre2l": {"iterations": 2},
    "glad": {
        "iterations": 2,
        "generator": "trained",
        "generator_settings": GENERATOR,
        "inner": {"batch_real": 4},
    },
    "glad(dc)": {
        "iterations": 2,
        "generator": "random",
        "generator_settings": {"width": 8},
        "inner": {"batch_real": 4},
    },
    "glad(mtt)": {
        "iterations": 2,
        "generator": "random",
        "generator_settings": {"width": 8},
        "inner": {**MTT, **EXPERTS},
    },
    "glad(sre2l)": {"iterations": 2, "generator": "random", "generator_settings": {"width": 8}},
}


def suite(seeds=1):
    """A row of each method, with its authors' recipe, shortened."""
    grid = []
    for method, settings in SETTINGS.items():
        evaluation = copy.deepcopy(TINY["evaluate"])
        evaluation["recipe"] = {"name": METHODS[method].settings.recipe, "epochs": 3}
        grid.append({"method": method, "settings": settings, "evaluate": evaluation})
    grid[-1]["ipc"] = grid[5]["ipc"] = [1, 2]
    return {
        **TINY,
        "protocol": "authors",
        "ipc": 2,
        "seeds": seeds,
        "grid": grid,
        "teacher": TEACHER,
        "tables": ["accuracy"],
        "figures": ["sets"],
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("all")
    write_tables(folder / "tables.yaml", tiny=suite())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METADD_CACHE", str(cache))
        done = finish(start(folder, *RUN), folder)
    assert (done.status, done.err) == (0, "")
    return folder


def rows(folder, kind):
    lines = (folder / "results/tiny/rows.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["cell"]["kind"] == kind]


def test_every_method_is_here():
    assert SETTINGS.keys() == METHODS.keys()


def test_each_method_has_a_row_that_says_what_it_rests_on(finished):
    table = (finished / "results/tiny/tables/accuracy.md").read_text()
    evaluated = {row["tags"]["method"] for row in rows(finished, "evaluate")}
    assert len(evaluated) == len(SETTINGS) + 1  # and random images with the same soft labels
    for method in evaluated:
        assert f"| {method} " in table
    assert "Random, same soft labels" in evaluated
    assert any("trained generator" in method for method in evaluated)
    assert any("untrained generator" in method for method in evaluated)
    for words in ("classifier resnet18@w2@bn (2 epochs), test accuracy", "2 experts convnet@w8 (1 epochs)"):
        assert words in table
    assert "trained generator (4 steps), of whose" in table


def test_what_several_methods_need_is_made_once(finished):
    made = [row["tags"]["what"] for row in rows(finished, "pretrain")]
    # The teacher also judges the generator's samples; MTT and GLaD (MTT) share experts.
    assert sorted(made) == ["classifier", "expert", "expert", "generator", "generator"]


def test_sets_of_one_and_two_images_share_their_first_part(finished):
    found = [row for row in rows(finished, "distil") if row["cell"]["method"] == "sre2l"]
    assert sorted(row["cell"]["part"] for row in found) == [0, 1]
    (first,) = (row for row in found if row["cell"]["part"] == 0)
    assert {tags["ipc"] for tags in (first["tags"], *first["also"])} == {1, 2}


def test_every_update_is_measured_and_every_loss_is_finite(finished):
    for row in rows(finished, "distil"):
        if row["cell"]["method"] != "random":
            assert row["cost"]["peak_live_bytes"] > 0
            assert row["cost"]["updates"] >= 2
            assert row["result"]["last_loss"] == pytest.approx(row["result"]["last_loss"])
        if "mtt" in row["cell"]["method"]:
            assert row["result"]["last_step_size"] > 0


def test_an_architecture_counts_as_seen_where_it_took_part(finished):
    seen = {row["tags"]["method"]: row["tags"]["seen"] for row in rows(finished, "evaluate")}
    assert seen["DM"]
    assert seen["MTT"]
    assert not seen["SRe2L"]  # its teacher is another network
    assert not seen["Random"]


def bits(folder):
    """Key, result and checksums of every row."""
    lines = map(json.loads, (folder / "results/tiny/rows.jsonl").read_text().splitlines())
    return {row["key"]: (row["result"], row["artifacts"]) for row in lines}


def test_stopped_again_and_again_ends_with_the_same_bits(finished, tmp_path, cache, monkeypatch, capfd):
    monkeypatch.setenv("METADD_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    write_tables(tmp_path / "tables.yaml", tiny=suite())
    taken_up, runs, status = set(), 0, 4
    while status == 4:
        done = run_here(monkeypatch, capfd, *RUN, "--time-limit", 0.2)
        status, runs = done.status, runs + 1
        taken_up |= {path.parts[-5] for path in tmp_path.glob("store/*/*/*.partial/*.pt")}
        assert runs < 300
    assert (done.status, done.err) == (0, "")
    assert taken_up >= {"pretrain", "distil", "evaluate"}
    assert bits(tmp_path) == bits(finished)


def test_a_second_seed_differs_and_the_first_does_not_change(finished, tmp_path, cache, monkeypatch):
    monkeypatch.setenv("METADD_CACHE", str(cache))
    folder = tmp_path / "two"
    folder.mkdir()
    write_tables(folder / "tables.yaml", tiny=suite(seeds=2))
    done = finish(start(folder, *RUN), folder)
    assert done.status == 0
    both, one = bits(folder), bits(finished)
    assert one.items() <= both.items()
    by_method = {}
    for row in rows(folder, "distil"):
        by_method.setdefault(row["cell"]["method"], []).append(row["artifacts"]["images.safetensors"])
    for sets in by_method.values():
        assert all(a != b for a, b in pairwise(sorted(sets)))
