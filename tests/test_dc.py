"""DC and DSA: distances against their formulas, whole iterations against main.py's loop, the inner loop."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from baselines import METHODS, Task
from baselines.dc import BATCH_NORM_IMAGES, DC, DISTANCES, distance, mean_gradient
from bench.augment import DSA
from bench.networks.build import build
from bench.seeds import forked
from bench.synthetic import Synthetic

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SHAPES = {"convolution": (5, 3, 3, 2), "layer norm": (4, 2, 3), "linear": (6, 7), "bias": (8,)}


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# The distances.


def literal_cosine(a, b):
    """One row's distance, number by number in float64 (Python's own)."""
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / (norms + 1e-6)


def literal_distance(name, synthetic, real):
    """The distance of two lists of gradients, as methods.md (after utils.py) defines it."""
    pairs = [(a.double(), b.double()) for a, b in zip(synthetic, real, strict=True)]
    if name == "rows":
        rows = [row for a, b in pairs if a.ndim > 1 for row in zip(a, b, strict=True)]
        return sum(literal_cosine(a.flatten().tolist(), b.flatten().tolist()) for a, b in rows)
    a, b = ([x for each in side for x in each.flatten().tolist()] for side in zip(*pairs, strict=True))
    if name == "cos":
        return literal_cosine(a, b)
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1, 1e-3])  # at 1e-3 the epsilon is of the size of the norms' product
@pytest.mark.parametrize("name", DISTANCES)
def test_distances_are_the_literal_formulas(name, scale, dtype):
    a, b = ([scale * randn(*shape, dtype=dtype, seed=seed) for shape in SHAPES.values()] for seed in (0, 1))
    found = DISTANCES[name](a, b)
    assert found.dtype == dtype
    assert found.item() == pytest.approx(literal_distance(name, a, b), rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_equal_gradients_are_0_apart_and_opposite_ones_2_for_each_row(shape):
    a = 10 * randn(*shape)
    rows = len(a) if a.ndim > 1 else 0
    assert distance(a, a.clone()).item() == pytest.approx(0, abs=1e-6 * rows)
    assert distance(a, -a).item() == pytest.approx(2 * rows, abs=1e-6 * rows)
    assert distance(a, 3 * a).item() == pytest.approx(0, abs=1e-6 * rows)


def test_a_row_without_gradient_counts_1_and_has_a_finite_derivative():
    a = randn(3, 4)
    a[1] = 0
    a.requires_grad_()
    found = distance(a, a.detach().clone())
    assert found.item() == pytest.approx(1, abs=1e-5)
    assert torch.autograd.grad(found, a)[0].isfinite().all()


# Whole iterations, with real images and a network that the test knows.


class Lent:
    """Tools that hand out fixed real images, one network, and draws seeded by axis and numbers."""

    def __init__(self, network, real, per_forward=4):
        self.net, self.images, self.per_forward = network, real, per_forward
        self.augment, self.device, self.artifacts = DSA(real.shape[-1]), CPU, {}
        self.task = Task("test", len(real), real.shape[-1], 1)

    def rng(self, axis, *numbers):
        return np.random.default_rng([*axis.encode(), *numbers])

    def tensor(self, values):
        return torch.from_numpy(values)

    def network(self):
        return self.net

    def real(self, first, last, per_class, *draw):
        chosen = [
            self.rng("real", c, *draw).permutation(self.images.shape[1])[:per_class]
            for c in range(first, last)
        ]
        return torch.stack([self.images[c][i] for c, i in zip(range(first, last), chosen, strict=True)])


def network_of(name, classes, size, dtype=torch.float64):
    with forked("test network"):
        return build(name, classes, size).to(dtype)


def lent(network="convnet@w8", classes=3, per_class=20, size=16, **how):
    return Lent(network_of(network, classes, size), randn(classes, per_class, 3, size, size), **how)


def iterate(tools, start, method="dc", each=lambda: None, **settings):
    """One iteration by the method; gives its losses, the images after it, and the last gradient at them."""
    classes, ipc = start.shape[:2]
    x = Synthetic(start.flatten(0, 1), classes, ipc)
    made = DC(METHODS[method].settings(**{"batch_real": 6, **settings}), tools.task)
    made.begin(tools)
    optimisers, losses, gradient = made.optimisers(x.params), [], None
    for loss in made.iteration(0, x, tools):
        assert not loss.requires_grad
        each()
        losses.append(loss.item())
        gradient = x.gradient.unflatten(0, (classes, ipc)).clone()
        x.pull_back()
        optimisers.step()
        x.render()
    return losses, x.images.unflatten(0, (classes, ipc)), gradient


def literal_iteration(tools, start, settings):
    """main.py: all classes in one graph and one backward, real images in one batch, updates by hand."""
    net, parameters = tools.net.train(), list(tools.net.parameters())
    norms = [module for module in net.modules() if "BatchNorm" in type(module).__name__]
    images, velocity, losses = start.clone(), torch.zeros_like(start), []
    classes, ipc = start.shape[:2]
    dsa = settings.augment == "dsa"
    for outer in range(settings.outer):
        if norms:
            net.train()
            net(torch.cat([tools.real(c, c + 1, BATCH_NORM_IMAGES, outer, 1)[0] for c in range(classes)]))
            for norm in norms:
                norm.eval()
        leaf, total = images.clone().requires_grad_(), 0.0
        draw = tools.augment.draw_siamese(tools.rng("siamese", outer), classes)
        for c in range(classes):
            real, synthetic = tools.real(c, c + 1, settings.batch_real, outer), leaf[c][None]
            if dsa:
                real, synthetic = (tools.augment.apply(x, draw[c : c + 1]) for x in (real, synthetic))
            of_real, of_synthetic = (
                torch.autograd.grad(
                    F.cross_entropy(net(x[0]), torch.tensor([c] * x.shape[1])), parameters, create_graph=True
                )
                for x in (real, synthetic)
            )
            of_real = [gradient.detach() for gradient in of_real]
            for a, b in zip(of_synthetic, of_real, strict=True):
                for row_a, row_b in zip(a, b, strict=True) if a.ndim > 1 else ():
                    apart = 1 - (row_a * row_b).sum() / (row_a.norm() * row_b.norm() + 1e-6)
                    total = total + apart
        losses.append(total.item())
        velocity = settings.momentum * velocity + torch.autograd.grad(total, leaf)[0]
        images = images - settings.lr_img * velocity
        if outer == settings.outer - 1:
            break
        net.train()
        for epoch in range(settings.inner):
            rng = tools.rng("training", outer + 1, epoch)
            for batch in torch.from_numpy(rng.permutation(classes * ipc)).split(settings.batch_train):
                seen = images.flatten(0, 1)[batch]
                if dsa:
                    seen = tools.augment.apply(seen, tools.augment.draw_batch(rng, len(batch)))
                loss = F.cross_entropy(net(seen), batch // ipc)
                for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    p.data -= settings.lr_net * gradient
    return losses, images


@pytest.mark.parametrize("method", ["dc", "dsa"])
@pytest.mark.parametrize("network", ["convnet@w8", "convnet@w8@bn"])
def test_an_iteration_is_that_of_the_authors_loop(network, method):
    """Class by class, real images in pieces: as all at once. Three outer steps, two epochs of two batches."""
    settings = {"outer": 3, "inner": 2, "batch_train": 4, "batch_real": 6, "lr_net": 0.1, "lr_img": 1.0}
    start = randn(3, 2, 3, 16, 16, seed=1)
    losses, images, _ = iterate(lent(network), start, method, **settings)
    expected, moved = literal_iteration(lent(network), start, METHODS[method].settings(**settings))
    assert losses == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(images, moved, rtol=1e-8, atol=1e-9)
    assert (images - start).abs().max() > 1e-3
    assert expected[0] != pytest.approx(expected[1], rel=1e-2)


@pytest.mark.parametrize("measure", DISTANCES)
@pytest.mark.parametrize("method", ["dc", "dsa"])
def test_gradient_is_that_of_finite_differences(method, measure):
    start = randn(2, 2, 3, 16, 16, seed=1)
    tools = lent(classes=2)
    gradient = iterate(tools, start, method, distance=measure)[2]
    rng = np.random.default_rng(0)
    for pixel in [tuple(rng.integers(start.shape).tolist()) for _ in range(8)]:
        difference = 0.0
        for sign in (1, -1):
            moved = start.clone()
            moved[pixel] += sign * 1e-5
            difference += sign * iterate(tools, moved, method, distance=measure)[0][0] / 2e-5
        assert gradient[pixel].item() == pytest.approx(difference, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("method", ["dc", "dsa"])
def test_updates_lower_the_loss(method):
    """Under one network, with the same real images and draws each time."""
    tools, images, losses = lent(), randn(3, 2, 3, 16, 16, seed=1), []
    for _ in range(20):
        (loss,), images, _ = iterate(tools, images, method, lr_img=1.0)
        losses.append(loss)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("at_once", [1, 3, 7, 100])
def test_a_mean_gradient_in_pieces_is_that_of_one_batch(at_once):
    net, images = network_of("convnet@w8", 3, 16), randn(7, 3, 16, 16)
    labels = torch.tensor([0, 0, 2, 1, 1, 0, 2])
    expected = torch.autograd.grad(F.cross_entropy(net(images), labels), list(net.parameters()))
    found = mean_gradient(net, images, labels, at_once)
    assert not any(gradient.requires_grad for gradient in found)
    torch.testing.assert_close(found, list(expected), rtol=1e-10, atol=1e-14)


# The inner loop.


@pytest.fixture
def steps(monkeypatch):
    """The sizes of the batches that the network has been trained on, one for each step."""
    seen, inner = [], DC._train

    def counted(self, network, *arguments):
        def note(module, args):
            seen.append(len(args[0]))

        with network.register_forward_pre_hook(note):
            inner(self, network, *arguments)

    monkeypatch.setattr(DC, "_train", counted)
    return seen


@pytest.mark.parametrize(
    ("outer", "inner", "ipc", "batch", "sizes"),
    [
        (1, 3, 2, 4, []),
        (2, 0, 2, 4, []),
        (2, 3, 2, 256, [6] * 3),
        (3, 2, 4, 5, [5, 5, 2] * 4),
        (2, 1, 86, 256, [256, 2]),
    ],
)
def test_inner_counts_epochs_over_the_images(steps, outer, inner, ipc, batch, sizes):
    tools = lent(network="convnet@w2", per_forward=1000)
    iterate(tools, randn(3, ipc, 3, 16, 16), outer=outer, inner=inner, batch_train=batch, batch_real=2)
    assert steps == sizes


def test_the_network_is_trained_between_updates_only_and_left_as_it_was_lent():
    tools, states = lent(network="convnet@w8@bn"), []

    def note():
        states.append([p.detach().clone() for p in tools.net.parameters()])
        assert not any(norm.training for norm in norms_of(tools.net))

    iterate(tools, randn(3, 2, 3, 16, 16), each=note, outer=3, inner=1)
    assert len(states) == 3
    for before, after in pairwise(states):
        weights = [(a, b) for a, b in zip(before, after, strict=True) if a.ndim > 1]
        assert not any(torch.equal(a, b) for a, b in weights)
    for kept, p in zip(states[-1], tools.net.parameters(), strict=True):
        assert torch.equal(kept, p)
        assert p.requires_grad
        assert p.grad is None
    assert all(module.training for module in tools.net.modules())


def norms_of(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("inner", [0, 1])
def test_batch_norm_sees_16_real_images_a_class_then_keeps_its_statistics(inner):
    tools, forwards = lent(network="convnet@w8@bn"), []
    norm, convolution = norms_of(tools.net)[0], tools.net.features[0]
    norm.register_forward_hook(
        lambda m, args, out: forwards.append((m.training, len(args[0]), m.running_mean.clone()))
    )
    with torch.no_grad():
        shown = convolution(tools.real(0, 3, 16, 0, 1).flatten(0, 1)).mean((0, 2, 3))
    iterate(tools, randn(3, 2, 3, 16, 16), outer=2, inner=inner, batch_real=6)
    matching = [(False, 4), (False, 2), (False, 2)] * 3  # real in pieces of 4, then synthetic
    training = [(True, 6)] * inner  # the images, all in one forward
    assert [f[:2] for f in forwards] == [(True, 48), *matching, *training, (True, 48), *matching]
    for _, _, mean in forwards[:10]:
        torch.testing.assert_close(mean, 0.1 * shown)
    assert all(torch.equal(mean, forwards[-1][2]) for _, _, mean in forwards[-10:])


def test_dropout_is_off():
    """So an iteration draws nothing from the global generator."""
    tools = lent()
    tools.net = nn.Sequential(tools.net, nn.Dropout(0.5)).double()
    before, start = torch.get_rng_state(), randn(3, 2, 3, 16, 16)
    assert iterate(tools, start, outer=2)[0] == iterate(lent(), start, outer=2)[0]
    assert torch.equal(torch.get_rng_state(), before)
