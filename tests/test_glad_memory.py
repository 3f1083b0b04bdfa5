"""The live-byte peak of GLaD's updates: on fake tensors to the byte, and what a larger set adds."""

import pytest
import torch
from small import cell, dataset
from test_glad import artifacts
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.memory import to_fake
from bench.stages.distill import Distillation, count_live_bytes

pytestmark = pytest.mark.usefixtures("quick_collections", "one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits_like():
    return dataset(classes=5, size=16, per_class=20, spec="digits")


def peaks(data, method="glad", **settings):
    """The peak on real tensors and on fake ones."""
    made, given = cell(data, method, **settings), artifacts(data)
    real = count_live_bytes(made, data, CPU, given)
    with FakeTensorMode() as mode:
        given["experts"].kept = to_fake(mode, given["experts"].kept)
        networks = {name: to_fake(mode, given[name]) for name in ("generator", "teacher")}
        return real, count_live_bytes(made, data, CPU, {**given, **networks})


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("glad", {"chunk": 4, "ipc": 3, "inner": {"batch_real": 5}}),
        ("glad", {"random_features": True, "average_w": True, "ipc": 1, "inner": {"batch_real": 5}}),
        ("glad", {"layer": 0, "inner": {"batch_real": 5}}),
        ("glad(dc)", {"inner": {"batch_real": 5}}),
        ("glad(mtt)", {"inner": {"syn_steps": 2}}),
        ("glad(sre2l)", {"ipc": 1}),
    ],
)
def test_fake_tensors_give_the_same_peak(digits_like, method, settings):
    real, fake = peaks(digits_like, method, **settings)
    assert real == fake


def test_a_larger_set_takes_what_its_images_and_latents_take(digits_like):
    """Each image: its pixels and their gradient, and its latents with their gradient and their momentum."""
    settings = {"layer": 3, "chunk": 5, "inner": {"batch_real": 5, "chunk": 1}}
    small, large = (cell(digits_like, "glad", ipc=ipc, **settings) for ipc in (10, 40))
    given = artifacts(digits_like)
    found = [count_live_bytes(each, digits_like, CPU, given) for each in (small, large)]
    job = Distillation(small, digits_like, CPU, given)
    held = 2 * job.x.images[0].numel() + 3 * sum(param[0].numel() for param in job.params.values())
    labels = 8
    of_latents = (200 - 50) * (4 * held + labels)
    # DM's graph is that of one class, which has 30 images more: what a forward and backward of them takes.
    with_graph = found[1] - found[0] - of_latents
    assert 0 <= with_graph < 30 * 4 * 40 * 16 * 16


def test_the_generator_s_graph_is_that_of_a_chunk(digits_like):
    given = artifacts(digits_like)
    settings = {"ipc": 10, "layer": 0, "iterations": 1, "inner": {"batch_real": 5}}
    cells = [cell(digits_like, "glad", chunk=chunk, **settings) for chunk in (5, 10, 50)]
    five, ten, all_together = (count_live_bytes(each, digits_like, CPU, given) for each in cells)
    assert five <= ten < 0.7 * all_together
