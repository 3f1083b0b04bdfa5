"""Batches: crops, mirror images and mixing against loops and torchvision; which stream gives what."""

import numpy as np
import pytest
import torch
from small import dataset
from torchvision.transforms.v2 import functional as theirs

from baselines.crops import Window, resized_crop_window
from bench.augment import DSA, OPS_WITHOUT_FLIP
from bench.pixels import PixelSpace
from bench.sets import DistilledSet
from bench.training import crops
from bench.training.batches import Augmentation, SyntheticSet, batches, cut_box, mixed, training_space
from bench.training.recipes import Recipe, SoftRecipe
from bench.zca import fit

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
BLACK = torch.tensor([-1.0, -2.0, -3.0]).view(3, 1, 1)


def noise(n=6, size=8, dtype=torch.float32):
    return torch.randn(n, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(0))


def augmentation(size=8, **how):
    return Augmentation(DSA(size, **how), BLACK)


def rng(number=0):
    return np.random.default_rng(number)


# Crops.


def test_moved_is_a_crop_of_the_padded_image_pixel_by_pixel():
    images = noise(4, 5)
    shifts = np.array([[0, 0], [2, -1], [-2, 1], [5, 0]])
    mirrored = np.array([False, False, True, True])
    found = crops.moved(images, shifts, mirrored, BLACK)
    for i, (down, right) in enumerate(shifts.tolist()):
        for row in range(5):
            for column in range(5):
                r, c = row + down, (4 - column if mirrored[i] else column) + right
                inside = 0 <= r < 5 and 0 <= c < 5
                expected = images[i, :, r, c] if inside else BLACK.flatten()
                assert torch.equal(found[i, :, row, column], expected)


@pytest.mark.parametrize("size", [8, 32, 64])
def test_crop_flip_is_torchvision_s_padding_crop_and_flip_of_each_image(size):
    """RandomCrop(size, padding=size // 8) and RandomHorizontalFlip, with our draws."""
    images, pad = noise(5, size), size // 8
    found = augmentation(size).apply("crop_flip", images, rng())
    again = rng()
    mirrored = again.random(5) < 0.5
    shifts = again.integers(-pad, pad + 1, (5, 2))
    assert 0 < mirrored.sum() < 5
    for image, result, flip, (down, right) in zip(images, found, mirrored, shifts.tolist(), strict=True):
        padded = torch.cat(
            [theirs.pad(c[None], [pad], fill=float(b)) for c, b in zip(image, BLACK, strict=True)]
        )
        expected = theirs.crop(padded, pad + down, pad + right, size, size)
        assert torch.equal(result, expected.flip(-1) if flip else expected)


def test_all_shifts_are_drawn_and_none_beyond():
    """Of an image that is 1 at one pixel: where that pixel goes, and how often it is mirrored."""
    images = torch.zeros(2000, 3, 32, 32)
    images[:, :, 10, 10] = 1
    black = Augmentation(DSA(32), torch.zeros(3, 1, 1))
    rows, columns = black.apply("crop_flip", images, rng())[:, 0].nonzero()[:, 1:].T
    assert sorted(set(rows.tolist())) == list(range(6, 15))
    assert sorted(set(columns.tolist())) == [*range(6, 15), *range(17, 26)]
    assert 0.45 < (columns > 15).float().mean() < 0.55


WINDOWS = [Window(0, 0, 8, 8), Window(3, 1, 4, 5), Window(7, 7, 1, 1), Window(0, 5, 8, 3), Window(2, 0, 3, 8)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_resized_is_torchvision_s_resized_crop_of_each_image(dtype):
    images = noise(5, dtype=dtype)
    mirrored = np.array([False, True, True, False, True])
    found = crops.resized(images, WINDOWS, mirrored)
    for image, result, flip, window in zip(images, found, mirrored, WINDOWS, strict=True):
        expected = theirs.resized_crop(image, *window, [8, 8], antialias=False)
        close = {"rtol": 0, "atol": 5e-6 if dtype == torch.float32 else 1e-12}
        torch.testing.assert_close(result, expected.flip(-1) if flip else expected, **close)


def test_resized_crop_flip_takes_windows_as_torchvision_does():
    images = noise(5)
    found = augmentation().apply("resized_crop_flip", images, rng())
    again = rng()
    mirrored = again.random(5) < 0.5
    windows = [resized_crop_window(again, 8, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(5)]
    assert torch.equal(found, crops.resized(images, windows, mirrored))
    assert len({tuple(window) for window in windows}) == 5


@pytest.mark.parametrize("how", ["crop_flip", "resized_crop_flip"])
def test_what_must_not_be_mirrored_is_not(how):
    """Columns grow in brightness: mirrored, they would fall."""
    images = torch.arange(1.0, 9).expand(200, 3, 8, 8)
    for ops, falls in ((OPS_WITHOUT_FLIP, False), (("flip", "crop"), True)):
        found = Augmentation(DSA(8, ops), torch.zeros(3, 1, 1)).apply(how, images, rng())
        assert bool((found[:, 0, 4, 3] > found[:, 0, 4, 4]).any()) is falls


@pytest.mark.parametrize(("spec", "flips"), [("cifar10", True), ("digits[3]", False), ("cifar10[3]", True)])
def test_a_dataset_says_whether_it_may_be_mirrored(spec, flips):
    found = Augmentation.of(dataset(spec=spec), PixelSpace("unit"), CPU)
    assert ("flip" in found.dsa.ops) is flips
    assert found.dsa.size == 16


def test_black_is_black_in_each_space():
    data = dataset(size=8, per_class=40)
    normalised = PixelSpace("normalised", (0.5, 0.4, 0.2), (0.25, 0.2, 0.1))
    assert torch.equal(Augmentation.of(data, PixelSpace("unit"), CPU).black, torch.zeros(3, 1, 1))
    expected = torch.tensor([-2.0, -2.0, -2.0]).view(3, 1, 1)
    torch.testing.assert_close(Augmentation.of(data, normalised, CPU).black, expected)
    assert torch.equal(Augmentation.of(data, fit(data.train.images), CPU).black, torch.zeros(3, 1, 1))


def test_no_augmentation_and_dsa_are_as_they_were():
    images = noise()
    assert augmentation().apply("none", images, rng()) is images
    dsa = DSA(8)
    expected = dsa.apply(images, dsa.draw_batch(rng(), 6))
    assert torch.equal(augmentation().apply("dsa", images, rng()), expected)


# Mixing.


def test_mixup_by_hand():
    images, again = noise(), rng(3)
    share, order = again.beta(0.8, 0.8), again.permutation(6)
    found = mixed(images, "mixup", 0.8, rng(3))
    for i in range(6):
        expected = share * images[i].double() + (1 - share) * images[order[i]].double()
        torch.testing.assert_close(found[i].double(), expected, rtol=1e-6, atol=1e-6)
    assert not np.array_equal(order, np.arange(6))


def test_cutmix_by_hand():
    images, again = noise(), rng(5)
    before = images.clone()
    share, order = again.beta(1.5, 1.5), again.permutation(6)
    side = int(8 * (1 - share) ** 0.5)
    row, column = again.integers(8, size=2)
    found = mixed(images, "cutmix", 1.5, rng(5))
    changed = 0
    for i in range(6):
        for r in range(8):
            for c in range(8):
                inside = -(side // 2) <= r - row < side // 2 and -(side // 2) <= c - column < side // 2
                changed += inside
                assert torch.equal(found[i, :, r, c], before[order[i] if inside else i, :, r, c])
    assert 0 < changed < 6 * 64
    assert torch.equal(images, before)


def test_no_mixing_draws_nothing():
    images, generator = noise(), rng()
    assert mixed(images, "none", 0.8, generator) is images
    assert generator.random() == rng().random()


def test_boxes_lie_inside_and_have_their_area_where_they_fit():
    generator = rng()
    for share in (0.19, 0.75, 0.99, 1.0):
        boxes = [cut_box(32, share, generator) for _ in range(300)]
        assert all(0 <= a <= b <= 32 and 0 <= c <= d <= 32 for a, b, c, d in boxes)
        assert (
            max((b - a) * (d - c) for a, b, c, d in boxes) == (2 * (int(32 * (1 - share) ** 0.5) // 2)) ** 2
        )


def test_the_share_is_beta_s():
    """Beta(0.8, 0.8) has mean 1/2 and variance 1 / (4 * 2.6)."""
    one, generator = torch.stack([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)]), rng()
    shares = []
    while len(shares) < 2000:
        found = mixed(one, "mixup", 0.8, generator)
        if 0 < found[1, 0, 0, 0] < 1:  # both were mixed with themselves otherwise
            shares.append(float(found[1, 0, 0, 0]))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * 2.6), rel=0.06)


# Batches.


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_batches_draw_order_then_augmentation_then_mixing(mix):
    data, augment = SyntheticSet(noise(7), torch.arange(7)), augmentation()
    recipe = SoftRecipe(name="test", epochs=1, batch=3, augment="crop_flip", mix=mix)
    found = list(batches(data, recipe, augment, rng()))
    again = rng()
    order = torch.from_numpy(again.permutation(7))
    for (images, labels), rows in zip(found, order.split(3), strict=True):
        expected = mixed(augment.apply("crop_flip", data.images[rows], again), mix, 0.8, again)
        assert torch.equal(images, expected)
        assert torch.equal(labels, rows)


def test_batches_hold_every_image_once():
    data = SyntheticSet(noise(7), torch.arange(7))
    found = list(batches(data, Recipe(name="test", epochs=1, batch=3), augmentation(), rng()))
    assert [len(images) for images, _ in found] == [3, 3, 1]
    assert sorted(torch.cat([labels for _, labels in found]).tolist()) == list(range(7))


def test_a_set_is_trained_on_in_the_space_it_was_made_in():
    data = dataset(size=8, per_class=40)
    own = PixelSpace("normalised", data.mean, data.std)
    other, whitened = PixelSpace("normalised", (0.1,) * 3, (0.3,) * 3), fit(data.train.images)

    def of(space):
        return training_space(DistilledSet(noise(), torch.arange(6), space), data)

    assert training_space(None, data) == own
    assert [of(space) for space in (PixelSpace("unit"), own, other, whitened)] == [own, own, other, whitened]
