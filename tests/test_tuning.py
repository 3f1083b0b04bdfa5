"""A suite on a tuning split: run, stored and tabled by its name, on held-out training images alone."""

from command_line import TINY, rows, run_here, suite, write_tables

from bench import data

EVALUATION = {"networks": ["convnet@w8"], "recipe": {"name": "short", "epochs": 3}}


def test_a_suite_runs_on_held_out_training_images(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    blocks = [*TINY["grid"], {"method": "full"}]
    spec = "digits[3,tuning]"
    write_tables(
        tmp_path / "tables.yaml",
        tiny=suite(dataset=spec, evaluate=EVALUATION, grid=blocks, tables=["accuracy"]),
    )
    run = ("run", "tiny", "--tables", "tables.yaml", "--device", "cpu")
    done = run_here(monkeypatch, capfd, *run)
    assert (done.status, done.err) == (0, "")
    assert "| DM " in done.out
    made = rows(tmp_path)
    assert [row["cell"]["kind"] for row in made] == ["distil", "evaluate", "evaluate"]
    assert {(row["cell"]["dataset"]["name"], row["tags"]["dataset"]) for row in made} == {(spec, spec)}
    held_out = sum(count // 5 for count in data.identify("digits[3]").train)
    assert {row["result"]["test_images"] for row in made[1:]} == {held_out}
    again = run_here(monkeypatch, capfd, *run, "--only", f"dataset={spec}")
    assert "3 cells: 3 hits, 0 made" in again.out


def test_the_verb_data_says_what_is_in_a_tuning_split(monkeypatch, capfd):
    done = run_here(monkeypatch, capfd, "data", "digits[tuning]")
    assert (done.status, done.err) == (0, "")
    whole = data.identify("digits").train
    held_out = sum(count // 5 for count in whole)
    assert f"digits[tuning]: {sum(whole) - held_out} train and {held_out} test images" in done.out
