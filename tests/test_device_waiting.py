"""No update waits for a GPU: nothing is read back from it, and what is copied to it does not block.

In the place of a GPU stands the meta device: there is no value to read, and copies to it can be listened to.
"""

import numpy as np
import pytest
import torch
from memory_of_updates import given, made
from small import dataset
from test_plugged import METHODS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench import device as devices
from bench.networks.build import build
from bench.pixels import PixelSpace
from bench.real import RealImages
from bench.stages.distill import Distillation
from bench.training.batches import Augmentation, RealSet
from bench.training.loop import Training
from bench.training.recipes import resolve

pytestmark = pytest.mark.usefixtures("one_thread")

GPU = torch.device("meta")
#: Operators that read values, or whose result's size depends on them.
READING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "equal", "is_nonzero")


class Watch(TorchDispatchMode):
    """Takes down what a GPU would be waited for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        there = any(each.device == GPU for each in tensors)
        if there and name.startswith(READING):
            self.found.append(name)
        if (
            there
            and name.startswith("index")
            and any(t.dtype in (torch.bool, torch.uint8) for t in tensors[1:])
        ):
            self.found.append(f"{name} by a mask")
        result = func(*args, **kwargs)
        if name == "copy_":
            asynchronous = kwargs.get("non_blocking", len(args) > 2 and args[2])
            self._copied(name, args[1], args[0], asynchronous)
        if name == "_to_copy":
            self._copied(name, args[0], result, kwargs.get("non_blocking", False))
        return result

    def _copied(self, name, source, target, asynchronous):
        if source.device == GPU != target.device or (
            target.device == GPU != source.device and not asynchronous
        ):
            self.found.append(f"{name} from {source.device} to {target.device}")


@pytest.fixture(scope="module")
def data():
    return dataset()


@pytest.mark.parametrize("plugin", ["none", "metadd"])
@pytest.mark.parametrize("method", METHODS)
def test_an_update_waits_for_nothing(data, method, plugin):
    cell = made(data, method, plugin)
    used = given(data, cell, GPU)
    used = {name: one.to(GPU) if isinstance(one, torch.nn.Module) else one for name, one in used.items()}
    job = Distillation(cell, data, GPU, used)
    assert job.x.images.device == GPU
    with Watch() as watch:
        for _ in range(2):
            for _ in job.updates():
                pass
            job.iterations_done += 1
    assert watch.found == []


@pytest.mark.parametrize("method", ["dsa", "glad(dc)"])
def test_nor_does_one_of_several_classes_at_once(data, method):
    chunk = {"inner": {"batch_real": 4, "chunk": 2}} if method == "glad(dc)" else {"chunk": 2}
    cell = made(data, method, "none", **chunk)
    used = {name: one.to(GPU) for name, one in given(data, cell, GPU).items()}
    with Watch() as watch:
        job = Distillation(cell, data, GPU, used)
        found = watch.found.copy()
        for _ in job.updates():
            pass
    inner = getattr(job.method, "inner", job.method)
    assert not inner._one_by_one
    assert watch.found == found


def test_nor_does_one_whose_real_images_stay_with_the_host(data, monkeypatch):
    monkeypatch.setattr(devices, "memory_of", lambda _: 4 * data.train.images.nbytes - 4)
    cell = made(data, "dm", "none")
    job = Distillation(cell, data, GPU, {})
    assert job.tools._real._resident is None
    with Watch() as watch:
        for _ in job.updates():
            pass
    assert watch.found == []
    monkeypatch.setattr(devices, "memory_of", lambda _: 4 * data.train.images.nbytes)
    assert Distillation(cell, data, GPU, {}).tools._real._resident is not None


@pytest.mark.parametrize("augment", ["dsa", "crop_flip", "resized_crop_flip"])
def test_training_waits_for_nothing(data, augment):
    space = PixelSpace("normalised", data.mean, data.std)
    recipe = resolve("short", {"augment": augment, "epochs": 1, "batch": 8}, data.size)
    images = RealSet(RealImages(data.train, space, GPU))
    network = build("convnet@w8", 3, data.size).to(GPU)
    training = Training(network, images, recipe, 0.01, Augmentation.of(data, space, GPU), (0,))
    with Watch() as watch:
        training.epoch()
    assert watch.found == []


def test_the_watch_sees_what_would_be_waited_for():
    with Watch() as watch:
        x = torch.ones(4).to(GPU, non_blocking=True)
        x = x * devices.sent(torch.from_numpy(np.ones(4, np.float32)), GPU)
        x[torch.tensor([0, 1]).to(GPU, non_blocking=True)] += x.sum()
        assert watch.found == []
        x.copy_(torch.ones(4))
        torch.ones(4).to(GPU)
        with pytest.raises(RuntimeError):
            x.sum().item()
        with pytest.raises(NotImplementedError):
            x.cpu()
        x.masked_fill_(x > 0, 1.0)
        with pytest.raises((RuntimeError, NotImplementedError)):
            x[x > 0]
    assert watch.found == [
        "copy_ from cpu to meta",
        "_to_copy from cpu to meta",
        "_local_scalar_dense",
        "index by a mask",
    ]
