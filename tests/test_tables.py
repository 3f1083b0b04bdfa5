import csv
import io
import itertools
import subprocess
import sys

import numpy as np
import pytest

from bench.spec import Suite, TableSpec
from bench.tables import suite_header
from bench.tabulating.accuracy import accuracy_table, frame
from bench.tabulating.formats import to_csv, to_markdown

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


METADD = {"plugin": "metadd", "method": "DM + MetaDD", "distilled_on": "convnet+vgg11"}


def changes(table):
    """The cells of each row that is a difference, by what stands before its columns."""
    return {line.about: line.cells for line in table.rows if "− without" in line.about[2]}


def test_a_plug_in_is_compared_with_the_same_seeds_without_it():
    rows = [row(value, seed=seed) for seed, value in enumerate([10.0, 20.0, 30.0])]
    rows += [row(value, seed=seed, **METADD) for seed, value in [(2, 33.0), (1, 21.0), (7, 90.0)]]
    rows += [row(50.0, method="DC")]
    table = made(rows)
    assert [line.about[2] for line in table.rows] == ["DM", "DM + MetaDD", "DM: MetaDD − without", "DC"]
    found = table.rows[2].cells["convnet"].summary  # of 1 and 3: seed 0 has no pair, nor has 7
    assert (found.mean, found.n) == (2.0, 2)
    assert found.interval == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-3)  # t with 1 degree, times 1
    assert cells(lines(table)[4])[2:5] == ["DM: MetaDD − without", "dsa", "+2.0 [-10.7, 14.7] (2)"]
    assert "“− without”: mean difference over the seeds that have both" in table.notes[0]
    line = next(each for each in csv.DictReader(io.StringIO(to_csv(table))) if "− without" in each["Method"])
    assert (line["column"], line["mean"], line["n"], line["low95"]) == ("convnet", "2.0000", "2", "-10.7062")


def test_the_difference_of_one_pair_has_no_interval():
    table = made([row(10.0), row(7.5, **METADD)])
    assert cells(lines(table)[4])[4] == "-2.5 (1)"


def test_differences_are_of_means_over_networks_trained_on_one_set():
    rows = [row(value, evaluation_seed=e) for e, value in enumerate([10.0, 20.0])]
    rows += [row(value, evaluation_seed=e, **METADD) for e, value in enumerate([30.0, 40.0, 50.0])]
    (found,) = changes(made(rows)).values()
    # 35 - 15: the third network was trained on one of the two sets alone.
    assert (found["convnet"].summary.mean, found["convnet"].summary.n) == (20.0, 1)
    assert found["convnet"].networks == (2, 2)


def test_the_difference_of_the_means_is_of_seeds_that_have_every_network_with_and_without():
    rows = [row(10.0, seed=s) for s in range(3)] + [row(20.0, seed=s, network="vgg11") for s in (0, 1)]
    rows += [row(14.0 + s, seed=s, **METADD) for s in range(3)]
    rows += [row(30.0, seed=s, network="vgg11", **METADD) for s in (1, 2)]
    (found,) = changes(made(rows)).values()
    assert (found["mean"].summary.mean, found["mean"].summary.n) == (
        7.5,
        1,
    )  # seed 1: (15 + 30 - 10 - 20) / 2
    assert (found["convnet"].summary.mean, found["convnet"].summary.n) == (5.0, 3)
    assert (found["vgg11"].summary.mean, found["vgg11"].summary.n) == (10.0, 1)


def test_each_plug_in_stands_below_its_own_and_is_named_after_its_label():
    control = METADD | {"method": "DM + CE only"}
    mine = METADD | {"method": "DM + mine + MetaDD"}
    rows = [row(10.0), row(11.0, method="DM + mine"), row(20.0, ipc=10), row(30.0, recipe="dc")]
    rows += [row(15.0, **METADD), row(13.0, **control), row(18.0, **mine)]
    rows += [row(22.0, ipc=10, **METADD), row(33.0, recipe="dc", **METADD)]
    found = {about[1:]: found["convnet"].summary.mean for about, found in changes(made(rows)).items()}
    assert found == {
        ("1", "DM: MetaDD − without", "dsa"): 5.0,
        ("1", "DM: CE only − without", "dsa"): 3.0,
        ("1", "DM + mine: MetaDD − without", "dsa"): 7.0,
        ("10", "DM: MetaDD − without", "dsa"): 2.0,
        ("1", "DM: MetaDD − without", "dc"): 3.0,
    }


@pytest.mark.parametrize(
    "others",
    [
        [],
        [{"method": "DC"}],
        [{"recipe": "dc"}],
        [{"protocol": "common"}],
        [{"network": "alexnet"}],
        [{}, {"distilled_on": "vgg11"}],
    ],
    ids=["none", "method", "recipe", "protocol", "network", "which of two"],
)
def test_no_difference_without_the_very_same_row(others):
    assert not changes(made([row(20.0, **METADD), *(row(10.0, **other) for other in others)]))


def test_tests_on_other_images_are_no_pair():
    fewer = row(10.0)
    fewer["result"]["test_images"] = 100
    assert not changes(made([fewer, row(20.0, **METADD)]))


def with_and_without():
    """DM has seen the ConvNet, with MetaDD also VGG-11; another dataset's MetaDD has seen all but AlexNet."""
    networks = {"convnet": 10.0, "vgg11": 20.0, "alexnet": 30.0, "mobilenetv2": 50.0}
    rows = [row(v + s, seed=s, network=n, seen=n == "convnet") for n, v in networks.items() for s in (0, 1)]
    for name, value in networks.items():
        rows.append(row(value + 4, network=name, seen=name in ("convnet", "vgg11"), **METADD))
        rows.append(row(value, network=name, method="Random", distilled_on=None))
        rows.append(row(60.0, network=name, ipc=None, method="Full data", distilled_on=None))
    return rows


def test_seen_and_unseen_are_means_over_the_same_networks_with_and_without():
    table = made(with_and_without())
    assert table.columns[-3:] == ("mean", "seen", "unseen")
    found = {line.about[2]: line.cells for line in table.rows}
    means = {
        name: [each[role].summary for role in ("seen", "unseen")]
        for name, each in found.items()
        if name != "Full data"
    }
    assert {name: [it.mean for it in each] for name, each in means.items()} == {
        "DM": [15.5, 40.5],
        "DM + MetaDD": [19.0, 44.0],
        "DM: MetaDD − without": [4.0, 4.0],
        "Random": [15.0, 40.0],
    }
    assert [it.n for it in means["DM"]] == [2, 2]
    marks = {name: [found[name][role].seen for role in ("seen", "unseen")] for name in means}
    assert marks == {
        "DM": [False, False],  # VGG-11 took no part in it
        "DM + MetaDD": [True, False],
        "DM: MetaDD − without": [True, False],
        "Random": [False, False],
    }
    full = next(line for line in lines(table) if "Full data" in line)
    assert cells(full)[-3:] == ["60.0 (1)", "—", "—"]  # at its IPC nothing has a plug-in
    assert "Here seen: convnet, vgg11; unseen: alexnet, mobilenetv2." in table.notes[1]


def test_seen_is_of_seeds_that_have_all_of_its_networks():
    table = made([*with_and_without(), row(12.0, seed=2, network="convnet", seen=True)])
    dm = table.rows[0].cells
    assert (dm["convnet"].summary.n, dm["seen"].summary.n) == (3, 2)


def test_networks_are_seen_or_not_at_each_dataset_and_ipc():
    ten = {**METADD, "ipc": 10}
    rows = [*with_and_without(), row(1.0, ipc=10), row(2.0, ipc=10, network="vgg11")]
    rows += [row(3.0, **ten), row(4.0, network="vgg11", seen=True, **ten)]
    table = made(rows)
    dm = next(line.cells for line in table.rows if line.about[1:3] == ("10", "DM"))
    assert (dm["seen"].summary.mean, dm["unseen"].summary.mean) == (2.0, 1.0)
    assert "cifar10, IPC 1: seen: convnet, vgg11; unseen: alexnet, mobilenetv2. " in table.notes[1]
    assert "cifar10, IPC 10: seen: vgg11; unseen: convnet." in table.notes[1]


def test_one_control_is_enough_for_a_network_to_be_seen():
    rows = [*with_and_without(), row(1.0, network="alexnet", seen=True, **METADD | {"method": "DM + other"})]
    assert "Here seen: convnet, vgg11, alexnet; unseen: mobilenetv2." in made(rows).notes[1]


def test_a_difference_has_its_name_where_the_table_does_not_ask_for_methods():
    spec = SPEC.model_copy(update={"rows": ["distilled_on"]})
    table = made([row(10.0), row(11.0, **METADD)], spec)
    assert [line.about[1] for line in table.rows] == ["DM", "DM + MetaDD", "DM: MetaDD − without"]


def test_without_a_plug_in_there_are_no_more_columns_and_notes():
    table = made([row(10.0, seen=True), row(20.0, network="vgg11")])
    assert table.columns == ("convnet", "vgg11", "mean")
    assert len(table.notes) == 1
    assert "without" not in to_markdown(table)


def test_columns_that_are_no_networks_have_differences_but_no_roles():
    spec = SPEC.model_copy(update={"rows": ["method"], "columns": "ipc"})
    table = made([row(10.0), row(30.0, ipc=10), row(11.0, **METADD), row(35.0, ipc=10, **METADD)], spec)
    assert table.columns == ("1", "10", "mean")
    change = table.rows[-1]
    assert change.about == ("DM: MetaDD − without",)
    assert [change.cells[column].summary.mean for column in table.columns] == [1.0, 5.0, 3.0]


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


def test_means_alone_are_those_of_the_whole_table_and_rows_without_one_are_left_out():
    rows = [row(10.0), row(20.0, network="vgg11"), row(30.0, method="DC")]
    whole, means = made(rows), made(rows, SPEC.model_copy(update={"means": True}))
    assert (whole.columns, means.columns) == (("convnet", "vgg11", "mean"), ("mean",))
    assert [(each.about, each.cells["mean"].summary.mean) for each in means.rows] == [
        (whole.rows[0].about, 15.0)
    ]
    for wrong in ({"columns": "ipc", "rows": ["method"]}, {"kind": "memory"}):
        with pytest.raises(ValueError, match="means: "):
            TableSpec(**{"title": "x", "kind": "accuracy", "rows": ["method"], "means": True, **wrong})


def test_the_header_says_what_is_reduced_before_the_rows():
    header = suite_header("smoke", suite("digits", "Reduced: much. "))
    assert header == ("Suite `smoke`: digits. Protocol: common.", "Reduced: much.")
    text = to_markdown(made([row(10.0)], header=header))
    assert text.index("Reduced: much.") < text.index("| Dataset")


def test_a_title_that_ends_a_sentence_gets_no_second_end():
    assert suite_header("smoke", suite("does it run?"))[0] == "Suite `smoke`: does it run? Protocol: common."


def test_no_torch():
    code = (
        "import sys; from bench.tabulating import accuracy, formats; from bench.spec import read; s = read();"
        "t = accuracy.accuracy_table('x', s.tables['cross-architecture'], accuracy.frame([]));"
        "formats.to_markdown(t); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
