"""How peaks grow: curves from rows of measures, and lines through them."""

import numpy as np
import pytest
from scipy.stats import linregress

from bench.tabulating.growth import Curve, curves, law, notes


def row(mib, method="DM", ipc=10, size=32, dataset="cifar10", networks=None, steps=None, **how):
    """A row of ``measures.jsonl``, as far as it matters here."""
    plugin = {"name": "none"} if networks is None else {"name": "metadd", "networks": list(range(networks))}
    settings = {} if steps is None else {"syn_steps": steps, "gradient": how.get("gradient", "adjoint")}
    of = {
        "settings": settings,
        "plugin": plugin,
        "dataset": {"size": size, "classes": 10},
        "network": "convnet",
    }
    plugin |= how.get("plugin", {})
    device = how.get("device", "cuda")
    return {
        "current": how.get("current", True),
        "tags": {"dataset": dataset, "ipc": ipc, "method": method},
        "cell": {"what": "distil", "how": how.get("how", "estimate"), "device": device, "of": of},
        "result": {"peak_live_bytes": None if mib is None else mib * 2**20},
    }


def test_a_curve_is_of_rows_that_differ_in_one_thing():
    rows = [row(10 + ipc, ipc=ipc) for ipc in (50, 1, 10)]
    rows += [
        row(99, ipc=1, method="DC"),
        row(20, networks=1, method="DM + A"),
        row(30, networks=4, method="DM + B"),
    ]
    rows += [row(7, size=64, dataset="tiny"), row(None, ipc=3), row(5, ipc=4, current=False)]
    rows += [row(6, ipc=5, how="run"), row(8, ipc=6, device="cpu")]
    assert curves(rows) == [
        Curve("ipc", "DM", "cifar10", ((1, 11.0), (10, 20.0), (50, 60.0))),
        Curve("networks", "DM + MetaDD", "cifar10", ((0, 20.0), (1, 20.0), (4, 30.0))),
        Curve("size", "DM", "10 classes", ((32, 20.0), (64, 7.0))),
    ]


def test_each_variant_of_metadd_has_a_curve_of_its_own():
    rows = [row(10), row(15, networks=1, method="DM + 1 network"), row(20, networks=4, method="DM + MetaDD")]
    assert curves(rows) == [Curve("networks", "DM + MetaDD", "cifar10", ((0, 10.0), (1, 15.0), (4, 20.0)))]
    ce = {"align": 0.0}
    rows += [row(99, networks=4, method="DM + CE only", plugin=ce)]
    rows += [row(50, networks=2, method="DM + CE only, 2 networks", plugin=ce)]
    for given in (rows, rows[::-1]):
        assert {curve.method: curve.points for curve in curves(given)} == {
            "DM + MetaDD": ((0, 10.0), (1, 15.0), (4, 20.0)),
            "DM + CE only": ((0, 10.0), (2, 50.0), (4, 99.0)),
        }


def test_other_networks_in_the_same_number_are_no_point_of_a_curve():
    rows = [row(10), row(15, networks=1, method="DM + A"), row(20, networks=4, method="DM + B")]
    rows += [row(17, networks=1, method="DM + C", plugin={"networks": ["vgg11"]})]
    assert [curve.points for curve in curves(rows)] == [((0, 10.0), (4, 20.0))]


def test_a_plug_in_of_one_s_own_has_no_place_among_numbers_of_networks():
    own = {"name": "own", "strength": 1}
    rows = [row(mib, ipc=mib, method="DM + Own", plugin=own) for mib in (1, 10)] + [row(5)]
    assert curves(rows) == [Curve("ipc", "DM + Own", "cifar10", ((1, 1.0), (10, 10.0)))]


def test_student_steps_make_a_curve_of_each_gradient():
    rows = [
        row(steps * factor, method=f"MTT{name}, {steps} steps", steps=steps, gradient=gradient)
        for gradient, name, factor in (("adjoint", "", 1), ("unrolled", ", whole graph", 10))
        for steps in (10, 20)
    ]
    assert curves(rows) == [
        Curve("steps", "MTT", "cifar10", ((10, 10.0), (20, 20.0))),
        Curve("steps", "MTT, whole graph", "cifar10", ((10, 100.0), (20, 200.0))),
    ]


def test_a_measure_in_several_rows_of_a_table_is_a_point_of_each():
    """A part of SRe2L's set is the same at each number of images per class."""
    one = row(7, method="SRe2L", ipc=10)
    one["also"] = [{**one["tags"], "ipc": 50}]
    assert curves([one]) == [Curve("ipc", "SRe2L", "cifar10", ((10, 7.0), (50, 7.0)))]


def test_the_line_is_scipy_s():
    rng = np.random.default_rng(0)
    for axis in ["ipc", "size"] * 10:
        x, y = np.sort(rng.choice(200, 5, replace=False)), rng.uniform(50, 500, 5)
        found = law(Curve(axis, "m", "d", tuple(zip(x.tolist(), y.tolist(), strict=True))))
        x = x**2 / 1000 if axis == "size" else x  # thousands of pixels
        expected = linregress(x, y)
        assert (found.slope, found.intercept) == pytest.approx((expected.slope, expected.intercept))
        off = np.abs(y - expected.intercept - expected.slope * x).max() / y.max()
        assert found.off == pytest.approx(off)


def test_notes_say_the_slope_or_that_there_is_none():
    shown = [
        Curve("ipc", "DM", "cifar10", ((1, 12.0), (10, 30.0), (50, 110.0))),
        Curve("ipc", "DM", "cifar100", ((10, 30.0), (50, 50.0))),
        Curve("ipc", "DC", "cifar10", ((1, 1.0), (10, 2.0), (50, 1.0))),
        Curve("size", "DC", "5 classes", ((20, 1.5), (40, 2.7), (100, 11.1))),
        Curve("networks", "DM + MetaDD", "cifar10", ((0, 1.0), (1, 2.0), (2, 9.0))),
    ]
    hidden = [
        Curve("ipc", "DM + MetaDD", "cifar10", ((1, 12.0), (10, 30.0))),
        Curve("networks", "DC + MetaDD", "cifar10", ((0, 1.0), (4, 2.0))),
    ]
    assert list(notes([*shown, *hidden])) == [
        "Estimated growth by one more image per class, in MiB. cifar10, IPC 1 to 50: DM +2.00 from 10.0, DC "
        "no line, 1.0 to 1.0; cifar100, IPC 10 and 50: DM +0.50.",
        "Estimated growth by one more auxiliary network, in MiB. cifar10, 0 to 2 networks: DM + MetaDD no "
        "line, 1.0 to 9.0.",
        "Estimated growth by a thousand pixels more in an image, in MiB. 5 classes, 20 to 100 pixels a side: "
        "DC +1.00 from 1.1.",
    ]
