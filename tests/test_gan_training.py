"""Training of the compact generator: losses against literal forms, a step's parts, the whole."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from baselines import Task
from baselines.defaults.generator import GeneratorSettings
from baselines.generators.compact import CompactGenerator, Discriminator
from baselines.generators.training import (
    GANTraining,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from bench.augment import DSA
from bench.seeds import forked, rng

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 8
SMALL = {"width": 6, "latent": 4, "dim": 6, "batch": 6, "ema": 50.0}


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def made(classes=2, **settings):
    """A small GAN in training, and its settings."""
    s = GeneratorSettings(**{**SMALL, "augment": "none", **settings})
    with forked("test gan"):
        generator = CompactGenerator.from_settings(s, classes, SIZE)
        discriminator = Discriminator(classes, SIZE, s.width)
    return GANTraining(generator, discriminator, s, DSA(SIZE))


def batch(step, n=6, classes=2):
    """Made-up real images, a colour for each class, and their classes."""
    labels = torch.arange(n) % classes
    colours = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.3, 0.8]])[labels % 2]
    noise = 0.1 * randn(n, 3, SIZE, SIZE, dtype=torch.float32, seed=step)
    return (colours[:, :, None, None] + noise).clamp(0, 1), labels


def run(job, steps):
    losses = []
    for _ in range(steps):
        found = job.step(*batch(job.steps_done, job.settings.batch), rng("test", job.steps_done))
        losses.append(tuple(loss.item() for loss in found.values()))
    return losses


def bits(module):
    return [tensor.clone() for tensor in module.state_dict().values()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# The formulas.


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_losses_are_the_literal_formulas():
    real, fake = randn(7), 3 * randn(7, seed=1)
    judged = sum(-math.log(sigmoid(x)) for x in real.tolist()) / 7
    judged += sum(-math.log(1 - sigmoid(x)) for x in fake.tolist()) / 7
    assert discriminator_loss(real, fake).item() == pytest.approx(judged, rel=1e-12)
    fooled = sum(-math.log(sigmoid(x)) for x in fake.tolist()) / 7
    assert generator_loss(fake).item() == pytest.approx(fooled, rel=1e-12)


def test_losses_stay_finite_for_certain_scores():
    certain = torch.tensor([500.0, -500.0])
    assert discriminator_loss(certain, certain).item() == 500
    assert generator_loss(certain).item() == 250


def test_penalty_is_half_the_mean_squared_gradient():
    """Equation 9 of Mescheder et al., with the gradient by finite differences, one pixel at a time."""
    with forked("test"):
        discriminator = Discriminator(2, SIZE, 4).double()
    images, labels = randn(2, 3, SIZE, SIZE), torch.tensor([0, 1])
    leaf = images.clone().requires_grad_()
    penalty = gradient_penalty(discriminator(leaf, labels), leaf)
    total, flat = 0.0, images.flatten(1)
    with torch.no_grad():
        for i in range(2):
            for pixel in range(flat.shape[1]):
                moved = images.clone().flatten(1).repeat(2, 1)
                moved[i, pixel] += 1e-6
                moved[2 + i, pixel] -= 1e-6
                scores = discriminator(moved.view(4, 3, SIZE, SIZE), labels.repeat(2))
                total += ((scores[i] - scores[2 + i]).item() / 2e-6) ** 2
    assert penalty.item() == pytest.approx(total / 2 / 2, rel=1e-5)


def test_penalty_has_a_gradient_for_the_discriminator():
    with forked("test"):
        discriminator = Discriminator(2, SIZE, 4).double()
    images, labels = randn(3, 3, SIZE, SIZE), torch.tensor([0, 1, 1])

    def penalty():
        leaf = images.clone().requires_grad_()
        return gradient_penalty(discriminator(leaf, labels), leaf)

    weight = discriminator.conv.weight
    (gradient,) = torch.autograd.grad(penalty(), weight)
    place = (0, 1, 2, 1)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[place] += sign * 1e-6
        values.append(penalty().item())
        with torch.no_grad():
            weight[place] -= sign * 1e-6
    assert gradient[place].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


# One step.


@pytest.mark.parametrize("augment", ["dsa", "none"])
def test_a_step_is_adam_on_the_losses_one_after_the_other(augment):
    """By hand: Adam's first step moves each parameter by its learning rate against the gradient's sign."""
    job, twin = made(augment=augment, r1=0.0), made(augment=augment, r1=0.0)
    real, labels = batch(0)
    losses = job.step(real, labels, rng("test", 0))
    numbers, dsa = rng("test", 0), DSA(SIZE)

    def fake():
        z = torch.from_numpy(numbers.standard_normal((6, 4), dtype=np.float32))
        return twin.generator(z, labels)

    def shown(images):
        if augment == "none":
            return images
        return dsa.apply(images - 0.5, dsa.draw_batch(numbers, len(images))) + 0.5

    def follow(module, loss):
        for parameter, gradient in zip(
            module.parameters(), torch.autograd.grad(loss, list(module.parameters())), strict=True
        ):
            with torch.no_grad():
                parameter -= 0.0025 * gradient / (gradient.abs() + 1e-8)

    both = shown(torch.cat([real, fake().detach()]))
    scores = twin.discriminator(both, torch.cat([labels, labels]))
    judged = discriminator_loss(scores[:6], scores[6:])
    follow(twin.discriminator, judged)
    fooled = generator_loss(twin.discriminator(shown(fake()), labels))
    follow(twin.generator, fooled)
    assert losses["discriminator"].item() == pytest.approx(judged.item(), rel=1e-6)
    assert losses["generator"].item() == pytest.approx(fooled.item(), rel=1e-4)
    for module in ("discriminator", "generator"):
        for a, b in zip(getattr(job, module).parameters(), getattr(twin, module).parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4)


def test_the_penalty_comes_every_few_steps_and_weighs_as_many():
    """Two runs that differ in the penalty alone part at the first step that has one."""
    with_it, without = made(r1=5.0, r1_every=3), made(r1=1e-12, r1_every=3)
    seen = []
    for job in (with_it, without):
        penalise = job._penalise
        job._penalise = lambda *args, job=job, penalise=penalise: (
            seen.append(job.steps_done),
            penalise(*args),
        )
    run(with_it, 7)
    assert seen == [0, 3, 6]
    run(without, 1)
    assert not same(bits(with_it.discriminator), bits(without.discriminator))


def test_the_weight_of_the_penalty_is_that_of_the_steps_it_stands_for():
    job = made(r1=0.5, r1_every=4)
    real, labels = batch(0)
    taken = []
    job._update = lambda name, module, loss: taken.append(loss.item())
    job._penalise(real, labels, rng("test", 0))
    leaf = real.clone().requires_grad_()
    expected = gradient_penalty(job.discriminator(leaf, labels), leaf).item()
    assert taken == [pytest.approx(0.5 * 4 * expected, rel=1e-6)]


def test_the_average_forgets_by_half_over_its_half_life():
    job = made(ema=24.0, batch=6)
    expected = bits(job.ema)
    for step in range(120):
        before = bits(job.generator)
        run(job, 1)
        assert not same(before, bits(job.generator))
        half_life = min(24.0, 0.05 * 6 * (step + 1))
        keep = 0.5 ** (6 / half_life)
        expected = [e * keep + g * (1 - keep) for e, g in zip(expected, bits(job.generator), strict=True)]
    for found, value in zip(bits(job.ema), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in job.ema.parameters())


def test_the_generator_s_step_leaves_the_discriminator_alone():
    job = made()
    before = bits(job.discriminator)
    job._fool(torch.tensor([0, 1]), rng("test", 0))
    assert same(before, bits(job.discriminator))
    assert all(parameter.requires_grad for parameter in job.discriminator.parameters())


# The whole.


@pytest.mark.parametrize("augment", ["dsa", "none"])
def test_the_same_numbers_give_the_same_bits_and_a_cut_run_too(augment, tmp_path):
    whole = made(augment=augment)
    losses = run(whole, 20)
    first = made(augment=augment)
    begun = run(first, 9)
    torch.save(first.state(), tmp_path / "state.pt")
    second = made(augment=augment)
    second.take_up(torch.load(tmp_path / "state.pt"))
    assert begun + run(second, 11) == losses
    for name in ("generator", "discriminator", "ema"):
        assert same(bits(getattr(whole, name)), bits(getattr(second, name)))


def test_torch_s_own_generator_is_not_read():
    job = made(augment="dsa")
    before = torch.get_rng_state()
    run(job, 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("augment", ["dsa", "none"])
def test_it_learns_the_colour_of_each_class(augment):
    job = made(augment=augment, width=12, batch=12, lr=0.005, ema=500.0)
    z = torch.from_numpy(rng("samples", 0).standard_normal((40, 4), dtype=np.float32))
    labels = torch.arange(40) % 2
    real, of = batch(0, 40)

    def distance():
        with torch.no_grad():
            samples = job.ema(z, labels)
        return max(
            (samples[labels == c].mean((0, 2, 3)) - real[of == c].mean((0, 2, 3))).abs().max() for c in (0, 1)
        )

    before = distance()
    run(job, 250)
    assert before > 0.3
    assert distance() < 0.15


# Settings.


def test_defaults_by_size():
    for size, steps in ((32, 100_000), (64, 200_000)):
        task = Task("cifar10", 10, size, 1)
        settings = GeneratorSettings.model_validate(GeneratorSettings.defaults(task))
        assert (settings.kind, settings.steps, settings.batch, settings.width) == ("trained", steps, 64, 256)


def test_an_untrained_generator_takes_no_steps_whatever_it_says():
    for given in ({}, {"steps": 100}):
        assert GeneratorSettings.model_validate({"kind": "random", **given}).steps == 0


@pytest.mark.parametrize(
    "override", [{"kind": "stylegan"}, {"step": 3}, {"lr": 0.0}, {"batch": 1}, {"width": 0}]
)
def test_settings_that_are_unknown_or_out_of_range_are_refused(override):
    with pytest.raises(ValidationError):
        GeneratorSettings.model_validate(override)
