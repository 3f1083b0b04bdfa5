"""DM: its loss against the formula, one update against main_DM.py's loop, and what it does to images."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small import dataset, dm_cell

from baselines import Task
from baselines.defaults.dm import DMSettings
from baselines.dm import DM, dm_loss
from bench.augment import DSA
from bench.data import load
from bench.networks.build import build
from bench.pixels import space
from bench.real import RealImages
from bench.seeds import forked
from bench.stages.distill import Distillation
from bench.synthetic import Synthetic

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# The loss.


def literal_loss(real, synthetic):
    """Equation 5 of the paper, number by number in float64 (Python's own)."""
    total = 0.0
    for real_of_class, synthetic_of_class in zip(real.tolist(), synthetic.tolist(), strict=True):
        for feature in range(len(real_of_class[0])):
            mean_real = sum(image[feature] for image in real_of_class) / len(real_of_class)
            mean_synthetic = sum(image[feature] for image in synthetic_of_class) / len(synthetic_of_class)
            total += (mean_real - mean_synthetic) ** 2
    return total


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("classes", "n", "ipc", "features"), [(1, 1, 1, 1), (3, 7, 2, 5), (10, 32, 10, 64)])
def test_loss_is_the_literal_formula(dtype, classes, n, ipc, features):
    real, synthetic = (
        randn(classes, n, features, dtype=dtype),
        randn(classes, ipc, features, dtype=dtype, seed=1),
    )
    assert dm_loss(real, synthetic).item() == pytest.approx(literal_loss(real, synthetic), rel=1e-6)


def test_loss_is_zero_when_the_sets_are_equal():
    embeddings = randn(4, 6, 9)
    assert dm_loss(embeddings, embeddings.clone()).item() == 0
    assert dm_loss(embeddings, embeddings.flip(1)).item() == pytest.approx(0, abs=1e-28)


# One update, with real images, a network and draws that the test knows.


class Lent:
    """Tools that hand out fixed real images, one network, and draws seeded by axis; keeps embed's batches."""

    def __init__(self, network, real, augment, per_forward=4):
        self.net, self.images, self.augment, self.per_forward = network, real, augment, per_forward
        self.device, self.artifacts = CPU, {}
        self.task = Task("test", len(real), real.shape[-1], 1)
        self.batches = []
        embed = network.embed
        network.embed = lambda x: self.batches.append(len(x)) or embed(x)

    def rng(self, axis, *numbers):
        return np.random.default_rng([*axis.encode(), *numbers])

    def tensor(self, values):
        return torch.from_numpy(values)

    def network(self):
        return self.net

    def real(self, first, last, per_class):
        return self.images[first:last, :per_class]


def update(network, real, start, dtype=torch.float64, per_forward=4, augment="dsa", **settings):
    """One update's loss and gradient by the method, its tools, and the draw that it made."""
    with forked("test network"):
        net = build(network, len(real), real.shape[-1]).to(dtype)
    ipc = start.shape[1]
    lent = Lent(net, real.to(dtype), DSA(real.shape[-1]), per_forward)
    x = Synthetic(start.flatten(0, 1).to(dtype), len(real), ipc)
    method = DM(DMSettings(augment=augment, batch_real=real.shape[1], **settings), lent.task)
    (loss,) = method.iteration(0, x, lent)
    draw = lent.augment.draw_siamese(lent.rng("siamese"), len(real))
    return loss, x.gradient.unflatten(0, start.shape[:2]), lent, draw


def one_class_at_a_time(lent, real, start, draw):
    """The loop of main_DM.py for networks without batch norm, each image in a forward of its own."""
    start = start.clone().requires_grad_()
    total = torch.zeros((), dtype=start.dtype)
    for c in range(len(real)):
        one = draw[c : c + 1]
        real_c = [lent.augment.apply(image[None, None], one)[0] for image in real[c]]
        synthetic_c = [lent.augment.apply(image[None, None], one)[0] for image in start[c]]
        with torch.no_grad():
            of_real = torch.cat([lent.net.embed(image) for image in real_c])
        of_synthetic = torch.cat([lent.net.embed(image) for image in synthetic_c])
        total = total + ((of_real.mean(0) - of_synthetic.mean(0)) ** 2).sum()
    return total.detach(), torch.autograd.grad(total, start)[0]


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_batched_equals_one_class_at_a_time(chunk):
    real, start = randn(6, 5, 3, 16, 16), randn(6, 2, 3, 16, 16, seed=1)
    loss, gradient, lent, draw = update("convnet@w8", real, start, chunk=chunk)
    assert len(set(draw.ops)) > 3
    expected = one_class_at_a_time(lent, real, start, draw)
    torch.testing.assert_close(loss, expected[0], rtol=1e-10, atol=0)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-10, atol=1e-10 * expected[1].abs().max().item())


@pytest.mark.parametrize("network", ["convnet@w8", "resnet18@w8"])
def test_batched_equals_one_class_at_a_time_in_float32(network):
    real, start = (randn(4, n, 3, 32, 32, dtype=torch.float32, seed=n) for n in (5, 2))
    loss, gradient, lent, draw = update(network, real, start, dtype=torch.float32)
    expected = one_class_at_a_time(lent, real, start, draw)
    torch.testing.assert_close(loss, expected[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-3, atol=1e-4 * expected[1].abs().max().item())


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_each_class_has_as_many_real_images_as_alone(monkeypatch, chunk):
    """The classes have 20, 4 and 3: asked for together, as many are drawn as the smallest has."""
    sizes, real, start = (20, 4, 3), randn(3, 20, 3, 16, 16), randn(3, 2, 3, 16, 16, seed=1)

    def drawn(self, first, last, per_class):
        return self.images[first:last, : min(per_class, *(sizes[c] for c in range(first, last)))]

    monkeypatch.setattr(Lent, "real", drawn)
    loss, gradient, lent, draw = update("convnet@w8", real, start, chunk=chunk)
    expected = one_class_at_a_time(lent, [real[c, :n] for c, n in enumerate(sizes)], start, draw)
    torch.testing.assert_close(loss, expected[0], rtol=1e-10, atol=0)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-10, atol=1e-10 * expected[1].abs().max().item())


def test_real_images_go_in_pieces_and_the_graph_lives_for_a_chunk():
    real, start = randn(5, 6, 3, 16, 16), randn(5, 3, 3, 16, 16)
    lent = update("convnet@w8", real, start, chunk=2, per_forward=4)[2]
    assert lent.batches == [4, 4, 4, 6] * 2 + [4, 2, 3]


def test_batch_norm_sees_all_classes_at_once():
    """The branch of main_DM.py for batch norm: one forward for all real images, one for all synthetic."""
    real, start = randn(4, 5, 3, 16, 16), randn(4, 2, 3, 16, 16, seed=1)
    results = [update("convnet@w8@bn", real, start, chunk=chunk) for chunk in (1, 4)]
    for _, _, lent, _ in results:
        assert lent.batches == [20, 8]
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    loss, gradient, lent, draw = results[0]
    together = start.clone().requires_grad_()
    of_real = lent.net.embed(lent.augment.apply(real, draw).reshape(-1, 3, 16, 16)).reshape(4, 5, -1)
    of_synthetic = lent.net.embed(lent.augment.apply(together, draw).reshape(-1, 3, 16, 16)).reshape(4, 2, -1)
    expected = ((of_real.mean(1) - of_synthetic.mean(1)) ** 2).sum()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, together)[0], rtol=1e-8, atol=1e-12)
    apart = one_class_at_a_time(lent, real, start, draw)[0]
    assert abs(apart - loss) > 0.1 * loss


@pytest.mark.parametrize("augment", ["dsa", "none"])
def test_gradient_is_that_of_finite_differences(augment):
    real, start = randn(3, 4, 3, 16, 16), randn(3, 2, 3, 16, 16, seed=1)
    gradient = update("convnet@w8", real, start, augment=augment)[1]
    rng = np.random.default_rng(0)
    for pixel in [tuple(rng.integers(start.shape).tolist()) for _ in range(12)]:
        difference = 0.0
        for sign in (1, -1):
            moved = start.clone()
            moved[pixel] += sign * 1e-6
            difference += sign * update("convnet@w8", real, moved, augment=augment)[0].item() / 2e-6
        assert gradient[pixel].item() == pytest.approx(difference, rel=1e-5, abs=1e-8)


# Through the harness.


def test_draws_do_not_depend_on_the_chunk():
    data = dataset(classes=4, size=16)
    losses = []
    for chunk in (1, 4):
        job = Distillation(dm_cell(data, chunk=chunk, batch_real=6), data, CPU)
        losses.append([loss.item() for _ in range(3) for loss in _iterate(job)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def _iterate(job):
    losses = [loss for loss, _ in job.updates()]
    job.iterations_done += 1
    return losses


def test_real_initial_images_are_images_of_their_class():
    data = dataset(classes=3, per_class=8)
    job = Distillation(dm_cell(data, ipc=8), data, CPU)
    real = RealImages(data.train, job.space, CPU).batch(np.arange(24))
    for label in range(3):
        rows = job.x.rows(label, label + 1)
        assert sorted(job.x.images[rows].sum((1, 2, 3)).tolist()) == sorted(
            real[rows].sum((1, 2, 3)).tolist()
        )


def test_noise_is_standard_normal_and_the_seed_s_own():
    data = dataset(classes=5, size=32)
    first, again, other = (
        Distillation(dm_cell(data, ipc=4, init="noise", seed=seed), data, CPU).x.images for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.float32
    assert first.mean().abs() < 0.02
    assert first.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("init", ["real", "noise"])
def test_loss_falls_on_digits(init):
    """Under networks that took no part in distilling, with all real images of each class."""
    data = load("digits")
    cell = dm_cell(data, network="convnet@w16", ipc=1, init=init, batch_real=32, iterations=30, chunk=10)
    job = Distillation(cell, data, CPU)
    before = _mean_loss(job, data)
    for _ in range(30):
        job.iterate()
    assert _mean_loss(job, data) < (0.8 if init == "real" else 0.5) * before


def _mean_loss(job, data):
    real = RealImages(data.train.first(40), space("normalised", data.mean, data.std), CPU)
    images = real.batch(np.arange(len(real)))
    losses = []
    for seed in range(3):
        with forked("test: other networks", seed), torch.no_grad():
            net = build("convnet@w16", 10, 32)
            losses.append(dm_loss(net.embed(images).unflatten(0, (10, -1)), net.embed(job.x.images)[:, None]))
    return sum(losses).item() / 3


# Settings.


@pytest.mark.parametrize(
    ("name", "ipc", "lr_img"),
    [
        ("cifar10", 1, 1),
        ("cifar10", 50, 1),
        ("cifar10", 99, 1),
        ("cifar10", 100, 10),
        ("cifar10", 1000, 10),
        ("cifar10[5]", 100, 10),
        ("cifar100", 10, 1),
        ("cifar100", 100, 1),
        ("tiny-imagenet", 50, 1),
        ("digits", 100, 1),
    ],
)
def test_default_settings(name, ipc, lr_img):
    """The authors' README: lr_img 10 is for CIFAR-10 with 100 images a class and more."""
    settings = DMSettings.resolve(Task(name, 10, 32, ipc), {})
    assert settings.lr_img == lr_img
    others = settings.model_dump(exclude={"lr_img", "chunk"})
    assert others == {
        "iterations": 20_000,
        "momentum": 0.5,
        "batch_real": 256,
        "init": "real",
        "augment": "dsa",
        "pixels": "normalised",
    }


def test_an_override_wins_over_the_default():
    assert DMSettings.resolve(Task("cifar10", 10, 32, 100), {"lr_img": 3}).lr_img == 3


@pytest.mark.parametrize(
    "override",
    [{"lr_imgs": 1}, {"lr_img": 0}, {"momentum": 1}, {"init": "random"}, {"chunk": 0}, {"version": 2}],
)
def test_an_override_that_is_unknown_or_out_of_range_is_refused(override):
    with pytest.raises(ValidationError):
        DMSettings.resolve(Task("cifar10", 10, 32, 1), override)
