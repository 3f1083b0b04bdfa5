"""DC and DSA through the harness: seeds, a run cut in two, initial images, memory, default settings."""

import math

import pytest
import torch
from pydantic import ValidationError
from small import cell, dataset
from torch._subclasses.fake_tensor import FakeTensorMode

from baselines import Task
from baselines.defaults.dc import DCSettings, DSASettings
from bench.stages.distill import Distillation, count_live_bytes

pytestmark = pytest.mark.usefixtures("one_thread", "quick_collections")

CPU = torch.device("cpu")


def distil(data, method, iterations=2, **settings):
    """The job after so many iterations."""
    settings = {"outer": 2, "batch_real": 6, **settings}
    job = Distillation(cell(data, method, iterations=iterations, **settings), data, CPU)
    for _ in range(iterations):
        job.iterate()
    job.record.observe()
    return job


@pytest.mark.parametrize("method", ["dc", "dsa"])
def test_same_seed_same_bits_and_a_run_cut_in_two_is_the_uncut_run(method):
    data = dataset()
    whole, again, half, other = (
        distil(data, method, iterations=n, seed=seed) for n, seed in ((4, 0), (4, 0), (2, 0), (4, 1))
    )
    second = Distillation(cell(data, method, iterations=4, outer=2, batch_real=6), data, CPU)
    second.take_up(half.state())
    for _ in range(2):
        second.iterate()
    second.record.observe()
    for job in (again, second):
        assert torch.equal(whole.x.images, job.x.images)
        assert whole.record.losses == job.record.losses
    assert not torch.equal(whole.x.images, other.x.images)
    assert len(whole.record.losses) == 8


@pytest.mark.parametrize("network", ["convnet@w8@bn", "resnet18@w8", "vit_tiny@w64"])
def test_other_networks_run(network):
    job = distil(dataset(classes=2), "dsa", network=network, iterations=1)
    assert all(0 < loss < math.inf for loss in job.record.losses)
    assert job.x.images.isfinite().all()


def test_each_update_sees_other_real_images():
    tools = Distillation(cell(dataset(), "dc"), dataset(), CPU).tools.at(0)
    first, again, other, alone = (
        tools.real(*classes, 6, *draw)
        for classes, draw in (((0, 3), (0,)), ((0, 3), (0,)), ((0, 3), (1,)), ((2, 3), (0,)))
    )
    assert torch.equal(first, again)
    assert torch.equal(first[2:], alone)
    assert not torch.equal(first.sort(1)[0], other.sort(1)[0])


def test_dc_starts_from_noise_and_dsa_from_real_images():
    data = dataset(classes=5, size=32)
    noise, real = (Distillation(cell(data, method, ipc=4), data, CPU) for method in ("dc", "dsa"))
    assert noise.x.images.mean().abs() < 0.02
    assert noise.x.images.std() == pytest.approx(1, abs=0.02)
    assert torch.equal(real.x.images.unflatten(0, (5, 4)), real.tools.real(0, 5, 4))


# Memory.


def peaks(data, method, **settings):
    """The peak on real tensors and on fake ones."""
    one = cell(data, method, **{"network": "convnet@w16", "batch_real": 32, "outer": 2, **settings})
    real = count_live_bytes(one, data, CPU)
    with FakeTensorMode():
        return real, count_live_bytes(one, data, CPU)


@pytest.mark.parametrize(
    ("method", "classes", "settings"),
    [
        ("dsa", 10, {"ipc": 3, "batch_train": 20}),
        ("dc", 3, {"ipc": 1, "inner": 20}),
        ("dsa", 3, {"outer": 1, "distance": "cos"}),
        ("dc", 3, {"network": "convnet@w16@bn", "distance": "mse"}),
        ("dsa", 2, {"network": "alexnet@w8", "outer": 1, "batch_real": 4}),
        ("dsa", 5, {"chunk": 2}),
        ("dc", 3, {"chunk": 9, "distance": "cos", "outer": 1}),
        (
            "dc",
            3,
            {"chunk": 2, "batch_real": 50, "outer": 1},
        ),  # more than there are: real images class by class
    ],
)
def test_fake_tensors_give_the_same_peak(method, classes, settings):
    data = dataset(classes=classes, size=16, per_class=40, spec="digits")
    real, fake = peaks(data, method, **settings)
    assert real == fake


def test_the_peak_grows_with_the_classes_by_their_images_alone():
    """Images, their gradient and momentum, and a few copies of the classifier: no graph of another class."""
    few, many = (
        count_live_bytes(cell(data, "dsa", "convnet@w16", ipc=4, outer=1, batch_real=2), data, CPU)
        for data in (dataset(3), dataset(9))
    )
    pixels, classifier = 4 * 3 * 16 * 16, 16 * 4 * 4 + 1
    assert 6 * 4 * 3 * pixels <= many - few < 6 * 4 * (3 * pixels + 24 * classifier)


def test_a_chunk_of_classes_has_a_graph_for_each():
    one, two, three = (peaks(dataset(3), "dc", chunk=chunk, outer=1)[1] for chunk in (1, 2, 3))
    assert one < two < three


# Settings.


@pytest.mark.parametrize("method", ["dc", "dsa", "glad(dc)"])
def test_a_chunk_is_in_the_key_only_where_it_is_not_1(method):
    """So cells of before there was a choice keep their keys."""

    def made(**settings):
        return cell(dataset(), method, **({"inner": settings} if method == "glad(dc)" else settings))

    own = made().settings["inner"] if method == "glad(dc)" else made().settings
    assert "chunk" not in own
    assert made(chunk=1).key == made().key
    assert len({made(chunk=chunk).key for chunk in (1, 2, 3)}) == 3


@pytest.mark.parametrize(
    ("ipc", "loops"),
    [
        *((ipc, (1, 1)) for ipc in (1, 2, 5)),
        *((ipc, (10, 50)) for ipc in (6, 10, 15)),
        *((20, (20, 25)), (30, (30, 20)), (40, (40, 15)), (50, (50, 10)), (100, (50, 10))),
    ],
)
@pytest.mark.parametrize("name", ["cifar10", "tiny-imagenet"])
@pytest.mark.parametrize(
    ("settings", "init", "augment"), [(DCSettings, "noise", "none"), (DSASettings, "real", "dsa")]
)
def test_default_settings(settings, init, augment, name, ipc, loops):
    """main.py's arguments and get_loops; between and beyond its IPCs the nearest one's."""
    values = {
        "iterations": 1000,
        "lr_img": 0.1,
        "momentum": 0.5,
        "lr_net": 0.01,
        "init": init,
        "distance": "rows",
    }
    values |= {"batch_real": 256, "batch_train": 256, "augment": augment, "pixels": "normalised"}
    found = settings.resolve(Task(name, 10, 32, ipc), {})
    assert found.model_dump() == {**values, "outer": loops[0], "inner": loops[1]}
    assert found.recipe == settings.label.lower()


@pytest.mark.parametrize(
    "override", [{"outer": 0}, {"inner": -1}, {"distance": "ours"}, {"chunk": 0}, {"lr_net": 0}]
)
def test_an_override_that_is_unknown_or_out_of_range_is_refused(override):
    with pytest.raises(ValidationError):
        DCSettings.resolve(Task("cifar10", 10, 32, 1), override)
