"""The tables of time and, with measures, of memory: against hand-made rows."""

import csv
import io
import itertools
import math
import subprocess
import sys

import pytest
from test_memorytable import GLAD, METADD, TAGS

from bench.measuring.measures import name_of
from bench.spec import TableSpec
from bench.tabulating.formats import to_csv, to_markdown
from bench.tabulating.memory import frame, memory_table
from bench.tabulating.time import runs as sets_of
from bench.tabulating.time import significant, time_table

TIME = TableSpec(title="Time", kind="time", rows=["dataset", "ipc", "method"])
MEMORY = TableSpec(title="Memory", kind="memory", rows=["dataset", "ipc", "method"])
NOT = "not measured"
PLUGGED = {"name": "metadd", "networks": ["vgg11"]}
_keys = itertools.count()


def of(method="dm", **more):
    """The value of a measured cell."""
    value = {"kind": "distil", "method": method, "ipc": 1, "settings": {}, "plugin": {"name": "none"}}
    return {**value, "network": "convnet", "dataset": {"size": 32, "classes": 10}, **more}


def measure(value, how="run", device="cpu", model=None, what="distil", stages=None, whole=None, **result):
    """A row of a measure; tags among the result's fields are told apart by their names."""
    tags = {**TAGS, "seed": 0, "stages": stages or {}}
    tags |= {name: result.pop(name) for name in list(result) if name in TAGS}
    names = ("peak_live_bytes", "peak_allocated_bytes", "seconds_per_update", "trouble")
    found = dict.fromkeys(names) | {"how": how, "device": device}
    seconds = result.pop("seconds", None)
    if seconds is not None:
        found["seconds_per_update"] = {"median": seconds, "q1": seconds, "q3": seconds, "n": 5}
    found |= {name: size * 2**20 if name.startswith("peak") else size for name, size in result.items()}
    return {
        "key": f"m{next(_keys)}",
        "current": True,
        "tags": tags,
        "cell": {"kind": "measure", "of": value, "how": how, "device": device, "what": what},
        "result": found,
        "cost": {} if whole is None else {"whole": {"seconds": whole, "updates": 1, "extrapolated": True}},
        "provenance": {"device": model or ("Some GPU" if device == "cuda" else "Some processor")},
    }


def run(seconds, of="dm", key=None, uses=None, ipc=1, model="Some processor", kind="cpu", **tags):
    """A row of a distillation of 100 updates."""
    tags = {**TAGS, **tags}
    return {
        "key": key or str(next(_keys)),
        "current": True,
        "cell": {"kind": "distil", "method": of, "ipc": ipc, "uses": uses or {}},
        "tags": tags,
        "cost": {"updates": 100, "seconds": 999.0, "seconds_per_update": seconds},
        "provenance": {"device": model, "device_kind": kind},
    }


def other(kind, key, seconds, model="Some processor", tags=(), **cell):
    """A row of a stage."""
    cost = {"seconds": seconds}
    cell = {"kind": kind, "uses": {}, **cell}
    return {
        "key": key,
        "current": True,
        "cell": cell,
        "tags": dict(tags),
        "cost": cost,
        "provenance": {"device": model, "device_kind": "cpu"},
    }


def printed(table):
    """The cells of each row as Markdown has them, by method and source; by column."""
    body = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    head, _, *lines = [[text.strip() for text in line.strip("|").split("|")] for line in body]
    names = len(table.row_names)
    return {(line[2], line[names - 1]): dict(zip(head[names:], line[names:], strict=True)) for line in lines}


def test_seconds_per_update_are_measured_ones_and_a_set_s_are_extrapolated():
    teacher = {"kind": "pretrain", "what": "classifier"}
    rows = [
        measure(of(), seconds=0.25, whole=60),
        measure(of(plugin=PLUGGED), seconds=0.375, whole=90, stages={name_of(teacher): 2}, **METADD),
        measure(teacher, what="pretrain", seconds=1.0, whole=120, method=None, plugin=None),
        measure(of("glad"), seconds=0.5, whole=240, method=GLAD["method"]),
    ]
    table = time_table("time", TIME, [], ("Suite.",), rows)
    found = printed(table)["DM", "measured"]
    assert found == {
        "alone": "0.250 (1)",
        "+ MetaDD": "0.375 (1)",
        "difference (MetaDD)": "+0.125, +50.0% (1)",
        "+ GLaD": "0.500 (1)",
        "difference (GLaD)": "+0.250, +100.0% (1)",
        "set alone": "≈ 1.00 (1)",
        "set + MetaDD": "≈ 5.50 (1)",  # 90 s and twice 120
        "set + GLaD": "≈ 4.00 (1)",
        "alone (GPU)": NOT,
        "+ MetaDD (GPU)": NOT,
        "+ GLaD (GPU)": NOT,
    }
    assert "Some processor" in table.header[-1]
    lines = {
        line["column"]: line for line in csv.DictReader(io.StringIO(to_csv(table))) if line["Method"] == "DM"
    }
    assert (lines["set + MetaDD"]["mean"], lines["set + MetaDD"]["unit"]) == ("5.5000", "min per set")
    assert lines["alone (GPU)"]["mean"] == ""
    assert printed(table)["GLaD (DM), untrained generator", "measured"]["+ GLaD (GPU)"] == "—"


def test_a_set_of_several_parts_takes_each_of_them():
    (found,) = printed(
        time_table("time", TIME, [], (), [measure(of("sre2l"), ipc=10, seconds=1, whole=6)])
    ).values()
    assert found["set alone"] == "≈ 1.00 (1)"


def test_a_set_s_total_is_not_known_where_a_stage_was_not_measured_there():
    teacher = {"kind": "pretrain"}
    rows = [measure(of(), seconds=1, whole=60, stages={name_of(teacher): 1})]
    elsewhere = measure(teacher, what="pretrain", whole=5, model="Another processor")
    for measures in (rows, [*rows, elsewhere]):
        assert printed(time_table("time", TIME, [], (), measures))["DM", "measured"]["set alone"] == NOT


def test_runs_say_what_whole_sets_took_and_measures_what_updates_take():
    soft, uses = {"recipe": "sre2l"}, {"teacher": ["t"]}
    runs = [run(3, key="a", uses=uses, **soft), run(5, key="b", seed=1, uses=uses)]
    runs += [other("pretrain", "t", 60.0, uses={"zca": ["z"]}), other("pretrain", "z", 30.0)]
    runs += [other("relabel", "r", 150.0, images=["a"], teacher="t", tags={**TAGS, **soft})]
    found = printed(time_table("time", TIME, runs))
    assert found["DM", "runs"]["alone"] == "4.00 (2)"
    # 300, 60, 30 and 150 seconds; and 500, 60 and 30.
    assert found["DM", "runs"]["set alone"] == "9.42 (2)"
    both = printed(time_table("time", TIME, runs, (), [measure(of(), seconds=2, whole=1)]))
    assert both["DM", "measured"]["alone"] == "2.00 (1)"
    assert both["DM", "measured"]["set alone"] == "9.42 (2)"
    without = [row for row in runs if row["key"] != "z"]
    assert printed(time_table("time", TIME, without))["DM", "runs"]["set alone"] == NOT


SOFT = {**TAGS, "method": "SRe2L", "recipe": "sre2l", "ipc": 2}


def soft_set(*models):
    """Two parts of 300 s each, their labels of 120 s, and the teacher of these of 60 s."""
    models = models or ("One", "One")
    parts = [run(3, "sre2l", key, model=model) for key, model in zip("ab", models, strict=True)]
    labels = other("relabel", "r", 120.0, "One", tags=SOFT, images=["a", "b"], teacher="t")
    return [*(part | {"tags": SOFT} for part in parts), labels, other("pretrain", "t", 60.0, "One")]


def test_a_set_with_soft_labels_takes_these_and_their_teacher_too():
    rows = soft_set()
    (found,) = sets_of(rows).to_dict("records")
    assert (found["total"], found["total_keys"]) == (780, ("a", "b", "r", "t"))
    (other_order,) = sets_of([rows[1], rows[0], *rows[2:]])["total"]
    assert other_order == 780
    for missing in (2, 3):
        (total,) = sets_of(rows[:missing] + rows[missing + 1 :])["total"]
        assert math.isnan(total)
    (hard,) = sets_of([{**row, "tags": {**row["tags"], "recipe": "dsa"}} for row in rows[:2]])["total"]
    assert hard == 600


def test_rows_of_one_set_have_labels_of_their_own():
    again = {**SOFT, "method": "Again"}
    rows = [{**row, "also": [again]} for row in soft_set()[:2]] + soft_set()[2:]
    rows += [other("relabel", "s", 900.0, "One", tags=again, images=["a", "b"], teacher="t")]
    found = sets_of(rows).set_index("method")
    assert found["total"].to_dict() == {"SRe2L": 780, "Again": 1560}
    twice = [*soft_set(), {**rows[-1], "tags": SOFT}]  # each of two networks learns from its own
    assert sets_of(twice)["total"].tolist() == [1680]


def test_a_set_in_parts_of_two_devices_has_no_time():
    rows = soft_set("One", "Another")
    (found,) = sets_of(rows).to_dict("records")
    assert math.isnan(found["seconds"])
    assert math.isnan(found["total"])
    none = time_table("time", TIME, rows)
    left_out = "Left out are sets that were made on another device: SRe2L (1 on One and Another)."
    assert none.notes == ("No time was measured yet.", left_out)
    table = time_table("time", TIME, [*rows, run(4, model="One")])
    assert list(printed(table)) == [("DM", "runs")]
    assert left_out in table.notes


def test_times_of_two_devices_are_never_compared():
    rows = [measure(of(), seconds=1), measure(of("dc"), seconds=2, method="DC")]
    rows += [measure(of(plugin=PLUGGED), seconds=9, model="Another processor", **METADD)]
    gpu = [
        measure(of(), device="cuda", seconds=0.01),
        measure(of(plugin=PLUGGED), device="cuda", seconds=0.02, **METADD),
    ]
    found = printed(time_table("time", TIME, [], (), [*rows, *gpu]))["DM", "measured"]
    assert (found["alone"], found["+ MetaDD"]) == ("1.00 (1)", NOT)
    assert (found["alone (GPU)"], found["+ MetaDD (GPU)"]) == ("0.0100 (1)", "0.0200 (1)")
    alone = time_table("time", TIME, [], (), gpu)
    assert printed(alone)["DM", "measured"]["difference (MetaDD)"] == "+0.0100, +100.0% (1)"
    assert "alone (GPU)" not in alone.columns


def test_nothing_measured():
    text = to_markdown(time_table("time", TIME, [], ("Suite.",), [measure(of(), trouble="out of memory")]))
    assert text.splitlines()[:5] == ["### Time", "", "Suite.", "", "No time was measured yet."]
    assert text.splitlines()[6:] == ["cifar10, DM, IPC 1 could not be measured on a CPU: out of memory."]


def test_what_is_shown_of_which_device_and_generator_is_said():
    """The generator that takes least may be one for an update and another for a set."""
    trained = {"of": "glad", "method": "GLaD (DM), trained"}
    runs = [run(1, key="d"), run(2, key="g", **GLAD), run(1.5, key="h", uses={"g": ["t"]}, **trained)]
    runs += [other("pretrain", "t", 600.0), run(9, of="dc", method="DC", model="Another processor")]
    runs += [run(0.1, seed=1, model="Some GPU", kind="cuda")]
    table = time_table("time", TIME, runs, (), [measure(of("dsa"), method="DSA", trouble="out of memory")])
    row = printed(table)["DM", "runs"]
    assert (row["+ GLaD"], row["set + GLaD"]) == ("1.50 (1)", "3.33 (1)")
    first, *others = table.notes
    assert "seconds per update on a GPU (Some GPU)." in first
    assert others == [
        "The same method under GLaD, with the generator that takes least: “+ GLaD” GLaD (DM), trained; “set "
        "+ GLaD” GLaD (DM), untrained generator.",
        "Left out are sets that were made on another device: DC (1 on Another processor).",
        "cifar10, DSA, IPC 1 could not be measured on a CPU: out of memory.",
    ]


def test_a_number_leads_to_the_cells_that_it_was_measured_in():
    """An update to its set alone, a whole set to all that was made for it."""
    runs = [run(3, key="a", uses={"teacher": ["t"]}), other("pretrain", "t", 60.0)]
    (row,) = time_table("time", TIME, runs).rows
    assert (row.cells["alone"].keys, row.cells["set alone"].keys) == (("a",), ("a", "t"))
    teacher = {"kind": "pretrain"}
    rows = [measure(of(), seconds=1, whole=60, stages={name_of(teacher): 1})]
    rows += [measure(teacher, what="pretrain", whole=5)]
    (row,) = time_table("time", TIME, [], (), rows).rows
    keys = [each["key"] for each in rows]
    assert (row.cells["alone"].keys, row.cells["set alone"].keys) == ((keys[0],), tuple(keys))


def test_estimate_and_device_stand_side_by_side():
    estimate = {"how": "estimate", "device": "cuda"}
    rows = [
        measure(of(), peak_live_bytes=100, **estimate),
        measure(of(plugin=PLUGGED), peak_live_bytes=150, **estimate, **METADD),
        measure(of("glad"), peak_live_bytes=300, **estimate, method=GLAD["method"]),
        measure(of(), device="cuda", peak_allocated_bytes=112),
        measure(of(plugin=PLUGGED), device="cuda", trouble="out of memory on the GPU", **METADD),
    ]
    table = memory_table("memory", MEMORY, frame([]), ("Suite.",), rows)
    assert printed(table)["DM", "estimate, as on a GPU"] == {
        "alone": "100.0 (1)",
        "+ MetaDD": "150.0 (1)",
        "difference (MetaDD)": "+50.0, +50.0% (1)",
        "+ GLaD": "300.0 (1)",
        "difference (GLaD)": "+200.0, +200.0% (1)",
        "ratio": "0.25 (1)",
        "alone (GPU)": "112.0, ×1.12 (1)",
        "+ MetaDD (GPU)": NOT,
        "+ GLaD (GPU)": NOT,
    }
    assert "(Some GPU)" in table.notes[-2]
    assert table.notes[-1] == (
        "cifar10, DM + MetaDD, IPC 1 could not be measured on a GPU: out of memory on the GPU."
    )
    assert {key[0] for row in table.rows for cell in row.cells.values() for key in cell.keys} == {"m"}


def test_of_several_sources_the_one_that_fills_most_of_a_row_counts():
    runs = [run(1) | {"cost": {"updates": 9, "peak_live_bytes": 10 * 2**20}}]
    counted = [measure(of(), peak_live_bytes=11), measure(of(plugin=PLUGGED), peak_live_bytes=14, **METADD)]
    found = printed(memory_table("memory", MEMORY, frame(runs), (), counted))
    assert list(found) == [("DM", "measured on a CPU")]
    assert next(iter(found.values()))["difference (MetaDD)"] == "+3.0, +27.3% (1)"
    assert list(printed(memory_table("memory", MEMORY, frame(runs), (), counted[:1]))) == [("DM", "runs")]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.00012345, "0.000123"), (0.5, "0.500"), (12.34, "12.3"), (123.4, "123"), (98765.4, "98765")],
)
def test_numbers_have_three_digits_that_count(value, text):
    assert significant(value, value) == text


@pytest.mark.parametrize(
    ("value", "of", "text"),
    [(0.0000228, 0.82, "0.000"), (0.177, 0.0395, "0.177"), (0.0823, 12.34, "0.1"), (0, 0.82, "0.000")],
)
def test_a_difference_is_no_finer_than_what_it_is_of(value, of, text):
    assert significant(value, of) == text


def test_no_torch():
    modules = "bench.tabulating.time, bench.tabulating.memory, bench.measuring.measures"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
