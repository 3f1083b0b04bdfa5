"""Figures of cost: what they show, and that equal rows give equal bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from command_line import rekeyed

from bench import plots
from bench.plotting import cost as costplots
from bench.plotting.spots import Spot, spots
from bench.results import Results
from bench.spec import read

KINDS = ("memory", "memory-scaling", "cost-accuracy")
HOLDERS = ("images", "method", "plug-in", "generator", "real images", "other")


def measured(method, name, mib, plugin="none", ipc=10, device="cuda", current=True):
    """A row of ``measures.jsonl`` of an estimate that has ``mib`` in each holder's place."""
    holders = {holder: size * 2**20 for holder, size in zip(HOLDERS, mib, strict=True)}
    networks = {"networks": ["a", "b"]} if plugin != "none" else {}
    of = {
        "method": method,
        "settings": {},
        "plugin": {"name": plugin, **networks},
        "dataset": {"size": 32, "classes": 10},
        "network": "convnet",
        "name": [name, ipc, current],
    }
    row = {
        "current": current,
        "tags": {"dataset": "cifar10", "ipc": ipc, "method": name, "plugin": plugin},
        "cell": {"kind": "measure", "what": "distil", "how": "estimate", "device": device, "of": of},
        "result": {"holders": holders, "peak_live_bytes": sum(holders.values())},
        "cost": {},
        "provenance": {},
        "artifacts": {},
    }
    return rekeyed(row)


ROWS = [
    measured("dm", "DM", (1, 2, 0, 0, 4, 0)),
    measured("dm", "DM", (2, 3, 0, 0, 4, 0), ipc=50),
    measured("dm", "DM", (9, 9, 9, 9, 9, 9), device="cpu"),
    measured("dc", "DC", (1, 8, 0, 0, 4, 1)),
    measured("glad", "GLaD (DM), x", (1, 2, 0, 90, 4, 0)),
    measured("dm", "DM + MetaDD", (1, 2, 3, 0, 4, 0), "metadd"),
    measured("dm", "DM + CE only", (1, 2, 3, 0, 4, 0), "metadd"),
    measured("glad", "GLaD (DM), x + MetaDD", (1, 2, 3, 90, 4, 0), "metadd"),
]


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "measures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return Results(folder)


def test_bars_are_methods_alone_with_metadd_and_under_glad():
    panels = costplots.bars(ROWS)
    assert list(panels) == ["cifar10, IPC 10", "cifar10, IPC 50"]
    shown = [(bar.method, bar.form, bar.total) for bar in panels["cifar10, IPC 10"]]
    assert shown == [("DM", "alone", 7), ("DM", "+ MetaDD", 10), ("DM", "+ GLaD", 97), ("DC", "alone", 14)]
    assert panels["cifar10, IPC 10"][1].holders["plug-in"] == 3


def test_a_measure_in_several_rows_of_a_table_has_a_bar_in_each():
    """A part of SRe2L's set is the same at each number of images per class."""
    row = measured("sre2l", "SRe2L", (1, 2, 0, 0, 4, 0))
    panels = costplots.bars([{**row, "also": [{**row["tags"], "ipc": 50}]}])
    assert {title: bars[0].total for title, bars in panels.items()} == {
        "cifar10, IPC 10": 7,
        "cifar10, IPC 50": 7,
    }


TAGS = {"dataset": "d", "ipc": 2, "recipe": "r", "seed": 0, "protocol": "p", "distilled_on": "convnet"}


def evaluated(method, accuracy, network="convnet", plugin="none", **tags):
    return {
        "key": f"{method}{network}",
        "current": True,
        "tags": {**TAGS, "network": network, "method": method, "plugin": plugin, **tags},
        "cell": {"kind": "evaluate"},
        "result": {"accuracy": accuracy},
    }


def distilled(method, seed, mib, seconds, device="A processor", kind="cpu", images=2, **tags):
    tags = {**TAGS, "method": method, "seed": seed, **tags}
    peak = "peak_live_bytes" if kind == "cpu" else "peak_allocated_bytes"
    cost = {"updates": 10, "seconds_per_update": seconds / 10, peak: mib * 2**20}
    made = {"device": device, "device_kind": kind}
    cell = {"kind": "distil", "ipc": images}
    return {"current": True, "tags": tags, "cell": cell, "cost": cost, "provenance": made}


def test_spots_are_means_over_the_networks_that_all_have():
    rows = [
        evaluated("A", 10.0),
        evaluated("A", 90.0, "vgg11"),
        evaluated("B", 20.0),
        evaluated("random", 5.0),
    ]
    rows += [evaluated("A + MetaDD", 12.0, plugin="metadd")]
    rows += [distilled("A", 0, 1, 30), distilled("A", 1, 3, 50), distilled("B", 0, 5, 7, images=1)]
    rows += [distilled("B", 0, 8, 1, images=1)]  # a second part
    rows += [distilled("A + MetaDD", 0, 4, 60), distilled("A", 2, 1, 1, images=1)]  # of which one is missing
    (panel,) = spots(rows).panels.items()
    a, b = Spot("A", (2, 30, 10), (4, 60, 12)), Spot("B", (8, 8, 20), None)
    assert panel == ("d, IPC 2: convnet", [a, b])


def timed(method, seconds, device="A processor", **tags):
    """A measure of an update."""
    tags = {**TAGS, "method": method, "plugin": "none", "stages": {}} | tags
    result = {"peak_live_bytes": 1, "peak_allocated_bytes": None, "trouble": None}
    result["seconds_per_update"] = {"median": seconds}
    cell = {"what": "distil", "how": "run", "device": "cpu", "of": {"method": "dm", "ipc": 1}}
    made = {"device": device}
    return {
        "current": True,
        "tags": tags,
        "cell": cell,
        "result": result,
        "provenance": made,
        "cost": {},
        "key": method,
    }


def test_seconds_are_measured_ones_where_all_methods_have_them():
    rows = [evaluated("A", 10.0), evaluated("B", 20.0), distilled("A", 0, 1, 30)]
    rows += [distilled("B", 0, 5, 7, images=1), distilled("B", 0, 8, 1, images=1)]  # its two parts
    found = spots(rows, [timed("A", 0.5), timed("B", 2.0)])
    assert found.timed
    assert [*found.panels.values()] == [[Spot("A", (1, 5, 10), None), Spot("B", (8, 40, 20), None)]]
    for some in ([timed("A", 0.5)], [timed("A", 0.5), timed("B", 2.0, "Another")]):
        assert spots(rows, some) == spots(rows)
        assert not spots(rows).timed


def test_what_differs_in_recipe_protocol_or_network_has_a_spot_of_its_own():
    other = {"recipe": {"recipe": "s"}, "protocol": {"protocol": "q"}, "on": {"distilled_on": "vgg11"}}
    rows = [evaluated("B", 1.0), distilled("B", 0, 1, 1)]
    rows += [evaluated("A", 10.0), distilled("A", 0, 1, 30)]
    for number, tags in enumerate(other.values(), start=2):
        rows += [evaluated("A", 10.0 * number, **tags), distilled("A", 0, number, 10, **tags)]
    (panel,) = spots(rows).panels.values()
    assert panel == [
        Spot("B", (1, 1, 1), None),
        Spot("A (protocol p, on convnet, recipe r)", (1, 30, 10), None),
        Spot("A (protocol p, on convnet, recipe s)", (2, 10, 20), None),
        Spot("A (protocol q, on convnet, recipe r)", (3, 10, 30), None),
        Spot("A (protocol p, on vgg11, recipe r)", (4, 10, 40), None),
    ]
    (panel,) = spots(rows[:4] + rows[8:]).panels.values()
    assert [spot.name for spot in panel] == ["B", "A (on convnet)", "A (on vgg11)"]
    measures = [timed(name, 1.0) for name in "AB"]
    measures += [timed("A", 2.0, protocol="q"), timed("A", 3.0, distilled_on="vgg11")]
    (panel,) = spots(rows, measures).panels.values()
    assert [spot.alone[1] for spot in panel] == [10, 10, 10, 20, 30]


def test_an_arrow_leads_to_the_same_method_with_metadd():
    """By what they were distilled on; a variant that has a name of its own is not it."""
    rows = []
    for on in ("convnet", "vgg11"):
        rows += [evaluated("A", 10.0, distilled_on=on), distilled("A", 0, len(on), 1, distilled_on=on)]
        for name in ("MetaDD", "CE only"):
            tags = {"method": f"A + {name}", "distilled_on": f"{on}+vit_tiny"}
            rows += [evaluated(accuracy=float(len(on)), plugin="metadd", **tags)]
            rows += [distilled(seed=0, mib=3, seconds=9, **tags)]
    (panel,) = spots(rows).panels.values()
    assert panel == [
        Spot("A (on convnet)", (7, 1, 10), (3, 9, 7)),
        Spot("A (on vgg11)", (5, 1, 10), (3, 9, 5)),
    ]


def test_accuracies_are_of_the_seeds_that_have_all_networks():
    rows = [evaluated("B", 1.0, network) for network in ("convnet", "vgg11")]
    rows += [evaluated("A", 10.0), evaluated("A", 30.0, "vgg11"), evaluated("A", 90.0, seed=1)]
    rows += [distilled("A", 0, 1, 1), distilled("A", 1, 1, 1), distilled("B", 0, 1, 1)]
    (panel,) = spots(rows).panels.values()
    assert {spot.name: spot.alone[2] for spot in panel} == {"B": 1, "A": 20}


def test_costs_of_two_devices_are_never_compared():
    rows = [evaluated("A", 10.0), evaluated("B", 20.0), evaluated("C", 30.0)]
    rows += [distilled("A", 0, 1, 30), distilled("A", 1, 3, 50), distilled("A", 2, 5, 99, "Another")]
    rows += [distilled("B", 0, 7, 99, "Another"), distilled("C", 0, 999, 2, "A GPU", "cuda")]
    rows += [distilled("C", 1, 4, 6)]
    found = spots(rows)
    assert (found.device, found.measure) == ("A processor", "of live tensors, counted")
    (panel,) = found.panels.values()
    # A count does not depend on the processor.
    assert panel == [
        Spot("A", (3, 30, 10), None),
        Spot("B", (7, None, 20), None),
        Spot("C", (4, 6, 30), None),
    ]


def test_what_has_no_seconds_to_compare_is_left_out_of_that_panel():
    drawn = []

    class Axes(MagicMock):
        def plot(self, x, y, marker, **how):
            drawn.append((x, y, how["markerfacecolor"]))

    shown = [Spot("A", (3, None, 10), (4, 60, 12)), Spot("B", (8, 8, 20), None)]
    costplots._draw_spots(Axes(), shown, 1, ["A", "B"])
    assert [(x, y) for x, y, _ in drawn] == [(60, 12), (8, 20)]
    assert drawn[1][2] == "white" != drawn[0][2]


def test_methods_look_different():
    assert len({costplots._look(number) for number in range(20)}) == 20


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_draw_is_no_file(kind, tmp_path):
    spec = read()
    file = tmp_path / "x.png"
    assert not plots.plot(spec, "memory", Results(tmp_path), kind, file)
    assert not file.exists()


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_equal_rows_give_equal_bytes_in_another_process_too(results, tmp_path, form):
    spec = read()
    committed = Results(Path(__file__).resolve().parent.parent / "results/cifar10-cpu")
    places = {"memory": results, "memory-scaling": results, "cost-accuracy": committed}
    program = (
        "import sys; from pathlib import Path; from bench import plots; from bench.results import Results\n"
    )
    program += "from bench.spec import read\nspec = read()\n"
    for kind, where in places.items():
        assert plots.plot(spec, "memory", where, kind, tmp_path / f"{kind}.{form}")
        program += f"plots.plot(spec, 'memory', Results(Path({str(where.folder)!r})), {kind!r}, "
        program += f"Path({str(tmp_path / f'{kind}-again.{form}')!r}))\n"
    program += "assert 'torch' not in sys.modules\n"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    for kind in KINDS:
        first, again = ((tmp_path / f"{kind}{end}.{form}").read_bytes() for end in ("", "-again"))
        assert first == again
        assert len(first) > 2000
