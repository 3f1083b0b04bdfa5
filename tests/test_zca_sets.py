"""Sets in the ZCA space: kept with their matrices, read with them, refused without."""

import json

import pytest
import torch
from safetensors.torch import save_file
from small import dataset

from bench import sets, zca
from bench.data import Identity
from bench.errors import UserError
from bench.pixels import PixelSpace
from bench.zca import FILE

DATA = Identity("pets", "0" * 64, ("cat", "dog", "owl"), 8, (9, 9, 9), (9, 9, 9))
NORMALISED = PixelSpace("normalised", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])

FITTED, OTHER = (zca.fit(dataset(size=8, per_class=80, seed=seed).train.images) for seed in range(2))
BYTES = torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
UNIT = BYTES.float() / 255
ENCODED = FITTED.encode(UNIT)


@pytest.fixture
def file(tmp_path):
    return lambda name: tmp_path / name


def refused(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ours(path, held=FITTED, beside=FITTED, **record):
    """A set of ours as a distil cell leaves it, with these matrices beside it."""
    path.parent.mkdir(exist_ok=True)
    cell = {"dataset": {"name": "pets", "classes": 3}, "seed": 4}
    about = {"space": {**held.to_json(), **record}, "labels": "hard", "cell": cell}
    save_file({"images": ENCODED, "labels": LABELS}, path, metadata={"metadd": json.dumps(about)})
    if beside is not None:
        zca.keep_beside(beside, path.parent)
    return path


def test_a_set_is_stored_and_read_in_its_space(file):
    path = ours(file("images.safetensors"))
    stored = sets.stored([path])
    for pixels in (None, "zca"):
        (read,) = sets.read(path, DATA, NORMALISED, pixels)
        assert torch.equal(read.images, ENCODED)
        assert (read.space, read.number) == (FITTED, 4)
        assert read.encoded(stored.space) is read.images
    torch.testing.assert_close(stored.encoded(PixelSpace("unit")), UNIT, atol=2e-6, rtol=0)


def test_a_set_without_its_matrices_or_with_others_is_refused(file):
    alone = ours(file("alone") / "images.safetensors", beside=None)
    mixed = ours(file("mixed") / "images.safetensors", beside=OTHER)
    broken = ours(file("broken") / "images.safetensors", beside=None)
    broken.with_name(FILE).write_bytes(b"x")
    for path, words in (
        (alone, f"{alone}: made in the zca space, but the {FILE} that came with it is not beside it"),
        (mixed, f"{mixed.with_name(FILE)}: not the matrices that images.safetensors was made with"),
        (broken, f"{broken.with_name(FILE)}: damaged, or no file of ZCA matrices"),
    ):
        assert words in refused(sets.stored, [path])
        assert words in refused(sets.read, path, DATA, NORMALISED, None)


def test_a_record_without_its_hash_is_damaged(file):
    path = ours(file("images.safetensors"))
    save_file(
        {"images": ENCODED, "labels": LABELS},
        path,
        metadata={"metadd": '{"space": {"kind": "zca"}, "cell": {"dataset": 0}}'},
    )
    assert "its record (metadata `metadd`) is damaged" in refused(sets.read, path, DATA, NORMALISED, None)


def test_its_own_record_is_not_overruled(file):
    path = ours(file("images.safetensors"))
    assert "its own record says --pixels zca, not unit" in refused(sets.read, path, DATA, NORMALISED, "unit")


def test_parts_in_different_spaces_are_refused(file):
    paths = [ours(file(str(n)) / "images.safetensors") for n in range(2)]
    assert torch.equal(sets.stored(paths).images, torch.cat([ENCODED, ENCODED]))
    for held in (OTHER, NORMALISED):
        ours(paths[1], held)
        with pytest.raises(ValueError, match="different pixel spaces"):
            sets.stored(paths)


def test_sets_from_elsewhere_are_in_the_space_that_is_fitted_for_them(file):
    torch.save(ENCODED, file("images_best.pt"))
    (read,) = sets.read(file("images_best.pt"), DATA, NORMALISED, "zca", lambda: FITTED)
    assert torch.equal(read.images, ENCODED)
    assert read.space is FITTED
    needs = refused(sets.read, file("images_best.pt"), DATA, NORMALISED, "zca")
    assert "--pixels zca needs the real images" in needs


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (UNIT, "--pixels zca means values around 0, but values from 0.00 to 1.00 look unit"),
        (UNIT * 255, "look uint8"),
        (BYTES, "uint8 images are not --pixels zca"),
    ],
)
def test_images_that_are_not_whitened_are_refused_before_anything_is_fitted(file, images, words):
    torch.save(images, file("a.pt"))
    assert words in refused(sets.read, file("a.pt"), DATA, NORMALISED, "zca", pytest.fail)
