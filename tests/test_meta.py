"""The table of meta features, against hand-made rows."""

import csv
import io
import itertools
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from bench.spec import TableSpec
from bench.tabulating.formats import to_csv, to_markdown
from bench.tabulating.meta import frame, meta_table

SPEC = TableSpec(title="Meta features", kind="meta-features", rows=["dataset", "ipc", "method"])
TAGS = {
    "dataset": "cifar10",
    "protocol": "common",
    "method": "DM",
    "without": "DM",
    "plugin": "none",
    "ipc": 1,
    "distilled_on": "convnet",
    "seed": 0,
    "role": "auxiliary",
}
METADD = {"method": "DM + MetaDD", "plugin": "metadd", "distilled_on": "convnet+resnet18"}
REAL = {"method": "Real test images", "without": "Real test images", "ipc": None, "distilled_on": None}
_keys = itertools.count()


def row(meta, current=True, kind="analyse", **tags):
    """An analysis; its other numbers follow from ``meta``."""
    others = {"heterogeneous": 1 - meta, "iou": meta / 2, "divergence": 2 * meta, "cross_entropy": 3 * meta}
    networks = {"convnet": 90.0, "vgg11": 91.0} if tags.get("role") != "unseen" else {"alexnet": 80.0}
    return {
        "key": str(next(_keys)),
        "current": current,
        "cell": {"kind": kind, "settings": {"grid": 8, "threshold": 0.5, "temperature": 0.1}},
        "tags": {**TAGS, **tags},
        "result": {"meta": meta, **others, "images": 10, "accuracies": networks},
    }


def made(rows, spec=SPEC):
    return meta_table("meta-features", spec, frame(rows), ("Suite.",))


def by_row(table):
    """The cells of each row, by its method."""
    return {each.about[table.row_names.index("Method")]: each.cells for each in table.rows}


def test_each_measure_has_a_column_for_each_group_of_networks():
    table = made([row(0.1), row(0.3, role="unseen")])
    measures = ("meta %", "heterogeneous %", "IoU", "divergence", "CE")
    assert table.columns == tuple(f"{role}: {each}" for role in ("auxiliary", "unseen") for each in measures)
    (cells,) = by_row(table).values()
    means = [cells[column].summary.mean for column in table.columns]
    assert means == pytest.approx([10, 90, 0.05, 0.2, 0.3, 30, 70, 0.15, 0.6, 0.9])


def test_mean_and_spread_are_over_distillation_seeds():
    values = np.random.default_rng(0).uniform(0.1, 0.4, 5)
    table = made([row(float(value), seed=seed) for seed, value in enumerate(values)])
    summary = by_row(table)["DM"]["auxiliary: meta %"].summary
    assert (summary.mean, summary.std, summary.n) == pytest.approx(
        (100 * values.mean(), 100 * values.std(ddof=1), 5)
    )


def test_the_difference_is_paired_by_seed_and_has_the_interval_of_t():
    rng = np.random.default_rng(1)
    without, with_ = rng.uniform(0.1, 0.3, 7), rng.uniform(0.2, 0.4, 7)
    rows = [row(float(value), seed=seed) for seed, value in enumerate(without)]
    rows += [row(float(with_[seed]), seed=seed, **METADD) for seed in (6, 2, 4, 3, 5)]  # two have no pair
    rows += [row(0.9, seed=9, **METADD)]  # nor has this
    rows += [row(0.5, seed=2, role="unseen"), row(0.4, seed=2, role="unseen", **METADD)]
    table = made(rows)
    assert list(by_row(table)) == ["DM", "DM + MetaDD", "DM: MetaDD − without"]
    change = by_row(table)["DM: MetaDD − without"]
    apart = 100 * (with_ - without)[2:]
    summary = change["auxiliary: meta %"].summary
    assert (summary.mean, summary.n) == pytest.approx((apart.mean(), 5))
    expected = scipy.stats.ttest_rel(with_[2:], without[2:]).confidence_interval(0.95)
    assert summary.interval == pytest.approx((100 * expected.low, 100 * expected.high))
    assert change["auxiliary: heterogeneous %"].summary.mean == pytest.approx(-apart.mean())
    line = next(line for line in to_markdown(table).splitlines() if "− without |" in line)
    low, high = summary.interval
    assert f"{summary.mean:+.1f} [{low:.1f}, {high:.1f}] (5)" in line
    assert "-10.0 (1)" in line  # one pair has no interval


def test_each_plug_in_is_compared_with_its_own_method_at_its_own_ipc():
    rows = [row(0.1), row(0.2, **METADD), row(0.25, **METADD | {"method": "DM + CE only"})]
    rows += [row(0.3, ipc=10), row(0.35, **METADD, ipc=10)]
    rows += [
        row(0.5, method="DC", without="DC"),
        row(0.4, **METADD | {"method": "DC + MetaDD"}, without="DC"),
    ]
    rows += [row(0.6, dataset="digits"), row(0.8, **METADD, dataset="digits")]
    table = made(rows)
    found = {
        each.about: each.cells["auxiliary: meta %"].summary.mean
        for each in table.rows
        if "without" in each.about[2]
    }
    assert found == pytest.approx(
        {
            ("cifar10", "1", "DM: MetaDD − without"): 10,
            ("cifar10", "1", "DM: CE only − without"): 15,
            ("cifar10", "10", "DM: MetaDD − without"): 5,
            ("cifar10", "1", "DC: MetaDD − without"): -10,
            ("digits", "1", "DM: MetaDD − without"): 20,
        }
    )


@pytest.mark.parametrize(
    "others",
    [[], [{"method": "DC", "without": "DC"}], [{}, {"distilled_on": "resnet18"}], [{"protocol": "authors"}]],
    ids=["none", "another method", "which of two networks", "another protocol"],
)
def test_without_the_same_method_alone_there_is_no_difference(others):
    table = made([*(row(0.1, **about) for about in others), row(0.2, **METADD)])
    assert not any("without" in text for each in table.rows for text in each.about)


def test_real_images_have_no_ipc_and_come_first():
    table = made([row(0.2, **REAL), row(0.1)])
    assert [each.about for each in table.rows] == [
        ("cifar10", "—", "Real test images"),
        ("cifar10", "1", "DM"),
    ]


def test_what_differs_inside_a_cell_is_never_averaged():
    table = made([row(0.1), row(0.2, ipc=10)], SPEC.model_copy(update={"rows": ["method"]}))
    assert [each.about for each in table.rows] == [("DM", "1"), ("DM", "10")]


def test_csv_says_everything_and_nothing_of_evaluation_networks():
    rows = [row(0.1, seed=s) for s in range(2)] + [row(0.25 + s / 100, seed=s, **METADD) for s in range(2)]
    lines = list(csv.DictReader(io.StringIO(to_csv(made(rows)))))
    assert list(lines[0]) == ["Dataset", "IPC", "Method", "column", "mean", "std", "n", "low95", "high95"]
    found = {(line["Method"], line["column"]): line for line in lines}
    change = found["DM: MetaDD − without", "auxiliary: meta %"]
    assert (change["mean"], change["n"]) == ("15.5000", "2")
    assert float(change["low95"]) == pytest.approx(15.5 - 12.7062 * 0.5, abs=1e-3)
    assert found["DM", "unseen: CE"]["n"] == "0"


def test_the_notes_say_what_was_measured_and_through_what():
    text = to_markdown(made([row(0.1), row(0.1, role="unseen")]))
    assert "grid of 8 x 8 positions" in text
    assert "Networks: auxiliary: convnet, vgg11; unseen: alexnet." in text
    assert "verdict" not in text


def test_only_current_analyses_count():
    table = made([row(0.1), row(0.9, current=False), row(0.9, kind="evaluate")])
    assert by_row(table)["DM"]["auxiliary: meta %"].summary.n == 1


def test_nothing_yet():
    text = to_markdown(made([]))
    assert text.splitlines() == ["### Meta features", "", "Suite.", "", "No finished analysis yet."]
    assert to_csv(made([])) == "column,mean,std,n,low95,high95\n"


def test_no_torch():
    code = (
        "import sys; from bench.plotting import cams; from bench.tabulating import meta;"
        "from bench.tabulating.formats import to_markdown;"
        "from bench.spec import TableSpec;"
        "s = TableSpec(title='t', kind='meta-features', rows=['method']);"
        "to_markdown(meta.meta_table('x', s, meta.frame([]))); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
