"""One update of each method with and without MetaDD, and one step of an evaluation's training.

Small: three classes of 16x16 images, networks of width 8. Run once as tests; times, kept and compared::

    uv run pytest tests/benchmarks/test_updates.py --benchmark-enable --benchmark-only --benchmark-autosave
    uv run pytest tests/benchmarks/test_updates.py --benchmark-enable --benchmark-only --benchmark-compare

What an update takes at the size that a suite has, ``metadd-bench measure SUITE`` says.
"""

import pytest
import torch
from memory_of_updates import CPU, given, made, updates
from small import dataset
from test_plugged import METHODS

from bench.networks.build import build
from bench.pixels import PixelSpace
from bench.seeds import forked
from bench.training import recipes
from bench.training.batches import Augmentation, SyntheticSet
from bench.training.loop import Training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data():
    return dataset()


@pytest.mark.parametrize("plugin", ["none", "metadd"])
@pytest.mark.parametrize("method", METHODS)
def test_an_update(benchmark, data, method, plugin):
    cell = made(data, method, plugin, iterations=100_000)
    following = updates(cell, data, given(data, cell, CPU))
    next(following)  # what is made once
    job = benchmark(next, following)
    assert job.x.images.isfinite().all()
    assert job.updates_done > 1


def test_a_step_of_an_evaluation(benchmark, data):
    recipe = recipes.resolve("dsa", {"epochs": 1_000_000, "batch": 6}, data.size)
    space = PixelSpace("normalised", data.mean, data.std)
    with forked("benchmark"):
        network = build("convnet@w8", len(data.classes), data.size)
        images = torch.randn(6, 3, data.size, data.size)
    shown = SyntheticSet(images, torch.arange(6) % 3)
    training = Training(network, shown, recipe, 0.01, Augmentation.of(data, space, CPU), (0,))
    benchmark(training.epoch)  # the set is one batch
    assert training.steps_per_epoch == 1
    assert training.last_loss > 0
