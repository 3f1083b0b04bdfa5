"""Sets from elsewhere, as they are read: formats, labels, pixels."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from set_files import BYTES, LABELS, NORMAL, NORMALISED, RECORD, UNIT, npz, only, ours, raw, read, refused

from bench import sets
from bench.pixels import PixelSpace

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
