"""DM over several architectures: each iteration is DM's own under the next network; one network at a time."""

import weakref

import pytest
import torch
from pydantic import ValidationError
from small import cell, dataset
from torch._subclasses.fake_tensor import FakeTensorMode

from baselines import Task
from baselines.defaults.dm import DMMultiSettings, DMSettings
from bench.networks.build import build
from bench.seeds import forked
from bench.stages.distill import Distillation, count_live_bytes

pytestmark = pytest.mark.usefixtures("one_thread", "quick_collections")

CPU = torch.device("cpu")
#: One that is drawn anew in place, one with batch norm, one that is built anew each time.
NETWORKS = ("convnet@w8", "resnet18@w4@bn", "mobilenetv2@w8")
SETTINGS = {"batch_real": 4, "momentum": 0}


@pytest.fixture(scope="module")
def data():
    return dataset(classes=3, size=16)


def job(data, method, network=None, **settings):
    return Distillation(cell(data, method, network, **{**SETTINGS, **settings}), data, CPU)


def losses(job):
    """The losses of the next iteration."""
    found = [loss for loss, _ in job.updates()]
    job.iterations_done += 1
    return torch.stack(found)


def test_each_iteration_is_dm_s_under_the_next_network(data):
    """To the bit: the same real images, augmentation and random weights as DM's with that network."""
    multi = job(data, "dm-multi", networks=NETWORKS)
    for k in range(5):
        plain = job(data, "dm", NETWORKS[k % 3])
        plain.x.images.copy_(multi.x.images)
        plain.iterations_done = k
        before = multi.x.images.clone()
        assert torch.equal(losses(multi), losses(plain))
        assert torch.equal(multi.x.images, plain.x.images)
        assert not torch.equal(multi.x.images, before)


def test_over_one_network_it_is_dm(data):
    one = job(data, "dm-multi", networks=("convnet@w8",), momentum=0.5)
    plain = job(data, "dm", "convnet@w8", momentum=0.5)
    for _ in range(3):
        assert torch.equal(losses(one), losses(plain))
    assert torch.equal(one.x.images, plain.x.images)


# What the tools lend.


def test_a_network_by_name_has_the_weights_of_the_suite_s_stream(data):
    tools = job(data, "dm", "convnet@w8").tools.at(2)
    plain = [p.clone() for p in tools.network().parameters()]
    tools.network("resnet18@w4")
    with forked("network", 0, 0, 3):
        fresh = build("convnet@w8", 3, 16)
    for network in (tools.network(), tools.network("convnet@w8"), fresh):
        assert all(map(torch.equal, network.parameters(), plain))


def test_a_network_is_kept_until_another_is_asked_for(data):
    tools = job(data, "dm", "convnet@w8").tools
    first = weakref.ref(tools.at(0).network())
    assert tools.at(1).network("convnet@w8") is first()
    second = weakref.ref(tools.at(2).network("resnet18@w4"))
    assert first() is None
    assert tools.at(3).network("resnet18@w4") is second()
    tools.network()
    assert second() is None


def test_without_a_name_and_a_suite_s_network_there_is_none(data):
    tools = job(data, "dm-multi", networks=NETWORKS).tools
    with pytest.raises(TypeError, match="without a network"):
        tools.network()


@pytest.mark.parametrize("networks", [("convnet@w8", "resnet18@w16"), ("convnet@w8", "mobilenetv2@w8")])
def test_memory_is_that_of_one_network_at_a_time(data, networks):
    """On fake tensors to the byte what it is on real ones."""

    def peak(method, network=None, **settings):
        return count_live_bytes(cell(data, method, network, batch_real=4, **settings), data, CPU)

    real = peak("dm-multi", networks=networks)
    with FakeTensorMode():
        assert peak("dm-multi", networks=networks) == real
    assert real <= max(peak("dm", network) for network in networks)


# Settings.


def test_settings_are_dm_s_and_the_networks():
    task = Task("cifar10", 10, 32, 100)
    settings, plain = DMMultiSettings.resolve(task, {}), DMSettings.resolve(task, {})
    assert settings.networks == ("convnet", "resnet18", "vgg11", "vit_tiny")
    assert settings.model_dump(exclude={"networks"}) == plain.model_dump()
    assert DMMultiSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("networks", "label"),
    [
        (["convnet", "resnet18", "vgg11", "vit_tiny"], "DM over 4 architectures"),
        (["convnet@w8", "convnet@w16@bn", "vgg11"], "DM over 2 architectures"),
        (["vgg11@w8"], "DM over 1 architecture"),
    ],
)
def test_the_row_says_over_how_many_architectures(networks, label):
    assert DMMultiSettings(networks=networks).row_label == label


@pytest.mark.parametrize("networks", [[], (), "convnet", [8], None])
def test_networks_that_are_none_are_refused(networks):
    with pytest.raises(ValidationError, match="networks"):
        DMMultiSettings(networks=networks)
