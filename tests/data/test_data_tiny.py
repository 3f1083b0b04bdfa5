import shutil
import zipfile

import data_makers as make
import numpy as np
import pytest
from PIL import Image

from bench import data
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("small")


def test_folder_and_archive_agree_and_val_is_folded_into_classes(tmp_path, monkeypatch):
    folder = make.tiny_folder(tmp_path / "a")
    (tmp_path / "b").mkdir()
    archive = tmp_path / "b" / "tiny-imagenet-200.zip"
    make.zipped(folder, archive)
    make.pin(monkeypatch, "tiny-imagenet", archive)
    one, other = (data.load("tiny-imagenet", tmp_path / place, tmp_path / "cache") for place in "ab")
    assert one.content == other.content
    assert np.array_equal(one.train.images, other.train.images)
    assert (one.classes, one.size) == (make.WNIDS, 64)
    assert (one.train.counts, one.test.counts) == ((11,) * 3, (2,) * 3)
    # Number order, not letter order: n02_2 comes third and n02_10 last.
    for split, row, file in (
        ("train", 11 + 2, "train/n02/images/n02_2.JPEG"),
        ("train", 11 + 10, "train/n02/images/n02_10.JPEG"),
        ("train", 3, "train/n01/images/n01_3.JPEG"),
        ("test", 5, "val/images/val_5.JPEG"),
        ("test", 1, "val/images/val_3.JPEG"),
    ):
        expected = np.asarray(Image.open(folder / file).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(getattr(one, split).images[row], expected)
    grey = one.train.images[3]
    assert (grey[0] == grey[1]).all()
    assert not list(tmp_path.rglob("escape.txt"))


def annotate(folder, change):
    path = folder / "val/val_annotations.txt"
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda f: annotate(f, lambda t: t.replace("val_1.", "val_x.")),
            r"line 2: there is no image 'val_x\.JPEG'",
        ),
        (
            lambda f: annotate(f, lambda t: t.replace("n02", "n09")),
            r"txt, line 2: 'n09' is not a class of wnids",
        ),
        (
            lambda f: annotate(f, lambda t: t.replace("\t", " ")),
            "line 1: there is no image 'val_0.JPEG n01 0",
        ),
        (
            lambda f: annotate(f, lambda t: t.replace("val_1.", "val_0.")),
            r"line 2: 'val_0\.JPEG' has a class already",
        ),
        (
            lambda f: annotate(f, lambda t: t[: t.index("val_4")]),
            r"nothing about val/images/val_4\.JPEG \(2 such",
        ),
        (lambda f: annotate(f, lambda t: t.replace("n02", "n01")), "val: the class 'n02' has no images"),
        (lambda f: (f / "val/val_annotations.txt").unlink(), r"lacks val/val_annotations\.txt"),
        (lambda f: (f / "wnids.txt").unlink(), r"lacks wnids\.txt: the official layout is needed"),
        (lambda f: (f / "wnids.txt").write_bytes(b"\xff\xff"), r"wnids\.txt is damaged: it is not text"),
        (lambda f: (f / "wnids.txt").write_text("n01 n02"), "names 2 classes instead of 3"),
        (lambda f: shutil.rmtree(f / "train/n02"), "train lacks the class 'n02' of wnids.txt"),
        (lambda f: (f / "train/n99").mkdir(), "train/n99: not a class of wnids.txt"),
        (lambda f: shutil.rmtree(f / "train/n02/images"), "train: the class 'n02' has no images"),
        (lambda f: (f / "train/n02/images/n02_5.JPEG").unlink(), "'n02' has 10 images instead of 11"),
        (
            lambda f: (f / "train/n02/images/n02_5.JPEG").write_bytes(b""),
            r"n02_5\.JPEG is damaged or not an image",
        ),
        (lambda f: (f / "train/n02/images/a.txt").write_bytes(b""), r"a\.txt is not an image"),
    ],
)
def test_a_damaged_folder_names_the_place(places, harm, message):
    harm(make.tiny_folder(places[0]))
    with pytest.raises(UserError, match=message) as caught:
        data.load("tiny-imagenet", *places)
    assert "\n" not in str(caught.value)


def test_a_damaged_archive_is_named(places, monkeypatch):
    archive = places[0] / "tiny-imagenet-200.zip"
    make.zipped(make.tiny_folder(places[0].parent), archive)
    whole = archive.read_bytes()
    make.pin(monkeypatch, "tiny-imagenet", archive)
    archive.write_bytes(whole[:-1] + b"x")
    with pytest.raises(
        UserError, match=r"is damaged .SHA-256 .* then metadd-bench data tiny-imagenet --data-dir"
    ):
        data.load("tiny-imagenet", *places)
    # Past the checksum, should the pinned archive itself ever be odd: a member that does not unpack.
    with zipfile.ZipFile(archive) as opened:
        start = opened.getinfo("tiny-imagenet-200/train/n01/images/n01_0.JPEG").header_offset
    archive.write_bytes(whole[: start + 200] + bytes(50) + whole[start + 250 :])
    make.pin(monkeypatch, "tiny-imagenet", archive)
    with pytest.raises(UserError, match=r"n01_0\.JPEG is damaged"):
        data.load("tiny-imagenet", *places)
    archive.write_bytes(whole[:2000])
    make.pin(monkeypatch, "tiny-imagenet", archive)
    with pytest.raises(UserError, match="is not a whole zip archive"):
        data.load("tiny-imagenet", *places)


def test_missing_data_names_the_command(places):
    with pytest.raises(
        UserError, match=r"tiny-imagenet-200\.zip, tiny-imagenet-200/; get it with: metadd-bench data"
    ):
        data.load("tiny-imagenet[2]", *places)


def test_the_unread_test_folder_does_not_count(places):
    folder = make.tiny_folder(places[0])
    data.load("tiny-imagenet", *places)
    shutil.rmtree(folder / "test")
    data.load("tiny-imagenet", *places)
    assert len(list(places[1].glob("*/meta.json"))) == 1
