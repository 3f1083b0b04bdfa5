"""Published numbers: the file, and how they stand beside ours."""

import csv
import io
import re
from collections import Counter

import pytest
import yaml
from command_line import TINY, is_one_line, run_here
from test_tables import METADD, SPEC, cells, lines, row

from baselines import METHODS
from bench.errors import UserError
from bench.networks.names import parse
from bench.spec import Suite, TableSpec
from bench.spec import read as read_spec
from bench.tabulating.accuracy import accuracy_table, frame
from bench.tabulating.formats import FORMATS, to_csv, to_html, to_latex, to_markdown
from bench.tabulating.published import Beside, Number, planned, read
from bench.training.recipes import RECIPES
from bench.validation import validated

NUMBERS = read()
BY_IPC = TableSpec(title="By IPC", kind="accuracy", rows=["method", "network"], columns="ipc")


def number(accuracy, std=None, **about):
    """A published accuracy of DM on CIFAR-10, IPC 1, ConvNet."""
    cell = {
        "method": "DM",
        "plugin": "none",
        "dataset": "cifar10",
        "ipc": 1,
        "recipe": "dsa",
        "distilled_on": "convnet",
        "network": "convnet",
    }
    more = {
        "spread_of": "not stated",
        "labels": "hard",
        "selection": "last step",
        "canonical": "yes",
        "paper": "A Table 1",
        "arxiv": "2101.00001",
        "source": "somewhere",
        "note": None,
    }
    return Number.model_validate({**cell, **more, **about, "accuracy": accuracy, "std": std})


def beside(rows, *numbers, spec=SPEC):
    return accuracy_table("t", spec, frame(rows), (), Beside(numbers, spec, "authors"))


def test_the_file_has_no_number_twice_and_one_of_a_cell_to_compare_with():
    found = Counter((*each.tags.values(), each.accuracy, each.std, each.paper, each.note) for each in NUMBERS)
    assert max(found.values()) == 1
    chosen = Counter(tuple(each.tags.values()) for each in NUMBERS if each.canonical == "yes")
    assert chosen.keys() == {tuple(each.tags.values()) for each in NUMBERS}
    assert max(chosen.values()) == 1
    assert len(NUMBERS) > 150


def test_the_file_has_our_names():
    labels = {entry.settings.label for entry in METHODS.values()} | {"Full data"}
    assert {each.method for each in NUMBERS} <= labels
    for each in NUMBERS:
        assert each.recipe in RECIPES
        assert (each.labels == "soft") == (each.recipe == "sre2l")
        for network in (each.network, each.distilled_on):
            assert network is None or str(parse(network)) == network
        assert (each.ipc is None) == (each.method == "Full data")
        assert each.arxiv is None or re.fullmatch(r"\d{4}\.\d{5}", each.arxiv)
        assert each.std is None or each.spread_of is not None


def test_the_file_is_sorted():
    datasets = ["cifar10", "cifar100", "tiny-imagenet"]
    order = [
        (
            *(datasets.index(n.dataset), n.ipc or 10**6, n.method, n.plugin, n.recipe),
            *(n.distilled_on or "", n.network or "", n.canonical == "no", n.paper, n.accuracy),
        )
        for n in NUMBERS
    ]
    assert order == sorted(order)


def test_the_file_holds_what_papers_print():
    """From the specification of the methods, read from the papers' own tables."""
    found = {
        (n.method, n.dataset, n.ipc): n.accuracy
        for n in NUMBERS
        if n.canonical == "yes" and n.network == "convnet" and n.recipe != "dc"
    }
    assert [found["DM", "cifar10", ipc] for ipc in (1, 10, 50)] == [26.0, 48.9, 63.0]
    assert [found["DSA", "cifar100", ipc] for ipc in (1, 10, 50)] == [13.9, 32.3, 42.8]
    assert [found["MTT", "tiny-imagenet", ipc] for ipc in (1, 10, 50)] == [8.8, 23.2, 28.0]
    assert [found["Random", "cifar10", ipc] for ipc in (1, 10, 50)] == [15.4, 31.0, 50.6]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"accuracy": "101"}, "line 2: accuracy: input should be less than or equal to 100"),
        ({"dataset": "cifar"}, "line 2: dataset: input should be 'cifar10'"),
        ({"accuracies": "1"}, "line 2: accuracies: unknown key; did you mean 'accuracy'"),
    ],
)
def test_a_wrong_line_is_one_line(tmp_path, line, message):
    good = {name: "" if value is None else value for name, value in number(26.0).model_dump().items()}
    text = io.StringIO()
    writer = csv.DictWriter(text, {**good, **line})
    writer.writeheader()
    writer.writerow({**good, **line})
    (tmp_path / "p.csv").write_text(text.getvalue())
    with pytest.raises(UserError, match=re.escape(message)):
        read(tmp_path / "p.csv")


def test_below_ours_stand_theirs_and_the_difference():
    rows = [row(value, seed=s) for s, value in enumerate([25.0, 26.0, 28.0])]
    table = beside(rows, number(26.0, 0.8))
    ours, theirs, less = (cells(line)[2:] for line in lines(table)[2:])
    assert ours == ["DM", "dsa", "26.3 ± 1.5 (3)", "26.3 ± 1.5 (3)"]
    assert theirs == ["DM: published", "dsa", "26.0† ± 0.8 (?)", "—"]
    low, high = table.rows[0].cells["convnet"].summary.interval
    assert less[:2] == ["DM: ours − published", "dsa"]
    assert less[2:] == [f"+0.3 [{low - 26:.1f}, {high - 26:.1f}] (3)", "—"]
    assert table.rows[1].cells["convnet"].summary.interval == (None, None)  # n is not known
    assert "interval of ours alone" in to_markdown(table)
    assert "A Table 1 (arXiv 2101.00001; ± over what is not stated; last step)" in to_markdown(table)
    assert "DM cifar10 IPC 1 convnet" in table.notes[-1]
    assert "− without" not in to_markdown(table)


def test_every_format_has_them():
    table = beside([row(25.0), row(26.5, seed=1)], number(26.0, 0.8), number(9.0, network="vgg11"))
    assert r"26.0 \pm 0.8{$^{\dagger}$~(?)}" in to_latex(table)
    assert r"DM: ours $-$ published" in to_latex(table)
    assert "<td>26.0† ± 0.8 (?)</td>" in to_html(table)
    found = {(line["Method"], line["column"]): line for line in csv.DictReader(io.StringIO(to_csv(table)))}
    theirs = found["DM: published", "convnet"]
    assert (theirs["mean"], theirs["std"], theirs["n"], theirs["low95"]) == ("26.0000", "0.8000", "", "")
    assert theirs["source"].startswith("A Table 1 (arXiv")
    assert found["DM: ours − published", "convnet"]["n"] == "2"
    assert found["DM", "convnet"]["source"] == ""
    assert found["DM", "vgg11"]["n"] == "0"
    for name in FORMATS:
        assert "9.0" in FORMATS[name](table)


def test_only_the_very_cell_is_compared():
    """Another recipe, IPC, network, plug-in or distilling network is another cell."""
    others = [{"recipe": "dc"}, {"ipc": 10}, {"network": "vgg11"}, {"distilled_on": "vgg11"}, METADD]
    for other in others:
        table = beside([row(25.0, **other)], number(26.0))
        assert not any("ours − published" in line.about[-2] for line in table.rows)
        assert "missing" in [cell.missing for line in table.rows for cell in line.cells.values()]


def test_what_has_no_row_of_ours_is_missing():
    table = beside([row(25.0)], number(26.0), number(48.9, ipc=10), number(22.0, network="vgg11"))
    assert table.columns == ("convnet", "vgg11", "mean")
    assert [cells(line)[1:] for line in lines(table)[2:]] == [
        ["1", "DM", "dsa", "25.0 (1)", "missing", "25.0 (1)"],
        ["1", "DM: published", "dsa", "26.0† (?)", "22.0 (?)", "—"],
        ["1", "DM: ours − published", "dsa", "-1.0 (1)", "—", "—"],
        ["10", "DM", "dsa", "missing", "—", "—"],
        ["10", "DM: published", "dsa", "48.9† (?)", "—", "—"],
    ]


def test_without_any_row_of_ours_all_is_missing():
    table = beside([], number(26.0), number(48.9, ipc=10), spec=BY_IPC)
    assert [cells(line) for line in lines(table)[2:]] == [
        ["DM", "convnet", "missing", "missing"],
        ["DM: published", "convnet", "26.0† (?)", "48.9† (?)"],
    ]
    assert "No finished evaluation yet." in table.notes
    assert lines(beside([], spec=BY_IPC)) == []


def test_columns_of_ipc_have_one_for_the_whole_training_set():
    full = {"method": "Full data", "ipc": None, "distilled_on": None, "recipe": "full"}
    table = beside([row(84.0, **full), row(25.0)], number(84.8, **full), number(26.0), spec=BY_IPC)
    assert table.columns == ("all", "1", "mean")
    assert [cells(line)[2] for line in lines(table)[2:5]] == ["84.0 (1)", "84.8 (?)", "-0.8 (1)"]


def test_other_networks_of_a_method_are_never_taken_for_one_another():
    spec = TableSpec(title="By IPC", kind="accuracy", rows=["method"], columns="ipc")
    table = beside([row(25.0)], number(26.0), number(22.0, network="vgg11"), spec=spec)
    assert table.row_names == ("Method", "Network")
    assert [cells(line)[:3] for line in lines(table)[2:]] == [
        ["DM", "convnet", "25.0 (1)"],
        ["DM: published", "convnet", "26.0† (?)"],
        ["DM: ours − published", "convnet", "-1.0 (1)"],
        ["DM", "vgg11", "missing"],
        ["DM: published", "vgg11", "22.0 (?)"],
    ]


def test_rows_with_a_plugin_keep_their_difference_and_their_verdict():
    rows = [row(20.0 + s, seed=s) for s in range(6)]
    rows += [row(21.0 + s + s / 10, seed=s, **METADD) for s in range(6)]
    table = beside(rows, number(26.0), number(30.0, plugin="metadd"))
    methods = [line.about[2] for line in table.rows]
    assert methods == [
        *("DM", "DM: published", "DM: ours − published", "DM + MetaDD", "DM: MetaDD − without"),
        *("DM + MetaDD", "DM + MetaDD: published"),  # distilled on other networks than the paper's
    ]
    bold = [(line.about[2], name) for line in table.rows for name, cell in line.cells.items() if cell.bold]
    assert ("DM: MetaDD − without", "mean") in bold
    assert {method for method, _ in bold} == {"DM: MetaDD − without"}


def test_a_number_without_its_network_is_told_and_not_compared():
    table = beside([row(25.0)], number(30.1, network=None, distilled_on=None, plugin="metadd"))
    assert len(table.rows) == 1
    assert "DM + MetaDD cifar10 IPC 1 30.1%" in table.notes[-1]
    assert table.notes[-1].startswith("Published without naming the networks")


def test_a_suite_has_the_numbers_that_it_plans():
    suites = read_spec().suites
    assert {name for name, suite in suites.items() if suite.published} == {
        *("cifar10", "cifar100", "tiny-imagenet")
    } | ({"paper"} & suites.keys())
    found = planned(suites["cifar10"], NUMBERS)
    assert {each.dataset for each in found} == {"cifar10"}
    assert {each.ipc for each in found} == {1, 10, 50, None}
    assert {"convnet", "resnet18@bn"} <= {each.network for each in found}
    assert all(each.canonical == "yes" for each in found)
    one = suites["cifar10"].model_copy(update={"ipc": [10]})
    assert {each.ipc for each in planned(one, NUMBERS)} == {10, None}


def test_a_reduced_suite_stands_beside_no_paper(monkeypatch, capfd, tmp_path):
    done = run_here(monkeypatch, capfd, "table", "cross-architecture", "--suite", "cifar10-cpu")
    assert "published" not in done.out
    assert (done.status, done.err) == (0, "")
    done = run_here(monkeypatch, capfd, "table", "accuracy", "--suite", "cifar10", "--format", "csv")
    assert "DSA: published,dsa,convnet,1,28.8000,0.7000,," in done.out


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"only": {"methods": "DM"}}, "only.methods"),
        ({"only": {"method": []}}, "only.method: "),
        ({"only": {}}, "only: at least 1 item is expected"),
        ({"kind": "memory", "only": {"ipc": 1}}, "only: a table of kind `memory` is about all rows"),
        ({"rows": ["network"]}, "rows: network is what the columns are"),
        ({"kind": "memory", "rows": ["network"]}, "it has no network"),
    ],
)
def test_a_mistake_in_a_table_is_one_line(value, message):
    with pytest.raises(UserError) as caught:
        validated(TableSpec, {"title": "t", "kind": "accuracy", "rows": ["method"], **value}, "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_is_about_the_rows_that_it_names():
    only = SPEC.model_copy(update={"only": {"ipc": ("1",), "method": ("DM", "DC")}})
    rows = [row(1.0), row(2.0, ipc=10), row(3.0, method="DC"), row(4.0, method="DSA")]
    table = accuracy_table("t", only, frame(rows))
    assert [line.about[2] for line in table.rows] == ["DM", "DC"]
    none = accuracy_table("t", SPEC.model_copy(update={"only": {"ipc": ("7",)}}), frame(rows))
    assert none.notes == ("No finished evaluation yet.",)
    numbers = [number(26.0), number(60.0, method="DSA")]
    beside_ours = accuracy_table("t", only, frame(rows), (), Beside(numbers, only, "authors"))
    assert not any("DSA" in line.about[2] for line in beside_ours.rows)


def test_published_is_yes_or_no():
    with pytest.raises(UserError, match="published: input should be a valid boolean"):
        validated(Suite, {**TINY, "published": "often"}, "here")


def test_a_file_of_one_s_own_goes_on_top_of_the_installed_one(monkeypatch, capfd, tmp_path):
    mine = {"title": "Mine", "kind": "accuracy", "rows": ["method"], "only": {"recipe": "sre2l"}}
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({"extends": "installed", "tables": {"mine": mine}}))
    done = run_here(monkeypatch, capfd, "table", "mine", "--suite", "tiny-cpu", "--tables", file)
    assert (done.status, done.err) == (0, "")
    assert "### Mine" in done.out
    assert "| SRe2L" in done.out
    assert "| DM" not in done.out
    assert read_spec(file).suites == read_spec().suites
    for wrong, words in (
        ({"extends": "nothing"}, "extends: input should be 'installed'"),
        ({"tables": 3}, "tables:"),
    ):
        file.write_text(yaml.safe_dump({"extends": "installed", **wrong}))
        is_one_line(run_here(monkeypatch, capfd, "table", "--tables", file), words)


def test_unknown_table_is_one_line(monkeypatch, capfd):
    done = run_here(monkeypatch, capfd, "table", "headlines", "--suite", "tiny-cpu")
    is_one_line(done, "no table 'headlines'", "'headline'")
