"""What MetaDD holds at its peak: one network's graph, however many networks there are."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from vits import class_token_vit

from bench.memory import LiveBytes, to_fake
from bench.networks.build import build
from bench.seeds import forked
from metadd import CAM, MetaDD, Weights

pytestmark = pytest.mark.usefixtures("one_thread", "quick_collections")

#: All terms: what they keep of the maps is the most there can be.
EVERY = Weights(meta=0.1)
IMAGES = 100


def cams(names, size=32):
    with forked("networks"):
        return [CAM(build(name, 10, size), size) for name in names]


def batch(images=IMAGES, size=32, device=None):
    pictures = torch.rand(images, 3, size, size, device=device, requires_grad=True)
    return pictures, torch.zeros(images, dtype=torch.int64, device=device)


def peak(plugin, images, labels, joint=False, count=LiveBytes):
    with count([plugin, images, labels]) as live:
        if joint:
            plugin(images, labels).backward()
        else:
            plugin.backward(images, labels)
    assert images.grad is not None
    return live.peak


def fake_peak(plugin, *batch_like, **how):
    with FakeTensorMode() as mode:
        return peak(to_fake(mode, plugin), *batch(*batch_like), **how)


def frozen(plugin):
    return sum(each.nbytes for each in [*plugin.parameters(), *plugin.buffers()])


@pytest.mark.parametrize(
    ("weights", "joint"),
    [(EVERY, False), (Weights(alignment="variance"), False), (Weights(align=0), False), (EVERY, True)],
    ids=["all terms", "variance", "ce", "joint"],
)
def test_fake_tensors_give_the_same_peak(weights, joint):
    with forked("networks"):
        networks = [*cams(["convnet@w4"]), CAM(class_token_vit(), 32)]
    plugin = MetaDD(networks, size=32, weights=weights, chunk=4)
    assert peak(plugin, *batch(6), joint=joint) == fake_peak(plugin, 6, joint=joint)


@pytest.mark.parametrize(("name", "size"), [("resnet18@w16", 32), ("convnet@w16", 64)])
def test_beyond_weights_and_maps_eight_networks_take_what_one_takes(name, size):
    more = {}
    for count in (1, 8):
        plugin = MetaDD(cams([name] * count, size), size=size, weights=EVERY, chunk=50)
        maps = count * IMAGES * plugin.grid**2 * 4
        more[count] = fake_peak(plugin, IMAGES, size) - frozen(plugin) - maps
    assert more[8] <= 1.01 * more[1]


def test_joint_each_network_adds_its_graph():
    """So the count sees the graphs."""
    one, two, three = (
        fake_peak(MetaDD(cams(["convnet@w16"] * count), size=32), 10, joint=True) for count in (1, 2, 3)
    )
    assert three - two == pytest.approx(two - one, rel=0.01)
    assert two - one > 0.7 * one


class OnDevice(LiveBytes):
    """Counts what is on the device that computes nothing, in place of a GPU; the CPU is home."""

    def _count(self, tensor):
        if tensor.is_meta:
            super()._count(tensor)


def test_with_networks_at_home_the_device_holds_one_of_them():
    """Few images, so that a second network on the device would be half of all."""
    images, totals = 2, {}
    for count in (1, 8):
        plugin = MetaDD(cams(["convnet@w256"] * count), size=32, weights=EVERY, chunk=1, home="cpu")
        totals[count] = peak(plugin, *batch(images, device="meta"), count=OnDevice)
        assert not any(each.is_meta for each in plugin.parameters())
    assert totals[8] <= 1.05 * totals[1]
    assert totals[8] - totals[1] <= 7 * images * 8**2 * 4  # the maps
    assert frozen(plugin) / 8 < totals[1] < 2 * frozen(plugin) / 8


def test_a_chunk_bounds_the_graph():
    network = cams(["convnet@w16"])
    whole, tenth = (
        fake_peak(MetaDD(network, size=32, chunk=chunk), IMAGES) - 2 * IMAGES * 3 * 32**2 * 4
        for chunk in (IMAGES, IMAGES // 10)
    )
    assert tenth < 0.15 * whole
