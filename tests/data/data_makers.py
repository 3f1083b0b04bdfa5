"""Tiny datasets in the official layouts, made from a seed."""

import dataclasses
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data import archives, cifar10, cifar100, tiny_imagenet

WNIDS = ("n01", "n02", "n03")


def shrink(monkeypatch):
    """CIFAR-10 with 10 + 2 images a class, CIFAR-100 with 2 + 1, Tiny-ImageNet with 3 classes of 11 + 2."""
    small10 = dataclasses.replace(cifar10.LAYOUT, train_records=20, test_records=20)
    small100 = dataclasses.replace(cifar100.LAYOUT, train_records=200, test_records=100)
    monkeypatch.setattr(cifar10, "LAYOUT", small10)
    monkeypatch.setattr(cifar100, "LAYOUT", small100)
    monkeypatch.setattr(tiny_imagenet, "CLASSES", len(WNIDS))
    monkeypatch.setattr(tiny_imagenet, "TRAIN_PER_CLASS", 11)
    monkeypatch.setattr(tiny_imagenet, "TEST_PER_CLASS", 2)


def pin(monkeypatch, name, path):
    """Declare the file at ``path`` to be the official archive."""
    data = path.read_bytes()
    entry = dataclasses.replace(
        archives.ARCHIVES[name], size=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    monkeypatch.setitem(archives.ARCHIVES, name, entry)
    return entry


def records(layout, seed=0):
    """File name to (labels [n], pixels [n, 3, 32, 32]); every class equally often, in mixed order."""
    rng = np.random.default_rng(seed)
    made = {}
    for names, count in ((layout.train, layout.train_records), (layout.test, layout.test_records)):
        labels = rng.permutation(np.arange(count * len(names)) % len(layout.classes)).astype(np.uint8)
        pixels = rng.integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
        for i, name in enumerate(names):
            rows = slice(i * count, (i + 1) * count)
            made[name] = (labels[rows], pixels[rows])
    return made


def encode(layout, labels, pixels):
    """The bytes of one binary file."""
    coarse = np.full((len(labels), layout.label_bytes - 1), 7, np.uint8)
    return np.hstack([coarse, labels[:, None], pixels.reshape(len(labels), -1)]).tobytes()


def cifar_binary(folder, layout, made):
    (folder / layout.folder).mkdir(parents=True)
    for name, (labels, pixels) in made.items():
        (folder / layout.folder / name).write_bytes(encode(layout, labels, pixels))


def cifar_archive(path, layout, made):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        members = {f"{layout.folder}/{n}": encode(layout, *rows) for n, rows in made.items()}
        for name, data in {
            "../escape.txt": b"no",
            f"{layout.folder}/readme.html": b"hello",
            **members,
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def by_class(layout, made, split):
    """What the official order means, spelled out: a list of images for every class."""
    groups = [[] for _ in layout.classes]
    for name in getattr(layout, split):
        for label, image in zip(*made[name], strict=True):
            groups[label].append(image)
    return [np.stack(group) for group in groups]


def save(path, image, **options):
    """Save [3, H, W] or [H, W] uint8 as an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.ndim == 3:
        image = image.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(image)).save(path, **options)


def cifar_folder(root, layout, made):
    for split in ("train", "test"):
        for name, group in zip(layout.classes, by_class(layout, made, split), strict=True):
            for i, image in enumerate(group):
                save(root / layout.name / split / name / f"{i}.png", image)


def tiny_folder(root):
    """The layout of tiny-imagenet-200, wnids.txt unsorted, one greyscale image, boxes and an unread test/."""
    rng = np.random.default_rng(0)
    base = root / "tiny-imagenet-200"
    for wnid in WNIDS:
        for i in range(11):
            shape = (64, 64) if i == 3 else (3, 64, 64)
            image = rng.integers(0, 256, shape, dtype=np.uint8)
            save(base / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", image)
        (base / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes")
    lines = []
    for i in range(2 * len(WNIDS)):
        save(base / "val" / "images" / f"val_{i}.JPEG", rng.integers(0, 256, (3, 64, 64), dtype=np.uint8))
        lines.append(f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t0\t63\t63\n")
    (base / "val" / "val_annotations.txt").write_text("".join(lines))
    (base / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    (base / "words.txt").write_text("n01\tfish\n")
    (base / "test" / "images").mkdir(parents=True)
    (base / "test" / "images" / "test_0.JPEG").write_bytes(b"never read")
    return base


def zipped(folder, path):
    """``folder`` as an archive whose members begin with its name, and one that tries to get out."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{folder.name}/{file.relative_to(folder)}")
        archive.writestr("../escape.txt", "no")


def image_folder(root: Path, classes=("cat", "dog"), size=16, test="test"):
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), (test, 3)):
        for name in classes:
            for i in range(count):
                image = rng.integers(0, 256, (3, size, size), dtype=np.uint8)
                save(root / split / name / f"{i}.png", image)
    return root
