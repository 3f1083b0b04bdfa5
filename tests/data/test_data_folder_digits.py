import shutil

import data_makers as make
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from bench import data
from bench.errors import UserError


def test_digits_are_the_scans_resized_and_split_by_writer(tmp_path):
    digits = data.load("digits", cache_dir=tmp_path)
    assert (digits.size, digits.classes) == (32, tuple("0123456789"))
    bunch = load_digits()
    for label in range(10):
        scans = bunch.images[bunch.target == label]
        held = len(scans) // 5
        assert digits.test.counts[label] == held
        assert digits.train.counts[label] == len(scans) - held
        grey = np.rint(scans[-held] * 255 / 16).astype(np.uint8)
        large = np.asarray(Image.fromarray(grey).resize((32, 32), Image.Resampling.BILINEAR))
        assert all((digits.test.images[digits.test.offsets[label]] == large).all((1, 2)))
    pixels = digits.train.images / 255
    assert np.abs(pixels.mean((0, 2, 3)) - digits.mean).max() < 5e-5
    assert np.abs(pixels.std((0, 2, 3)) - digits.std).max() < 5e-5


@pytest.mark.parametrize("test", ["test", "val"])
def test_an_image_folder_is_read_by_sorted_class_and_natural_order(tmp_path, test):
    folder = make.image_folder(tmp_path / "pets", ("dog", "ant"), 16, test)
    mine = data.load(f"imagefolder:{folder}/", cache_dir=tmp_path / "cache")
    assert (mine.spec, mine.classes, mine.size) == (f"imagefolder:{folder}", ("ant", "dog"), 16)
    assert (mine.train.counts, mine.test.counts) == ((12, 12), (3, 3))
    expected = np.asarray(Image.open(folder / "train/dog/10.png")).transpose(2, 0, 1)
    assert np.array_equal(mine.train.images[12 + 10], expected)
    assert mine.mean == (0.485, 0.456, 0.406)


def test_all_kinds_of_eight_bit_images_become_rgb(tmp_path):
    folder = make.image_folder(tmp_path / "pets", size=8)
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    image.convert("RGBA").save(folder / "train/cat/0.png")
    image.convert("L").save(folder / "train/cat/1.png")
    image.convert("P").save(folder / "train/cat/2.png", transparency=b"\x00\x80")
    image.convert("1").save(folder / "train/cat/3.png")
    image.save(folder / "train/cat/12.ppm")
    images = data.load(f"imagefolder:{folder}", cache_dir=tmp_path / "cache").train.images
    exact = np.asarray(image).transpose(2, 0, 1)
    assert np.array_equal(images[0], exact)
    assert np.array_equal(images[12], exact)
    assert (images[1][0] == np.asarray(image.convert("L"))).all()
    assert np.array_equal(images[2], np.asarray(image.convert("P").convert("RGB")).transpose(2, 0, 1))
    assert set(np.unique(images[3])) <= {0, 255}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda f: odd(f / "train/cat/0.png", 33, 33),
            r"train/cat/0\.png is 33x33; .*multiple of 8: .* 32x32",
        ),
        (lambda f: odd(f / "train/cat/0.png", 16, 24), r"0\.png is 16x24; images must be square.* 16x16"),
        (lambda f: odd(f / "train/dog/3.png", 24, 24), r"dog/3\.png is 24x24; all images here must be 16x16"),
        (lambda f: deep(f / "test/dog/1.png"), r"test/dog/1\.png has more than 8 bits a channel"),
        (lambda f: shutil.rmtree(f / "train"), r"pets has no folder train; needed are train/<class>/\*"),
        (lambda f: shutil.rmtree(f / "test"), r"pets has no folder test \(or val\)"),
        (lambda f: shutil.rmtree(f), "there is no folder .*pets"),
        (lambda f: shutil.rmtree(f / "test/cat"), "test lacks the class 'cat' of train"),
        (
            lambda f: (f / "test/cat").rename(f / "test/cow"),
            "test/cow: not a class of train; .*known: cat, dog",
        ),
        (
            lambda f: [shutil.rmtree(f / s / "cat") for s in ("train", "test")],
            "train has 1 class folders; at least 2",
        ),
        (lambda f: (f / "train/cat/loop").symlink_to(f / "train"), "nested this deep|holds images only"),
        (lambda f: (f / "train/cat/gone.png").symlink_to(f / "none"), r"gone\.png: No such file"),
    ],
)
def test_a_mistaken_image_folder_names_the_place(tmp_path, harm, message):
    folder = make.image_folder(tmp_path / "pets")
    harm(folder)
    with pytest.raises(UserError, match=message) as caught:
        data.load(f"imagefolder:{folder}", cache_dir=tmp_path / "cache")
    assert "\n" not in str(caught.value)


def odd(path, width, height):
    Image.new("RGB", (width, height)).save(path)


def deep(path):
    Image.fromarray(np.full((16, 16), 999, np.uint16)).save(path)
