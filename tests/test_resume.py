"""Killed, stopped and doubled runs end with the bits of one that nobody disturbed."""

import json
import os
import random
import shutil
import signal
import time

import pytest
import torch
from command_line import finish, run_here, snapshot, start, suite, write_tables

RUN = ("run", "tiny", "--tables", "tables.yaml", "--device", "cpu")
ALWAYS = ("--checkpoint-every", 0)
SUITE = suite(
    grid=[
        {"method": "dm", "settings": {"iterations": 30, "batch_real": 4}},
        {"method": "full"},
    ],
    evaluate={
        "networks": ["convnet@w8"],
        "recipe": {"name": "dsa", "epochs": 8},
        "test_per_class": 10,
        "seeds": 2,
    },
    tables=["accuracy"],
)
CELLS = 5


def written(folder):
    folder.mkdir(exist_ok=True)
    write_tables(folder / "tables.yaml", tiny=SUITE)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
    """The folder of a run from start to end."""
    folder = written(tmp_path_factory.mktemp("undisturbed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METADD_CACHE", str(cache))
        done = finish(start(folder, *RUN), folder)
    assert (done.status, done.err) == (0, "")
    assert f"{CELLS} cells: 0 hits, {CELLS} made, 0 failed" in done.out
    return folder


def bits(folder):
    """What has to be the same: cell and result of each published row, each artifact, the table."""
    rows = [json.loads(line) for line in (folder / "results/tiny/rows.jsonl").read_text().splitlines()]
    assert all(row["current"] for row in rows)
    said = [
        {name: row[name] for name in ("key", "cell", "result", "artifacts", "tags", "current")}
        for row in rows
    ]
    files = [*folder.glob("store/*/*/*/*.safetensors"), *folder.glob("store/*/*/*/*.png")]
    files += [*folder.glob("results/tiny/sets/*/*"), *folder.glob("results/tiny/tables/*")]
    assert len(files) == 2 + 2 + 2
    stored = [json.loads(path.read_text()) for path in folder.glob("store/*/*/*/row.json")]
    assert {row["key"]: row["result"] for row in stored} == {row["key"]: row["result"] for row in rows}
    return said, {str(path.relative_to(folder)): path.read_bytes() for path in files}


def nothing_left(folder):
    """Whether finished cells and their locks are all that a store holds."""
    names = {path.name for path in folder.glob("store/*/*/*")}
    return not any(name.startswith(".") or name.endswith((".partial", ".failed.json")) for name in names)


def wait_for(process, something):
    """Wait until ``something()`` is true while the process lives."""
    while process.is_alive() and not something():
        time.sleep(0.002)
    return process.is_alive()


def test_killed_at_three_moments(undisturbed, tmp_path):
    folder, rng = written(tmp_path / "killed"), random.Random(7)

    def checkpoints():
        return {(str(p), p.stat().st_mtime_ns) for p in folder.glob("store/*/*/*.partial/*.pt") if p.exists()}

    kills, wanted = [], ["distil", "evaluate", "evaluate"]
    for kind in wanted:
        process = start(folder, *RUN, *ALWAYS)
        before = checkpoints()
        wait_for(
            process, lambda kind=kind, seen=before: any(f"/{kind}/" in p for p, _ in checkpoints() - seen)
        )
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        kills.append(process.exitcode)
    assert kills[:2] == [-signal.SIGKILL] * 2  # the third may have come too late
    done = finish(start(folder, *RUN, *ALWAYS), folder)
    assert (done.status, done.err) == (0, "")
    assert bits(folder) == bits(undisturbed)
    assert nothing_left(folder)


def test_killed_while_a_cell_is_being_filed(undisturbed, tmp_path, monkeypatch, capfd):
    """A temporary folder with all but the last file is no finished cell, and the next run clears it away."""
    folder = written(tmp_path / "filed")
    shutil.copytree(undisturbed / "store", folder / "store")
    (cell,) = folder.glob("store/distil/*/*/row.json")
    left = cell.parent.with_name(f".{cell.parent.name}.abcdefgh")
    cell.parent.rename(left)
    monkeypatch.chdir(folder)
    assert "1 distil cells: 1 missing" in run_here(monkeypatch, capfd, *RUN, "--dry-run").out
    done = finish(start(folder, *RUN), folder)
    assert f"{CELLS} cells: {CELLS - 1} hits, 1 made" in done.out
    assert bits(folder) == bits(undisturbed)
    assert nothing_left(folder)


def torn(path):
    torch.save({"iterations_done": 3}, path)
    os.truncate(path, 400)


def garbage(path):
    path.write_bytes(b"\x80\x02garbage")


@pytest.mark.parametrize("spoil", [torn, garbage])
def test_a_checkpoint_that_cannot_be_read_is_left_alone(undisturbed, tmp_path, spoil):
    folder = written(tmp_path / "torn")
    shutil.copytree(undisturbed / "store", folder / "store")
    (cell,) = folder.glob("store/distil/*/*/row.json")
    shutil.rmtree(cell.parent)
    partial = cell.parent.with_name(f"{cell.parent.name}.partial")
    partial.mkdir()
    spoil(partial / "checkpoint.pt")
    done = finish(start(folder, *RUN), folder)
    where = (partial / "checkpoint.pt").relative_to(folder)
    assert (done.status, done.err) == (0, f"{where}: cannot be read; the cell starts anew\n")
    assert bits(folder) == bits(undisturbed)
    assert nothing_left(folder)


def test_out_of_time_again_and_again(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_tables(tmp_path / "tables.yaml", tiny=suite(tables=["accuracy"]))
    whole, pieces = ((("--store", f"{name}/store", "--results", f"{name}/results")) for name in "ab")
    assert run_here(monkeypatch, capfd, *RUN, *whole).status == 0

    done = run_here(monkeypatch, capfd, *RUN, *pieces, "--time-limit", 0)
    assert done.status == 4
    assert done.out.splitlines()[-1].startswith("2 cells: 0 hits, 0 made, 0 failed")
    assert done.err == "time limit reached: run the same command again to go on where it stopped\n"
    assert not (tmp_path / "b" / "store").exists()
    runs = 0
    while done.status == 4:
        done = run_here(monkeypatch, capfd, *RUN, *pieces, "--time-limit", 0.002)
        runs += 1
        assert runs < 60
    assert done.status == 0
    assert runs > 1
    assert bits(tmp_path / "a") == bits(tmp_path / "b")
    assert nothing_left(tmp_path / "b")


def test_two_runs_on_one_store_make_each_cell_once(undisturbed, tmp_path):
    first, second = written(tmp_path / "first"), written(tmp_path / "second")
    shared = ("--store", tmp_path / "shared", "--results", tmp_path / "results")
    processes = [(start(folder, *RUN, *shared), folder) for folder in (first, second)]
    made = 0
    for process, folder in processes:
        done = finish(process, folder)
        assert (done.status, done.err) == (0, "")
        counts = done.out.splitlines()[-1].split()
        assert counts[:2] == [str(CELLS), "cells:"]
        hits, own = int(counts[2]), int(counts[4])
        assert hits + own == CELLS
        made += own
    assert made == CELLS
    (tmp_path / "shared").rename(tmp_path / "store")
    assert bits(tmp_path) == bits(undisturbed)
    assert nothing_left(tmp_path)


def test_a_second_run_changes_nothing(undisturbed):
    before = snapshot(undisturbed / "store", undisturbed / "results")
    done = finish(start(undisturbed, *RUN), undisturbed)
    assert done.status == 0
    assert f"{CELLS} cells: {CELLS} hits, 0 made, 0 failed" in done.out
    assert snapshot(undisturbed / "store", undisturbed / "results") == before
