"""The tuning split: training images held out as test images, and no test image in it."""

import data_makers as make
import numpy as np
import pytest
import torch

from bench import data
from bench.cells import DatasetId
from bench.data import cache
from bench.errors import UserError
from bench.pixels import PixelSpace
from bench.real import RealImages
from bench.zca import fit


@pytest.fixture
def pets(tmp_path):
    """Twelve training and three test images of each of four classes."""
    return f"imagefolder:{make.image_folder(tmp_path / 'pets', ('ant', 'bee', 'cat', 'dog'), 16)}"


def images(split, label):
    """The images of a class, as a list of bytes."""
    rows = range(split.offsets[label], split.offsets[label + 1])
    return [split.images[row].tobytes() for row in rows]


def test_each_class_of_digits_is_parted_and_its_test_images_are_not_in_it():
    whole, tuning = data.load("digits"), data.load("digits[tuning]")
    for label in range(10):
        train, held_out, real = (images(split, label) for split in (tuning.train, tuning.test, whole.train))
        assert len(held_out) == len(real) // 5 > 20
        assert train + held_out == real
        assert not set(train) & set(held_out)
        assert not set(images(whole.test, label)) & set(train + held_out)
    assert (tuning.mean, tuning.std) == (whole.mean, whole.std)
    assert (tuning.classes, tuning.size, tuning.content) == (whole.classes, whole.size, whole.content)


@pytest.mark.parametrize(("k", "n"), [("", 4), ("2,", 2)])
def test_a_fifth_rounded_down_of_the_classes_asked_for(pets, tmp_path, k, n):
    spec = f"{pets}[{k}tuning]"
    found, identity = data.load(spec, cache_dir=tmp_path / "c"), data.identify(spec, cache_dir=tmp_path / "c")
    assert found.train.counts == identity.train == (10,) * n  # of twelve
    assert found.test.counts == identity.test == (2,) * n
    assert found.spec == identity.spec == spec
    assert found.train.labels.tolist() == [label for label in range(n) for _ in range(10)]
    assert DatasetId.of(identity).name == f"imagefolder[{k}tuning]"


@pytest.mark.parametrize(
    ("there", "train", "test"), [(2, 1, 1), (4, 3, 1), (9, 8, 1), (10, 8, 2), (11, 9, 2)]
)
def test_at_least_one_is_held_out(tmp_path, there, train, test):
    folder = make.image_folder(tmp_path / "few", ("ant", "bee"), 16)
    for i in range(there, 12):
        (folder / "train/bee" / f"{i}.png").unlink()
    found = data.identify(f"imagefolder:{folder}[tuning]", cache_dir=tmp_path / "c")
    assert (found.train, found.test) == ((10, train), (2, test))


def test_a_class_with_one_image_is_a_plain_error(tmp_path):
    folder = make.image_folder(tmp_path / "few", ("ant", "bee", "cat"), 16)
    for i in range(1, 12):
        (folder / "train/cat" / f"{i}.png").unlink()
    for use in (data.identify, data.load):
        with pytest.raises(
            UserError, match=r"class 'cat' has only 1 training image; .*2 are needed"
        ) as caught:
            use(f"imagefolder:{folder}[tuning]", cache_dir=tmp_path / "c")
        assert "\n" not in str(caught.value)
    assert data.identify(f"imagefolder:{folder}[2,tuning]", cache_dir=tmp_path / "c").test == (2, 2)
    assert data.identify(f"imagefolder:{folder}", cache_dir=tmp_path / "c").train == (12, 12, 1)


def test_it_shares_the_cache_of_the_whole_and_copies_nothing(pets, tmp_path, monkeypatch):
    data.load(pets, cache_dir=tmp_path / "c")
    monkeypatch.setattr(cache, "_make", lambda *_: pytest.fail("decoded again"))
    found = data.load(f"{pets}[tuning]", cache_dir=tmp_path / "c")
    assert len(list((tmp_path / "c").glob("*/meta.json"))) == 1
    for split in (found.train, found.test):
        assert isinstance(split.images.whole, np.memmap)
    assert found.train.images.whole is found.test.images.whole
    with pytest.raises(TypeError, match="item assignment"):
        found.train.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        found.train.images[0][:] = 0


def test_chosen_images_are_read_as_an_array_of_them_would_be(pets, tmp_path):
    split = data.load(f"{pets}[tuning]", cache_dir=tmp_path / "c").test
    plain = np.array(split.images)
    assert plain.shape == split.images.shape == (8, 3, 16, 16)
    assert len(split.images) == 8
    for index in (5, -1, slice(2, 6), slice(None), np.array([7, 0, 0])):
        assert np.array_equal(split.images[index], plain[index])
    assert np.array_equal(split.first(1).images, plain[::2])
    assert np.array_equal(split.narrowed(3).images, plain[:6])
    again, rest = split.parted([1, 2, 0, 1])
    assert (again.counts, rest.counts) == ((1, 2, 0, 1), (1, 0, 2, 1))
    assert np.array_equal(again.images, plain[[0, 2, 3, 6]])
    assert np.array_equal(rest.images, plain[[1, 4, 5, 7]])
    with pytest.raises(ValueError, match="copy"):
        np.array(split.images, copy=False)


def test_real_images_and_whitening_take_them_as_they_are(pets, tmp_path):
    split = data.load(f"{pets}[tuning]", cache_dir=tmp_path / "c").train
    plain = np.array(split.images)
    real = RealImages(split, PixelSpace("unit"), torch.device("cpu"))
    rows = real.draw(2, 4, np.random.default_rng(0))
    assert set(rows) <= set(range(20, 30))
    assert torch.equal(real.batch(rows), torch.from_numpy(plain[rows]).float() / 255)
    assert (len(real), real.class_size(2)) == (40, 10)
    assert torch.equal(fit(split.images).whiten, fit(plain).whiten)
