"""A run on a GPU that is cut off again and again ends as one that is not, to the bit: each kind of cell."""

import pytest
from command_line import rows, run_here, write_tables
from every_method import METADD, SETTINGS, suite

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
#: Whatever is made beforehand, and the optimisers that there are.
LONGER = {
    "mtt": {**SETTINGS["mtt"], "experts": 1, "expert": {"epochs": 4, "batch": 64}},
    "sre2l": {"iterations": 6},
    "glad": {**SETTINGS["glad"], "iterations": 4},
}


def cut(monkeypatch, capfd, folder, method, *further):
    """The results by key, and how many runs it took."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    whole = suite()
    (block,) = (block for block in whole["grid"] if block["method"] == method)
    block = {**block, "settings": LONGER[method], "plugin": METADD}
    write_tables(folder / "tables.yaml", tiny={**whole, "grid": [block]})
    command = ("run", "tiny", "--tables", "tables.yaml", "--device", DEVICE, *further)
    done, pieces = run_here(monkeypatch, capfd, *command), 1
    while done.status == 4 and pieces < 200:
        done, pieces = run_here(monkeypatch, capfd, *command), pieces + 1
    assert (done.status, done.err) == (0, "")
    return {row["key"]: row["result"] for row in rows(folder)}, pieces


@pytest.mark.parametrize("method", LONGER)
def test_pieces_give_the_bits_of_one_run(monkeypatch, capfd, tmp_path, method):
    whole, once = cut(monkeypatch, capfd, tmp_path / "whole", method)
    pieces, often = cut(monkeypatch, capfd, tmp_path / "pieces", method, "--time-limit", 0.001)
    assert once == 1
    assert often > 5  # an expert has four epochs alone
    assert pieces == whole
