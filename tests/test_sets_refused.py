"""Files that are no set, or none of this dataset: one line each, and no code of theirs is run."""

import contextlib
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from set_files import (
    BYTES,
    LABELS,
    NORMAL,
    RECORD,
    npz,
    ours,
    read,
    refused,
)

from bench.errors import UserError


def test_our_own_record_is_not_overruled(file):
    assert "its own record says --pixels normalised, not unit" in refused(ours(file("a.safetensors")), "unit")
    assert "not uint8" in refused(ours(file("a.safetensors")), "uint8")


@pytest.mark.parametrize("record", ["{", "[]", '{"space": 3}', '{"space": {"kind": "unit"}}'])
def test_a_damaged_record(file, record):
    assert "its record (metadata `metadd`) is damaged" in refused(ours(file("a.safetensors"), record))


def test_made_for_another_dataset(file):
    record = RECORD | {"cell": {"dataset": {"name": "zoo", "classes": 90}, "seed": 0}}
    assert refused(ours(file("a.safetensors"), record)) == ("made for zoo (90 classes), not for pets (3)")


def test_missing_and_unknown(file):
    assert refused(file("none.npz")).startswith("no such file; a set is a .npz, .safetensors, .pt file or")
    file("set.zip").write_bytes(b"x")
    assert refused(file("set.zip")).startswith("unknown kind '.zip'")


def test_arrays_under_other_names(file):
    assert refused(npz(file("set.npz"), x=BYTES, y=LABELS)) == "no `images`; it has 'x', 'y'"
    save_file({"images": BYTES}, file("set.safetensors"))
    assert refused(file("set.safetensors")) == "no `labels`; it has 'images'"
    torch.save({"image": BYTES}, file("set.pt"))
    assert refused(file("set.pt")) == "no `images`; it has 'image'"
    torch.save({"images": BYTES, "labels": [1, 2]}, file("set.pt"))
    assert refused(file("set.pt")) == "`labels` is a list; a tensor is expected"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ([1, 2], "holds a list; a tensor or a dict of tensors is expected"),
        ({"data": []}, "its `data` list is empty"),
        ({"data": [NORMAL, LABELS]}, "`data` is expected to list [images, labels] pairs"),
        ({"data": [[NORMAL, [1]]]}, "pairs of tensors"),
        ({"data": [[NORMAL, LABELS], [NORMAL[:3], LABELS[:3]]]}, "its sets have different shapes"),
        (NORMAL[:4], "no labels, and 4 images are not equally many for 3 classes"),
        (NORMAL.to_sparse(), "`images` is no plain array of numbers"),
    ],
)
def test_pt_files_that_are_none_of_ours(file, content, line):
    torch.save(content, file("set.pt"))
    assert line in refused(file("set.pt"), "normalised")


class Trap:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


def test_no_code_is_run(file):
    trap, trace = Trap(file("trace")), file("trace")
    torch.save({"images": BYTES, "labels": LABELS, "more": trap}, file("set.pt"))
    text = refused(file("set.pt"))
    assert "reading that could run code; save a dict of tensors" in text
    assert "open" in text
    npz(file("set.npz"), images=np.array([trap] * 6, dtype=object), labels=LABELS)
    assert "`images` is an array of Python objects" in refused(file("set.npz"))
    for name in ("a.npz", "b.pt", "c.safetensors"):
        file(name).write_bytes(pickle.dumps({"images": trap}))
        assert "damaged, or no ." in refused(file(name)) or "could run code" in refused(file(name))
    file("images_a.pt").write_bytes(b"")
    torch.save(BYTES, file("images_a.pt"))
    torch.save(trap, file("labels_a.pt"))
    assert "labels_a.pt" in refused(file("images_a.pt"))
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_damaged_files_are_one_line_wherever_they_are_cut_or_flipped(file, suffix):
    path = file(f"whole{suffix}")
    if suffix == ".npz":
        np.savez_compressed(path, images=BYTES.numpy(), labels=LABELS.numpy())
    elif suffix == ".pt":
        torch.save({"data": [[BYTES, LABELS]], "accs": [np.float64(0.5)]}, path)
    else:
        ours(path)
    whole = path.read_bytes()
    damaged = file(f"damaged{suffix}")
    rng = np.random.default_rng(0)
    for cut in [0, 1, 7, 8, 9, *rng.integers(0, len(whole), 20)]:
        damaged.write_bytes(whole[:cut])
        assert "damaged, or no" in refused(damaged)
    for at in rng.integers(0, len(whole), 60):
        content = bytearray(whole)
        content[at] ^= int(rng.integers(1, 256))
        damaged.write_bytes(content)
        with contextlib.suppress(UserError):  # a flipped pixel may go unseen; nothing else may be raised
            read(damaged)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda d: d.mkdir(), "no images; a folder per class"),
        (lambda d: (d / "cat").mkdir(parents=True), "no images; a folder per class"),
        (lambda d: (d / "doge").mkdir(parents=True), "did you mean 'dog'?"),
        (lambda d: (d / "3").mkdir(parents=True), "by number (0 to 2)"),
        (lambda d: picture(d / "loose.png"), "an image outside the class folders"),
        (lambda d: picture(d / "cat" / "a.png", 16), "16x16; all images here must be 8x8"),
        (lambda d: text(d / "cat" / "a.png"), "is damaged or not an image; put a whole one in its place"),
        (lambda d: picture(d / "cat" / "more" / "a.png"), "a folder inside a class folder"),
    ],
)
def test_folders_that_do_not_fit(file, make, line):
    make(file("set"))
    with pytest.raises(UserError) as caught:
        read(file("set"))
    assert line in str(caught.value)


def picture(path, side=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side)).save(path)


def text(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("no image")
