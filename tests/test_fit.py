"""What fits into a memory, and the setting that would make it fit: the search, on made-up costs."""

import pytest
from small import cell, dataset

from bench.errors import UserError
from bench.measuring.fit import Fit, Knob, fit, knobs_of, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 * 2**30), ("11 GB", 11 * 10**9), ("0.5MiB", 2**19), (".5KiB", 512), (" 1TiB ", 2**40)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "24", "GiB", "-1GiB", "0GiB", "24G", "24gib", "1.GiB", "nanGiB", "2TB"])
def test_what_is_no_size(text):
    with pytest.raises(UserError, match="24GiB is expected"):
        parse_size(text)


def knob(name, now):
    return Knob(name, now, lambda value: (name, value))


def test_the_largest_half_that_fits():
    def cost(turned):
        return 10 + 3 * turned[1]

    assert fit(40, iter([]), cost, 40) == Fit(True)
    assert fit(49, iter([knob("a", 13)]), cost, 48) == Fit(False, "a", 6)
    assert fit(49, iter([knob("a", 13)]), cost, 13) == Fit(False, "a", 1)
    assert fit(49, iter([knob("a", 13)]), cost, 12) == Fit(False)
    assert fit(49, iter([knob("a", 1)]), cost, 12) == Fit(False)


def test_the_first_setting_that_helps_and_none_that_does_not():
    tried = []

    def cost(turned):
        tried.append(turned)
        return 100 if turned[0] == "idle" else turned[1]

    knobs = [knob("idle", 64), knob("good", 64), knob("never", 64)]
    assert fit(100, iter(knobs), cost, 20) == Fit(False, "good", 16)
    assert tried == [("idle", 32), ("good", 32), ("good", 16)]


DATA = dataset(classes=5, size=32, per_class=30)
PLUGIN = ("the plug-in's chunk", 8)


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("dm", {"chunk": 9}, [("chunk", 5), ("batch_real", 30), ("ipc", 4)]),
        ("dsa", {"batch_real": 16, "plugin": {}}, [PLUGIN, ("batch_real", 16), ("ipc", 4)]),
        ("dc", {"chunk": 4}, [("chunk", 4), ("batch_real", 30), ("ipc", 4)]),
        ("dc", {"plugin": {"chunk": 900}}, [(PLUGIN[0], 20), ("batch_real", 30), ("ipc", 4)]),
        ("dc", {"plugin": {"images_per_update": 3}}, [(PLUGIN[0], 3), ("batch_real", 30), ("ipc", 4)]),
        ("mtt", {}, [("chunk", 20), ("ipc", 4)]),
        ("mtt", {"batch_syn": 7}, [("chunk", 7), ("ipc", 4)]),
        ("mtt", {"chunk": 3}, [("chunk", 3), ("ipc", 4)]),
        ("mtt", {"gradient": "unrolled"}, [("ipc", 4)]),
        ("sre2l", {}, [("batch", 5), ("ipc", 1)]),  # a part has one image of each class
        ("glad", {}, [("chunk", 10), ("inner.chunk", 1), ("inner.batch_real", 30), ("ipc", 4)]),
        ("glad(mtt)", {"chunk": 90}, [("chunk", 20), ("inner.chunk", 20), ("ipc", 4)]),
    ],
)
def test_the_settings_of_a_cell_at_what_they_come_to(method, settings, expected):
    made = cell(DATA, method, ipc=4, **settings)
    knobs = list(knobs_of(made, per_class=30, chunk=8))
    assert [(each.name, each.now) for each in knobs] == expected
    before = made.key
    for each in knobs:
        turned = each.turned(2)
        assert turned.key != before
        assert next(k.now for k in knobs_of(turned, 30, 8) if k.name == each.name) <= 2
    assert made.key == before
