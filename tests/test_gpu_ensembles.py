"""Five evaluation networks trained at once on a GPU against one after the other; prints how much faster."""

import time

import pytest
import torch
from command_line import TINY, rows, run_here, suite, write_tables

from bench import seeds
from bench.data import load
from bench.device import computing
from bench.networks.build import build
from bench.pixels import PixelSpace
from bench.real import RealImages
from bench.training.batches import Augmentation, SyntheticSet
from bench.training.ensembles import Ensemble
from bench.training.loop import Training, correct
from bench.training.recipes import Recipe

pytestmark = pytest.mark.gpu

SEEDS, WARM_UP, EPOCHS = 5, 5, 100
RECIPE = Recipe(name="test", epochs=WARM_UP + EPOCHS, augment="dsa")
#: Points of accuracy that one ConvNet may differ by, and the mean of all. For deep networks on ten images
#: there is no such number: a rounding in the first step is another network after a hundred, alone too.
ONE, MEAN = 5, 2


@pytest.fixture(scope="module")
def digits(cache):
    return load("digits", cache_dir=cache)


def trainings(name, data, device, per_class=1):
    """Five networks on the first image(s) of each class; each call gives the same."""
    space = PixelSpace("normalised", data.mean, data.std)
    first = [int(offset) + number for offset in data.train.offsets[:-1] for number in range(per_class)]
    images = space.encode(torch.from_numpy(data.train.images[first].copy()).float() / 255).to(device)
    distilled = SyntheticSet(images, torch.arange(len(first), device=device) // per_class)
    augmentation = Augmentation.of(data, space, device)
    found = []
    for number in range(SEEDS):
        with seeds.forked("test ensemble", number):
            network = build(name, len(data.classes), data.size)
        found.append(Training(network.to(device), distilled, RECIPE, 0.01, augmentation, (0, number)))
    return found, RealImages(data.test, space, device)


def timed(advanced):
    """Seconds of the epochs after a warm-up, and the first loss of each network."""
    for epoch in range(WARM_UP):
        for each in advanced:
            each.epoch()
        if epoch == 0:
            members = [each for one in advanced for each in getattr(one, "members", [one])]
            losses = torch.stack([each.last_loss for each in members])
    torch.cuda.synchronize()
    clock = time.perf_counter()
    for _ in range(EPOCHS):
        for each in advanced:
            each.epoch()
    torch.cuda.synchronize()
    return time.perf_counter() - clock, losses


@pytest.mark.parametrize("name", ["convnet", "resnet18", "vgg11", "alexnet", "mobilenetv2", "vit_tiny"])
def test_five_seeds_at_once_are_five_one_by_one(name, digits, capsys):
    device = torch.device("cuda")
    with computing(device):
        alone, test = trainings(name, digits, device)
        one_by_one, expected = timed(alone)
        together, _ = trainings(name, digits, device)
        at_once, losses = timed([Ensemble(together)])
        theirs, mine = (
            [100 * correct(each.tested, test) / len(test) for each in t] for t in (alone, together)
        )
    with capsys.disabled():
        print(
            f"\n{name}: {SEEDS} at once {one_by_one / at_once:.2f}x as fast as one by one "
            f"({1000 * one_by_one / EPOCHS:.2f} and {1000 * at_once / EPOCHS:.2f} ms a step); "
            f"accuracies {[round(x, 1) for x in theirs]} and {[round(x, 1) for x in mine]}"
        )
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)
    if name == "convnet":
        assert max(abs(a - b) for a, b in zip(theirs, mine, strict=True)) <= ONE
        assert abs(sum(theirs) - sum(mine)) / SEEDS <= MEAN
        assert min(theirs) > 30  # chance is 10
        assert at_once < one_by_one


def test_a_run_on_a_gpu_takes_its_seeds_together(monkeypatch, capfd, tmp_path):
    evaluate = {**TINY["evaluate"], "recipe": {"name": "dsa", "epochs": 10}, "seeds": 3}
    found = []
    for number in (1, 3):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        write_tables(folder / "tables.yaml", tiny=suite(grid=[{"method": "random"}], evaluate=evaluate))
        options = ("--tables", "tables.yaml", "--device", "cuda", "--evaluate-together", number)
        done = run_here(monkeypatch, capfd, "run", "tiny", *options)
        assert (done.status, done.err) == (0, "")
        found.append([row for row in rows(folder) if row["cell"]["kind"] == "evaluate"])
    for alone, at_once in zip(*found, strict=True):
        assert alone["key"] == at_once["key"]
        assert (alone["cost"].get("together"), at_once["cost"].get("together")) == (None, 3)
        assert at_once["cost"]["peak_allocated_bytes"] > 0
        assert at_once["result"]["train_loss"] == pytest.approx(alone["result"]["train_loss"], rel=2e-2)
        assert abs(at_once["result"]["correct"] - alone["result"]["correct"]) <= 2
