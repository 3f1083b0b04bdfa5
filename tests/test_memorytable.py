"""The table of memory, against hand-made rows whose peaks are whole MiB."""

import csv
import io
import itertools
import subprocess
import sys

import pytest
from command_line import rekeyed
from test_tables import TAGS as EVALUATED

import bench
from bench.errors import UserError
from bench.results import Results
from bench.spec import Spec, TableSpec
from bench.tabulating.formats import to_csv, to_markdown
from bench.tabulating.memory import frame, memory_table
from bench.validation import validated

SPEC = TableSpec(title="Memory", kind="memory", rows=["dataset", "ipc", "method"])
EVALUATION = ("network", "evaluation_seed", "seen")
TAGS = {name: value for name, value in EVALUATED.items() if name not in EVALUATION}
METADD = {"plugin": "metadd", "method": "DM + MetaDD", "distilled_on": "convnet+vgg11"}
GLAD = {"of": "glad", "method": "GLaD (DM), untrained generator"}
COLUMNS = ("alone", "+ MetaDD", "difference (MetaDD)", "+ GLaD", "difference (GLaD)", "ratio")
_keys = itertools.count()


def row(mib, of="dm", part=0, images=None, measure="peak_live_bytes", updates=300, kind="distil", **tags):
    """A part of a set: its peak, the method's name in the registry, and its images per class."""
    tags = {**TAGS, **tags}
    return {
        "key": str(next(_keys)),
        "current": True,
        "cell": {"kind": kind, "method": of, "part": part, "ipc": images or tags["ipc"]},
        "tags": tags,
        "cost": {"updates": updates, "seconds": 1.0} | ({measure: mib * 2**20} if mib is not None else {}),
        "provenance": {"device": "Some processor" if "live" in measure else "Some GPU"},
    }


def made(rows, spec=SPEC):
    return memory_table("memory", spec, frame(rows), ("Suite.",))


def printed(table):
    """The cells of each row as Markdown has them, by the row's dataset, IPC and method."""
    body = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    split = [[text.strip() for text in line.strip("|").split("|")] for line in body]
    names = len(table.row_names)
    assert tuple(split[0][names:]) == COLUMNS
    return {tuple(line[:names]): line[names:] for line in split[2:]}


def test_what_each_adds_is_of_the_same_seeds():
    rows = [row(mib, seed=seed) for seed, mib in enumerate([10, 20, 60])]
    rows += [row(mib, seed=seed, **METADD) for seed, mib in [(1, 24), (2, 68), (5, 500)]]
    rows += [row(mib, seed=seed, **GLAD) for seed, mib in [(0, 30), (1, 36)]]
    table = made(rows)
    found = printed(table)["cifar10", "1", "DM"]
    assert found == [
        "30.0 (3)",
        "197.3 (3)",  # 592 / 3
        "+6.0, +15.0% (2)",  # of 4 and 8, and of 20 and 60 alone
        "33.0 (2)",
        "+18.0, +120.0% (2)",  # of 20 and 16, and of 10 and 20 alone
        "0.25 (1)",  # seed 1: 4 of 16
    ]
    lines = {
        line["column"]: line for line in csv.DictReader(io.StringIO(to_csv(table))) if line["Method"] == "DM"
    }
    change = lines["difference (MetaDD)"]
    assert (change["mean"], change["n"], change["percent_of_alone"]) == ("6.0000", "2", "15.0000")
    assert float(change["high95"]) == pytest.approx(6 + 12.7062 * 2, abs=1e-3)  # sd 2 sqrt(2), over sqrt(2)
    assert (lines["ratio"]["mean"], lines["ratio"]["percent_of_alone"]) == ("0.2500", "")
    assert {line["measure"] for line in lines.values()} == {"peak_live_bytes"}


def test_what_is_missing_is_not_measured_and_no_zero():
    table = made([row(10), row(7, of="dc", method="DC"), row(9, of="glad(dc)", method="GLaD (DC), trained")])
    nothing = "not measured"
    assert printed(table) == {
        ("cifar10", "1", "DM"): ["10.0 (1)", *[nothing] * 5],
        ("cifar10", "1", "DC"): ["7.0 (1)", nothing, nothing, "9.0 (1)", "+2.0, +28.6% (1)", nothing],
        ("cifar10", "1", "GLaD (DC), trained"): ["9.0 (1)", nothing, nothing, "—", "—", "—"],
    }
    absent = [line for line in csv.DictReader(io.StringIO(to_csv(table))) if line["n"] == "0"]
    assert len(absent) == 5 + 3 + 5
    assert {line["mean"] for line in absent} == {""}


def test_a_method_that_was_only_measured_with_metadd_comes_last():
    rows = [row(8, of="alone", plugin="metadd", method="Real images + MetaDD"), row(10)]
    found = printed(made(rows))
    assert list(found) == [("cifar10", "1", "DM"), ("cifar10", "1", "Real images")]
    assert found["cifar10", "1", "Real images"] == ["not measured", "8.0 (1)", *["not measured"] * 4]


def test_each_dataset_and_ipc_has_its_own():
    rows = [row(10), row(20, ipc=10), row(30, dataset="digits")]
    rows += [row(11, **METADD), row(25, ipc=10, **METADD), row(33, dataset="digits", **METADD)]
    rows += [row(12, **GLAD), row(40, ipc=10, **GLAD)]
    found = {
        about: [cells[2], *cells[4:]] for about, cells in printed(made(rows)).items() if about[2] == "DM"
    }
    assert found == {
        ("cifar10", "1", "DM"): ["+1.0, +10.0% (1)", "+2.0, +20.0% (1)", "0.50 (1)"],
        ("cifar10", "10", "DM"): ["+5.0, +25.0% (1)", "+20.0, +100.0% (1)", "0.25 (1)"],
        ("digits", "1", "DM"): ["+3.0, +10.0% (1)", "not measured", "not measured"],
    }


def test_a_variant_of_metadd_has_a_row_of_its_own():
    rows = [row(10), row(12, **METADD), row(11, **METADD | {"method": "DM + CE only"}), row(14, **GLAD)]
    found = printed(made(rows))
    assert list(found)[:2] == [("cifar10", "1", "DM"), ("cifar10", "1", "DM: CE only")]
    assert found["cifar10", "1", "DM: CE only"][:3] == ["10.0 (1)", "11.0 (1)", "+1.0, +10.0% (1)"]
    assert found["cifar10", "1", "DM: CE only"][-1] == "0.25 (1)"


def test_of_two_generators_the_one_with_the_smaller_peak_is_named():
    trained = {**GLAD, "method": "GLaD (DM), trained generator"}
    table = made([row(10), row(50, **GLAD), row(30, **trained)])
    assert printed(table)["cifar10", "1", "DM"][3] == "30.0 (1)"
    assert table.notes[-1].endswith("smallest peak: GLaD (DM), trained generator.")


def test_glad_with_metadd_or_on_another_network_is_not_what_glad_adds():
    plugged = {**METADD, "of": "glad", "method": f"{GLAD['method']} + MetaDD"}
    found = printed(made([row(10), row(50, **plugged), row(40, distilled_on="vgg11", **GLAD)]))
    assert found["cifar10", "1", "DM"][3] == "not measured"


def test_no_ratio_where_glad_adds_nothing():
    found = printed(made([row(10), row(12, **METADD), row(9, **GLAD)]))
    assert found["cifar10", "1", "DM"][3:] == ["9.0 (1)", "-1.0, -10.0% (1)", "—"]


def test_a_set_has_the_peak_of_its_largest_part():
    rows = [
        row(mib, part=part, images=images, ipc=10) for part, mib, images in [(0, 5, 4), (1, 9, 4), (2, 3, 2)]
    ]
    assert printed(made(rows))["cifar10", "10", "DM"][0] == "9.0 (1)"
    assert not made(rows[:2]).rows  # a part is not finished
    assert not made([*rows[:2], row(None, part=2, images=2, ipc=10)]).rows  # or not measured


def test_a_set_in_parts_of_two_gpus_has_no_peak():
    """A count does not depend on the device."""
    for measure, peaks in (("peak_allocated_bytes", 0), ("peak_live_bytes", 1)):
        parts = [row(mib, part=part, images=1, ipc=2, measure=measure) for part, mib in enumerate([5, 9])]
        parts[1]["provenance"] = {"device": "Another"}
        assert frame(parts)[measure].count() == peaks
        assert frame(parts)["device"].tolist() == [f"{parts[0]['provenance']['device']} and Another"]


def test_a_part_that_two_sets_share_counts_in_both():
    shared = row(5, images=1) | {"also": [{**TAGS, "ipc": 2}]}
    found = printed(made([shared, row(7, part=1, images=1, ipc=2)]))
    assert [cells[0] for cells in found.values()] == ["5.0 (1)", "7.0 (1)"]


def test_a_set_that_two_recipes_train_on_is_one():
    twice = row(5) | {"also": [{**TAGS, "recipe": "dc"}]}
    assert printed(made([twice])) == {("cifar10", "1", "DM"): ["5.0 (1)", *["not measured"] * 5]}


def test_what_a_cpu_counts_and_what_a_gpu_allocates_are_never_mixed():
    gpu = {"measure": "peak_allocated_bytes"}
    table = made([row(10), row(100, seed=1, **gpu), row(12, **METADD)])
    assert printed(table)["cifar10", "1", "DM"][:3] == ["10.0 (1)", "12.0 (1)", "+2.0, +20.0% (1)"]
    assert "live tensor bytes, counted on a CPU" in table.header[-1]
    assert "Some processor" not in table.header[-1]  # a count does not depend on it
    assert table.notes[-1].startswith("Left out: 1 set(s)")
    other = made([row(10), row(100, seed=1, **gpu), row(120, seed=1, **gpu, **METADD)])
    assert printed(other)["cifar10", "1", "DM"][:3] == ["100.0 (1)", "120.0 (1)", "+20.0, +20.0% (1)"]
    assert other.header[-1].endswith("allocated on a GPU, over the whole distillation (Some GPU).")


def test_only_current_sets_that_something_distilled_count():
    rows = [row(99) | {"current": False}, row(99, kind="evaluate")]
    rows += [row(None, of="random", method="Random", updates=0)]
    text = to_markdown(made(rows))
    assert text.splitlines() == ["### Memory", "", "Suite.", "", "No finished distillation yet."]
    assert to_csv(made(rows)) == "column,mean,std,n,low95,high95,percent_of_alone,measure\n"
    assert not made([row(None)]).rows  # nor do rows of a time when nothing was measured


def test_a_suite_prints_it_from_its_rows(tmp_path):
    suite = {"title": "t", "protocol": "common", "dataset": "digits", "network": "convnet"}
    suite |= {"evaluate": {"networks": "convnet", "recipe": "short"}, "grid": [{"method": "dm"}]}
    spec = validated(
        Spec, {"suites": {"tiny": suite}, "tables": {"memory": SPEC.model_dump(exclude={"columns"})}}, "here"
    )
    results = Results(tmp_path)
    results.write([rekeyed(row(10) | {"result": {}, "artifacts": {}})])
    (table,) = bench.table(spec, "tiny", Results(tmp_path), ["memory"])
    assert printed(table)["cifar10", "1", "DM"][0] == "10.0 (1)"
    assert table.header[0].startswith("Suite `tiny`")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"columns": "network"}, "columns: a table of kind `memory` has its own"),
        ({"rows": ["recipe"]}, "recipe"),
    ],
)
def test_mistakes_in_the_file_are_one_line(value, message):
    with pytest.raises(UserError, match=message):
        validated(TableSpec, {"title": "t", "kind": "memory", "rows": ["method"], **value}, "here")


def test_no_torch():
    code = (
        "import sys; from bench.tabulating.memory import frame, memory_table;"
        "from bench.tabulating.formats import to_markdown; from bench.spec import TableSpec;"
        "s = TableSpec(title='t', kind='memory', rows=['method']);"
        "to_markdown(memory_table('x', s, frame([]))); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
