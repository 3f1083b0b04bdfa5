"""The live-byte peak of DM's updates: on fake tensors to the byte what it is on real ones."""

import pytest
import torch
from small import dataset, dm_cell
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.stages.distill import count_live_bytes

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("quick_collections")


@pytest.fixture(scope="module")
def digits_like():
    return dataset(classes=10, size=16, per_class=40, spec="digits")


@pytest.fixture(scope="module")
def cifar_like():
    return dataset(classes=10, size=32, per_class=40, spec="cifar10")


def peaks(data, **settings):
    """The peak on real tensors and on fake ones."""
    cell = dm_cell(data, **{"network": "convnet@w16", "batch_real": 32, **settings})
    real = count_live_bytes(cell, data, CPU)
    with FakeTensorMode():
        return real, count_live_bytes(cell, data, CPU)


@pytest.mark.parametrize("augment", ["dsa", "none"])
@pytest.mark.parametrize("chunk", [1, 10])
def test_fake_tensors_give_the_same_peak(digits_like, cifar_like, chunk, augment):
    for data, ipc in ((digits_like, 1), (cifar_like, 3)):
        real, fake = peaks(data, ipc=ipc, chunk=chunk, augment=augment)
        assert real == fake


@pytest.mark.parametrize(
    "settings",
    [
        {"network": "convnet@w16@bn"},
        {"network": "resnet18@w8", "batch_real": 4, "chunk": 5},
        {"network": "mobilenetv2@w8", "batch_real": 4},  # built anew in each iteration
        {"init": "noise", "pixels": "unit", "momentum": 0, "chunk": 10},
        {"batch_real": 1000, "chunk": 5},  # more than there are
        {"iterations": 1},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_fake_tensors_give_the_same_peak_whatever_the_settings(cifar_like, settings):
    real, fake = peaks(cifar_like, **settings)
    assert real == fake


def test_one_class_at_a_time_takes_less(cifar_like):
    one, all_together = (peaks(cifar_like, chunk=chunk, ipc=3)[1] for chunk in (1, 10))
    assert one < 0.5 * all_together


def test_batch_norm_takes_what_all_classes_take(cifar_like):
    one, all_together = (peaks(cifar_like, network="convnet@w16@bn", chunk=chunk)[1] for chunk in (1, 10))
    assert one == all_together


def test_a_second_count_gives_the_same(cifar_like):
    assert peaks(cifar_like, chunk=5) == peaks(cifar_like, chunk=5)


def test_the_peak_is_that_of_the_graph(cifar_like):
    """Lower bound by hand: what a ConvNet's graph keeps of a chunk, and the chunk's real images."""
    ipc, width = 10, 16
    real, _ = peaks(cifar_like, chunk=10, ipc=ipc, augment="none")
    image = 3 * 32 * 32
    kept = sum(width * side**2 * 2 for side in (32, 16, 8))  # before and after each norm; ReLU works in place
    embeddings = width * 4 * 4
    low = 4 * 10 * ipc * (kept + 3 * image)
    assert low < real < low + 4 * 10 * ipc * kept + 4 * 10 * 32 * (image + embeddings)
