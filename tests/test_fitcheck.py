"""A run does not begin what cannot fit into the memory, and says what would."""

import json

import pytest
from command_line import is_one_line, rows, run_here, suite, write_tables

from bench.measuring import fitcheck

RUN = ("run", "tiny", "--tables", "tables.yaml", "--device", "cpu")
GRID = [
    {"method": "dm", "settings": {"iterations": 2, "batch_real": 64, "chunk": 3, "augment": "none"}},
    {"method": "random"},
]


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Call it with arguments, on a suite with a DM cell and a random one."""
    monkeypatch.chdir(tmp_path)
    write_tables(tmp_path / "tables.yaml", tiny=suite(grid=GRID))
    return lambda *arguments: run_here(monkeypatch, capfd, *RUN, *arguments)


def test_what_cannot_fit_is_not_begun_and_the_rest_goes_on(run, tmp_path):
    done = run("--memory", "500KiB")
    assert done.status == 1
    assert done.out.splitlines()[-1].startswith("4 cells: 0 hits, 2 made, 2 failed")
    reason = next(line for line in done.err.splitlines() if "distil DM" in line)
    assert "its estimated peak of " in reason
    assert "MiB (real images 2.2, method 1.1, images 0.1) " in reason  # the largest first
    assert "does not fit into 0.5 MiB; " in reason
    assert reason.endswith("--no-fit-check tries it all the same")
    assert {row["tags"]["method"] for row in rows(tmp_path)} == {"Random"}
    again = run()  # without a limit it is tried again, and a CPU has none
    assert (again.status, again.err) == (0, "")
    (distilled,) = (
        row for row in rows(tmp_path) if row["cell"]["kind"] == "distil" and row["tags"]["method"] == "DM"
    )
    peak = distilled["cost"]["peak_live_bytes"] / 2**20
    assert f"its estimated peak of {peak:.1f} MiB" in reason  # what it then takes


def test_the_setting_that_would_help_is_named(run, tmp_path):
    assert run().status == 0
    (peak,) = (
        row["cost"]["peak_live_bytes"]
        for row in rows(tmp_path)
        if row["cost"].get("peak_live_bytes")
        and row["tags"]["method"] == "DM"
        and row["cell"]["kind"] == "distil"
    )
    done = run("--memory", f"{int(0.9 * peak / 1024)}KiB", "--store", "other", "--results", "elsewhere")
    assert "; with chunk 1 it would; --no-fit-check" in done.err


def test_enough_memory_changes_nothing(run, tmp_path):
    assert run("--memory", "1GiB").status == 0
    with_check = [row["result"] for row in rows(tmp_path)]
    assert run("--store", "other", "--results", "elsewhere").status == 0
    other = (tmp_path / "elsewhere/tiny/rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["result"] for line in other] == with_check


def test_without_a_limit_nothing_is_estimated(run, monkeypatch):
    monkeypatch.setattr(fitcheck.Estimator, "fit", None)
    assert run().status == 0
    assert run("--no-fit-check").status == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--memory", "24"), ["--memory 24:", "24GiB"]),
        (("--memory", "1GiB", "--no-fit-check"), ["--memory", "--no-fit-check"]),
    ],
)
def test_mistakes_are_one_line(run, arguments, words):
    is_one_line(run(*arguments), *words)
