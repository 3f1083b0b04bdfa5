"""Networks trained together against each of them alone."""

import pytest
import torch
from test_training import CPU, SIZE, recipe, synthetic
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from bench import seeds
from bench.arithmetic import Arithmetic
from bench.augment import DSA
from bench.data import load
from bench.device import computing
from bench.networks.build import build
from bench.pixels import PixelSpace
from bench.real import RealImages
from bench.training import softlabels
from bench.training.batches import Augmentation, SyntheticSet
from bench.training.ensembles import Ensemble
from bench.training.loop import Training, correct
from bench.training.recipes import AveragedRecipe, SoftRecipe

pytestmark = pytest.mark.usefixtures("one_thread")

STREAMS = [(0, 0), (0, 1), (0, 2)]
AUGMENTATION = Augmentation(DSA(SIZE), torch.zeros(3, 1, 1))
#: How far together may be from alone, of losses and weights, by the precision of the numbers.
WITHIN = {torch.float64: 1e-9, torch.float32: 1e-3}


def fresh(asked, dtype=torch.float64, name="convnet@w8", data=None, lr=0.05, labels=None, size=SIZE, n=3):
    """Trainings of several networks; each call gives the same."""
    found, data = [], data or synthetic(dtype=dtype)
    augmentation = Augmentation(DSA(size), torch.zeros(3, 1, 1))
    for stream in STREAMS[:n]:
        with seeds.forked("test ensemble", *stream):
            network = build(name, int(data.labels.max()) + 1, size).to(dtype)
        found.append(Training(network, data, asked, lr, augmentation, stream, labels))
    return found


def large():
    """Images of 32 pixels."""
    data = synthetic()
    return SyntheticSet(torch.nn.functional.interpolate(data.images, (32, 32)), data.labels)


def assert_near(together, alone, within):
    """Whether all tensors of networks are equal but for rounding, whole numbers entirely."""
    for mine, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=within, atol=within)


def soft_labels(path, asked):
    """Random labels for the images of :func:`synthetic`."""
    logits = torch.randn(asked.epochs, 10, 3, generator=torch.Generator().manual_seed(3)).half()
    softlabels.save(path / softlabels.FILE, logits, asked.draws, 0, "nobody")
    return softlabels.SoftLabels(path / softlabels.FILE, CPU)


@pytest.mark.parametrize("dtype", WITHIN)
@pytest.mark.parametrize(
    "how", [{"augment": "dsa"}, {"augment": "crop_flip", "optimiser": "adamw", "lr": 1e-3}]
)
def test_losses_of_the_first_steps_are_those_of_each_alone(dtype, how):
    """Ten images in batches of four, so that the last one is smaller; a new optimiser for the last epoch."""
    asked, within = recipe(epochs=3, schedule="step", **how), WITHIN[dtype]
    together, alone = Ensemble(fresh(asked, dtype)), fresh(asked, dtype)
    for _ in range(asked.epochs):
        for losses, *_ in zip(together.steps(), *(each.steps() for each in alone), strict=True):
            expected = torch.stack([each.last_loss for each in alone])
            torch.testing.assert_close(losses, expected, rtol=within, atol=within)
    assert losses.std() > 1e-3  # they are different networks
    # Not the weights: the gradient of a bias before instance norm is rounding alone, and AdamW follows it.
    with torch.no_grad():
        for mine, each in zip(together.members, alone, strict=True):
            logits, expected = mine.network(together.data.images), each.network(together.data.images)
            torch.testing.assert_close(logits, expected, rtol=within, atol=within)


@pytest.mark.parametrize(
    "name",
    [
        *("convnet@w8@bn", "resnet18@w4", "resnet18@w4@bn", "vgg11@w4", "alexnet@w8"),
        *("mobilenetv2@w8", "efficientnet_b0@w8", "vit_tiny@w16"),
    ],
)
def test_every_preset_that_draws_nothing_has_the_weights_of_each_alone(name):
    """Two networks after two steps; running statistics and their counters too.

    In float64, and with short steps: a deep network with batch norm, trained on ten images, makes of a change
    in the last bit one that can be seen in a few steps, alone as well.
    """
    asked = recipe(epochs=9, batch=16, augment="dsa")
    given = {"name": name, "lr": 1e-3, "n": 2}
    if name.startswith("vgg11"):
        given |= {"size": 32, "data": large()}
    together, alone = Ensemble(fresh(asked, **given)), fresh(asked, **given)
    start = [parameter.detach().clone() for parameter in alone[0].network.parameters()]
    for _ in range(2):
        together.epoch()
        for each in alone:
            each.epoch()
        expected = [each.read_loss() for each in alone]
        assert together.read_losses() == pytest.approx(expected, rel=1e-7)
    assert_near([each.network for each in together.members], [each.network for each in alone], 1e-7)
    moved = [(a - b).abs().max() for a, b in zip(start, alone[0].network.parameters(), strict=True)]
    assert max(moved) > 1e-4


def test_accuracies_on_digits_are_within_one_image_of_a_hundred(cache):
    data = load("digits", cache_dir=cache)
    space = PixelSpace("normalised", data.mean, data.std)
    rows = [int(offset) for offset in data.train.offsets[:-1]]
    images = space.encode(torch.from_numpy(data.train.images[rows].copy()).float() / 255)
    distilled = SyntheticSet(images, torch.arange(len(rows)))
    asked = recipe(epochs=30, batch=256, augment="dsa")
    test = RealImages(data.test.first(10), space, images.device)
    given = {"dtype": torch.float32, "data": distilled, "lr": 0.01, "size": data.size}
    together, alone = Ensemble(fresh(asked, **given)), fresh(asked, **given)
    for _ in range(asked.epochs):
        for each in (together, *alone):
            each.epoch()
    mine, theirs = ([correct(each.tested, test) for each in found] for found in (together.members, alone))
    assert max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) <= 1
    assert min(theirs) > 30  # of 100; chance is 10


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_draws_are_to_the_bit_those_of_each_alone(tmp_path, kind):
    """Initial weights, order, augmentation, mixing, and a teacher's labels."""
    asked, labels = recipe(epochs=2, augment="dsa"), None
    if kind == "soft":
        asked = SoftRecipe(name="test", epochs=2, batch=4, augment="crop_flip", mix="cutmix")
        labels = soft_labels(tmp_path, asked)
    together, alone = Ensemble(fresh(asked, labels=labels)), fresh(asked, labels=labels)
    for number, each in enumerate(alone):
        for name, tensor in each.network.named_parameters():
            assert torch.equal(together.parameters[name][number], tensor)
    shown = []
    for _ in range(asked.epochs):
        of_all = list(together._batches())
        for number, each in enumerate(alone):
            for (images, targets), of_each in zip(of_all, each.batches(), strict=True):
                assert torch.equal(images[number], of_each[0])
                assert torch.equal(targets[number], of_each[1])
        shown.append(of_all[0][0])
        for each in (*together.members, *alone):
            each.epochs_done += 1
    assert not torch.equal(*shown)
    assert torch.equal(shown[0][0], shown[0][1]) == (kind == "soft")


@pytest.mark.parametrize("kind", [SoftRecipe, AveragedRecipe])
def test_teachers_labels_and_averaged_weights(tmp_path, kind):
    asked = kind(name="test", epochs=4, batch=4, augment="crop_flip", warmup_epochs=2)
    labels = soft_labels(tmp_path, asked) if asked.soft else None
    together, alone = Ensemble(fresh(asked, labels=labels)), fresh(asked, labels=labels)
    for _ in range(3):
        for each in (together, *alone):
            each.epoch()
    assert_near(together.tested, [each.tested for each in alone], 1e-9)
    same = [each.tested is each.network for each in together.members]
    assert same == [kind is SoftRecipe] * 3


@pytest.mark.parametrize("how", [{"optimiser": "adamw", "lr": 1e-3}, {"schedule": "step"}])
def test_checkpoints_go_on_together_to_the_bit_and_alone_nearly(how):
    asked = recipe(epochs=6, augment="dsa", **how)
    given = {"name": "convnet@w8@bn", "dtype": torch.float32}
    one = Ensemble(fresh(asked, **given))
    for _ in range(2):
        one.epoch()
    states = one.states()
    for tensor in states[1]["network"].values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes  # not the whole stack
    one.epoch()
    losses = one.read_losses()

    alone = fresh(asked, **given)
    for each, state in zip(alone, states, strict=True):
        each.take_up(state)
    again = Ensemble(alone)
    again.epoch()
    assert (again.read_losses(), again.epochs_done) == (losses, 3)
    for mine, theirs in zip(one.members, again.members, strict=True):
        assert all(map(torch.equal, mine.network.state_dict().values(), theirs.network.state_dict().values()))

    each = fresh(asked, **given)[2]
    each.take_up(states[2])
    each.epoch()
    assert each.read_loss() == pytest.approx(losses[2], rel=1e-3)


def test_a_network_that_is_lost_takes_no_other_along():
    asked = recipe(epochs=9, augment="dsa")
    whole, spoilt = fresh(asked), fresh(asked)
    next(spoilt[1].network.parameters()).data.fill_(torch.nan)
    whole, spoilt = Ensemble(whole), Ensemble(spoilt)
    for _ in range(2):
        whole.epoch()
        spoilt.epoch()
    expected, (first, second, third) = whole.read_losses(), spoilt.read_losses()
    assert second != second
    assert [first, third] == pytest.approx([expected[0], expected[2]], rel=1e-12)


def test_what_draws_at_random_is_refused():
    asked = recipe()
    alone = fresh(asked)
    for each in alone:
        each.network.classifier = torch.nn.Sequential(torch.nn.Dropout(0.1), each.network.classifier)
    with pytest.raises(RuntimeError, match="random"):
        Ensemble(alone).try_one_step()
    Ensemble(fresh(asked)).try_one_step()


def test_other_arithmetic_is_that_of_each_alone_or_refused():
    asked = recipe(epochs=9, augment="dsa")
    with computing(CPU, Arithmetic("bf16")):
        together, alone = Ensemble(fresh(asked, torch.float32)), fresh(asked, torch.float32)
        for each in (together, *alone):
            each.epoch()
        expected = [each.read_loss() for each in alone]
        assert together.read_losses() == pytest.approx(expected, rel=2e-2)
    with (
        computing(CPU, Arithmetic(channels_last=True)),
        pytest.raises(RuntimeError, match="memory_format"),
    ):
        Ensemble(fresh(asked, torch.float32)).try_one_step()


@pytest.mark.parametrize("augment", ["none", "dsa"])
def test_an_epoch_reads_no_value_back(augment):
    """So that a GPU is not waited for; fake tensors have no values, and say so."""
    asked = recipe(epochs=9, augment=augment)
    with FakeTensorMode():
        data = SyntheticSet(torch.empty(10, 3, SIZE, SIZE), torch.zeros(10).long())
        augmentation = Augmentation(DSA(SIZE), torch.zeros(3, 1, 1))
        trainings = []
        for stream in STREAMS:
            with seeds.forked("test ensemble"):
                network = build("convnet@w8@bn", 3, SIZE)
            trainings.append(Training(network, data, asked, 0.05, augmentation, stream))
        together = Ensemble(trainings)
        together.epoch()
        assert [each.epochs_done for each in together.members] == [1] * 3
        with pytest.raises(DataDependentOutputException):
            together.read_losses()
