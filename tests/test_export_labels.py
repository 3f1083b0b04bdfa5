"""Soft labels of exported sets: what the card says of them, and what comes with them."""

import json
import re

import pytest
import torch
from command_line import is_one_line, rekeyed, run_here, suite, write_tables
from committed import RESULTS
from safetensors.torch import load_file

from bench import artifacts
from bench.errors import UserError
from bench.export import choose, export
from bench.exporting.labelcards import FILE
from bench.training.softlabels import FILE as LEFT

CPU = torch.device("cpu")
RECIPE = {"name": "sre2l", "epochs": 3, "batch": 2, "lr": 0.01}
SMALL = suite(
    teacher={"network": "convnet@w8@bn", "epochs": 2},
    network="convnet@w8@bn",
    ipc=2,
    evaluate={"networks": ["convnet@w8"], "recipe": RECIPE, "test_per_class": 10},
    grid=[{"method": "sre2l", "settings": {"iterations": 2}}],
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The store and results of a suite whose sets a teacher has labelled."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        import bench

        patch.chdir(folder)
        write_tables(folder / "mine.yaml", tiny=SMALL)
        done = bench.run(bench.open_suite("tiny", tables=folder / "mine.yaml"))
    assert not done.failed
    return folder


def of(folder, method="SRe2L"):
    return choose(folder / "results", None, None, {"method": method, "ipc": "2"})


def card(done):
    return (done.folder / "README.md").read_text()


def test_the_names_of_files_agree():
    """They are said twice, because the one that writes them costs torch."""
    assert FILE == LEFT


@pytest.mark.parametrize("method", ["SRe2L", "Random, same soft labels"])
def test_the_card_s_code_shows_each_image_beside_what_the_teacher_says_of_it(
    made, tmp_path, monkeypatch, method
):
    """The teacher, taken from the store, is asked again."""
    chosen = of(made, method)
    done = export(chosen, tmp_path / "set", made / "store", soft_labels=True)
    (labels,) = chosen.labels
    monkeypatch.chdir(done.folder)
    code = re.search(r"A student's batches.*?```python\n(.*?)```", card(done), re.DOTALL)[1]
    (teacher_file,) = (made / "store").rglob(f"{labels.row['cell']['teacher']}/network.safetensors")
    teacher = artifacts.classifier(teacher_file, 3, 32, CPU)
    seen = []

    def ask(batch, logits):
        with torch.no_grad():
            seen.append((teacher(batch), logits))

    code, places = re.subn(r"\.\.\.  # batch.*", "ask(batch, logits)", code)
    assert places == 1
    exec(code, {"ask": ask})
    assert [len(logits) for _, logits in seen] == [2, 2, 2] * 3
    for asked, logits in seen:
        torch.testing.assert_close(asked, logits, rtol=2e-3, atol=2e-3)  # labels are float16
    epochs = [torch.cat([logits for _, logits in seen[3 * n : 3 * n + 3]]) for n in range(3)]
    assert torch.equal(torch.stack(epochs).half(), load_file(done.folder / labels.path)["logits"])
    assert not torch.equal(epochs[0], epochs[1])


def test_the_card_says_who_labelled_it_and_where_the_labels_are(made, tmp_path):
    chosen = of(made)
    (labels,) = chosen.labels
    without = card(export(chosen, tmp_path / "without", made / "store"))
    assert "They are not part of this export" in without
    assert f"cell `{labels.row['key']}`" in without
    assert "A student's batches" not in without
    assert not (tmp_path / "without/soft-labels").exists()
    teacher = chosen.results.rows[labels.row["cell"]["teacher"]]
    text = card(export(chosen, tmp_path / "with", made / "store", soft_labels=True))
    row = f"| `{labels.path}` | convnet@w8@bn, accuracy {teacher['result']['accuracy']:.1f}% "
    row += f"(`{teacher['key'][:12]}`) | 3 | 2 | crop_flip | mixup (0.8) | 0 | "
    row += f"{labels.row['result']['agreement']:.1f}% |"
    assert row in text
    assert "logits, float16 [epochs, 6, 3]" in text
    assert "They are not part" not in text


def test_committed_sets_say_where_their_labels_are(tmp_path):
    done = export(
        choose(RESULTS, "cifar10-cpu", None, {"method": "SRe2L", "ipc": "1", "seed": "0"}), tmp_path / "set"
    )
    assert "## Soft labels" in card(done)
    assert "| a teacher's |" in card(done)
    assert "They are not part of this export" in card(done)


def test_sets_without_a_teacher_say_nothing_of_one(tmp_path):
    chosen = choose(RESULTS, "cifar10-cpu", None, {"method": "DM", "seed": "0"})
    assert "Soft labels" not in card(export(chosen, tmp_path / "set"))
    with pytest.raises(UserError, match=r"DM, .*: --soft-labels: no teacher has labelled this set"):
        export(chosen, tmp_path / "other", soft_labels=True)


def test_labels_that_are_not_here_or_damaged_are_refused(made, tmp_path, monkeypatch, capfd):
    chosen = of(made)
    (labels,) = chosen.labels
    ask = ("export", "--only", "method=SRe2L", "--soft-labels", "--to", tmp_path / "set")
    places = ("--results", made / "results", "--store")
    done = run_here(monkeypatch, capfd, *ask, *places, tmp_path / "empty")
    is_one_line(done, labels.row["key"][:12], "not its labels.safetensors", "--store")
    (file,) = (made / "store").rglob(f"{labels.row['key']}/{FILE}")
    before = file.read_bytes()
    try:
        file.write_bytes(before[:-1] + b"x")
        is_one_line(run_here(monkeypatch, capfd, *ask, *places, made / "store"), "damaged")
    finally:
        file.write_bytes(before)
    assert not (tmp_path / "set").exists()
    done = run_here(monkeypatch, capfd, *ask, *places, made / "store")
    assert (done.status, done.err) == (0, "")
    assert (tmp_path / "set" / labels.path).read_bytes() == before


def test_a_cell_with_something_this_version_does_not_know_is_refused(tmp_path, made):
    text = (made / "results/tiny/rows.jsonl").read_text()
    for number in range(len(text.splitlines())):  # those that others need come first
        row = json.loads(text.splitlines()[number])
        coloured = rekeyed(row, **({"colour": "red"} if row["cell"]["kind"] == "distil" else {}))
        text = text.replace(json.dumps(row, sort_keys=True), json.dumps(coloured, sort_keys=True))
        text = text.replace(row["key"], coloured["key"])
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/rows.jsonl").write_text(text)
    chosen = choose(tmp_path, None, None, {"method": "SRe2L", "ipc": "2"})
    with pytest.raises(UserError, match="another version of this suite"):
        export(chosen, tmp_path / "set", made / "store")
