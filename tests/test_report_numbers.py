"""Every number of every kind of table leads to the rows that make it, computed again without pandas."""

import re
from math import fsum

import numpy as np
import pytest
from report_page import Page, numbers
from report_rows import measure, publish

from bench.measuring.measures import Measures, name_of
from bench.report import page
from bench.spec import TableSpec

#: What the tests below are about: they must be all kinds of tables that there are.
KINDS = {"accuracy": "Accuracy", "meta-features": "Features", "memory": "Memory", "time": "Time"}
#: A suite with sets of several parts, soft labels, and GLaD, for the tables of what things take.
_PLUGIN = {"name": "metadd", "networks": ["convnet@w8", "vgg11@w8"]}
WIDE = {
    "ipc": [1, 2],
    "seeds": 2,
    "teacher": {"network": "resnet18@w4@bn", "epochs": 1},
    "grid": [
        {"method": "random"},
        {"method": "dm", "plugin": ["none", _PLUGIN]},
        {"method": "dc", "settings": {"outer": 2}, "plugin": ["none", _PLUGIN]},
        {"method": ["glad", "glad(dc)"], "settings": {"generator": "random"}},
        {
            "method": "sre2l",
            "evaluate": {"networks": ["convnet@w8"], "recipe": "sre2l"},
            "plugin": ["none", _PLUGIN],
        },
    ],
    "analyse": {"auxiliary": ["convnet@w8", "vgg11@w8"], "unseen": ["alexnet@w8", "mobilenetv2@w8"]},
    "tables": ["memory", "time"],
}


def test_all_kinds_of_tables_are_tested():
    (kinds,) = (field.annotation.__args__ for name, field in TableSpec.model_fields.items() if name == "kind")
    assert set(kinds) == set(KINDS)


def mean(values):
    values = list(values)
    return fsum(values) / len(values)


def grouped(rows, *tags):
    found = {}
    for row in rows:
        found.setdefault(tuple(row["tags"][tag] for tag in tags), []).append(row)
    return found


def of_seeds(rows, value):
    """The mean over seeds of the mean over networks of the mean over evaluation seeds."""
    return mean(
        mean(mean(map(value, same)) for same in grouped(of_seed, "network").values())
        for of_seed in grouped(rows, "seed").values()
    )


def of_all(rows, value):
    return mean(map(value, rows))


def difference(rows, value, over):
    """With a plug-in less without; the rows are of both, and of the same seeds."""
    plain = [row for row in rows if row["tags"]["plugin"] == "none"]
    plugged = [row for row in rows if row["tags"]["plugin"] != "none"]
    assert grouped(plain, "seed").keys() == grouped(plugged, "seed").keys()
    return over(plugged, value) - over(plain, value)


def shown(text):
    """A number as printed, and the half of its last digit."""
    digits = re.match(r"(?:≈ )?([+-]?\d+(\.\d+)?)", text)
    return float(digits[1]), 0.5 * 10.0 ** -len((digits[2] or ".")[1:]) + 1e-9


def is_again(number, again):
    found, half = shown(number.text)
    assert again == pytest.approx(found, abs=half), number


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_accuracies_and_features(tmp_path, seed):
    """Of random rows, of which a random quarter is missing."""
    rng = np.random.default_rng(seed)
    made = publish(tmp_path, seed, lambda item: item.cell.kind != "pretrain" and rng.random() < 0.25)
    parsed = Page(page(made.spec, "made-up", made.results))
    counted = 0
    for number in numbers(parsed, made.rows, KINDS["accuracy"]):
        rows, value = number.rows, lambda row: row["result"]["accuracy"]
        assert {row["cell"]["kind"] for row in rows} == {"evaluate"}
        changes = number.text[0] in "+-"
        is_again(number, difference(rows, value, of_seeds) if changes else of_seeds(rows, value))
        counted += 1
    measures = {"meta %": ("meta", 100), "heterogeneous %": ("heterogeneous", 100), "IoU": ("iou", 1)}
    measures |= {"divergence": ("divergence", 1), "CE": ("cross_entropy", 1)}
    for number in numbers(parsed, made.rows, KINDS["meta-features"]):
        role, _, name = number.column.partition(": ")
        of, times = measures[name]
        rows, value = number.rows, lambda row: times * row["result"][of]  # noqa: B023
        assert {row["tags"]["role"] for row in rows} == {role}
        changes = number.text[0] in "+-"
        is_again(number, difference(rows, value, of_all) if changes else of_all(rows, value))
        counted += 1
    assert counted > 50


def overhead(number, value):
    """A number of the tables of memory and time again; ``value`` of the rows of one set, by its seed."""
    sets = {}
    for row in number.rows:
        if kind_of(row) == "distil":
            where = (method_of(row).startswith("glad"), row["tags"]["plugin"] != "none")
            sets.setdefault(where, {}).setdefault(row["tags"]["seed"], []).append(row)
    values = {
        where: {seed: value(parts) for seed, parts in by_seed.items()} for where, by_seed in sets.items()
    }
    seeds = {frozenset(by_seed) for by_seed in values.values()}
    assert len(seeds) == 1, number  # all are of the same seeds
    assert number.text.endswith(f"({len(next(iter(seeds)))})")
    plain, plugged, glad = (values.get(where) for where in ((False, False), (False, True), (True, False)))
    if number.column == "ratio":
        return mean((plugged[seed] - plain[seed]) / (glad[seed] - plain[seed]) for seed in plain)
    if number.column.startswith("difference"):
        assert len(values) == 2
        added = plugged if "MetaDD" in number.column else glad
        return mean(added[seed] - plain[seed] for seed in plain)
    (only,) = values.values()
    return mean(only.values())


def kind_of(row):
    return row["cell"].get("what", "distil") if row["cell"]["kind"] == "measure" else row["cell"]["kind"]


def method_of(row):
    return row["cell"].get("of", row["cell"])["method"]


def seconds(row):
    cost = row["cost"]
    return cost["updates"] * cost["seconds_per_update"] if cost.get("updates") else cost["seconds"]


def reached(parts, rows):
    """What some parts of a set were made from, among these rows, with the set's labels and their teacher."""
    found, keys = {}, [row["key"] for row in parts]
    waiting = [key for row in parts for some in row["cell"]["uses"].values() for key in some]
    for row in rows:
        if kind_of(row) == "relabel" and list(row["cell"]["images"]) == keys:
            found[row["key"]] = row
            waiting.append(row["cell"]["teacher"])
    by_key = {row["key"]: row for row in rows}
    while waiting:
        row = by_key[waiting.pop()]  # a row that is not behind the number fails the test
        found[row["key"]] = row
        waiting += [key for some in row["cell"]["uses"].values() for key in some]
    return list(found.values())


def time_of_run(number, parts):
    if number.column.startswith("set "):
        return fsum(map(seconds, [*parts, *reached(parts, number.rows)])) / 60
    return fsum(map(seconds, parts)) / sum(row["cost"]["updates"] for row in parts)


def time_of_measure(number, parts):
    (row,) = parts
    if not number.column.startswith("set "):
        return row["result"]["seconds_per_update"]["median"]
    tags = next(
        tags for tags in (row["tags"], *row.get("also", ())) if str(tags["ipc"]) == number.about["IPC"]
    )
    whole = row["cost"]["whole"]["seconds"] * tags["ipc"] / row["cell"]["of"]["ipc"]
    stages = {name_of(each["cell"]["of"]): each["cost"]["whole"]["seconds"] for each in number.rows}
    return (whole + fsum(stages[name] * count for name, count in tags["stages"].items())) / 60


@pytest.mark.parametrize("seed", [4, 5])
def test_memory_and_time_of_runs(tmp_path, seed):
    """Of random rows, of which a random tenth is missing: a set may lack a part or what it was made from."""
    rng = np.random.default_rng(seed)
    made = publish(tmp_path, seed, lambda item: rng.random() < 0.1, **WIDE)
    parsed = Page(page(made.spec, "made-up", made.results))
    counted = {}
    for number in numbers(parsed, made.rows, KINDS["memory"]):
        assert {row["cell"]["kind"] for row in number.rows} == {"distil"}
        peak = lambda parts: max(row["cost"]["peak_live_bytes"] for row in parts) / 2**20  # noqa: E731
        is_again(number, overhead(number, peak))
        counted["memory", number.column] = True
    for number in numbers(parsed, made.rows, KINDS["time"]):
        is_again(number, overhead(number, lambda parts: time_of_run(number, parts)))  # noqa: B023
        counted["time", number.column] = True
    assert {column for kind, column in counted if kind == "memory"} == {
        "alone", "+ MetaDD", "difference (MetaDD)", "+ GLaD", "difference (GLaD)", "ratio",
    }  # fmt: skip
    assert {column for kind, column in counted if kind == "time"} == {
        "alone", "+ MetaDD", "difference (MetaDD)", "+ GLaD", "difference (GLaD)",
        "set alone", "set + MetaDD", "set + GLaD",
    }  # fmt: skip


def test_memory_and_time_of_measures(tmp_path):
    """Where both were made, of runs and of measures; on a CPU, on a GPU, and estimated."""
    made = publish(tmp_path, left_out=lambda item: item.cell.kind == "distil", **WIDE)
    rng = np.random.default_rng(6)
    rows = {}
    for how, device in (("run", "cpu"), ("run", "cuda"), ("estimate", "cuda")):
        for item in Measures(made.plan, {}, how, device, 5, 2):
            rows.setdefault(item.cell.key, measure(item, rng))
    made.results.measures.write(rows.values())
    rows = {**made.rows, **made.results.measures.rows}
    parsed = Page(page(made.spec, "made-up", made.results))
    columns, tests = set(), 0
    for number in numbers(parsed, rows, KINDS["memory"]):
        name = "peak_allocated_bytes" if "GPU" in number.column else "peak_live_bytes"
        is_again(number, overhead(number, lambda parts: parts[0]["result"][name] / 2**20))  # noqa: B023
        columns.add(number.column)
        tests += 1
    for number in numbers(parsed, rows, KINDS["time"]):
        device = "cuda" if "GPU" in number.column else "cpu"
        assert {row["cell"]["device"] for row in number.rows} == {device}
        is_again(number, overhead(number, lambda parts: time_of_measure(number, parts)))  # noqa: B023
        columns.add(number.column)
        tests += 1
    assert {"ratio", "alone (GPU)", "+ MetaDD (GPU)", "+ GLaD (GPU)", "set + GLaD"} <= columns
    assert tests > 80
