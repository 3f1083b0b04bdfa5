"""SRe2L's recovery: its loss against the formula, what the teacher is shown, and the settings."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torchvision.transforms.functional import resized_crop

from baselines import Task
from baselines.base import Need
from baselines.crops import resized_crop_window
from baselines.defaults.sre2l import SRe2LSettings
from baselines.sre2l import SRe2L, bn_distance, bn_distances, bn_loss
from bench import seeds
from bench.networks.build import build
from bench.synthetic import Synthetic

pytestmark = pytest.mark.usefixtures("one_thread")


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Lent:
    """Tools with a teacher, and draws seeded by axis; without limits on the pixels."""

    limits = (torch.tensor(-math.inf), torch.tensor(math.inf))

    def __init__(self, teacher):
        self.artifacts = {"teacher": teacher}
        self.iteration = 0

    def rng(self, axis, *numbers):
        return seeds.rng(axis, self.iteration, *numbers)


def update(teacher, start, ipc=1, tools=None, **settings):
    """Loss and gradient of one update of ``start``."""
    classes = len(start) // ipc
    method = SRe2L(SRe2LSettings(**settings), Task("test", classes, start.shape[-1], ipc))
    tools = tools or Lent(teacher)
    method.begin(tools)
    x = Synthetic(start, classes, ipc)
    (loss,) = method.iteration(0, x, tools)
    return loss, x.gradient


# The loss.


class Small(nn.Module):
    """Two 3x3 convolutions with batch norm and ReLUs in place, the mean over positions, a linear layer."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 2, 3, padding=1, bias=False),
            nn.BatchNorm2d(2),
            nn.ReLU(inplace=True),
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
        )
        self.linear = nn.Linear(4, 3)
        with torch.no_grad():
            for i, (name, tensor) in enumerate(self.state_dict().items()):
                if tensor.is_floating_point():
                    tensor.copy_(
                        randn(*tensor.shape, seed=i).abs() + 0.1
                        if "var" in name
                        else randn(*tensor.shape, seed=i)
                    )
        self.double().eval().requires_grad_(False)

    def forward(self, x):
        return self.linear(self.layers(x).mean((2, 3)))


def literal_loss(network, images, labels, r_bn, first_multiplier):
    """The formula and the network in NumPy's float64: convolutions pixel by pixel, statistics by hand."""
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    x, regulariser = images.numpy(), 0.0
    for layer, multiplier in ((0, first_multiplier), (3, 1.0)):
        kernel = weights[f"layers.{layer}.weight"]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        out = np.zeros((len(x), len(kernel), *x.shape[2:]))
        for row, column in np.ndindex(*x.shape[2:]):
            patch = padded[:, None, :, row : row + 3, column : column + 3]
            out[:, :, row, column] = (patch * kernel).sum((2, 3, 4))
        gamma, beta, mean, var = (
            weights[f"layers.{layer + 1}.{name}"]
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        of_mean = of_var = 0.0
        for k in range(len(kernel)):
            numbers = out[:, k].flatten().tolist()
            batch_mean = math.fsum(numbers) / len(numbers)
            batch_var = math.fsum((number - batch_mean) ** 2 for number in numbers) / len(numbers)
            of_mean += (batch_mean - mean[k]) ** 2
            of_var += (batch_var - var[k]) ** 2
        regulariser += multiplier * (math.sqrt(of_mean) + math.sqrt(of_var))
        shape = (1, -1, 1, 1)
        normal = (out - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + 1e-5)
        x = np.maximum(gamma.reshape(shape) * normal + beta.reshape(shape), 0)
    logits = x.mean((2, 3)) @ weights["linear.weight"].T + weights["linear.bias"]
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log_p[np.arange(len(x)), labels].mean() + r_bn * regulariser


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize(("r_bn", "first"), [(0.01, 10.0), (1.0, 10.0), (1.0, 1.0), (0.0, 10.0)])
def test_loss_is_the_literal_formula(dtype, precision, r_bn, first):
    images = randn(3, 3, 5, 5, seed=9)
    loss = update(Small().to(dtype), images.to(dtype), r_bn=r_bn, first_bn_multiplier=first, jitter=0)[0]
    expected = literal_loss(Small(), images, [0, 1, 2], r_bn, first)
    assert loss.item() == pytest.approx(expected, rel=precision)


@pytest.mark.parametrize(("batch", "chunks"), [(6, [3]), (5, [2, 1]), (4, [2, 1]), (1, [1, 1, 1])])
def test_a_forward_takes_no_more_images_than_the_batch_but_a_whole_class(batch, chunks):
    images, labels, expected = randn(6, 3, 5, 5, seed=9), [0, 0, 1, 1, 2, 2], 0.0
    for chunk in chunks:
        rows = slice(6 - len(labels), 6 - len(labels) + 2 * chunk)
        expected += literal_loss(Small(), images[rows], labels[: 2 * chunk], 0.01, 10)
        labels = labels[2 * chunk :]
    loss = update(Small(), images, ipc=2, jitter=0, batch=batch)[0]
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_what_is_heard_is_the_convolutions_output():
    """Though ReLUs work in place: in module order, shortcuts included."""
    with seeds.forked("test teacher"):
        teacher = build("resnet18@w4@bn", 4, 16).eval().requires_grad_(False)
    outputs = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: outputs.append(output.clone()))
        for module in teacher.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with bn_distances(teacher) as distances:
        teacher(randn(5, 3, 16, 16, dtype=torch.float32))
    for hook in hooks:
        hook.remove()
    layers = [module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)]
    assert (len(layers), len(outputs), list(distances)) == (20, 20, list(range(20)))
    for distance, output, layer in zip(distances.values(), outputs, layers, strict=True):
        channels = output.transpose(0, 1).flatten(1).double().numpy()
        expected = np.linalg.norm(channels.mean(1) - layer.running_mean.double().numpy())
        expected += np.linalg.norm(channels.var(1) - layer.running_var.double().numpy())
        assert distance.item() == pytest.approx(expected, rel=1e-5)


def test_distance_is_zero_where_the_statistics_are_the_running_ones():
    maps = (
        torch.tensor([[-1.0, 3.0], [2.0, 0.0]]).view(2, 1, 1, 2).expand(2, 3, 4, 2).clone().requires_grad_()
    )
    distance = bn_distance(maps, torch.ones(3), torch.full((3,), 2.5))
    assert distance.item() == 0
    assert torch.equal(torch.autograd.grad(distance, maps)[0], torch.zeros_like(maps))
    assert bn_distance(maps, torch.ones(3), torch.full((3,), 2.0)).item() == pytest.approx(0.5 * 3**0.5)


def test_regulariser_is_zero_where_the_statistics_are_the_running_ones():
    """Of a whole network; the variance that PyTorch would store is the unbiased one."""
    network, images = Small(), randn(4, 3, 5, 5)
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]

    def settle(layer, inputs):
        channels = inputs[0].transpose(0, 1).flatten(1)
        layer.running_mean.copy_(channels.mean(1))
        layer.running_var.copy_(channels.var(1, correction=0))

    for layer in layers:
        hook = layer.register_forward_pre_hook(settle)
        network(images)
        hook.remove()
    with bn_distances(network) as distances:
        network(images)
    assert len(distances) == 2
    assert bn_loss(distances, 10.0).item() == pytest.approx(0, abs=1e-10)
    with bn_distances(network) as distances:
        network(images + 0.1)
    assert bn_loss(distances, 10.0).item() > 0.1


@pytest.mark.parametrize("crop", [False, True])
def test_gradient_is_that_of_finite_differences(crop):
    start = randn(4, 3, 8, 8)
    how = {"r_bn": 1.0, "crop": crop, "batch": 2}
    gradient = update(Small(), start[:3], **how)[1]
    rng, differing = np.random.default_rng(0), 0
    for pixel in [tuple(rng.integers((3, 3, 8, 8)).tolist()) for _ in range(20)]:
        difference = 0.0
        for sign in (1, -1):
            moved = start[:3].clone()
            moved[pixel] += sign * 1e-6
            difference += sign * update(Small(), moved, **how)[0].item() / 2e-6
        assert gradient[pixel].item() == pytest.approx(difference, rel=1e-5, abs=1e-8)
        differing += gradient[pixel] != 0
    assert differing > 5


# Augmentation, as the teacher sees it.


class Witness(nn.Module):
    """A teacher that keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.norm, self.seen = nn.BatchNorm2d(3), []
        self.eval().requires_grad_(False)

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.norm(x).flatten(1)[:, :4]


def seen(images, iterations, **settings):
    """What the teacher sees of the same images in each iteration: [iterations, forwards, …]."""
    witness = Witness()
    tools, views = Lent(witness), []
    for tools.iteration in range(iterations):
        update(witness, images, tools=tools, **settings)
        views.append(torch.stack(witness.seen))
        witness.seen.clear()
    return torch.stack(views)


@pytest.mark.parametrize(("roll", "offsets"), [("positive", range(4)), ("both", range(-3, 4))])
def test_rolls_reach_each_offset_and_no_other(roll, offsets):
    images = torch.zeros(2, 3, 8, 8)
    images[:, :, 4, 4] = 1
    views = seen(images, 300, roll=roll, jitter=3)[:, 0]
    assert torch.equal(views.sum((-1, -2)), torch.ones(300, 2, 3))
    assert torch.equal(views, views[:, :1, :1].expand_as(views))  # one roll for all
    pixels = {divmod(place, 8) for place in views[:, 0, 0].flatten(1).argmax(1).tolist()}
    assert pixels == {(4 + down, 4 + right) for down in offsets for right in offsets}


def test_rolls_are_circular():
    images = torch.arange(64.0).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    assert all(view.unique().numel() == 64 for view in seen(images, 20, roll="both", jitter=7).flatten(0, 2))


def test_all_images_of_a_forward_share_crop_and_coin_and_forwards_have_their_own():
    image = randn(1, 3, 16, 16, dtype=torch.float32)
    views = seen(image.expand(4, 3, 16, 16), 40, crop=True, jitter=0, batch=2)
    assert views.shape[1:3] == (2, 2)
    assert torch.equal(views[:, :, 0], views[:, :, 1])
    assert not torch.equal(views[:, 0], views[:, 1])
    mirrored = []
    for k, view in enumerate(views[:, 1, 0]):
        window = resized_crop_window(seeds.rng("crop", k, 2), 16, (0.08, 1.0), (3 / 4, 4 / 3))
        upright = resized_crop(image[0], *window, [16, 16])
        mirrored.append(torch.allclose(view, upright.flip(-1), atol=1e-6))
        assert mirrored[-1] != torch.allclose(view, upright, atol=1e-6)
    assert 10 < sum(mirrored) < 30


def test_without_augmentation_the_images_are_seen_as_they_are():
    images = randn(4, 3, 8, 8, dtype=torch.float32)
    assert torch.equal(seen(images, 1, jitter=0)[0, 0], images)


# Settings.

LIKE_CIFAR = {"iterations": 1000, "lr": 0.25, "r_bn": 0.01, "roll": "positive", "crop": False}
LIKE_TINY = {"iterations": 4000, "lr": 0.1, "r_bn": 1.0, "roll": "both", "crop": True}


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("cifar10", 32, LIKE_CIFAR),
        ("cifar100", 32, LIKE_CIFAR),
        ("cifar100[20]", 32, LIKE_CIFAR),
        ("tiny-imagenet", 64, LIKE_TINY),
        ("tiny-imagenet[10]", 32, LIKE_TINY),
        ("digits", 16, LIKE_CIFAR),
        ("imagefolder", 32, LIKE_CIFAR),
        ("imagefolder", 128, LIKE_TINY),
    ],
)
def test_default_settings(name, size, expected):
    """recover_cifar.sh and recover_tiny.sh; the same for any IPC, so that its parts are shared."""
    for ipc in (1, 10, 50):
        settings = SRe2LSettings.resolve(Task(name, 10, size, ipc), {})
        assert settings.model_dump() == {
            **expected,
            "betas": (0.5, 0.9),
            "first_bn_multiplier": 10.0,
            "jitter": 4,
            "batch": 100,
            "teacher": {},
            "pixels": "normalised",
        }
        assert settings.parts(ipc) == [1] * ipc


def test_the_teacher_is_needed_as_the_settings_say():
    assert SRe2LSettings().needs("convnet") == {"teacher": Need("classifier", {})}
    settings = SRe2LSettings(teacher={"network": "resnet18@w16@bn", "epochs": 6})
    assert settings.needs("convnet")["teacher"].settings == {"network": "resnet18@w16@bn", "epochs": 6}


def test_betas_are_a_list_in_a_suite():
    assert SRe2LSettings.resolve(Task("cifar10", 10, 32, 1), {"betas": [0.9, 0.99]}).betas == (0.9, 0.99)


@pytest.mark.parametrize(
    "override",
    [
        {"lr_img": 1.0},
        {"lr": 0},
        {"betas": [0.5]},
        {"betas": [0.5, 1]},
        {"betas": ["0.5", 0.9]},
        {"roll": "left"},
        {"jitter": -1},
        {"batch": 0},
        {"crop": 1},
        {"r_bn": -0.1},
        {"iterations": 0},
        {"pixels": "unit"},
        {"pixels": "zca"},
    ],
)
def test_an_override_that_is_unknown_or_out_of_range_is_refused(override):
    with pytest.raises(ValidationError):
        SRe2LSettings.resolve(Task("cifar10", 10, 32, 1), override)
