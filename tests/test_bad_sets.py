"""Mistakes in a set from elsewhere: one line on standard error, exit status 2, nothing written or printed."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import is_one_line, run_here, snapshot
from PIL import Image
from safetensors.numpy import save_file

EVALUATE = ("--dataset", "digits[3]", "--network", "convnet@w8", "--seeds", 1, "--epochs", 1)
IMAGES = np.zeros((3, 3, 32, 32), np.float32)
LABELS = np.arange(3)


def torch_file(value):
    return lambda path: torch.save(value, path)


def arrays(**values):
    return lambda path: np.savez(path, **values)


def truncated(path):
    save_file({"images": IMAGES, "labels": LABELS}, path)
    os.truncate(path, path.stat().st_size // 2)


class RunsCode:
    """What a pickle can do to its reader."""

    def __reduce__(self):
        return os.mkdir, ("/tmp/this-must-never-be-made",)


def png_of_the_wrong_size(path):
    (path / "0").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(path / "0" / "a.png")


def folder_of_no_class(path):
    (path / "seven").mkdir(parents=True)


SOFT = np.full((3, 3), 1 / 3, np.float32)

#: A file's name, what writes it, further arguments, and what the line must say.
SETS = {
    "no file": ("a.npz", None, (), ["no such file"]),
    "unknown kind": ("a.txt", lambda path: path.write_text("x"), (), ["'.txt'", ".safetensors"]),
    "truncated safetensors": ("a.safetensors", truncated, (), ["a.safetensors"]),
    "garbage npz": ("a.npz", lambda path: path.write_bytes(b"not a zip file"), (), ["a.npz"]),
    "npz of objects": ("a.npz", arrays(images=np.array([RunsCode()])), (), ["a.npz"]),
    "pt that runs code": ("a.pt", torch_file({"images": RunsCode()}), (), ["a.pt", "could run code"]),
    "garbage pt": ("a.pt", lambda path: path.write_bytes(pickle.dumps("x")), (), ["a.pt"]),
    "no images": ("a.npz", arrays(pictures=IMAGES), (), ["no `images`", "pictures"]),
    "wrong shape": ("a.npz", arrays(images=IMAGES[:, :, :16], labels=LABELS), (), ["shape", "32"]),
    "channels last": (
        "a.npz",
        arrays(images=IMAGES.transpose(0, 2, 3, 1), labels=LABELS),
        (),
        ["[3, 32, 32, 3]"],
    ),
    "float images without --pixels": ("a.npz", arrays(images=IMAGES, labels=LABELS), (), ["--pixels"]),
    "--pixels against the file": (
        "a.npz",
        arrays(images=IMAGES.astype(np.uint8), labels=LABELS),
        ("--pixels", "normalised"),
        ["uint8", "--pixels"],
    ),
    "not finite": (
        "a.npz",
        arrays(images=IMAGES + np.inf, labels=LABELS),
        ("--pixels", "normalised"),
        ["not finite"],
    ),
    "soft labels not summing to one": (
        "a.npz",
        arrays(images=IMAGES, labels=SOFT / 2),
        ("--pixels", "unit"),
        ["probabilities"],
    ),
    "soft labels of other classes": (
        "a.npz",
        arrays(images=IMAGES, labels=np.full((3, 10), 0.1, np.float32)),
        ("--pixels", "unit"),
        ["10 classes", "3"],
    ),
    "label of no class": (
        "a.npz",
        arrays(images=IMAGES, labels=LABELS + 1),
        ("--pixels", "unit"),
        ["1 to 3", "0 to 2"],
    ),
    "too few labels": ("a.npz", arrays(images=IMAGES, labels=LABELS[:2]), ("--pixels", "unit"), ["[2]"]),
    "no labels": ("a.npz", arrays(images=IMAGES), ("--pixels", "unit"), ["no `labels`"]),
    "a text": (
        "a.pt",
        lambda path: path.write_text("hi there"),
        (),
        ["no .pt file: torch.save writes one\n"],
    ),
    "folder of no class": ("sets", folder_of_no_class, (), ["seven"]),
    "image of the wrong size": ("sets", png_of_the_wrong_size, (), ["8x8", "32x32"]),
    "unknown recipe": ("a.npz", None, ("--recipe", "das"), ["did you mean 'dsa'"]),
    "no seeds": ("a.npz", None, ("--seeds", 0), ["--seeds 0"]),
    "no epochs": ("a.npz", None, ("--epochs", 0), ["epochs"]),
    "unknown network": ("a.npz", None, ("--network", "vgg12"), ["vgg11"]),
    "test subset too large": ("a.npz", None, ("--test-per-class", 99), ["--test-per-class 99", "35"]),
}


@pytest.mark.parametrize(("name", "write", "further", "words"), SETS.values(), ids=SETS)
def test_a_mistake_in_a_set_from_elsewhere(tmp_path, monkeypatch, capfd, name, write, further, words):
    monkeypatch.chdir(tmp_path)
    if write is not None:
        write(tmp_path / name)
    before = snapshot(tmp_path)
    is_one_line(run_here(monkeypatch, capfd, "evaluate", name, *EVALUATE, *further), *words)
    assert snapshot(tmp_path) == before
    assert not Path("/tmp/this-must-never-be-made").exists()
