"""SRe2L's runs: against the reference's loop, cut and gone on, the teacher left alone, memory counted."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from small import cell, dataset
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms.functional import resized_crop

from baselines.crops import resized_crop_window
from baselines.sre2l import bn_distances
from bench import seeds
from bench.errors import CellFailure
from bench.memory import to_fake
from bench.networks.build import build
from bench.pixels import space
from bench.real import RealImages
from bench.stages import checkpoint
from bench.stages.distill import Distillation, count_live_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def trained(data, steps=30, network="resnet18@w4@bn"):
    """A teacher that saw a few batches of the real images."""
    real = RealImages(data.train, space("normalised", data.mean, data.std), CPU)
    with seeds.forked("test teacher"):
        teacher = build(network, len(data.classes), data.size)
    sgd = torch.optim.SGD(teacher.parameters(), 0.05, momentum=0.9)
    for step in range(steps):
        chosen = np.random.default_rng(step).permutation(len(real))[:32]
        sgd.zero_grad()
        F.cross_entropy(teacher(real.batch(chosen)), real.labels[chosen]).backward()
        sgd.step()
    teacher.zero_grad()
    return teacher.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def data():
    """Four classes of 16 pixels, channels with statistics of their own."""
    return replace(dataset(classes=4), mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))


@pytest.fixture(scope="module")
def teacher(data):
    return trained(data)


def job(data, teacher, part=0, seed=0, **settings):
    return Distillation(
        cell(data, "sre2l", network=None, ipc=3, part=part, seed=seed, **settings),
        data,
        CPU,
        {"teacher": teacher},
    )


def recovered(data, teacher, iterations=3, **how):
    """The images after some iterations."""
    it = job(data, teacher, iterations=iterations, **how)
    for _ in range(iterations):
        it.iterate()
    return it.x.images


@pytest.mark.parametrize("how", [{"roll": "positive"}, {"roll": "both", "crop": True}], ids=["plain", "crop"])
def test_a_run_is_the_reference_s_loop_over_each_chunk_alone(data, teacher, how):
    """As recover_cifar.py and recover_tiny.py do it: chunk after chunk, with PyTorch's Adam and a cosine."""
    iterations, lr, jitter = 5, 0.2, 4
    it = job(data, teacher, seed=3, part=2, iterations=iterations, lr=lr, r_bn=0.1, batch=2, **how)
    start, limits = it.x.images.clone(), it.tools.limits
    for _ in range(iterations):
        it.iterate()
    losses = np.zeros(iterations)
    for first in (0, 2):
        x = start[first : first + 2].clone().requires_grad_()
        adam = torch.optim.Adam([x], lr, betas=(0.5, 0.9), eps=1e-8, foreach=False)
        for k in range(iterations):
            stream = (3, 2, k + 1, first)
            adam.param_groups[0]["lr"] = 0.5 * (1 + math.cos(math.pi * k / iterations)) * lr
            view = x
            if "crop" in how:
                window = resized_crop_window(seeds.rng("crop", *stream), 16, (0.08, 1), (0.75, 4 / 3))
                view = resized_crop(view, *window, [16, 16], antialias=True)
                view = view.flip(-1) if seeds.rng("flip", *stream).random() < 0.5 else view
            least = -jitter if how["roll"] == "both" else 0
            shifts = seeds.rng("roll", *stream).integers(least, jitter, size=2, endpoint=True)
            view = torch.roll(view, shifts=tuple(shifts), dims=(2, 3))
            with bn_distances(teacher) as distances:
                loss = F.cross_entropy(teacher(view), torch.tensor([first, first + 1]))
            loss = loss + 0.1 * (10 * distances[0] + sum(distances[i] for i in range(1, 20)))
            losses[k] += loss.item()
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                x.copy_(torch.minimum(torch.maximum(x, limits[0]), limits[1]))
        torch.testing.assert_close(it.x.images[first : first + 2], x.detach(), rtol=0, atol=1e-4)
    it.record.observe()
    assert it.record.losses == pytest.approx(losses.tolist(), rel=1e-5)


def test_loss_falls_and_the_teacher_recognises_what_is_recovered(data, teacher):
    it = job(data, teacher, iterations=60, jitter=1)
    for _ in range(60):
        it.iterate()
    it.record.observe()
    assert it.record.losses[-1] < 0.5 * it.record.losses[0]
    assert torch.equal(teacher(it.x.images).argmax(1), it.x.labels)


def test_pixels_stay_between_black_and_white(data, teacher):
    images = recovered(data, teacher, lr=3.0)
    for channel, (mean, std) in enumerate(zip(data.mean, data.std, strict=True)):
        assert images[:, channel].min().item() == pytest.approx(-mean / std)
        assert images[:, channel].max().item() == pytest.approx((1 - mean) / std)


def test_what_is_not_pixels_is_not_clamped(data, teacher):
    it = job(data, teacher)
    latents = torch.full((2, 3), 99.0)
    it.method.project({"latents": latents}, it.tools)
    assert torch.equal(latents, torch.full((2, 3), 99.0))


def test_the_teacher_is_left_as_it_was(data, teacher):
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    recovered(data, teacher)
    with pytest.raises(RuntimeError), bn_distances(teacher):
        teacher(torch.zeros(1, 4, 16, 16))
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    for module in teacher.modules():
        assert not module.training
        assert not module._forward_pre_hooks
        assert not module._forward_hooks


@pytest.mark.parametrize("network", ["resnet18@w4", "convnet@w4"])
def test_a_teacher_without_batch_norm_is_refused(data, network):
    with pytest.raises(CellFailure, match=r"needs a teacher with batch norm, and \w+ has none.*resnet18@bn"):
        job(data, build(network, 4, 16))


def test_noise_is_standard_normal_and_one_image_a_class(data, teacher):
    images = job(data, teacher).x.images
    assert (images.shape, images.dtype) == ((4, 3, 16, 16), torch.float32)
    assert images.mean().abs() < 0.06
    assert images.std() == pytest.approx(1, abs=0.05)


def test_equal_cells_give_equal_bits_and_parts_and_seeds_others(data, teacher):
    first = recovered(data, teacher)
    assert torch.equal(first, recovered(data, teacher))
    for other in (recovered(data, teacher, part=1), recovered(data, teacher, seed=1)):
        assert (first - other).abs().mean() > 0.5


@pytest.mark.parametrize("cut", [1, 4])
def test_cut_at_an_iteration_and_gone_on(data, teacher, tmp_path, cut):
    uncut = job(data, teacher, iterations=6)
    for _ in range(6):
        uncut.iterate()
    it = job(data, teacher, iterations=6)
    for _ in range(cut):
        it.iterate()
    checkpoint.save(tmp_path, it.state())
    again = job(data, teacher, iterations=6)
    again.take_up(checkpoint.load(tmp_path, CPU))
    for _ in range(cut, 6):
        again.iterate()
    assert torch.equal(again.x.images, uncut.x.images)
    rate = again.optimisers.optimisers[0].param_groups[0]["lr"]
    assert rate == uncut.optimisers.optimisers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


# Memory.


def peaks(data, teacher, **settings):
    """The peak on real tensors and on fake ones."""
    of = cell(data, "sre2l", network=None, ipc=1, **settings)
    real = count_live_bytes(of, data, CPU, {"teacher": teacher})
    with FakeTensorMode() as mode:
        return real, count_live_bytes(of, data, CPU, {"teacher": to_fake(mode, teacher)})


@pytest.mark.usefixtures("quick_collections")
@pytest.mark.parametrize("how", [{}, {"batch": 3}, {"crop": True, "roll": "both"}, {"jitter": 0}])
def test_fake_tensors_give_the_same_peak(data, teacher, how):
    real, fake = peaks(data, teacher, **how)
    assert real == fake


@pytest.mark.usefixtures("quick_collections")
def test_one_forward_is_alive_at_a_time_and_listening_keeps_no_maps(data, teacher, monkeypatch):
    two, four = (peaks(data, teacher, batch=batch)[1] for batch in (2, 4))
    assert two < 0.75 * four
    monkeypatch.setattr("baselines.sre2l.bn_distance", lambda maps, mean, var: maps.new_zeros(()))
    assert four < 1.02 * peaks(data, teacher)[1]


def test_a_part_has_the_same_key_whatever_the_ipc(data):
    keys = [[cell(data, "sre2l", ipc=ipc, part=part).key for part in range(ipc)] for ipc in (1, 5)]
    assert keys[0] == keys[1][:1]
    assert len(set(keys[1])) == 5
