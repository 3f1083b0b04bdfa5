"""MetaDD with ``offload``, estimated: as on a GPU one network is there at a time, on a CPU all are."""

import pytest
import torch
from command_line import TINY, run_here, write_tables
from small import cell, dataset
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.cells import AUXILIARY
from bench.measuring.holders import Holder, count_by_holder
from bench.memory import LiveBytes, to_fake
from bench.networks.build import build
from bench.seeds import forked
from bench.stages import distill
from metadd import CAM

pytestmark = pytest.mark.usefixtures("one_thread", "quick_collections")

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda"), torch.device("meta")
#: Without batch norm: of its statistics the meta device makes two tensors more than a CPU.
NETWORKS = ("convnet@w64", "resnet18@w16", "convnet@w48")


@pytest.fixture(scope="module")
def data():
    return dataset()


def cams(data, names=NETWORKS):
    with forked("offload"):
        return {AUXILIARY + name: CAM(build(name, len(data.classes), data.size), data.size) for name in names}


def made(data, names=NETWORKS, **plugin):
    """Only the plug-in has networks here, and it is given small chunks, so that they are most of all."""
    plugin = {"networks": names, "weight": 1.0, "chunk": 1, **plugin}
    return cell(data, "alone", iterations=3, plugin=plugin)


def estimate(this, used, data, device):
    mode = FakeTensorMode()
    used = {name: to_fake(mode, one) for name, one in used.items()}
    with mode:
        return count_by_holder(this, data, device, used)


class OnMeta(LiveBytes):
    """Counts what is on the device that computes nothing, in place of a GPU; the CPU is home."""

    def _count(self, tensor):
        if tensor.is_meta:
            super()._count(tensor)


def test_on_a_gpu_it_is_what_is_not_at_home(data, monkeypatch):
    """Against a run on another device, whose visitors are really moved there and back."""
    this = made(data, offload=True)
    found = estimate(this, cams(data), data, CUDA)
    stored = data.train.images.nbytes
    monkeypatch.setattr(distill, "LiveBytes", OnMeta)
    assert sum(found.values()) - stored == distill.count_live_bytes(this, data, META, cams(data))


def held(module):
    return sum(each.nbytes for each in (*module.parameters(), *module.buffers()))


def test_the_device_holds_the_largest_network_and_not_all(data):
    used = cams(data)
    moved, kept = (
        estimate(made(data, offload=offload), used, data, CUDA)[Holder.plugin] for offload in (True, False)
    )
    sizes = [held(used[AUXILIARY + name]) for name in NETWORKS]
    assert kept > sum(sizes)
    assert max(sizes) < moved < kept - sum(sizes) + 1.05 * max(sizes)


def test_on_a_cpu_it_is_the_executed_count_and_the_same_as_without(data):
    this, used = made(data, offload=True), cams(data)
    found = estimate(this, used, data, CPU)
    assert sum(found.values()) == distill.count_live_bytes(this, data, CPU, used)
    assert found == estimate(made(data), used, data, CPU)


def test_the_command_estimates_it(monkeypatch, capfd, tmp_path):
    plugin = {"name": "metadd", "networks": ["convnet@w8", "convnet@w4"], "offload": True}
    grid = [{"method": "dm", "settings": {"iterations": 2, "batch_real": 4}, "plugin": plugin}]
    file = write_tables(tmp_path / "tables.yaml", tiny={**TINY, "grid": grid})
    asked = ("measure", "tiny", "--tables", file, "--estimate", "--device", "cuda")
    done = run_here(monkeypatch, capfd, *asked)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[-1].startswith("| digits[3] | DM + MetaDD | 1 |")
