"""MTT: its loss and gradients against the formula, its draws against distill.py's rules, and its settings."""

import math

import numpy as np
import pytest
import torch
from small import cell, dataset
from torch import nn

from baselines import Task
from baselines.defaults.mtt import MTTSettings
from baselines.mtt import MTT, batches
from baselines.unroll import adjoint, matching_loss, unrolled
from bench.augment import DSA
from bench.errors import CellFailure
from bench.networks.build import build as bench_build
from bench.seeds import forked
from bench.stages.distill import Distillation
from bench.synthetic import Synthetic

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize("gradient", [unrolled, adjoint], ids=["unrolled", "adjoint"])


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Walk:
    """Experts whose parameters walk at random from those of a fresh network; keeps what is asked for."""

    def __init__(self, network, classes, size, dtype=torch.float32, experts=3):
        self.experts, self.dtype, self.asked = experts, dtype, []
        parameters = build(network, classes, size).parameters()
        self.first = torch.cat([parameter.detach().flatten() for parameter in parameters])

    def __len__(self):
        return self.experts

    def parameters(self, expert, epoch):
        self.asked.append((expert, epoch))
        steps = [0.02 * randn(len(self.first), seed=100 * expert + e) for e in range(epoch)]
        return (self.first.double() + sum(steps)).to(self.dtype)


# The loss and its gradients for a linear classifier, whose training can be written out in Python's numbers.

FEATURES, CLASSES, IMAGES = 3, 2, 5
LABELS = [0, 1, 1, 0, 1]
ROWS = [[4, 0], [2, 3, 1], [0, 1, 2, 3, 4], [3]]


def literal_loss(images, start, target, step_size, rows=ROWS):
    """Section 3 of the paper: N steps of plain SGD on the mean cross-entropy, then the quotient."""
    weight = [[start[c * FEATURES + f] for f in range(FEATURES)] for c in range(CLASSES)]
    for batch in rows:
        moved = [list(row) for row in weight]
        for n in batch:
            logits = [sum(w * x for w, x in zip(row, images[n], strict=True)) for row in weight]
            total = sum(math.exp(logit) for logit in logits)
            for c in range(CLASSES):
                error = math.exp(logits[c]) / total - (LABELS[n] == c)
                for f in range(FEATURES):
                    moved[c][f] -= step_size * error * images[n][f] / len(batch)
        weight = moved
    end = [w for row in weight for w in row]
    near = sum((a - b) ** 2 for a, b in zip(end, target, strict=True))
    return near / sum((a - b) ** 2 for a, b in zip(start, target, strict=True))


def linear_loss(rows):
    def loss(theta, batch, i, part):
        logits = batch @ theta.view(CLASSES, FEATURES).T
        labels = torch.tensor([LABELS[n] for n in rows[i][part]])
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / len(rows[i])

    return loss


def linear(gradient, dtype=torch.float64, rows=ROWS, **how):
    """What is matched, and the images, start, target and step size as Python's numbers."""
    given = (randn(IMAGES, FEATURES), randn(6, seed=1), randn(6, seed=2), torch.tensor(0.7).double())
    images, start, target, step_size = (tensor.to(dtype) for tensor in given)
    tensors = [torch.tensor(batch) for batch in rows]
    matched = gradient(linear_loss(rows), images, tensors, start, target, step_size, **how)
    return matched, tuple(tensor.tolist() for tensor in (images, start, target, step_size))


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loss_is_the_literal_formula(gradient, dtype):
    matched, numbers = linear(gradient, dtype)
    assert matched.loss.item() == pytest.approx(literal_loss(*numbers), rel=1e-6)


@BOTH
def test_loss_is_one_where_no_step_is_taken(gradient):
    matched, _ = linear(gradient, rows=[])
    assert matched.loss.item() == 1
    assert not matched.images.any()
    assert matched.step_size.item() == 0


def test_loss_is_zero_where_the_student_arrives():
    assert matching_loss(randn(4), randn(4, seed=1), randn(4)).item() == 0


@pytest.mark.parametrize("chunk", [None, 1, 2, 100])
def test_gradients_are_those_of_the_literal_formula(chunk):
    for matched, (images, *others) in (linear(unrolled), linear(adjoint, chunk=chunk)):
        for n in range(IMAGES):
            for f in range(FEATURES):
                ends = []
                for sign in (1, -1):
                    moved = [list(image) for image in images]
                    moved[n][f] += sign * 1e-5
                    ends.append(literal_loss(moved, *others))
                assert matched.images[n, f].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)
        start, target, size = others
        ends = [literal_loss(images, start, target, size + sign * 1e-5) for sign in (1, -1)]
        assert matched.step_size.item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_tesla_s_formula_is_another_gradient():
    """It holds the direction constant at its last value; MTT's (and ours) goes through the Hessians."""
    exact, _ = linear(adjoint)
    images, start, target = randn(IMAGES, FEATURES), randn(6, seed=1), randn(6, seed=2)
    loss, theta, gradients = linear_loss(ROWS), start.clone(), []
    for i, rows in enumerate(ROWS):
        theta = theta.detach().requires_grad_()
        batch = images[rows].requires_grad_()
        value = loss(theta, batch, i, slice(None))
        gradients.append((torch.autograd.grad(value, theta, create_graph=True)[0], batch, rows))
        theta = theta - 0.7 * gradients[-1][0].detach()
    rest = (theta - target).detach()
    scale = 2 / (start - target).square().sum()
    tesla = torch.zeros_like(images)
    for gradient, batch, rows in gradients:
        tesla[rows] += torch.autograd.grad(gradient, batch, -0.7 * scale * rest)[0]
    assert (tesla - exact.images).norm() > 0.05 * exact.images.norm()
    along = -scale * rest.dot(sum(gradient for gradient, _, _ in gradients))
    assert abs(along - exact.step_size) > 0.05 * abs(exact.step_size)


# One iteration of the method with a ConvNet and augmentation, on tools that the test knows.


class Attention(nn.Module):
    """The least transformer: rows of pixels as tokens, one block of attention, dropout, a head."""

    def __init__(self, classes, size):
        super().__init__()
        self.qkv, self.head = nn.Linear(3 * size, 48), nn.Linear(16, classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        q, k, v = self.qkv(x.transpose(1, 2).flatten(2)).unsqueeze(1).chunk(3, -1)
        tokens = nn.functional.scaled_dot_product_attention(q, k, v).squeeze(1)
        return self.head(self.dropout(tokens).mean(1))


def build(network, classes, size):
    with forked("test network"):
        return Attention(classes, size) if network == "attention" else bench_build(network, classes, size)


class Lent:
    """Tools with draws seeded by axis alone, and experts in float64."""

    def __init__(self, network, classes, size, dtype):
        self.net = build(network, classes, size).to(dtype)
        self.augment, self.device = DSA(size), CPU
        self.artifacts = {"experts": Walk(network, classes, size, dtype)}
        self.dtype = dtype

    def rng(self, axis, *numbers):
        return np.random.default_rng([*axis.encode(), *numbers])

    def tensor(self, values):
        tensor = torch.from_numpy(values)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def network(self):
        return self.net


def matched(network="convnet@w4", images=None, step_size=0.05, dtype=torch.float64, **settings):
    """The loss, its gradients at the images and at the step size, and the tools, of iteration 0."""
    images = randn(6, 3, 16, 16, dtype=dtype) if images is None else images
    given = {"lr_teacher": 0.05, "max_start_epoch": 2, "syn_steps": 5, "batch_syn": 4, **settings}
    task, tools = Task("test", 3, 16, 2), Lent(network, 3, 16, dtype)
    x = Synthetic(images, 3, 2)
    method = MTT(MTTSettings(iterations=1, **given), task)
    method.begin(tools)
    method.extras()["step_size"].fill_(step_size)
    (loss,) = method.iteration(0, x, tools)
    return loss, x.gradient, method.extras()["step_size"].grad, tools


@pytest.mark.parametrize(
    ("network", "chunk"),
    [("convnet@w4", None), ("convnet@w4", 3), ("convnet@w4@bn", 3), ("resnet18@w2", None), ("attention", 2)],
)
def test_the_adjoint_is_the_unrolled_gradient(network, chunk):
    one, other = matched(network, chunk=chunk), matched(network, gradient="unrolled")
    for mine, theirs in zip(one[:3], other[:3], strict=True):
        assert (mine - theirs).norm() < 1e-8 * theirs.norm()
        assert theirs.norm() > 0


@pytest.mark.parametrize("gradient", ["adjoint", "unrolled"])
def test_gradient_is_that_of_finite_differences(gradient):
    images = randn(6, 3, 16, 16)
    _, found, of_step_size, _ = matched(images=images, gradient=gradient)
    ends = [matched(step_size=0.05 + sign * 1e-6)[0].item() for sign in (1, -1)]
    assert of_step_size.item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)
    rng = np.random.default_rng(0)
    for pixel in [tuple(rng.integers(images.shape).tolist()) for _ in range(6)]:
        ends = []
        for sign in (1, -1):
            moved = images.clone()
            moved[pixel] += sign * 1e-4
            ends.append(matched(images=moved)[0].item())
        assert found[pixel].item() == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4, abs=1e-10)


@pytest.mark.parametrize(
    ("gradient", "name"),
    [("adjoint", "convnet@w4"), ("unrolled", "convnet@w4"), ("adjoint", "convnet@w4@bn")],
)
def test_the_student_trains_as_in_distill_py(gradient, name):
    """The loop of distill.py with torch's own optimiser: a draw for each step, parameters for each image."""
    images, labels = randn(6, 3, 16, 16), torch.tensor([0, 0, 1, 1, 2, 2])
    loss, _, _, tools = matched(name, images=images, gradient=gradient)
    (expert, start), (_, end) = tools.artifacts["experts"].asked
    first, target = (tools.artifacts["experts"].parameters(expert, epoch) for epoch in (start, end))
    network, rng = build(name, 3, 16).double().train(), tools.rng("student augmentation")
    nn.utils.vector_to_parameters(first.clone(), network.parameters())  # they become views of it
    sgd, ops = torch.optim.SGD(network.parameters(), lr=0.05), set()
    for rows in batches(tools.rng("student batches"), 6, 4, 5):
        draw = tools.augment.draw_batch(rng, len(rows))
        ops.add(draw.ops[0])
        sgd.zero_grad()
        logits = network(tools.augment.apply(images[rows], draw))
        nn.functional.cross_entropy(logits, labels[rows]).backward()
        sgd.step()
    reached = nn.utils.parameters_to_vector(network.parameters()).detach()
    expected = (reached - target).pow(2).sum() / (first - target).pow(2).sum()
    assert len(ops) > 1
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)


def test_one_expert_and_two_of_its_epochs_are_read():
    *_, tools = matched(expert_epochs=4, max_start_epoch=1)
    (expert, start), (same, end) = tools.artifacts["experts"].asked
    assert (expert, start, end) == (same, 0, 4)


def test_the_network_stays_as_it_is():
    """Batch norm reads the batch alone, and its running statistics are nobody's business."""
    *_, tools = matched("convnet@w4@bn")
    fresh = build("convnet@w4@bn", 3, 16).double().state_dict()
    for name, tensor in tools.net.state_dict().items():
        assert torch.equal(tensor, fresh[name])


# What is drawn.


@pytest.mark.parametrize(
    ("n", "size", "sizes"), [(7, 3, [1, 3, 3, 1, 3]), (6, 3, [3] * 5), (4, None, [4] * 5)]
)
def test_every_image_comes_once_before_any_comes_again(n, size, sizes):
    """distill.py takes chunks from the end of its list, so the smaller one comes first."""
    found = batches(np.random.default_rng(0), n, size, 5)
    assert [len(batch) for batch in found] == sizes
    in_a_pass = -(-n // (size or n))
    passes = [np.concatenate(found[i : i + in_a_pass]) for i in range(0, 5 - in_a_pass + 1, in_a_pass)]
    for each in passes:
        assert sorted(each) == list(range(n))
    if len(passes) > 1:
        assert not np.array_equal(passes[0], passes[1])


def test_a_batch_larger_than_the_set_is_the_set():
    assert [len(batch) for batch in batches(np.random.default_rng(0), 4, 9, 2)] == [4, 4]


def test_every_expert_comes_once_in_a_pass_whatever_came_before():
    method = MTT(MTTSettings(iterations=1), Task("test", 3, 16, 2))
    method.begin(Lent("convnet@w4", 3, 16, torch.float32))
    order = [method.expert(k, 7) for k in range(21)]
    for first in (0, 7, 14):
        assert sorted(order[first : first + 7]) == list(range(7))
    assert order[:7] != order[7:14]
    assert [method.expert(k, 7) for k in reversed(range(21))] == order[::-1]


# Through the harness.


def job(data, seed=0, **settings):
    small = {"syn_steps": 3, "max_start_epoch": 4, "lr_img": 5.0, "lr_lr": 1e-3, "batch_syn": 4, **settings}
    this = cell(data, "mtt", seed=seed, pixels="normalised", **small)
    experts = Walk("convnet@w8", len(data.classes), data.size)
    return Distillation(this, data, CPU, {"experts": experts}), experts


def ran(data, iterations=5, **how):
    run, experts = job(data, **how)
    for _ in range(iterations):
        run.iterate()
    run.record.observe()
    return run, experts


@pytest.mark.parametrize("gradient", ["adjoint", "unrolled"])
def test_same_seed_same_bits(gradient):
    data = dataset()
    (first, asked), (again, _), (other, _) = (ran(data, seed=s, gradient=gradient) for s in (0, 0, 1))
    assert torch.equal(first.x.images, again.x.images)
    assert first.record.losses == again.record.losses
    assert first.record.extras == again.record.extras
    assert not torch.equal(first.x.images, other.x.images)
    assert all(start + 2 == end and 0 <= start < 4 for (_, start), (_, end) in _pairs(asked.asked))
    assert len({start for (_, start), _ in _pairs(asked.asked)}) > 1


def _pairs(asked):
    return zip(asked[::2], asked[1::2], strict=True)


def test_a_run_that_was_cut_ends_with_the_same_bits():
    data = dataset()
    whole, _ = ran(data)
    cut, _ = ran(data, iterations=2)
    rest, _ = job(data)
    rest.take_up(cut.state())
    while rest.iterations_done < 5:
        rest.iterate()
    rest.record.observe()
    assert torch.equal(rest.x.images, whole.x.images)
    assert rest.record.losses == whole.record.losses
    assert rest.record.extras == whole.record.extras


def test_images_and_step_size_move_by_sgd_with_momentum_of_their_own():
    run, _ = job(dataset(), lr_img=3.0, lr_lr=1e-4, momentum=0.5)
    before, sizes = run.x.images.clone(), [run.method.extras()["step_size"].item()]
    of_images, of_size = torch.zeros_like(before), 0.0
    for _ in range(3):
        (loss,) = run.method.iteration(run.iterations_done, run.x, run.tools.at(run.iterations_done))
        of_images = 0.5 * of_images + run.x.gradient
        of_size = 0.5 * of_size + run.method.extras()["step_size"].grad.item()
        before -= 3.0 * of_images
        run.x.gradient.zero_()
        run.iterate()
        sizes.append(run.method.extras()["step_size"].item())
        run.record.observe()
        assert loss.item() == run.record.losses[-1]
        torch.testing.assert_close(run.x.images, before, rtol=1e-5, atol=1e-6)
        assert sizes[-1] == pytest.approx(sizes[-2] - 1e-4 * of_size, rel=1e-5)
    assert sizes[-1] != sizes[0]


def test_loss_falls():
    """One expert, one start: the images and the step size learn to bring the student nearer to its end."""
    run, experts = job(dataset(), max_start_epoch=1, lr_img=100.0, lr_lr=1e-4, augment="none", lr_teacher=0.1)
    experts.experts = 1
    for _ in range(30):
        run.iterate()
    run.record.observe()
    assert run.record.losses[-1] < 0.99 * run.record.losses[0]
    assert run.record.losses[-1] < 1


@pytest.mark.parametrize("settings", [{"lr_lr": 1e6}, {"lr_img": 1e25}])
def test_what_diverges_says_which_settings_to_lower(settings):
    with pytest.raises(CellFailure, match=r"step size became .*lr_img.*lr_lr"):
        ran(dataset(), iterations=12, **settings)
