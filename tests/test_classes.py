"""DC with several classes at once: the loss and the gradient of class after class, whatever the network."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from memory_of_updates import given
from small import cell, dataset
from test_dc import Lent, iterate, lent, network_of, randn
from torch import nn

from baselines import dc
from baselines.classes import differentiable_gradients, gradients, layer_norm
from baselines.dc import DISTANCES, mean_gradient
from bench.arithmetic import Arithmetic
from bench.device import computing
from bench.stages import Context, distill
from bench.stages.distill import Distillation

pytestmark = pytest.mark.usefixtures("one_thread", "quick_collections")

CPU = torch.device("cpu")


@pytest.fixture
def together(monkeypatch):
    """How many classes went at once, each time that several did."""
    seen = []

    def listening(network, images, labels):
        seen.append(len(images))
        return differentiable_gradients(network, images, labels)

    monkeypatch.setattr(dc, "differentiable_gradients", listening)
    return seen


def assert_equal(chunked, one_by_one, relative=1e-9):
    """Losses and gradient of an iteration."""
    assert chunked[0] == pytest.approx(one_by_one[0], rel=relative)
    found, expected = chunked[2], one_by_one[2]
    assert (found - expected).norm() <= relative * expected.norm()
    assert expected.norm() > 0


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(
    ("network", "size"),
    [
        ("convnet@w8", 16),
        ("convnet@w8@bn", 16),
        ("resnet18@w2", 16),
        ("resnet18@w2@bn", 16),
        ("vgg11@w2", 32),
        ("alexnet@w2", 32),
        ("vit_tiny@w64", 16),
    ],
)
def test_a_chunk_is_class_after_class(together, network, size, distance):
    """In float64; two classes and then one, real images in pieces of two and one of each class."""
    start = randn(3, 2, 3, size, size, seed=1)
    how = {"method": "dc" if "vit" in network else "dsa", "distance": distance, "batch_real": 3}
    found = [iterate(lent(network, size=size), start, chunk=chunk, **how) for chunk in (2, 1)]
    assert together == [2]
    assert_equal(*found)


@pytest.mark.parametrize("chunk", [2, 5, 100])
def test_whole_iterations_too(together, chunk):
    """Under one network that is trained between updates."""
    start, how = randn(5, 2, 3, 16, 16, seed=1), {"method": "dsa", "outer": 3, "inner": 2, "lr_img": 1.0}
    found = [iterate(lent(classes=5), start, chunk=each, **how) for each in (chunk, 1)]
    assert together == ([2, 2] if chunk == 2 else [5]) * 3
    assert_equal(*found, relative=1e-8)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("at_once", [1, 7, 12, 100])
def test_the_real_side_in_pieces_is_a_mean_gradient_for_each_class(at_once):
    net, images, labels = network_of("convnet@w8", 4, 16), randn(3, 5, 3, 16, 16), torch.tensor([2, 0, 3])
    found = gradients(net, images, labels, at_once)
    for number, label in enumerate(labels):
        expected = mean_gradient(net, images[number], label.expand(5), 100)
        torch.testing.assert_close([each[number] for each in found], expected, rtol=1e-9, atol=1e-13)
    assert not any(each.requires_grad for each in found)


class Unequal(Lent):
    """Real images of which the classes have 20, 4 and 3: as many are drawn as the smallest asked for has."""

    def real(self, first, last, per_class, *draw):
        return super().real(first, last, min(per_class, *((20, 4, 3)[c] for c in range(first, last))), *draw)


def test_each_class_has_as_many_real_images_as_alone(together):
    start, real = randn(3, 2, 3, 16, 16, seed=1), randn(3, 20, 3, 16, 16)
    found = [
        iterate(Unequal(network_of("convnet@w8", 3, 16), real, 100), start, chunk=chunk, method="dsa")
        for chunk in (3, 1)
    ]
    assert together == [3]
    assert_equal(*found)


class Reads(nn.Module):
    """Does otherwise where a pixel is above 0: nothing that can be done to several classes at once."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x if x.flatten()[0] > 0 else -x)


def test_a_network_that_cannot_take_several_takes_one_by_one(together):
    start, found = randn(3, 2, 3, 16, 16, seed=1), []
    for chunk in (3, 1):
        tools = lent()
        tools.net = Reads(tools.net)
        found.append(iterate(tools, start, chunk=chunk))
    assert together == []
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][2], found[1][2])


def test_layer_norm_in_parts_is_layer_norm():
    """Its values, its gradients, and how these change with the input."""
    input, weight, bias, v, w = (randn(*s, seed=i) for i, s in enumerate([(2, 5, 3, 4), *[(3, 4)] * 4]))
    results = []
    for function in (F.layer_norm, layer_norm):
        leaves = [t.clone().requires_grad_() for t in (input, weight, bias)]
        out = function(leaves[0], (3, 4), leaves[1], leaves[2], 1e-3)
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        mixed = (first[1] * v).sum() + (first[2] * w).sum() + first[0].square().sum()
        results.append([out, *first, *torch.autograd.grad(mixed, leaves)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)
    plain = [function(input, (3, 4)) for function in (F.layer_norm, layer_norm)]
    torch.testing.assert_close(*plain, rtol=1e-12, atol=1e-12)
    assert layer_norm(input.bfloat16(), (3, 4)).dtype == torch.float32


# Through the harness.


def distil(chunk, network="convnet@w8", **settings):
    """The losses of two iterations, and the images after them."""
    data = dataset(classes=4)
    settings = {"iterations": 2, "batch_real": 6, "outer": 2, **settings}
    job = Distillation(cell(data, "dsa", network=network, chunk=chunk, **settings), data, CPU)
    for _ in range(2):
        job.iterate()
    job.record.observe()
    return job.record.losses, job.x.images


def test_draws_do_not_depend_on_the_chunk(together):
    alone, chunked = distil(1), distil(3)
    assert together == [3] * 4
    assert chunked[0] == pytest.approx(alone[0], rel=1e-3)
    torch.testing.assert_close(chunked[1], alone[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "arithmetic", [Arithmetic("bf16"), Arithmetic(channels_last=True)], ids=["bf16", "channels last"]
)
def test_in_another_arithmetic_they_go_one_by_one(together, arithmetic):
    """Several at once have no layout, and group norm's backward refuses the two precisions of autocast."""
    with computing(CPU, arithmetic):
        chunked, alone = distil(4), distil(1)
    assert together == []
    assert chunked[0] == alone[0]
    assert torch.equal(chunked[1], alone[1])


@pytest.mark.parametrize(("chunk", "says"), [(4, True), (1, False)])
def test_what_goes_one_by_one_says_so_in_its_row(tmp_path, chunk, says):
    data = dataset(classes=2)
    settings = {"chunk": chunk, "batch_real": 4}
    made = cell(data, "dc", network="convnet@w8", iterations=1, **settings)
    inside = cell(data, "glad(dc)", network="convnet@w8", iterations=1, inner=settings, generator="random")
    with computing(CPU, Arithmetic(channels_last=True)):
        cost = distill.run(made, Context(data, CPU, {}, tmp_path, tmp_path / "partial")).cost
        glad = Distillation(inside, data, CPU, given(data, inside, CPU)).method
    assert ("one by one" in cost.get("fallback", "")) == says
    assert glad.fallback == cost.get("fallback")
