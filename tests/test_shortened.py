"""Pieces left out of an update where its memory is estimated: the peak is the executed one's, to the byte."""

from dataclasses import replace

import pytest
import torch
from small import cell, dataset
from test_estimate import given, on_fakes, used_by  # noqa: F401  (a fixture)
from test_plugged import METHODS, NETWORKS

from baselines.dc import DC
from bench.measuring.holders import count_by_holder
from bench.measuring.shortened import few_pieces
from bench.synthetic import Rendered
from metadd.cam import CAM
from metadd.plugin import MetaDD

pytestmark = pytest.mark.usefixtures("one_thread", "quick_collections")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return dataset()


def both(made, data, given):  # noqa: F811
    """The peak by holder of an executed update, and that of few pieces on fake tensors."""
    used = used_by(made, given)
    with few_pieces(data):
        few = on_fakes(made, data, used)
    return count_by_holder(made, data, CPU, used), few


@pytest.mark.parametrize(
    ("ipc", "plugin"),
    [
        (7, {"chunk": 2}),  # 11 chunks, the last of one image
        (7, {"chunk": 6, "align": 0.0}),  # 4 chunks
        (2, {"chunk": 2, "meta": 0.3}),  # 3 chunks
        (7, {"chunk": 20, "alignment": "variance"}),
    ],
)
def test_metadd_s_chunks(data, given, ipc, plugin):  # noqa: F811
    made = cell(data, "dm", ipc=ipc, plugin={"networks": NETWORKS, **plugin}, **METHODS["dm"])
    executed, few = both(made, data, given)
    assert few == executed


@pytest.mark.parametrize(("chunk", "method"), [(2, "glad"), (4, "glad"), (20, "glad"), (3, "glad(mtt)")])
def test_glad_s_chunks(data, given, method, chunk):  # noqa: F811
    executed, few = both(cell(data, method, ipc=7, chunk=chunk, **METHODS[method]), data, given)
    assert few == executed


@pytest.mark.parametrize(
    ("method", "seed", "chunk"), [("dc", 0, 1), ("dsa", 0, 1), ("dsa", 1, 1), ("dc", 0, 2), ("dsa", 0, 2)]
)
def test_dc_s_classes(method, seed, chunk):
    data = dataset(classes=9)
    executed, few = both(cell(data, method, seed=seed, **METHODS[method], chunk=chunk), data, {})
    assert few == executed


@pytest.mark.parametrize("plugin", [None, {"networks": NETWORKS}], ids=["plain", "metadd"])
def test_glad_s_classes_in_chunks(data, given, plugin):  # noqa: F811
    made = cell(data, "glad(dc)", plugin=plugin, iterations=2, inner={"batch_real": 4, "chunk": 2})
    executed, few = both(made, data, given)
    assert few == executed


def test_a_class_of_fewer_images_has_its_turn():
    """The largest of them is the peak, wherever it stands."""
    even = dataset(classes=6, per_class=8)
    uneven = replace(even, train=replace(even.train, offsets=(0, 2, 4, 6, 8, 40, 48)))
    executed, few = both(cell(uneven, "dc", iterations=2, batch_real=32, ipc=1), uneven, {})
    assert few == executed


def test_few_pieces_are_few_and_all_is_whole_again_afterwards(data, given, monkeypatch):  # noqa: F811
    """Of 21 images in chunks of 2 each network sees 4 chunks in the first pass and 3 in the second."""
    seen = []
    forward = CAM.forward

    def listening(cam, images, labels):
        seen.append(len(images))
        return forward(cam, images, labels)

    monkeypatch.setattr(CAM, "forward", listening)
    watched = (MetaDD, CAM, Rendered, DC)
    before = [dict(vars(owner)) for owner in watched]
    made = cell(data, "dm", ipc=7, plugin={"networks": NETWORKS, "chunk": 2}, **METHODS["dm"])
    both(made, data, given)
    updates = 2
    whole, few = updates * len(NETWORKS) * 2 * 11, updates * len(NETWORKS) * (4 + 3)
    assert len(seen) == whole + few
    assert [dict(vars(owner)) for owner in watched] == before
