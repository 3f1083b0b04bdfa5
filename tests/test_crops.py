"""Random resized crops against torchvision's, given the same numbers."""

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import resized_crop as torchvision_resized_crop

from baselines.crops import Window, resized_crop, resized_crop_window

pytestmark = pytest.mark.usefixtures("one_thread")

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


class AsTorch:
    """A generator whose numbers are those that torchvision draws from torch's seeded global one."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low, high):
        return torch.empty(1).uniform_(low, high, generator=self.generator).item()

    def integers(self, high):
        return torch.randint(0, high, size=(1,), generator=self.generator).item()


def torchvision_window(seed, size, scale, ratio):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RandomResizedCrop.get_params(torch.empty(3, size, size), list(scale), list(ratio))


@pytest.mark.parametrize("size", [16, 64, 65])
@pytest.mark.parametrize(
    ("scale", "ratio"),
    [(SCALE, RATIO), ((0.5, 1.0), RATIO), ((0.08, 1.0), (0.2, 5.0)), ((1.0, 1.0), (1.0, 1.0))],
)
def test_windows_are_torchvision_s(size, scale, ratio):
    windows = [tuple(resized_crop_window(AsTorch(seed), size, scale, ratio)) for seed in range(200)]
    assert windows == [torchvision_window(seed, size, scale, ratio) for seed in range(200)]


@pytest.mark.parametrize("ratio", [RATIO, (2.0, 3.0), (0.3, 0.4), (1.0, 1.0)])
def test_ten_misses_give_torchvision_s_window_in_the_middle(ratio):
    """Ten areas that are too large."""
    window = resized_crop_window(AsTorch(0), 33, (20.0, 30.0), ratio)
    assert window == torchvision_window(0, 33, (20.0, 30.0), ratio)


def test_windows_are_python_s_whole_numbers_inside_the_image():
    rng = np.random.default_rng(0)
    windows = [resized_crop_window(rng, 64, SCALE, RATIO) for _ in range(500)]
    for window in windows:
        assert all(type(number) is int for number in window)
        assert 0 <= window.top <= window.top + window.height <= 64
        assert 0 <= window.left <= window.left + window.width <= 64
        assert 0.5 < window.width / window.height < 2
    areas = [window.height * window.width / 64**2 for window in windows]
    assert min(areas) < 0.12
    assert max(areas) > 0.95


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
    "window", [(0, 0, 32, 32), (3, 5, 20, 17), (31, 0, 1, 32), (10, 12, 9, 8), (0, 31, 2, 1)]
)
def test_resizing_is_torchvision_s_with_and_without_antialiasing(window, antialias):
    """Nothing is made smaller here, so antialiasing has nothing to do."""
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = torchvision_resized_crop(images, *window, [32, 32], antialias=antialias)
    torch.testing.assert_close(resized_crop(images, Window(*window), 32), expected, rtol=0, atol=1e-6)


def test_a_smaller_result_is_not_antialiased():
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    without, with_it = (
        torchvision_resized_crop(images, 1, 2, 30, 29, [16, 16], antialias=antialias)
        for antialias in (False, True)
    )
    result = resized_crop(images, Window(1, 2, 30, 29), 16)
    torch.testing.assert_close(result, without, rtol=0, atol=1e-6)
    assert (result - with_it).abs().max() > 0.1


def test_its_gradient_is_that_of_finite_differences():
    images = torch.randn(1, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: resized_crop(x, Window(1, 0, 3, 5), 6), images.requires_grad_())
