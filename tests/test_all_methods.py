"""Every method through the whole house: planned with what it needs, run, stopped, resumed, tabled, drawn."""

import json
from itertools import pairwise

import pytest
import torch
from command_line import finish, run_here, start, write_tables
from every_method import PLUGGED, RUN, SETTINGS, suite
from safetensors.torch import load_file

from baselines import METHODS
from bench.networks.build import build


def rows(folder, kind):
    lines = (folder / "results/tiny/rows.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["cell"]["kind"] == kind]


def test_every_method_is_here():
    assert SETTINGS.keys() == METHODS.keys()


def test_each_method_has_a_row_that_says_what_it_rests_on(every_method):
    table = (every_method / "results/tiny/tables/accuracy.md").read_text()
    evaluated = {row["tags"]["method"] for row in rows(every_method, "evaluate")}
    plugged = {label for label in evaluated if label.endswith(" + MetaDD")}
    assert len(plugged) == len(PLUGGED)
    assert len(evaluated - plugged) == len(SETTINGS) + 1  # and random images with the same soft labels
    for method in evaluated:
        assert f"| {method} " in table
    assert "Random, same soft labels" in evaluated
    assert any("trained generator" in method for method in evaluated)
    assert any("untrained generator" in method for method in evaluated)
    for words in ("classifier resnet18@w2@bn (1 epochs), test accuracy", "2 experts convnet@w8 (1 epochs)"):
        assert words in table
    assert "trained generator (4 steps), of whose" in table


def test_what_several_methods_need_is_made_once(every_method):
    made = [row["tags"]["what"] for row in rows(every_method, "pretrain")]
    # The teacher also judges the generator's samples and is one of MetaDD's two networks; MTT and GLaD (MTT)
    # share experts.
    assert sorted(made) == ["classifier", "classifier", "expert", "expert", "generator", "generator"]


def test_sets_of_one_and_two_images_share_their_first_part(every_method):
    found = [row for row in rows(every_method, "distil") if row["cell"]["method"] == "sre2l"]
    found = [row for row in found if row["tags"]["plugin"] == "none"]
    assert sorted(row["cell"]["part"] for row in found) == [0, 1]
    (first,) = (row for row in found if row["cell"]["part"] == 0)
    assert {tags["ipc"] for tags in (first["tags"], *first["also"])} == {1, 2}


def test_every_update_is_measured_and_every_loss_is_finite(every_method):
    for row in rows(every_method, "distil"):
        if row["cell"]["method"] != "random":
            assert row["cost"]["peak_live_bytes"] > 0
            assert row["cost"]["updates"] >= 2
            assert row["result"]["last_loss"] == pytest.approx(row["result"]["last_loss"])
        if "mtt" in row["cell"]["method"]:
            assert row["result"]["last_step_size"] > 0


def test_an_architecture_counts_as_seen_where_it_took_part(every_method):
    seen = {row["tags"]["method"]: row["tags"]["seen"] for row in rows(every_method, "evaluate")}
    assert seen["DM"]
    assert seen["MTT"]
    assert not seen["SRe2L"]  # its teacher is of another architecture
    assert not seen["DM over 2 architectures"]  # neither of them is the one that all are evaluated on
    assert not seen["Real images"]
    assert not seen["Random"]


def bits(folder):
    """Key, result and checksums of every row."""
    lines = map(json.loads, (folder / "results/tiny/rows.jsonl").read_text().splitlines())
    return {row["key"]: (row["result"], row["artifacts"]) for row in lines}


def test_stopped_again_and_again_ends_with_the_same_bits(every_method, tmp_path, cache, monkeypatch, capfd):
    monkeypatch.setenv("METADD_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    write_tables(tmp_path / "tables.yaml", tiny=suite())
    taken_up, runs, status = set(), 0, 4
    while status == 4:
        done = run_here(monkeypatch, capfd, *RUN, "--time-limit", 0.5)
        status, runs = done.status, runs + 1
        taken_up |= {path.parts[-4] for path in tmp_path.glob("store/*/*/*.partial/*.pt")}
        assert runs < 300
    assert (done.status, done.err) == (0, "")
    assert taken_up >= {"pretrain", "distil", "evaluate"}
    assert bits(tmp_path) == bits(every_method)


def test_a_second_seed_differs_and_the_first_does_not_change(every_method, tmp_path, cache, monkeypatch):
    monkeypatch.setenv("METADD_CACHE", str(cache))
    folder = tmp_path / "two"
    folder.mkdir()
    write_tables(folder / "tables.yaml", tiny=suite(seeds=2))
    done = finish(start(folder, *RUN), folder)
    assert done.status == 0
    both, one = bits(folder), bits(every_method)
    assert one.items() <= both.items()
    by_method = {}
    for row in rows(folder, "distil"):
        by_method.setdefault(row["cell"]["method"], []).append(row["artifacts"]["images.safetensors"])
    for sets in by_method.values():
        assert all(a != b for a, b in pairwise(sorted(sets)))


def test_experts_made_elsewhere_are_used_and_planned_by_their_content(
    every_method, tmp_path, monkeypatch, capfd
):
    """The authors' replay buffers: lists of experts, of snapshots, of parameters."""
    (trajectory, *_) = sorted(every_method.glob("store/pretrain/*/*/trajectory.safetensors"))
    flat = load_file(trajectory)["parameters"]
    shapes = [p.shape for p in build("convnet@w8", 3, 32).parameters()]
    sizes = [shape.numel() for shape in shapes]
    snapshots = [
        [part.reshape(shape).clone() for part, shape in zip(one.split(sizes), shapes, strict=True)]
        for one in flat
    ]
    folder = tmp_path / "buffers"
    folder.mkdir()
    torch.save([snapshots], folder / "replay_buffer_0.pt")
    monkeypatch.chdir(tmp_path)
    block = {"method": "mtt", "settings": {**SETTINGS["mtt"], "experts_from": f"file:{folder}"}}
    block["settings"]["expert"] = {}
    small = {**suite(), "ipc": 1, "grid": [block], "teacher": {}, "figures": []}
    write_tables(tmp_path / "tables.yaml", tiny=small)
    done = run_here(monkeypatch, capfd, *RUN)
    assert (done.status, done.err) == (0, "")
    assert "| MTT " in done.out
    (row,) = rows(tmp_path, "distil")
    assert not rows(tmp_path, "pretrain")
    assert str(folder) not in json.dumps(row["cell"])
    assert row["cell"]["uses"]["experts"][0].startswith("file:")
