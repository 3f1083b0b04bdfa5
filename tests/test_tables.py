import csv
import io
import itertools
import subprocess
import sys

import numpy as np
import pytest

from bench.spec import Suite, TableSpec
from bench.tables import accuracy_table, frame, suite_header, to_csv, to_markdown

SPEC = TableSpec(
    title="Accuracy (%)", kind="accuracy", rows=["dataset", "ipc", "method", "recipe"], columns="network"
)
TAGS = {
    "dataset": "cifar10",
    "protocol": "authors",
    "recipe": "dsa",
    "method": "DM",
    "plugin": "none",
    "ipc": 1,
    "distilled_on": "convnet",
    "seed": 0,
    "network": "convnet",
    "evaluation_seed": 0,
    "seen": False,
}
_keys = itertools.count()


def row(accuracy, current=True, kind="evaluate", **tags):
    return {
        "key": str(next(_keys)),
        "current": current,
        "cell": {"kind": kind},
        "tags": {**TAGS, **tags},
        "result": {"accuracy": accuracy, "test_images": 10000},
    }


def made(rows, spec=SPEC, header=()):
    return accuracy_table("cross-architecture", spec, frame(rows), header)


def lines(table):
    return [line for line in to_markdown(table).splitlines() if line.startswith("|")]


def cells(line):
    return [text.strip() for text in line.strip("|").split("|")]


def by_column(table):
    return {line["column"]: line for line in csv.DictReader(io.StringIO(to_csv(table)))}


def test_mean_and_spread_are_over_seeds_of_means_over_networks():
    values = np.random.default_rng(0).normal(40, 5, (3, 4))  # distillation x evaluation seeds
    rows = [row(values[s, e], seed=s, evaluation_seed=e) for s in range(3) for e in range(4)]
    table = made(rows)
    each = values.mean(axis=1)
    found = table.rows[0].cells["convnet"]
    assert found.summary.mean == pytest.approx(each.mean())
    assert found.summary.std == pytest.approx(each.std(ddof=1))
    assert (found.summary.n, found.networks) == (3, (4, 4))
    assert cells(lines(table)[2]) == [
        *("cifar10", "1", "DM", "dsa"),
        *2 * [f"{each.mean():.1f} ± {each.std(ddof=1):.1f} (3)"],
    ]
    assert "each the mean of 4 networks" in table.notes[0]


def test_the_mean_column_takes_only_seeds_with_every_network():
    rows = [row(10.0, seed=0), row(20.0, seed=1), row(90.0, seed=2)]
    rows += [row(30.0, seed=0, network="vgg11"), row(40.0, seed=1, network="vgg11")]
    table = made(rows)
    mean = table.rows[0].cells["mean"].summary
    assert (mean.mean, mean.n) == (25.0, 2)  # of 20 and 30: seed 2 has no vgg11
    assert table.rows[0].cells["convnet"].summary.n == 3
    assert any(note.startswith("Incomplete: 1 result(s)") for note in table.notes)


def test_a_row_without_some_networks_has_no_mean():
    rows = [row(10.0), row(20.0, network="vgg11"), row(30.0, ipc=10)]
    table = made(rows)
    assert cells(lines(table)[3]) == ["cifar10", "10", "DM", "dsa", "30.0 (1)", "—", "—"]
    assert len(table.notes) == 1  # nothing says that it was planned, so nothing says that it is missing


def test_full_data_has_no_ipc_and_leaves_the_others_whole_numbers():
    table = made([row(10.0), row(80.0, method="Full data", ipc=None, distilled_on=None, recipe="full")])
    assert [line.about for line in table.rows] == [
        ("cifar10", "1", "DM", "dsa"),
        ("cifar10", "—", "Full data", "full"),
    ]
    assert [line["IPC"] for line in csv.DictReader(io.StringIO(to_csv(table)))] == ["1", "1", "", ""]


def test_seen_networks_are_marked_and_explained():
    rows = [row(10.0, seen=True), row(20.0, network="vgg11")]
    table = made(rows)
    assert cells(lines(table)[2])[4:] == ["10.0† (1)", "20.0 (1)", "15.0 (1)"]
    assert "†: seen, a network of this architecture took part" in table.notes[0]
    assert {name: line["seen"] for name, line in by_column(table).items()} == {
        "convnet": "true",
        "vgg11": "false",
        "mean": "false",
    }
    assert "†" not in to_markdown(made([row(10.0)]))


def test_csv_has_everything_in_full_precision():
    table = made([row(10.0, seed=0), row(13.0, seed=1), row(20.0, seed=0, network="vgg11", ipc=10)])
    found = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert list(found[0]) == [
        *("Dataset", "IPC", "Method", "Recipe", "column"),
        *("mean", "std", "n", "low95", "high95", "networks_per_set", "seen"),
    ]
    assert found[0]["mean"] == "11.5000"
    assert found[0]["std"] == "2.1213"
    assert float(found[0]["high95"]) == pytest.approx(11.5 + 12.7062 * 1.5, abs=1e-3)
    absent = next(line for line in found if line["IPC"] == "10" and line["column"] == "convnet")
    assert (absent["mean"], absent["n"], absent["seen"]) == ("", "0", "")


def test_markdown_is_aligned():
    rows = [row(10.0, seen=True, method="a much longer name"), row(20.0, network="vgg11")]
    assert len({len(line) for line in lines(made(rows))}) == 1
    assert lines(made(rows))[1].endswith(":|") or lines(made(rows))[1].endswith(": |")


def test_a_bar_in_a_name_does_not_end_the_cell():
    assert "DM \\| mine" in to_markdown(made([row(10.0, method="DM | mine")]))


def test_what_differs_inside_a_cell_is_never_averaged_in_silence():
    spec = SPEC.model_copy(update={"rows": ["method"]})
    table = made([row(10.0, ipc=1), row(50.0, ipc=10), row(30.0, ipc=10, distilled_on="vgg11")], spec)
    assert table.row_names == ("Method", "IPC", "Distilled on")
    assert [line.about for line in table.rows] == [
        ("DM", "1", "convnet"),
        ("DM", "10", "convnet"),
        ("DM", "10", "vgg11"),
    ]


def test_networks_are_not_averaged_where_they_are_no_columns():
    spec = SPEC.model_copy(update={"rows": ["method"], "columns": "ipc"})
    table = made([row(10.0), row(20.0, network="vgg11"), row(30.0, ipc=10)], spec)
    assert table.columns == ("1", "10", "mean")
    assert [line.about for line in table.rows] == [("DM", "convnet"), ("DM", "vgg11")]
    assert table.rows[0].cells["mean"].summary.mean == 20.0


def test_results_that_cannot_be_told_apart_are_called_untrustworthy():
    table = made([row(10.0), row(30.0)])
    assert table.notes[-1].startswith("Not to be trusted: 2 results")
    assert "(DM)" in table.notes[-1]


def test_unequal_numbers_of_networks_are_said():
    table = made([row(1.0), row(2.0, evaluation_seed=1), row(3.0, seed=1)])
    assert "each the mean of 1 to 2 networks" in table.notes[0]
    assert by_column(table)["convnet"]["networks_per_set"] == "1 to 2"


def test_only_current_evaluations_count():
    table = made([row(10.0), row(99.0, current=False), row(99.0, kind="distil")])
    assert table.rows[0].cells["convnet"].summary.mean == 10.0


def test_nothing_yet():
    text = to_markdown(made([], header=("Suite.",)))
    assert text.splitlines() == ["### Accuracy (%)", "", "Suite.", "", "No finished evaluation yet."]
    assert to_csv(made([])).startswith("column,")


def suite(title, note=""):
    return Suite.model_validate(
        {
            "title": title,
            "note": note,
            "protocol": "common",
            "dataset": "digits",
            "network": "convnet",
            "evaluate": {"networks": "convnet", "recipe": "short"},
            "grid": [{"method": "random"}],
        }
    )


def test_the_header_says_what_is_reduced_before_the_rows():
    header = suite_header("smoke", suite("digits", "Reduced: much. "))
    assert header == ("Suite `smoke`: digits. Protocol: common.", "Reduced: much.")
    text = to_markdown(made([row(10.0)], header=header))
    assert text.index("Reduced: much.") < text.index("| Dataset")


def test_a_title_that_ends_a_sentence_gets_no_second_end():
    assert suite_header("smoke", suite("does it run?"))[0] == "Suite `smoke`: does it run? Protocol: common."


def test_no_torch():
    code = (
        "import sys; from bench import tables; from bench.spec import read; s = read();"
        "t = tables.accuracy_table('x', s.tables['cross-architecture'], tables.frame([]));"
        "tables.to_markdown(t); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
