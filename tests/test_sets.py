import contextlib
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from bench import sets
from bench.data import Identity
from bench.errors import UserError
from bench.pixels import PixelSpace

CLASSES = ("cat", "dog", "owl")
DATA = Identity("pets", "0" * 64, CLASSES, 8, (9, 9, 9), (9, 9, 9))
NORMALISED = PixelSpace("normalised", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def raw(*lead):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (*(lead or (6,)), 3, 8, 8), generator=generator, dtype=torch.uint8)


BYTES = raw()
UNIT = BYTES.float() / 255
NORMAL = NORMALISED.encode(UNIT)
RECORD = {
    "space": NORMALISED.to_json(),
    "labels": "hard",
    "cell": {"dataset": {"name": "pets", "classes": 3}, "seed": 4},
}


def npz(file, **arrays):
    np.savez(file, **{name: np.asarray(array) for name, array in arrays.items()})
    return file


def read(file, pixels=None, data=DATA):
    return sets.read(file, data, NORMALISED, pixels)


def refused(file, pixels=None, data=DATA):
    """The one line that refuses a file."""
    with pytest.raises(UserError) as caught:
        read(file, pixels, data)
    text = str(caught.value)
    assert "\n" not in text
    assert str(file.parent) in text
    return text.removeprefix(f"{file}: ")


def only(found):
    (one,) = found
    assert (one.images.dtype, one.images.shape) == (torch.float32, (6, 3, 8, 8))
    assert one.images.is_contiguous()
    assert one.labels.is_contiguous()
    assert not one.images.requires_grad
    return one


@pytest.fixture
def file(tmp_path):
    return lambda name: tmp_path / name


# What is read


def check_same(found, images=UNIT, labels=LABELS):
    """The set holds these [0, 1] images and labels, whatever its space."""
    one = only(found)
    torch.testing.assert_close(one.space.decode(one.images), images)
    assert torch.equal(one.labels, labels)
    assert one.labels.dtype == torch.int64


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_npz_of_floats(file, dtype):
    found = read(npz(file("set.npz"), images=UNIT.numpy().astype(dtype), labels=LABELS), "unit")
    one = only(found)
    torch.testing.assert_close(one.images, UNIT, atol=1e-3, rtol=0)
    assert one.space == PixelSpace("unit")


@pytest.mark.parametrize("pixels", [None, "uint8"])
def test_bytes_become_unit(file, pixels):
    found = read(npz(file("set.npz"), images=BYTES, labels=LABELS), pixels)
    check_same(found)
    assert found[0].space == PixelSpace("unit")


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint16])
def test_bytes_in_another_type(file, dtype):
    check_same(read(npz(file("set.npz"), images=BYTES.numpy().astype(dtype), labels=LABELS), "uint8"))


def test_normalised_images_stay_as_they_are(file):
    save_file({"images": NORMAL, "labels": LABELS}, file("set.safetensors"))
    one = only(read(file("set.safetensors"), "normalised"))
    assert torch.equal(one.images, NORMAL)
    assert one.space == NORMALISED
    check_same([one])


def ours(file, record=RECORD, images=NORMAL):
    text = record if isinstance(record, str) else json.dumps(record)
    save_file({"images": images, "labels": LABELS}, file, metadata={"metadd": text})
    return file


@pytest.mark.parametrize("pixels", [None, "normalised"])
def test_our_own_files_say_their_space_and_seed(file, pixels):
    one = only(read(ours(file("images.safetensors")), pixels))
    assert torch.equal(one.images, NORMAL)
    assert (one.space, one.number) == (NORMALISED, 4)
    stored = sets.stored([file("images.safetensors")])
    assert torch.equal(one.encoded(stored.space), stored.images)


def test_our_own_unit_files_may_leave_the_unit_interval(file):
    record = RECORD | {"space": PixelSpace("unit").to_json()}
    assert torch.equal(only(read(ours(file("a.safetensors"), record, NORMAL))).images, NORMAL)


@pytest.mark.parametrize("suffix", [".pt", ".PT"])
def test_pt_with_a_dict(file, suffix):
    images = NORMAL.clone().requires_grad_()
    torch.save({"images": images, "labels": LABELS, "epoch": 3}, file(f"set{suffix}"))
    check_same(read(file(f"set{suffix}"), "normalised"))


def test_pt_of_the_dc_code_with_its_numpy_accuracies(file):
    pairs = [[NORMAL, LABELS], [NORMAL.flip(-1), LABELS]]
    accuracies = {"ConvNet": [np.float64(0.3), np.float64(0.4)], "LeNet": []}
    torch.save({"data": pairs, "accs_all_exps": accuracies}, file("res_DM_pets_ConvNet_2ipc.pt"))
    found = read(file("res_DM_pets_ConvNet_2ipc.pt"), "normalised")
    assert [one.number for one in found] == [0, 1]
    check_same(found[:1])
    check_same(found[1:], UNIT.flip(-1))


def test_pt_of_the_dc_code_as_numpy_1_wrote_it(file):
    torch.save({"data": [[NORMAL, LABELS]], "accs_all_exps": {"a": [np.float64(0.3)]}}, file("new.pt"))
    with zipfile.ZipFile(file("new.pt")) as new, zipfile.ZipFile(file("old.pt"), "w") as old:
        for name in new.namelist():
            content = new.read(name)
            old.writestr(name, content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert b"numpy.core.multiarray" in file("old.pt").read_bytes()
    check_same(read(file("old.pt"), "normalised"))


def test_pt_with_images_alone_is_class_major(file):
    torch.save(NORMAL, file("anything.pt"))
    check_same(read(file("anything.pt"), "normalised"))


def test_pt_with_images_alone_takes_the_labels_beside_it(file):
    torch.save(NORMAL, file("images_best.pt"))
    torch.save(LABELS.flip(0), file("labels_best.pt"))
    check_same(read(file("images_best.pt"), "normalised"), labels=LABELS.flip(0))
    torch.save(["no", "tensor"], file("labels_best.pt"))
    assert "labels_best.pt: a list" in refused(file("images_best.pt"), "normalised")


def test_a_folder_of_images(file):
    order = [3, 2, 5, 4, 0, 1]  # by folder (dog, owl, then the number of cat), then by name
    for name, folder in ((0, "dog"), (2, "owl"), (4, "cat")):
        (file("set") / folder).mkdir(parents=True)
        for i in order[name : name + 2]:
            pixels = BYTES[i].permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(file("set") / folder / f"{order.index(i)}.png")
    (file("set") / "cat" / ".DS_Store").write_bytes(b"x")
    (file("set") / "README.txt").write_text("x")
    expected = [4, 5, 0, 1, 2, 3]  # folders by name: cat, dog, owl
    found = read(file("set"))
    torch.testing.assert_close(found[0].images, UNIT[[order[i] for i in expected]])
    assert found[0].labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_folders_may_be_named_by_number(file):
    for label in range(3):
        (file("set") / str(label)).mkdir(parents=True)
        Image.fromarray(BYTES[label].permute(1, 2, 0).numpy()).save(file("set") / str(label) / "a.png")
    assert read(file("set"))[0].labels.tolist() == [0, 1, 2]


# Labels


def labelled(file, labels, images=None):
    return read(npz(file("set.npz"), images=BYTES if images is None else images, labels=labels))


def test_labels_in_any_type_of_number(file):
    for dtype in (np.uint8, np.int32, np.uint32, np.float32):
        check_same(labelled(file, LABELS.numpy().astype(dtype)))


def test_soft_labels(file):
    soft = np.random.default_rng(0).dirichlet([1, 1, 1], 6)
    one = only(labelled(file, soft))
    assert one.labels.dtype == torch.float32
    torch.testing.assert_close(one.labels, torch.from_numpy(soft).float())
    nearly = only(labelled(file, (soft * 1.001).astype(np.float16)))
    torch.testing.assert_close(nearly.labels.sum(1), torch.ones(6))


def test_labels_of_several_sets(file):
    images = raw(2, 6)
    each = torch.stack([LABELS, LABELS.flip(0)])
    soft = torch.eye(3)[each] * 0.9 + 0.1 / 3
    for labels, expected in ((LABELS, [LABELS] * 2), (each, each), (each.float(), each), (soft, soft)):
        found = labelled(file, labels, images)
        assert len(found) == 2
        for one, image, label in zip(found, images, expected, strict=True):
            torch.testing.assert_close(one.images, image.float() / 255)
            torch.testing.assert_close(one.labels, label)


def test_square_labels_are_told_apart_by_what_they_hold(file):
    """Three sets of three images of three classes: [3, 3] may be classes per set, or probabilities."""
    images, classes = raw(3, 3), torch.tensor([[0, 1, 2], [2, 1, 0], [1, 1, 1]])
    soft = torch.eye(3)[[1, 2, 0]] * 0.7 + 0.1
    for labels in (classes, classes.double()):
        assert torch.equal(torch.stack([one.labels for one in labelled(file, labels, images)]), classes)
    for one in labelled(file, soft, images):
        torch.testing.assert_close(one.labels, soft)


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (LABELS[:5], "labels of shape [5] do not fit 1 set(s) of 6 images: [6] whole numbers or [6, 3]"),
        (LABELS.float() + 0.5, "labels are not whole numbers"),
        (np.full(6, np.nan), "labels are not whole numbers"),
        (LABELS - 1, "labels from -1 to 1; pets has classes 0 to 2"),
        (LABELS + 1, "labels from 1 to 3; pets has classes 0 to 2; they start at 0"),
        (np.full((6, 4), 0.25), "soft labels for 4 classes; pets has 3"),
        (np.full((6, 3), 0.5), "soft labels must be probabilities"),
        (np.random.default_rng(0).normal(size=(6, 3)), "save the softmax"),
        (np.array(["cat"] * 6), "`labels` is <U3; numbers are expected"),
        (np.array([None] * 6), "`labels` is an array of Python objects"),
    ],
)
def test_labels_that_do_not_fit(file, labels, line):
    assert line in refused(npz(file("set.npz"), images=BYTES, labels=labels))


# Pixels


@pytest.mark.parametrize(
    ("images", "pixels", "line"),
    [
        (UNIT, None, "need --pixels unit, normalised or zca (values from 0.00 to 1.00 look unit)"),
        (NORMAL, None, "look normalised)"),
        (BYTES.float(), None, "look uint8)"),
        (UNIT, "normalised", "--pixels normalised means values around 0, but values from 0.00 to 1.00"),
        (BYTES.float(), "normalised", "look uint8"),
        (NORMAL, "unit", "--pixels unit means values around 0 to 1"),
        (BYTES.float(), "unit", "look uint8"),
        (UNIT, "uint8", "--pixels uint8 means values from 0 to 255, but values from 0.00 to 1.00 look unit"),
        (NORMAL, "uint8", "look normalised"),
        (BYTES, "unit", "uint8 images are not --pixels unit; leave --pixels out"),
        (BYTES.long(), None, "images are torch.int64; save them as uint8 or float32"),
        (torch.where(UNIT > 0.9, torch.nan, UNIT), "unit", "some pixels are not finite numbers"),
        (BYTES.permute(0, 2, 3, 1), None, "channels come before height and width"),
        (BYTES[:, :1], None, "images of shape [6, 1, 8, 8] do not fit pets: [N, 3, 8, 8]"),
        (BYTES[:0], None, "images of shape [0, 3, 8, 8]"),
        (BYTES[0], None, "images of shape [3, 8, 8]"),
        (UNIT.numpy().astype(complex), "unit", "`images` is complex128"),
    ],
)
def test_pixels_that_do_not_fit(file, images, pixels, line):
    assert line in refused(npz(file("set.npz"), images=images, labels=LABELS), pixels)


def test_unit_images_may_leave_the_interval_a_little(file):
    images = UNIT * 1.4 - 0.2
    assert torch.equal(only(read(npz(file("set.npz"), images=images, labels=LABELS), "unit")).images, images)


# Files


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
        (lambda d: text(d / "cat" / "a.png"), "is damaged or not an image"),
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


# What the store holds


def test_parts_of_a_set_are_put_together(file):
    for n in range(2):
        ours(file(f"{n}.safetensors"), images=NORMAL + n)
    found = sets.stored([file("0.safetensors"), file("1.safetensors")])
    assert torch.equal(found.images, torch.cat([NORMAL, NORMAL + 1]))
    assert torch.equal(found.labels, torch.cat([LABELS, LABELS]))
    ours(file("1.safetensors"), RECORD | {"space": PixelSpace("unit").to_json()})
    with pytest.raises(ValueError, match="different pixel spaces"):
        sets.stored([file("0.safetensors"), file("1.safetensors")])


def test_encoded_goes_through_unit():
    one = sets.DistilledSet(NORMAL, LABELS, NORMALISED)
    assert one.encoded(NORMALISED) is NORMAL
    torch.testing.assert_close(one.encoded(PixelSpace("unit")), UNIT)
