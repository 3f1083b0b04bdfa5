"""Learning rates epoch by epoch, AdamW, and the average of the weights, each against what others give."""

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from bench.augment import DSA
from bench.training import recipes
from bench.training.batches import Augmentation, SyntheticSet
from bench.training.loop import Training
from bench.training.optimise import Average, optimiser, share_of_lr
from bench.training.recipes import AveragedRecipe, Recipe, WarmedRecipe

pytestmark = pytest.mark.usefixtures("one_thread")


def linear():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()


def training(recipe, lr, net=None, n=4):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 3, 2, 2, dtype=torch.float64, generator=generator)
    data = SyntheticSet(images, torch.arange(n) % 3)
    net = linear() if net is None else net
    return Training(net, data, recipe, lr, Augmentation(DSA(2), torch.zeros(3, 1, 1)), (0,))


def rates(recipe, lr):
    """The learning rate that the optimiser has in each epoch."""
    run, found = training(recipe, lr), []
    for _ in range(recipe.epochs):
        run.epoch()
        found += [group["lr"] for group in run._optimiser.param_groups]
    return found


def warmed(**settings):
    return WarmedRecipe(name="test", **settings)


def test_step():
    assert rates(Recipe(name="test", epochs=7), 0.1) == pytest.approx([0.1] * 5 + [0.01] * 2)
    late = warmed(epochs=9, warmup_epochs=2, warmup_from=0.5)
    assert rates(late, 0.1) == pytest.approx([0.05, 0.075] + [0.1] * 5 + [0.01] * 2)


def test_constant():
    assert rates(warmed(epochs=4, schedule="constant"), 0.1) == [0.1] * 4
    slow = warmed(epochs=5, schedule="constant", warmup_epochs=4, warmup_from=0.0)
    assert rates(slow, 0.1) == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1])


def test_cosine():
    found = rates(Recipe(name="test", epochs=4, schedule="cosine"), 0.1)
    assert found == pytest.approx([0.1, 0.05 * (1 + math.sqrt(0.5)), 0.05, 0.05 * (1 - math.sqrt(0.5))])


def test_the_learning_rates_in_the_log_of_tiny_imagenet_s_train_kd():
    """sre2l_tiny_4k_ipc50_rn18.log, first line of each epoch."""
    logged = [0.002, 0.0416, 0.0812, 0.1208, 0.1604, 0.2, 0.19994532573409263, 0.1997813627218775]
    logged += [0.19950829025450117, 0.19912640693269754, 0.19863613034027225]
    recipe = recipes.resolve("sre2l", {}, 64)
    found = [recipe.lr * share_of_lr(recipe, epoch) for epoch in range(len(logged))]
    assert found == pytest.approx(logged, rel=1e-12)


@pytest.mark.parametrize(("epochs", "warmup", "start"), [(12, 5, 0.01), (10, 5, 0.3), (6, 0, 0.01)])
def test_warm_up_and_cosine_are_pytorch_s(epochs, warmup, start):
    recipe = warmed(epochs=epochs, warmup_epochs=warmup, warmup_from=start, schedule="cosine")
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    schedule = CosineAnnealingLR(theirs, T_max=epochs - warmup)
    if warmup:
        first = LinearLR(theirs, start_factor=start, total_iters=warmup)
        schedule = SequentialLR(theirs, [first, schedule], milestones=[warmup])
    expected = []
    for _ in range(epochs):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        schedule.step()
    assert rates(recipe, 0.2) == pytest.approx(expected, rel=1e-10)


def test_glad_rises_over_half_and_falls_over_half():
    """evaluate_synset with decay="cosine", its own change of schedules (an epoch late) corrected."""
    recipe = recipes.resolve("glad", {"epochs": 8}, 32)
    top = [0.5 * (1 + math.cos(math.pi * t / 4)) for t in range(4)]
    assert rates(recipe, 1e-3) == pytest.approx([1e-3 * share for share in [0, 0.25, 0.5, 0.75, *top]])


def test_adamw_is_adam_with_decay_of_its_own():
    """Loshchilov and Hutter (2019), algorithm 2, written out; betas and eps are PyTorch's."""
    recipe = Recipe(name="test", epochs=6, optimiser="adamw", weight_decay=0.3, schedule="cosine")
    run, net = training(recipe, 0.01), linear()
    first, second = ([torch.zeros_like(p) for p in net.parameters()] for _ in range(2))
    for step in range(1, 7):
        run.epoch()
        rate = 0.01 * 0.5 * (1 + math.cos(math.pi * (step - 1) / 6))
        loss = nn.functional.cross_entropy(net(run.data.images), run.data.labels)
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for p, g, m, v in zip(net.parameters(), gradients, first, second, strict=True):
                m.copy_(0.9 * m + 0.1 * g)
                v.copy_(0.999 * v + 0.001 * g**2)
                p -= rate * 0.3 * p
                p -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    for mine, expected in zip(run.network.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-13)


def test_the_optimisers_are_pytorch_s():
    made = optimiser(
        Recipe(name="test", epochs=1, optimiser="adamw", weight_decay=0.1), linear().parameters(), 3
    )
    assert type(made) is torch.optim.AdamW
    assert [made.defaults[key] for key in ("lr", "weight_decay", "betas")] == [3, 0.1, (0.9, 0.999)]
    made = optimiser(Recipe(name="test", epochs=1, momentum=0.5), linear().parameters(), 3)
    assert type(made) is torch.optim.SGD
    assert (made.defaults["momentum"], made.defaults["weight_decay"]) == (0.5, 5e-4)


# The average.


class Counted(nn.Module):
    """A weight, a buffer that follows it, and a counter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))

    def become(self, k):
        self.weight.data.copy_(torch.tensor([k, k**2, (-1.0) ** k]))
        self.mean.copy_(2 * self.weight.data)
        self.count += 1


@pytest.mark.parametrize("keep", [0.75, 0.995])
def test_the_average_is_a_mean_at_first_and_exponential_then(keep):
    net = Counted()
    average = Average(net, keep)
    seen, expected = [], None
    for k in range(12):
        net.become(k)
        average.update(net)
        now = net.weight.detach().clone()
        seen.append(now)
        exponential = k / (k + 1) > keep
        expected = keep * expected + (1 - keep) * now if exponential else torch.stack(seen).mean(0)
        torch.testing.assert_close(average.network.weight.detach(), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(average.network.mean, 2 * expected, rtol=1e-12, atol=1e-12)
        assert average.network.count == k + 1
    assert torch.equal(net.weight.detach(), now)


def test_what_is_tested_is_the_average_updated_once_an_epoch():
    recipe = AveragedRecipe(name="test", epochs=4, batch=2, ema=0.6)
    run, seen = training(recipe, 0.1), []
    for _ in range(4):
        run.epoch()
        seen.append(run.network[1].weight.detach().clone())
    expected = (seen[0] + seen[1]) / 2
    for weights in seen[2:]:
        expected = 0.6 * expected + 0.4 * weights
    torch.testing.assert_close(run.tested[1].weight.detach(), expected, rtol=1e-12, atol=1e-12)
    assert not run.tested[1].weight.requires_grad
    plain = training(Recipe(name="test", epochs=1), 0.1)
    assert plain.tested is plain.network
