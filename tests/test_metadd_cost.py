"""What MetaDD's default four networks add to each method's peak at the authors' settings, beside GLaD."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from small import cell
from stylegan_xl_128 import Shrunk
from stylegan_xl_128 import build as stylegan
from test_mtt_memory import Even
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.cells import AUXILIARY
from bench.data.types import Dataset, Split, offsets_of
from bench.measuring.shortened import few_pieces
from bench.memory import real_tensors, to_fake
from bench.networks.build import build, parameters_count
from bench.stages.distill import count_live_bytes
from metadd import CAM, PLUGINS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

CPU = torch.device("cpu")
MIB = 2**20
DEFAULT = PLUGINS["metadd"].settings().networks
#: Dataset, classes, image side, real images per class, IPC.
TASKS = {"cifar10": (10, 32, 5000, 10), "tiny-imagenet": (200, 64, 500, 50)}
#: Inner pieces that repeat, shortened; test_mtt_memory.py and test_dc_runs.py show that the peak stays, and
#: test_shortened.py that it does where Tiny-ImageNet's classes and chunks are.
SHORT = {"dc": {"inner": 2}, "dm": {}, "mtt": {"syn_steps": 4, "pixels": "normalised"}, "sre2l": {}}


def data_of(task):
    """The dataset's shapes, without its memory."""
    classes, size, per_class, _ = TASKS[task]
    images = np.broadcast_to(np.uint8(0), (classes * per_class, 3, size, size))
    split = Split(images, offsets_of([per_class] * classes))
    names = tuple(str(label) for label in range(classes))
    return Dataset(task, "0" * 64, names, size, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), split, split)


def peak(task, method, plugin=None, **settings):
    data, (classes, size, _, ipc) = data_of(task), TASKS[task]
    made = cell(data, method, network="convnet", ipc=ipc, plugin=plugin, **settings)
    with FakeTensorMode() as mode:
        used = {"experts": Even(parameters_count("convnet", classes, size))} if "mtt" in method else {}
        with real_tensors():
            networks = {}
            if "sre2l" in method:
                networks["teacher"] = build("resnet18@bn", classes, size).eval().requires_grad_(False)
            if "glad" in method:
                networks["generator"] = Shrunk(classes, size)
            for name in DEFAULT if plugin is not None else ():
                networks[AUXILIARY + name] = CAM(build(name, classes, size), size)
        used |= {name: to_fake(mode, network) for name, network in networks.items()}
        with few_pieces(data) if task == "tiny-imagenet" else nullcontext():
            return count_live_bytes(made, data, CPU, used) / MIB


def test_the_generator_has_the_authors_shapes():
    with torch.device("meta"):
        generator = stylegan(1000)
    assert generator.layers == 26
    assert generator.size == 128
    f = generator.features(torch.zeros(1, generator.num_ws, 512, device="meta"), 12)
    image = generator.images(f, torch.zeros(1, generator.num_ws, 512, device="meta"), 12)
    assert image.shape == (1, 3, 128, 128)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", SHORT)
def test_the_plug_in_adds_little_and_less_than_half_of_what_glad_adds(task, method):
    settings = SHORT[method]
    plain, plugged = peak(task, method, **settings), peak(task, method, plugin={}, **settings)
    inner = {name: value for name, value in settings.items() if name != "pixels"}
    glad = {"dm": "glad"}.get(method, f"glad({method})")
    prior = peak(task, glad, generator="file:x", layer=12, chunk=10, inner=inner)
    print(f"{task} {method}: {plain:.0f} MiB, + MetaDD {plugged:.0f}, + GLaD {prior:.0f}")
    assert plugged - plain <= max(0.15 * plain, 160)
    assert plugged - plain < 0.5 * (prior - plain)
