"""A plug-in alone: the images of ``random``, moved by nothing but what is added to their gradient."""

import pytest
import torch
from pydantic import ValidationError
from small import cell, dataset

from baselines import Task
from baselines.defaults.alone import AloneSettings
from bench.stages.distill import Distillation

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return dataset(classes=3, size=16)


def job(data, method="alone", **how):
    return Distillation(cell(data, method, None, **how), data, CPU)


@pytest.mark.parametrize("seed", [0, 1])
def test_without_a_plug_in_it_is_random_to_the_bit(data, seed):
    alone, random = job(data, seed=seed, iterations=5), job(data, "random", seed=seed)
    while alone.iterations_done < alone.iterations:
        alone.iterate()
    assert torch.equal(alone.x.images, random.x.images)
    alone.record.observe()
    assert alone.record.losses == [0.0] * 5


def test_what_is_added_moves_the_images_as_adam_does(data):
    """Against PyTorch's own Adam, on the gradients of a loss that a plug-in could have."""
    alone = job(data, lr=0.05)
    target = torch.linspace(-1, 1, 16)
    expected = alone.x.images.clone().requires_grad_()
    adam = torch.optim.Adam([expected], lr=0.05)
    start = expected.detach().clone()
    for k in range(4):
        for _ in alone.method.iteration(k, alone.x, alone.tools.at(k)):
            alone.x.add(slice(None), 2 * (alone.x.images - target))
            alone.x.pull_back()
            alone.optimisers.step()
            alone.x.render()
        adam.zero_grad()
        (expected - target).square().sum().backward()
        adam.step()
    torch.testing.assert_close(alone.x.images, expected.detach(), rtol=0, atol=1e-5)
    assert (alone.x.images - start).abs().median() > 0.1


def test_settings():
    settings = AloneSettings.resolve(Task("cifar10", 10, 32, 10), {})
    assert settings.model_dump() == {"iterations": 300, "lr": 0.02, "pixels": "normalised"}
    assert (settings.recipe, settings.row_label, settings.learns) == ("dsa", "Real images", True)
    assert settings.distils_with("convnet") == ()


@pytest.mark.parametrize("override", [{"iterations": 0}, {"lr": 0}, {"batch_real": 4}])
def test_an_override_that_is_unknown_or_out_of_range_is_refused(override):
    with pytest.raises(ValidationError):
        AloneSettings.resolve(Task("cifar10", 10, 32, 10), override)
