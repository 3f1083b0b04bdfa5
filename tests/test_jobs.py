"""``run --jobs``: several processes make what one would have made, to the bit, and fail as one would."""

import os

import pytest
from command_line import rows, run_here, suite, write_tables

from bench import jobs

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS = suite(seeds=3, evaluate={**suite()["evaluate"], "seeds": 2})


def run(monkeypatch, capfd, folder, made=SEEDS, **options):
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    write_tables(folder / "tables.yaml", tiny=made)
    extra = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    return run_here(monkeypatch, capfd, "run", "tiny", "--tables", "tables.yaml", "--device", "cpu", *extra)


def bits(folder):
    return {row["key"]: (row["result"], row["artifacts"]) for row in rows(folder)}


def test_two_processes_make_the_bits_of_one(monkeypatch, capfd, tmp_path):
    one = run(monkeypatch, capfd, tmp_path / "one")
    two = run(monkeypatch, capfd, tmp_path / "two", jobs=2)
    assert (one.status, two.status, two.err) == (0, 0, "")
    assert bits(tmp_path / "one") == bits(tmp_path / "two")
    assert "9 cells: 0 hits, 9 made, 0 failed" in two.out
    again = run(monkeypatch, capfd, tmp_path / "two", jobs=2)
    assert "9 cells: 9 hits, 0 made, 0 failed" in again.out


def test_the_other_process_makes_cells_too(monkeypatch, tmp_path, capfd):
    """This one only waits; all is made by the other."""
    monkeypatch.setattr("bench.runner._Walk.to_the_end", lambda self: self.report)
    done = run(monkeypatch, capfd, tmp_path, jobs=2)
    assert (done.status, len(rows(tmp_path))) == (0, 9)
    assert "0 hits, 9 made" in done.out


def test_a_failure_is_told_once_and_the_rest_is_made(monkeypatch, capfd, tmp_path):
    evaluation = {**SEEDS["evaluate"], "networks": ["convnet@w8", "convnet@w8@d7"]}
    done = run(monkeypatch, capfd, tmp_path, {**SEEDS, "evaluate": evaluation}, jobs=2)
    assert done.status == 1
    assert "15 cells: 0 hits, 9 made, 6 failed" in done.out


def test_a_time_limit_ends_all(monkeypatch, capfd, tmp_path):
    done = run(monkeypatch, capfd, tmp_path, jobs=2, time_limit=0)
    assert done.status == 4
    assert "0 hits, 0 made, 0 failed" in done.out


def broken(*_):
    os._exit(3)


def test_a_process_that_breaks_is_not_passed_over(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(jobs, "_work", broken)
    with pytest.raises(RuntimeError, match="1 of 1 processes ended with status 3"):
        run(monkeypatch, capfd, tmp_path, jobs=2)
