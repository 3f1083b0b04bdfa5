"""Training by a recipe against a loop written out by hand; its schedules; resume; testing."""

import math
import time

import numpy as np
import pytest
import torch
from small import dataset
from torch import nn

from bench import seeds
from bench.augment import DSA
from bench.data.types import Split
from bench.errors import CellFailure
from bench.networks.build import build
from bench.pixels import PixelSpace
from bench.real import RealImages
from bench.training.batches import Augmentation, RealSet, SyntheticSet
from bench.training.loop import TEST_BATCH, Training, correct
from bench.training.recipes import AveragedRecipe, Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
CLASSES, SIZE = 3, 16


@pytest.fixture(autouse=True)
def _global_generators_stay_as_they_are():
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    yield
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpys).all()  # noqa: NPY002


def network(name="convnet@w8", dtype=torch.float64):
    with seeds.forked("test network"):
        return build(name, CLASSES, SIZE).to(dtype)


def synthetic(n=10, dtype=torch.float64):
    images = torch.randn(n, 3, SIZE, SIZE, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return SyntheticSet(images, torch.arange(n) % CLASSES)


def training(recipe, net=None, data=None, lr=0.05, stream=(0, 0)):
    net = network() if net is None else net
    augmentation = Augmentation(DSA(SIZE), torch.zeros(3, 1, 1))
    return Training(net, data or synthetic(), recipe, lr, augmentation, stream)


def recipe(**settings):
    return Recipe(name="test", **{"epochs": 1, "batch": 4, **settings})


class ByHand:
    """SGD with momentum and weight decay, parameter by parameter, in the order of the stream."""

    def __init__(self, net, data, augment=None, stream=(0, 0), momentum=0.9, weight_decay=5e-4):
        self.net, self.data, self.augment, self.stream = net, data, augment, stream
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocity = {}

    def epoch(self, number, lr, batch=4):
        rng = seeds.rng("training", *self.stream, number)
        order = rng.permutation(len(self.data))
        for start in range(0, len(order), batch):
            rows = torch.from_numpy(order[start : start + batch])
            images, labels = self.data.images[rows], self.data.labels[rows]
            if self.augment:
                images = self.augment.apply(images, self.augment.draw_batch(rng, len(images)))
            log_p = self.net(images).log_softmax(1)
            if labels.ndim == 1:
                labels = nn.functional.one_hot(labels, CLASSES).to(log_p.dtype)
            loss = -(labels * log_p).sum(1).mean()
            gradients = torch.autograd.grad(loss, list(self.net.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(self.net.parameters(), gradients, strict=True):
                    step = gradient + self.weight_decay * parameter
                    if parameter in self.velocity:
                        step = self.momentum * self.velocity[parameter] + step
                    self.velocity[parameter] = step
                    parameter -= lr * step
        return loss.item()


def assert_equal_networks(one, other, **tolerance):
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 1e-10, "atol": 1e-13}))


@pytest.mark.parametrize("augment", ["none", "dsa"])
def test_epochs_are_those_written_by_hand(augment):
    run = training(recipe(augment=augment, epochs=20))
    by_hand = ByHand(network(), run.data, DSA(SIZE) if augment == "dsa" else None)
    for number in range(3):
        run.epoch()
        loss = by_hand.epoch(number, 0.05)
        assert run.last_loss.item() == pytest.approx(loss, rel=1e-10)
    assert_equal_networks(run.network, by_hand.net)


def test_soft_labels_are_probabilities():
    data = synthetic()
    data.labels = torch.rand(10, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    data.labels /= data.labels.sum(1, keepdim=True)
    run = training(recipe(), data=data)
    by_hand = ByHand(network(), data)
    run.epoch()
    by_hand.epoch(0, 0.05)
    assert_equal_networks(run.network, by_hand.net)


def test_one_hot_soft_labels_are_hard_labels():
    data = synthetic()
    hot = SyntheticSet(data.images, nn.functional.one_hot(data.labels, CLASSES).double())
    one, other = training(recipe(), data=data), training(recipe(), data=hot)
    one.epoch()
    other.epoch()
    assert_equal_networks(one.network, other.network)


@pytest.mark.parametrize("epochs", [5, 6])
def test_step_schedule_has_a_tenth_and_no_momentum_after_half_and_one(epochs):
    """evaluate_synset: in the epoch of index E // 2 + 1 still the old rate, then a new optimiser."""
    run = training(recipe(epochs=epochs))
    by_hand = ByHand(network(), run.data)
    for number in range(epochs):
        run.epoch()
        if number == epochs // 2 + 2:
            by_hand.velocity.clear()
        by_hand.epoch(number, 0.05 if number <= epochs // 2 + 1 else 0.005)
    assert_equal_networks(run.network, by_hand.net)


def test_cosine_schedule():
    run = training(recipe(epochs=4, schedule="cosine"))
    by_hand = ByHand(network(), run.data)
    for number in range(4):
        run.epoch()
        by_hand.epoch(number, 0.05 * (1 + math.cos(math.pi * number / 4)) / 2)
    assert_equal_networks(run.network, by_hand.net)


STEP = recipe(epochs=6, augment="dsa")
ADAMW = recipe(epochs=6, augment="crop_flip", schedule="cosine", optimiser="adamw")
AVERAGED = AveragedRecipe(name="test", epochs=6, batch=4, augment="resized_crop_flip", warmup_epochs=3)


@pytest.mark.parametrize("stop", [1, 5])
@pytest.mark.parametrize(
    ("how", "name"),
    [
        (STEP, "convnet@w8"),
        (STEP, "mobilenetv2@w8"),
        (recipe(epochs=6, schedule="cosine"), "convnet@w8@bn"),
        (ADAMW, "convnet@w8@bn"),
        (AVERAGED, "convnet@w8@bn"),
    ],
    ids=["step", "step-dropout", "cosine", "adamw", "averaged"],
)
def test_resumed_is_bit_for_bit_uninterrupted(tmp_path, how, name, stop):
    def fresh():
        return training(how, network(name, torch.float32), synthetic(dtype=torch.float32))

    whole, first, second = fresh(), fresh(), fresh()
    for _ in range(6):
        whole.epoch()
    for _ in range(stop):
        first.epoch()
    torch.save(first.state(), tmp_path / "state.pt")
    second.take_up(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (second.epochs_done, second.seconds) == (stop, first.seconds)
    assert second.last_loss == first.last_loss
    while second.epochs_done < 6:
        second.epoch()
    for ended, expected in ((second.network, whole.network), (second.tested, whole.tested)):
        ended, expected = ended.state_dict(), expected.state_dict()
        assert all(torch.equal(ended[key], expected[key]) for key in expected)
    assert torch.equal(second.last_loss, whole.last_loss)


def test_streams_differ_and_repeat():
    runs = [training(recipe(), stream=stream) for stream in ((0, 0), (0, 0), (0, 1))]
    for run in runs:
        run.epoch()
    first, again, other = (run.network.classifier.weight for run in runs)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_dropout_draws_from_the_training_s_stream():
    def fresh(stream):
        with seeds.forked("test network"):
            linear = nn.Linear(3 * SIZE**2, CLASSES, dtype=torch.float64)
        net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), linear)
        run = training(recipe(batch=10), net, stream=stream)
        run.epoch()
        return linear.weight

    assert torch.equal(fresh((0,)), fresh((0,)))
    assert not torch.equal(fresh((0,)), fresh((1,)))


# A last batch of one image.


class Seen(nn.Module):
    """Batch norm on maps of one position, or of four; keeps the images of each step."""

    def __init__(self, positions):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(positions)
        self.norm = nn.BatchNorm2d(3)
        with seeds.forked("test network"):
            self.head = nn.Linear(3 * positions**2, CLASSES)
        self.batches = []

    def forward(self, x):
        if self.training:
            self.batches.append(x.detach())
        return self.head(self.norm(self.pool(x)).flatten(1))


@pytest.mark.parametrize(("positions", "sizes"), [(1, [4, 5]), (2, [4, 4, 1])])
def test_a_last_image_joins_the_batch_before_only_where_it_could_not_be_trained_on(positions, sizes):
    run = training(recipe(), Seen(positions), synthetic(9, torch.float32))
    untouched = Seen(positions).state_dict()
    assert all(torch.equal(value, untouched[key]) for key, value in run.network.state_dict().items())
    run.epoch()
    shown = run.network.batches
    assert [len(batch) for batch in shown] == sizes
    assert run.steps_per_epoch == len(sizes)
    order = seeds.rng("training", 0, 0, 0).permutation(9)
    assert torch.equal(torch.cat(shown), run.data.images[torch.from_numpy(order)])


@pytest.mark.parametrize(("n", "batch"), [(1, 4), (9, 1)])
def test_nothing_but_batches_of_one_is_refused_where_they_cannot_be_trained_on(n, batch):
    with pytest.raises(CellFailure, match="batches of one image"):
        training(recipe(batch=batch), Seen(1), synthetic(n, torch.float32))
    training(recipe(batch=batch), Seen(2), synthetic(n, torch.float32)).epoch()


# Testing.


class Brightest(nn.Module):
    """Says the channel that is the brightest; says nothing right in training mode."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        return x.mean((2, 3)) * (-1 if self.training else 1)


def real(images, offsets):
    return RealImages(Split(images, offsets), PixelSpace("unit"), CPU)


def test_correct_counts_the_last_partial_batch():
    n = 2 * TEST_BATCH + 7
    labels = np.repeat([0, 1, 2], [400, 400, n - 800])
    said = labels.copy()
    wrong = [0, 399, 400, TEST_BATCH, n - 2, n - 1]
    said[wrong] = (said[wrong] + 1) % 3
    images = np.zeros((n, 3, 8, 8), np.uint8)
    images[np.arange(n), said] = 200
    net = Brightest()
    assert correct(net, real(images, (0, 400, 800, n))) == n - len(wrong)
    assert net.batches == [TEST_BATCH, TEST_BATCH, 7]


def test_correct_of_fewer_images_than_a_batch():
    images = np.zeros((3, 3, 8, 8), np.uint8)
    images[:, 1] = 255
    assert correct(Brightest(), real(images, (0, 1, 2, 3))) == 1


def test_a_real_set_trains_as_its_images_do():
    data = dataset(classes=CLASSES, size=SIZE)
    images = RealImages(data.train, PixelSpace("normalised", data.mean, data.std), CPU)
    held = SyntheticSet(images.batch(np.arange(len(images))), images.labels)
    runs = [training(recipe(), network(dtype=torch.float32), of) for of in (RealSet(images), held)]
    for run in runs:
        run.epoch()
    assert_equal_networks(runs[0].network, runs[1].network, rtol=0, atol=0)


def test_training_learns():
    data = dataset(classes=CLASSES, size=SIZE)
    images = RealImages(data.train, PixelSpace("normalised", data.mean, data.std), CPU)
    run = training(recipe(epochs=10), network(dtype=torch.float32), RealSet(images))
    for _ in range(10):
        run.epoch()
    test = RealImages(data.test, PixelSpace("normalised", data.mean, data.std), CPU)
    assert correct(run.network, test) > 0.9 * len(test)


def test_the_wait_for_the_loss_is_part_of_what_training_took():
    """A GPU takes up work at once and is waited for here. The bound is a lower one: a busy machine passes."""

    class Slow:
        def __float__(self):
            time.sleep(0.05)
            return 1.5

    trained = training(recipe())
    trained.last_loss = Slow()
    assert trained.read_loss() == 1.5
    assert trained.seconds >= 0.05
