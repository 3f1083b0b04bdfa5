"""Networks trained together against each of them alone."""

import pytest
import torch
from test_training import SIZE, recipe, synthetic

from bench import seeds
from bench.augment import DSA
from bench.batches import Augmentation, SyntheticSet
from bench.data import load
from bench.ensembles import Ensemble, why_alone
from bench.networks.build import build
from bench.pixels import PixelSpace
from bench.real import RealImages
from bench.recipes import AveragedRecipe, SoftRecipe
from bench.training import Training, correct

pytestmark = pytest.mark.usefixtures("one_thread")

STREAMS = [(0, 0), (0, 1), (0, 2)]
AUGMENTATION = Augmentation(DSA(SIZE), torch.zeros(3, 1, 1))


def fresh(dtype=torch.float64, name="convnet@w8", classes=3, size=SIZE):
    found = []
    for stream in STREAMS:
        with seeds.forked("test ensemble", *stream):
            found.append(build(name, classes, size).to(dtype))
    return found


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize(
    "how", [{"augment": "dsa"}, {"augment": "crop_flip", "optimiser": "adamw", "lr": 1e-3}]
)
def test_losses_of_the_first_steps_are_those_of_each_alone(dtype, within, how):
    """Ten images in batches of four, so that the last one is smaller; a new optimiser for the last epoch."""
    asked, data = recipe(epochs=3, schedule="step", **how), synthetic(dtype=dtype)
    together = Ensemble(fresh(dtype), data, asked, 0.05, AUGMENTATION, STREAMS)
    alone = [
        Training(network, data, asked, 0.05, AUGMENTATION, stream)
        for network, stream in zip(fresh(dtype), STREAMS, strict=True)
    ]
    for _ in range(asked.epochs):
        for losses, *_ in zip(together.steps(), *(each.steps() for each in alone), strict=True):
            expected = torch.stack([each.last_loss for each in alone])
            torch.testing.assert_close(losses, expected, rtol=within, atol=within)
    assert losses.std() > 1e-3  # they are different networks
    # Not the weights: the gradient of a bias before instance norm is rounding alone, and AdamW follows it.
    with torch.no_grad():
        for mine, each in zip(together.networks(), alone, strict=True):
            logits, expected = mine(data.images), each.network(data.images)
            torch.testing.assert_close(logits, expected, rtol=100 * within, atol=100 * within)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_accuracies_on_digits_are_within_one_image(cache, dtype):
    data = load("digits", cache_dir=cache)
    space = PixelSpace("normalised", data.mean, data.std)
    rows = [int(offset) for offset in data.train.offsets[:-1]]
    images = space.encode(torch.from_numpy(data.train.images[rows].copy()).to(dtype) / 255)
    distilled = SyntheticSet(images, torch.arange(len(rows)))
    asked, augmentation = (
        recipe(epochs=30, batch=256, augment="dsa"),
        Augmentation.of(data, space, images.device),
    )
    test = RealImages(data.test.first(10), space, images.device)
    given = {"name": "convnet@w8", "classes": len(data.classes), "size": data.size}

    def right(network):
        return correct(network.to(torch.float32).eval(), test)

    together = Ensemble(fresh(dtype, **given), distilled, asked, 0.01, augmentation, STREAMS)
    alone = [
        Training(network, distilled, asked, 0.01, augmentation, stream)
        for network, stream in zip(fresh(dtype, **given), STREAMS, strict=True)
    ]
    for each in (together, *alone):
        for _ in range(asked.epochs):
            each.epoch()
    mine, theirs = [right(each) for each in together.networks()], [right(each.network) for each in alone]
    assert max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) <= 1
    assert min(theirs) > 30  # of 100; chance is 10


def test_what_cannot_be_trained_together_is_refused():
    asked = recipe()
    plain = fresh()[0]
    assert why_alone(plain, asked) is None
    assert "batch norm" in why_alone(fresh(name="resnet18@w4@bn")[0], asked)
    assert "drops values" in why_alone(torch.nn.Sequential(plain, torch.nn.Dropout(0.1)), asked)
    for kind in (SoftRecipe, AveragedRecipe):
        assert "soft labels or an average" in why_alone(plain, kind(name="other", epochs=1))
    with pytest.raises(ValueError, match="batch norm"):
        Ensemble(fresh(name="convnet@w8@bn"), synthetic(), asked, 0.05, AUGMENTATION, STREAMS)
