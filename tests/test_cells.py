"""Cells and their keys."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.cells import VERSIONS, WHOLE_TRAINING_SET, DatasetId, DistilCell, EvaluateCell, canonical
from bench.data import Identity

DATASET = DatasetId("digits[3]", "c" * 64, 3, 32)
DISTIL = DistilCell(
    DATASET,
    "dm",
    {"version": 1, "iterations": 3, "nested": {"b": 1, "a": [1, 2]}},
    ipc=1,
    part=0,
    network="convnet@w8",
    plugin={"name": "none"},
    seed=0,
    uses={"experts": ("e" * 64,)},
)
EVALUATE = EvaluateCell(
    DATASET,
    (DISTIL.key,),
    labels=None,
    network="convnet@w8",
    recipe={"name": "short", "epochs": 3},
    test_per_class=None,
    seed=0,
    evaluation_seed=0,
)

#: Another value for each field of each cell.
CHANGES = [
    (DISTIL, "dataset", replace(DATASET, content="d" * 64)),
    (DISTIL, "dataset", replace(DATASET, name="digits")),
    (DISTIL, "method", "dc"),
    (DISTIL, "settings", {"version": 2, "iterations": 3, "nested": {"b": 1, "a": [1, 2]}}),
    (DISTIL, "settings", {"version": 1, "iterations": 3, "nested": {"b": 1, "a": [2, 1]}}),
    (DISTIL, "ipc", 2),
    (DISTIL, "part", 1),
    (DISTIL, "network", None),
    (DISTIL, "plugin", {"name": "metadd", "rho": 0.3}),
    (DISTIL, "seed", 1),
    (DISTIL, "uses", {}),
    (DISTIL, "arithmetic", {"precision": "bf16"}),
    (EVALUATE, "dataset", replace(DATASET, size=64)),
    (EVALUATE, "images", (WHOLE_TRAINING_SET,)),
    (EVALUATE, "labels", "f" * 64),
    (EVALUATE, "network", "convnet"),
    (EVALUATE, "recipe", {"name": "short", "epochs": 4}),
    (EVALUATE, "test_per_class", 10),
    (EVALUATE, "seed", 1),
    (EVALUATE, "evaluation_seed", 1),
    (EVALUATE, "arithmetic", {"channels_last": True}),
]


@pytest.mark.parametrize(("cell", "field", "value"), CHANGES, ids=lambda x: x if isinstance(x, str) else "")
def test_the_key_knows_every_field(cell, field, value):
    other = replace(cell, **{field: value})
    assert other.key != cell.key
    assert other != cell
    assert len({other, cell, replace(cell)}) == 2


def test_every_field_is_tried_above():
    tried = {(type(cell), field) for cell, field, _ in CHANGES}
    assert tried == {(kind, field.name) for kind in (DistilCell, EvaluateCell) for field in fields(kind)}


@pytest.mark.parametrize("cell", [DISTIL, EVALUATE], ids=["distil", "evaluate"])
def test_the_key_knows_the_version_of_its_stage(cell, monkeypatch):
    monkeypatch.setitem(VERSIONS, cell.kind, VERSIONS[cell.kind] + 1)
    assert replace(cell).key != cell.key


def test_kinds_do_not_share_keys():
    assert {cell.value["kind"] for cell in (DISTIL, EVALUATE)} == {"distil", "evaluate"}


@pytest.mark.parametrize("cell", [DISTIL, EVALUATE], ids=["distil", "evaluate"])
def test_the_value_survives_json(cell):
    assert canonical(json.loads(json.dumps(cell.value))) == canonical(cell.value)
    assert len(cell.key) == 64


def test_needs_are_keys_of_cells():
    assert DISTIL.needs == ("e" * 64,)
    assert EVALUATE.needs == (DISTIL.key,)
    assert replace(EVALUATE, labels="f" * 64).needs == (DISTIL.key, "f" * 64)
    assert replace(EVALUATE, images=(WHOLE_TRAINING_SET,)).needs == ()
    assert replace(EVALUATE, images=("file:" + "a" * 64,)).needs == ()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def shuffled(value, reverse):
    """The same value with its keys in another order, at every depth."""
    if isinstance(value, dict):
        return {k: shuffled(value[k], reverse) for k in sorted(value, reverse=reverse)}
    return [shuffled(each, reverse) for each in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(), plain, max_size=5))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_the_order_of_keys_does_not_matter(value):
    first, second = shuffled(value, reverse=False), shuffled(value, reverse=True)
    assert canonical(first) == canonical(second)
    assert replace(DISTIL, settings=first).key == replace(DISTIL, settings=second).key


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_has_no_key(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"lr": number})


def test_a_dataset_is_what_it_is_not_where_it_is():
    def identity(spec):
        return Identity(spec, "c" * 64, ("a", "b"), 32, (5, 5), (2, 2))

    here, there = (DatasetId.of(identity(f"imagefolder:{path}")) for path in ("/here/pets", "pets"))
    assert here == there == DatasetId("imagefolder", "c" * 64, 2, 32)
    assert DatasetId.of(identity(f"imagefolder:{Path('/x')}[2]")).name == "imagefolder[2]"
