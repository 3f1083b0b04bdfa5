"""The plug-in in the distillation loop: strength, pairs, subsets, records; the same for every method."""

import numpy as np
import pytest
import torch
from small import cell, dataset
from test_glad import artifacts
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.cells import AUXILIARY
from bench.memory import to_fake
from bench.networks.build import build
from bench.plugins import Plugged
from bench.seeds import forked
from bench.stages.distill import Distillation, count_live_bytes
from metadd import CAM, MetaDD, Weights

pytestmark = pytest.mark.usefixtures("one_thread", "quick_collections")

CPU = torch.device("cpu")
NETWORKS = ("convnet@w4", "resnet18@w2")
#: Every method, with what makes it quick.
METHODS = {
    "dc": {"iterations": 2, "batch_real": 4, "outer": 2, "inner": 1},
    "dsa": {"iterations": 2, "batch_real": 4, "outer": 2, "inner": 1},
    "dm": {"iterations": 3, "batch_real": 4},
    "dm-multi": {"iterations": 3, "batch_real": 4, "networks": ["convnet@w8", "resnet18@w2"]},
    "mtt": {
        "iterations": 2,
        "syn_steps": 2,
        "max_start_epoch": 2,
        "expert_epochs": 1,
        "pixels": "normalised",
    },
    "sre2l": {"iterations": 3},
    "glad": {"iterations": 2, "inner": {"batch_real": 4}},
    "glad(dc)": {"iterations": 2, "inner": {"batch_real": 4}},
    "glad(mtt)": {"iterations": 2, "inner": {"syn_steps": 2}},
    "glad(sre2l)": {"iterations": 2},
}


@pytest.fixture(scope="module")
def data():
    return dataset()


@pytest.fixture(scope="module")
def given(data):
    """What any method and the plug-in need."""
    cams = {}
    for name in NETWORKS:
        with forked(name):
            cams[AUXILIARY + name] = CAM(build(name, len(data.classes), data.size), data.size)
    return {**artifacts(data), **cams}


def job(data, given, method="dm", plugin=None, **settings):
    """A distillation, with MetaDD's settings where there are some."""
    plugin = None if plugin is None else {"networks": NETWORKS, **plugin}
    made = cell(data, method, plugin=plugin, **{**METHODS.get(method, {}), **settings})
    return Distillation(made, data, CPU, given)


def finished(distillation):
    while distillation.iterations_done < distillation.iterations:
        distillation.iterate()
    distillation.record.observe()
    return distillation


@pytest.mark.parametrize("method", METHODS)
def test_strength_zero_is_the_plain_method_bit_for_bit(data, given, method):
    plain, zero = finished(job(data, given, method)), finished(job(data, given, method, {"rho": 0.0}))
    assert torch.equal(plain.x.images, zero.x.images)
    assert plain.record.losses == zero.record.losses
    some = finished(job(data, given, method, {"rho": 0.5}))
    assert not torch.equal(plain.x.images, some.x.images)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_update_finds_the_method_s_own_loss_and_gradient(data, given, method, monkeypatch):
    """With any strength: the plug-in draws nothing from the method's random streams."""
    found = {}

    class Listening(Plugged):
        def add_to(self, x, update, tools):
            found.setdefault(self.settings.rho, x.gradient.clone())
            super().add_to(x, update, tools)

    monkeypatch.setattr("bench.stages.distill.Plugged", Listening)
    runs = [finished(job(data, given, method, {"rho": rho, "images_per_update": 4})) for rho in (0.0, 1e-3)]
    assert runs[0].record.losses[0] == runs[1].record.losses[0]
    assert torch.equal(found[0.0], found[1e-3])
    assert found[0.0].norm() > 0


def added(distillation, update=0):
    """What the plug-in adds to a gradient of ones."""
    x = distillation.x
    x.gradient.fill_(1.0)
    distillation.plugin.add_to(x, update, distillation.tools.at(update))
    return x.gradient - 1


def test_rho_is_a_share_of_the_method_s_gradient_and_weight_is_absolute(data, given):
    half, whole = (added(job(data, given, plugin={"rho": rho})) for rho in (0.5, 1.0))
    ones = torch.ones_like(half).norm()
    assert half.norm().item() == pytest.approx(0.5 * ones.item(), rel=1e-4)
    assert torch.allclose(2 * half, whole, atol=1e-4)
    absolute = added(job(data, given, plugin={"weight": 3.0}))
    direction = torch.cosine_similarity(absolute.flatten(), half.flatten(), dim=0)
    assert direction.item() == pytest.approx(1, abs=1e-5)
    assert added(job(data, given, plugin={"weight": 0.0})).norm() == 0


@pytest.mark.parametrize("pixels", ["unit", "normalised"])
def test_the_gradient_is_the_library_s_through_the_pixel_space(data, given, pixels):
    this = job(data, given, plugin={"weight": 1.0, "meta": 0.5}, pixels=pixels)
    gradient = added(this)
    networks = [given[AUXILIARY + name] for name in NETWORKS]
    library = MetaDD(networks, size=data.size, mean=data.mean, std=data.std, weights=Weights(meta=0.5))
    x = this.x.images.clone().requires_grad_()
    library(this.space.decode(x), this.x.labels).backward()
    assert (gradient - x.grad).norm() < 1e-3 * x.grad.norm()


def test_every_so_many_updates(data, given):
    this = job(data, given, plugin={"every": 3})
    assert [bool(added(this, update).norm() > 0) for update in range(7)] == [
        *(True, False, False, True, False, False, True)
    ]


@pytest.mark.parametrize(("wanted", "each"), [(3, (1,)), (5, (1, 2)), (2, (0, 1)), (9, (3,))])
def test_a_subset_has_as_many_images_of_each_class(data, given, wanted, each):
    this = job(data, given, plugin={"images_per_update": wanted, "ce": 1.0}, ipc=4)
    seen = added(this).flatten(1).norm(dim=1) > 0
    counts = seen.unflatten(0, (3, 4)).sum(1)
    assert seen.sum() == wanted
    assert set(counts.tolist()) <= set(each)


def test_subsets_are_drawn_anew_and_each_image_is_as_likely(data, given):
    this = job(data, given, plugin={"images_per_update": 5}, ipc=4)
    rows = [this.plugin._rows(this.x, update, this.tools.at(update)) for update in range(2000)]
    counts = torch.bincount(torch.cat(rows), minlength=12).numpy() / 2000
    assert np.abs(counts - 5 / 12).max() < 4.5 * np.sqrt(5 / 12 * 7 / 12 / 2000)


@pytest.mark.parametrize("wanted", [12, 9, 6, 3])
def test_rho_is_of_all_images_whether_they_are_seen_or_not(data, given, wanted):
    """On average a subset pushes as all images would, along the gradient at all of them."""
    of_all = added(job(data, given, plugin={"rho": 0.3}, ipc=4))
    this = job(data, given, plugin={"rho": 0.3, "images_per_update": wanted}, ipc=4)
    updates = 1 if wanted == 12 else 120
    mean = sum(added(this, update) for update in range(updates)) / updates
    along = (mean * of_all).sum() / of_all.square().sum()
    # The norm at a subset is that at all of them but for how unlike the images are.
    assert along.item() == pytest.approx(1, rel=1e-6 if wanted == 12 else 0.15)


def test_the_terms_before_and_after_are_in_the_record(data, given):
    this = job(data, given, "sre2l", {"rho": 1.0, "meta": 0.2}, iterations=8)
    this.look()
    result = finished(this).result()["plugin"]
    for when in ("first", "last"):
        shares = [result[when][f"{name}_share"] for name in ("ce", "align", "meta")]
        assert sum(shares) == pytest.approx(1)
        assert min(shares) > 0
    assert result["last"]["ce"] < result["first"]["ce"]


def test_the_terms_are_the_golden_ones(data, given):
    """What MetaDD computes is part of what a cell's key stands for, as in tests/test_golden.py."""
    this = job(data, given, plugin={"meta": 0.2})
    golden = {
        "ce": 1.19241953,
        "align": 0.56848574,
        "meta": 0.05795028,
        "ce_share": 0.15531654,
        "align_share": 0.69059766,
        "meta_share": 0.15408580,
    }
    message = "MetaDD gives other results for equal keys: raise MetaDDSettings.version, then write these anew"
    assert this.plugin.terms(this.x) == pytest.approx(golden, rel=1e-3), message


def test_taken_up_again_it_goes_on_with_the_same_bits(data, given):
    settings = {"rho": 0.5, "every": 2, "images_per_update": 4}
    whole, first = job(data, given, "dsa", settings), job(data, given, "dsa", settings)
    whole.look()
    first.look()
    finished(whole)
    first.iterate()
    second = job(data, given, "dsa", settings)
    second.take_up(first.state())
    second.look()
    finished(second)
    assert torch.equal(whole.x.images, second.x.images)
    assert whole.result() == second.result()


@pytest.mark.parametrize("method", ["dsa", "dm", "mtt", "sre2l", "glad"])
@pytest.mark.parametrize("plugin", [{"meta": 0.1}, {"images_per_update": 4, "align": 0.0}])
def test_fake_tensors_give_the_same_peak(data, given, method, plugin):
    how = {"networks": NETWORKS, **plugin}
    made = cell(data, method, plugin=how, **METHODS[method])
    real = count_live_bytes(made, data, CPU, given)
    with FakeTensorMode() as mode:
        fakes = {name: to_fake(mode, one) for name, one in given.items() if name != "experts"}
        experts = given["experts"]
        kept = experts.kept
        experts.kept = to_fake(mode, kept)
        try:
            fake = count_live_bytes(made, data, CPU, {**fakes, "experts": experts})
        finally:
            experts.kept = kept
    assert real == fake
