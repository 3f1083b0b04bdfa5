"""What docs/reproduce.md says that the papers' tables cost: computed again from the committed counts."""

import csv
import re
import shlex

import pytest
from committed import RESULTS

from bench.spec import read
from bench.tabulating.published import read as read_published

ROOT = RESULTS.parent
PAGE = (ROOT / "docs/reproduce.md").read_text()
README = (ROOT / "README.md").read_text()
#: What is made beforehand for a method without a plug-in, by what a row of the counts is about.
BEFOREHAND = {
    "MTT": [("expert", "convnet"), ("zca", "")],
    "SRe2L": [("classifier", "resnet18@bn")],
    "Random, same soft labels": [("classifier", "resnet18@bn")],
    "GLaD (SRe2L), trained generator": [("classifier", "resnet18@bn"), ("generator", "")],
    "SRe2L + MetaDD": [("classifier", name) for name in ("resnet18@bn", "convnet", "vgg11", "vit_tiny")],
}
#: Where a table of memory has the peak of a row: the method, and the column.
PEAKS = {
    "GLaD (SRe2L), trained generator": ("SRe2L", "+ GLaD"),
    "SRe2L + MetaDD": ("SRe2L", "+ MetaDD"),
}


def table(file):
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


COSTS = table(RESULTS / "paper/cost.csv")
MEMORY = table(RESULTS / "memory/tables/memory.csv")


def hours(dataset, method, ipcs, network):
    """GPU hours of a method's sets at these IPC, of what they need, and of one network trained on each."""
    of = [row for row in COSTS if row["dataset"] == dataset]
    made = [(row["what"], row["network"]) for row in of if row["kind"] == "pretrain"]
    found = [
        row
        for row in of
        if row["kind"] == "pretrain" and (row["what"], row["network"]) in BEFOREHAND.get(method, ())
    ]
    assert set(BEFOREHAND.get(method, ())) - {("zca", "")} <= set(made)
    mine = [row for row in of if row["what"] == method]
    # SRe2L's parts are counted in the first IPC that has them: a set of 50 holds those of 10.
    parted = "SRe2L" in method
    found += [
        row
        for row in mine
        if row["kind"] == "distil" and (int(row["ipc"]) in ipcs or (parted and int(row["ipc"]) < max(ipcs)))
    ]
    found += [row for row in mine if row["kind"] == "relabel" and int(row["ipc"]) in ipcs]
    evaluated = [
        row
        for row in mine
        if row["kind"] == "evaluate" and row["network"] == network and int(row["ipc"]) in ipcs
    ]
    assert len(evaluated) >= len(ipcs)
    return sum(float(row["hours"]) for row in (*found, *evaluated))


def peak(dataset, method, ipc):
    """GiB at the peak of distilling, estimated; None of what distils nothing."""
    name, column = PEAKS.get(method, (method, "alone"))
    about = {"Dataset": dataset, "IPC": str(ipc), "Method": name, "column": column}
    found = [row for row in MEMORY if about.items() <= row.items()]
    return float(found[0]["mean"]) / 1024 if found else None


def lines(text):
    """The rows of a page's tables that have a command with ``--only``: their cells, and the command."""
    for line in text.splitlines():
        cells = [text.strip() for text in line.strip("|").split("|")]
        if command := re.search(r"^\|.*`run ([^`]* --only [^`]*)`", line):
            yield cells, shlex.split(command[1])


def asked(command):
    """The suite of a command and what ``--only`` says."""
    suite, *options = command
    assert options[::2] == ["--only"] * (len(options) // 2)
    return suite, dict(option.split("=", 1) for option in options[1::2])


def shown(value):
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


ROWS = [pytest.param(cells, command, id=" ".join(command)) for cells, command in lines(PAGE)]


def test_there_are_rows_of_both_tables():
    assert len(ROWS) >= 4 + 13


@pytest.mark.parametrize(("cells", "command"), ROWS)
def test_hours_and_memory_are_those_of_the_counts(cells, command):
    suite, only = asked(command)
    ipcs = [int(only["ipc"])] if "ipc" in only else read().suites[suite].ipc
    *_, total, memory = cells
    assert total == shown(hours(suite, only["method"], ipcs, only["network"]))
    peaks = [peak(suite, only["method"], ipc) for ipc in ipcs if ipc > 1]
    assert memory == (f"{max(peaks):.1f}" if None not in peaks else "—")


@pytest.mark.parametrize(("cells", "command"), ROWS)
def test_a_command_asks_for_what_is_planned_and_published(cells, command):
    """By names that the counts have; and each but the control has a published number to stand beside."""
    suite, only = asked(command)
    assert only.keys() <= {"method", "ipc", "network"}
    about = {"dataset": suite, "what": only["method"], "kind": "evaluate", "network": only["network"]}
    assert [row for row in COSTS if about.items() <= row.items()]
    if only["method"] != "Random, same soft labels":
        method, _, plugin = only["method"].partition(", trained")[0].partition(" + ")
        numbers = [each for each in read_published() if each.canonical == "yes" and each.dataset == suite]
        found = [each for each in numbers if (each.method, each.plugin) == (method, plugin.lower() or "none")]
        assert {each.network for each in found} & {only["network"], None}
        assert cells[2].strip("`") in read().suites[suite].tables


def test_the_readme_s_rows_are_the_page_s():
    known = {tuple(command): cells[-2:] for cells, command in lines(PAGE)}
    found = list(lines(README))
    assert len(found) == 6
    for cells, command in found:
        assert cells[-2:] == known[tuple(command)]


def test_suites_cost_what_the_counts_add_up_to():
    """The table of whole suites."""
    found = dict(
        re.findall(r"^\| `(cifar10|cifar100|tiny-imagenet)` \| .* \| ([\d,]+) \|$", PAGE, re.MULTILINE)
    )
    for suite in ("cifar10", "cifar100", "tiny-imagenet"):
        total = sum(float(row["hours"]) for row in COSTS if row["dataset"] == suite)
        assert found[suite] == f"{total:,.0f}"
