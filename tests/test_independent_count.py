"""The peak of live bytes against PyTorch's own tracker of memory, on executed updates."""

import gc
from unittest.mock import MagicMock

import pytest
import torch
from small import cell, dataset
from test_estimate import given, used_by  # noqa: F401  (a fixture)
from test_plugged import METHODS, NETWORKS
from torch.distributed._tools.mem_tracker import MemTracker

from bench.stages.distill import COUNTED_UPDATES, Distillation, count_live_bytes

pytestmark = pytest.mark.usefixtures("one_thread", "quick_collections")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return dataset()


def tracker_of_tensors():
    """Without its account by module, which fails where a network is left in the middle of a forward."""
    tracker = MemTracker()
    tracker._mod_tracker = MagicMock(is_bw=False)
    return tracker


def tracked(made, data, used):
    """The peak that the tracker finds in the first updates, in bytes."""
    job, tracker, updates = Distillation(made, data, CPU, used), tracker_of_tensors(), 0
    networks = [one for one in used.values() if isinstance(one, torch.nn.Module)]
    tracker.track_external(*networks, *job.params.values(), job.x.images, job.x.labels, job.x.gradient)
    gc.collect()
    gc.disable()  # as the count does
    try:
        with tracker:
            while updates < COUNTED_UPDATES:
                for _ in job.updates():
                    updates += 1
                    if updates == COUNTED_UPDATES:
                        break
                job.iterations_done += 1
    finally:
        gc.enable()
    return tracker.get_tracker_snapshot("peak")[CPU]["Total"]


@pytest.mark.parametrize(
    ("method", "plugin"),
    [("dsa", None), ("dm", None), ("mtt", None), ("sre2l", None), ("dm", {"networks": NETWORKS})],
)
def test_pytorch_s_tracker_finds_the_same_within_a_hundredth(data, given, method, plugin):  # noqa: F811
    made = cell(data, method, plugin=plugin, **METHODS[method])
    used = used_by(made, given)
    assert tracked(made, data, used) == pytest.approx(count_live_bytes(made, data, CPU, used), rel=0.01)
