"""Estimates of every method on images of CIFAR-10's size and ten classes: the executed count, to the byte."""

import pytest
import torch
from memory_of_updates import CPU, given, made
from small import dataset
from test_plugged import METHODS
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.measuring.estimate import shortened
from bench.measuring.holders import Holder, count_by_holder
from bench.measuring.shortened import few_pieces
from bench.memory import to_fake
from bench.stages.distill import count_live_bytes

pytestmark = pytest.mark.usefixtures("one_thread", "quick_collections")


#: The loops of DC are those of DSA, and these three nearly half of the time.
SLOW = ("dc", "glad(dc)", "dm-multi")


@pytest.fixture(scope="module")
def data():
    return dataset(classes=10, size=32, per_class=8, spec="cifar10")


def estimate(cell, data, used):
    """As ``measure --estimate`` makes it: fake tensors, few epochs, few of pieces that are alike."""
    mode = FakeTensorMode()
    used = {
        name: to_fake(mode, one) if isinstance(one, torch.nn.Module) else one for name, one in used.items()
    }
    with mode, few_pieces(data):
        return count_by_holder(shortened(cell), data, CPU, used)


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in METHODS],
)
def test_alone_and_with_metadd_it_is_the_executed_count(data, method):
    for plugin in ("none", "metadd"):
        cell = made(data, method, plugin, ipc=1)
        used = given(data, cell)
        found = estimate(cell, data, used)
        assert sum(found.values()) == count_live_bytes(cell, data, CPU, used)
        assert (found[Holder.plugin] > 0) == (plugin == "metadd")
        assert (found[Holder.generator] > 0) == ("glad" in method)
        assert found[Holder.images] > 10 * 4 * 3 * 32**2
