import os
import shutil
from pathlib import Path

import data_makers as make
import numpy as np
import pytest

from bench import data
from bench.data import archives, cifar10, cifar100
from bench.errors import UserError

OFFICIAL = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MODULES = {"cifar10": cifar10, "cifar100": cifar100}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("small")
def test_archive_binary_and_pictures_give_the_known_pixels_and_one_content_id(name, tmp_path, monkeypatch):
    layout = MODULES[name].LAYOUT
    made = make.records(layout)
    archive = tmp_path / "a" / archives.ARCHIVES[name].file
    make.cifar_archive(archive, layout, made)
    make.pin(monkeypatch, name, archive)
    make.cifar_binary(tmp_path / "b", layout, made)
    make.cifar_folder(tmp_path / "c", layout, made)
    loaded = [data.load(name, tmp_path / place, tmp_path / "cache") for place in "abc"]
    for one in loaded:
        assert one.classes == layout.classes
        assert (one.size, one.spec) == (32, name)
        for split, got in (("train", one.train), ("test", one.test)):
            groups = make.by_class(layout, made, split)
            assert got.images.dtype == np.uint8
            assert np.array_equal(got.images, np.concatenate(groups))
            assert got.counts == tuple(len(group) for group in groups)
    assert len({one.content for one in loaded}) == 1
    assert len(list((tmp_path / "cache").glob("*/meta.json"))) == 3
    assert not list(tmp_path.rglob("escape.txt"))


@pytest.mark.usefixtures("small")
def test_other_pixels_or_other_order_give_another_content_id(places):
    made = make.records(cifar10.LAYOUT)
    make.cifar_binary(places[0], cifar10.LAYOUT, made)
    first = data.identify("cifar10", *places)
    folder = places[0] / cifar10.LAYOUT.folder
    labels, pixels = made["test_batch.bin"]
    pixels[0, 0, 0, 0] ^= 1
    (folder / "test_batch.bin").write_bytes(make.encode(cifar10.LAYOUT, labels, pixels))
    os.utime(folder / "test_batch.bin", (1, 1))  # a coarse clock could give both files the same time
    assert data.identify("cifar10", *places).content != first.content


def test_the_official_orders_and_statistics_are_as_published():
    assert cifar10.LAYOUT.classes == OFFICIAL
    assert len(cifar100.LAYOUT.classes) == len(set(cifar100.LAYOUT.classes)) == 100
    assert cifar10.KIND.mean == (0.4914, 0.4822, 0.4465)
    assert cifar100.KIND.std == (0.2673, 0.2564, 0.2762)
    assert (cifar10.LAYOUT.per_class("train"), cifar10.LAYOUT.per_class("test")) == (5000, 1000)
    assert (cifar100.LAYOUT.per_class("train"), cifar100.LAYOUT.per_class("test")) == (500, 100)


def fails(places, message, name="cifar10"):
    with pytest.raises(UserError, match=message) as caught:
        data.load(name, *places)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("state", ["empty", "absent", "a file"])
def test_missing_data_names_the_places_and_the_command(places, state):
    place = places[0]
    if state != "empty":
        place.rmdir()
    if state == "a file":
        place.write_text("")
    fails(
        places,
        r"^cifar10 is not in .*: looked for cifar-10-binary\.tar\.gz, cifar-10-batches-bin/, "
        rf"cifar10/train/<class>/\*\.png; get it with: metadd-bench data cifar10 --data-dir {place}$",
    )


def test_the_data_folder_is_argument_then_environment_then_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METADD_DATA", raising=False)
    with pytest.raises(UserError, match="not in data "):
        data.load("cifar10")
    monkeypatch.setenv("METADD_DATA", "elsewhere")
    with pytest.raises(UserError, match="not in elsewhere "):
        data.load("cifar10")
    with pytest.raises(UserError, match="not in here "):
        data.load("cifar10", Path("here"))


@pytest.mark.usefixtures("small")
def test_a_damaged_archive_is_named_with_its_checksum(places, monkeypatch):
    archive = places[0] / "cifar-10-binary.tar.gz"
    archive.write_bytes(b"0123")
    entry = make.pin(monkeypatch, "cifar10", archive)
    fails(places, "is not a whole tar.gz archive")
    archive.write_bytes(b"012x")
    fails(
        places,
        rf"is damaged \(SHA-256 [0-9a-f]{{12}}… instead of {entry.sha256[:12]}…\): delete it, then meta",
    )
    archive.write_bytes(b"012")
    fails(places, r"is damaged \(3 bytes instead of 4\)")


@pytest.mark.usefixtures("small")
def test_a_damaged_unpacked_archive_is_named(places):
    layout = cifar10.LAYOUT
    made = make.records(layout)
    make.cifar_binary(places[0], layout, made)
    file = places[0] / layout.folder / "data_batch_2.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    fails(places, r"data_batch_2\.bin has 61459 bytes instead of 61460")
    file.write_bytes(b"\x0a" + whole[1:])
    fails(places, "a record of train has the label 10, above 9")
    file.write_bytes(bytes([(whole[0] + 1) % 10]) + whole[1:])
    fails(places, "of train has (9|11) images, not 10")
    file.unlink()
    fails(places, r"cifar-10-batches-bin lacks data_batch_2\.bin")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: shutil.rmtree(f / "test/cat"), "test lacks the class 'cat' of cifar10"),
        (
            lambda f: (f / "train/cat").rename(f / "train/cats"),
            "train/cats: not a class of cifar10; did you mean 'c",
        ),
        (lambda f: (f / "train/cat/9.png").unlink(), "the class 'cat' has 9 images instead of 10"),
        (
            lambda f: [p.unlink() for p in (f / "train/cat").iterdir()],
            "train/cat: the class 'cat' has no images",
        ),
        (
            lambda f: (f / "train/dog/4.png").write_bytes(b"x"),
            r"train/dog/4\.png is damaged or not an image; put a whole one in its place",
        ),
        (lambda f: cut(f / "test/dog/1.png"), r"test/dog/1\.png is damaged or not an image \("),
        (
            lambda f: make.save(f / "test/dog/1.png", np.zeros((40, 32), np.uint8)),
            r"1\.png is 32x40; .* 32x32",
        ),
        (lambda f: (f / "train/dog/a.txt").write_text(""), r"train/dog/a\.txt is not an image"),
        (lambda f: (f / "train/a.png").write_text(""), r"train/a\.png: train holds one folder per class"),
        (lambda f: (f / "train/dog/more").mkdir(), "train/dog/more: a class folder holds images only"),
    ],
)
def test_a_damaged_folder_names_the_place(places, harm, message):
    make.cifar_folder(places[0], cifar10.LAYOUT, make.records(cifar10.LAYOUT))
    (places[0] / "cifar10/train/.DS_Store").write_text("hidden files are nobody's mistake")
    harm(places[0] / "cifar10")
    fails(places, message)
    assert not list(places[1].glob("*/meta.json"))


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


REAL = Path(os.environ.get("METADD_DATA", "absent"))  # read here, because tests are kept from it


@pytest.mark.skipif(not (REAL / "cifar10").is_dir(), reason="METADD_DATA has no cifar10/")
def test_the_real_cifar10(tmp_path):
    real = data.load("cifar10", REAL, tmp_path)
    assert real.classes == OFFICIAL
    assert (real.train.counts, real.test.counts) == ((5000,) * 10, (1000,) * 10)
    assert real.train.images.shape == (50_000, 3, 32, 32)
    mean = (real.train.images[::10] / 255).mean((0, 2, 3))
    assert np.abs(mean - real.mean).max() < 0.01
