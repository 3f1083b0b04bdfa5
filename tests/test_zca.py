"""ZCA whitening as a pixel space: against its formula in float64, in memory, and as a file."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.decomposition import PCA
from small import dataset, dm_cell
from torch._subclasses.fake_tensor import FakeTensorMode

from bench import zca
from bench.errors import CellFailure, UserError
from bench.memory import LiveBytes
from bench.pixels import PixelSpace, space
from bench.real import RealImages
from bench.stages.distill import count_live_bytes
from bench.zca import FILE, ZCA

pytestmark = pytest.mark.usefixtures("quick_collections")

CPU = torch.device("cpu")
SIDE = 8
WIDTH = 3 * SIDE**2
NORMALISED = PixelSpace("normalised", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def correlated(n=400, seed=0):
    """Bytes [n, 3, 8, 8] whose neighbours resemble each other, as a photograph's do."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, 3, SIDE, SIDE)).cumsum(2).cumsum(3) + rng.normal(size=(n, 1, 1, 1)) * 4
    return np.clip(128 + 9 * noise, 0, 255).astype(np.uint8)


IMAGES = correlated()
FLAT = IMAGES.reshape(len(IMAGES), WIDTH) / 255
UNIT = torch.from_numpy(IMAGES).float() / 255
FITTED = zca.fit(IMAGES)


def literal(flat, epsilon=0.1):
    """Covariance, its eigenvectors and eigenvalues, and both matrices: the formula, one term at a time."""
    centred = flat - flat.mean(0)
    covariance = sum(np.outer(row, row) for row in centred) / (len(flat) - 1)
    vectors, values, _ = np.linalg.svd(covariance)
    whiten = sum(np.outer(u, u) / np.sqrt(v + epsilon) for u, v in zip(vectors.T, values, strict=True))
    unwhiten = sum(np.outer(u, u) * np.sqrt(v + epsilon) for u, v in zip(vectors.T, values, strict=True))
    return covariance, vectors, values, whiten, unwhiten


COVARIANCE, VECTORS, VALUES, WHITEN, UNWHITEN = literal(FLAT)


def check_close(found, expected, relative):
    """The largest difference is at most so large, relative to the largest value."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= relative * np.abs(expected).max()


# The formula


def test_the_data_can_tell():
    """Eigenvalues on both sides of epsilon; and n - 1, n and another epsilon would be seen."""
    assert VALUES[0] > 1 > 0.1 > 1e-3 > VALUES[-1]
    _, _, _, other, _ = literal(FLAT, 0.101)
    assert np.abs(other - WHITEN).max() > 1e-3 * np.abs(WHITEN).max()


def test_moments_are_those_of_the_definition():
    mean, covariance = zca.moments(IMAGES)
    check_close(mean, FLAT.mean(0), 1e-14)
    check_close(covariance, COVARIANCE, 1e-12)


def test_moments_do_not_depend_on_the_chunks(monkeypatch):
    whole = zca.moments(IMAGES)
    monkeypatch.setattr(zca, "_CHUNK", 7)
    for one, other in zip(whole, zca.moments(IMAGES), strict=True):
        assert np.array_equal(one, other)


def test_matrices_are_those_of_the_definition():
    whiten, unwhiten = zca.matrices(COVARIANCE, 0.1)
    check_close(whiten, WHITEN, 1e-10)
    check_close(unwhiten, UNWHITEN, 1e-10)
    assert np.array_equal(whiten, whiten.T)
    assert np.array_equal(unwhiten, unwhiten.T)


def test_matrices_without_eigenvectors():
    """W is the positive root of (Sigma + 0.1)^-1, and the other its inverse."""
    whiten, unwhiten = zca.matrices(COVARIANCE, 0.1)
    shifted = COVARIANCE + 0.1 * np.eye(WIDTH)
    check_close(whiten @ whiten @ shifted, np.eye(WIDTH), 1e-10)
    check_close(whiten @ unwhiten, np.eye(WIDTH), 1e-10)
    assert np.linalg.eigvalsh(whiten)[0] > 0


def test_without_epsilon_it_is_whitened_pca_turned_back():
    noise = np.random.default_rng(0).integers(0, 256, (400, 3, 2, 2)).astype(np.uint8)
    flat = noise.reshape(400, 12) / 255
    pca = PCA(whiten=True, svd_solver="full").fit(flat)
    fitted = zca.fit(noise, epsilon=0.0)
    found = fitted.encode(torch.from_numpy(noise / 255)).reshape(400, 12)
    check_close(found, pca.transform(flat) @ pca.components_, 1e-6)


def test_fitted_is_the_formula_in_float32():
    check_close(FITTED.mean.flatten(), FLAT.mean(0), 1e-7)
    check_close(FITTED.whiten, WHITEN, 1e-7)
    check_close(FITTED.unwhiten, UNWHITEN, 1e-7)


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 5e-6)])
def test_encode_is_the_formula(dtype, relative):
    found = FITTED.encode(torch.from_numpy(IMAGES).to(dtype) / 255)
    assert found.dtype == dtype
    check_close(found.reshape(len(IMAGES), WIDTH), (FLAT - FLAT.mean(0)) @ WHITEN, relative)


def test_what_is_encoded_has_the_covariance_that_is_left():
    found = FITTED.encode(torch.from_numpy(IMAGES / 255)).reshape(len(IMAGES), WIDTH).numpy()
    left = sum(np.outer(u, u) * v / (v + 0.1) for u, v in zip(VECTORS.T, VALUES, strict=True))
    check_close(np.cov(found.T), left, 1e-6)
    check_close(found.mean(0) + 1, np.ones(WIDTH), 1e-6)


def test_pixels_that_never_change_are_no_trouble():
    images = IMAGES.copy()
    images[:, :, 0] = 7
    fitted = zca.fit(images)
    unit = torch.from_numpy(images) / 255
    torch.testing.assert_close(fitted.encode(unit)[:, :, 0], torch.zeros(400, 3, SIDE), atol=1e-6, rtol=0)
    torch.testing.assert_close(fitted.decode(fitted.encode(unit)), unit, atol=1e-6, rtol=0)


# The space


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
def test_there_and_back_again(lead):
    unit = torch.rand(*lead, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(FITTED.decode(FITTED.encode(unit)), unit, atol=2e-6, rtol=0)
    assert FITTED.encode(unit).is_contiguous()


def skew():
    """A space whose matrices are not symmetric, to tell a matrix from its transpose."""
    whiten = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    return ZCA(torch.rand(3, 2, 2), whiten, torch.linalg.inv(whiten))


def test_gradients_are_those_of_the_transposed_matrix():
    held = skew()
    for encode, matrix in ((held.encode, held.whiten), (held.decode, held.unwhiten)):
        images = torch.rand(5, 3, 2, 2, dtype=torch.float64, requires_grad=True)
        outer = torch.randn(5, 3, 2, 2, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(encode(images), images, outer)
        torch.testing.assert_close(gradient.flatten(1), outer.flatten(1) @ matrix.double().T)
        assert torch.autograd.gradcheck(encode, images)


def test_bytes_enter_as_their_255th_part():
    raw = torch.from_numpy(IMAGES[:50].copy())
    before = raw.clone()
    found = FITTED.encode_uint8(raw, torch.float32)
    assert torch.equal(found, FITTED.encode(raw.float() / 255))
    assert torch.equal(raw, before)


def test_real_images_come_whitened():
    data = dataset(size=SIDE)
    fitted = zca.fit(data.train.images)
    found = RealImages(data.test, fitted, CPU).batch(np.array([3, 1]))
    flat = data.test.images[[3, 1]].reshape(2, WIDTH) / 255
    train = data.train.images.reshape(-1, WIDTH) / 255
    check_close(found.flatten(1), (flat - train.mean(0)) @ literal(train)[3], 5e-6)


def test_there_are_no_channels():
    with pytest.raises(CellFailure, match="zca space has no mean and deviation per channel"):
        _ = FITTED.channels


@pytest.mark.parametrize("size", [33, 64])
def test_large_images_are_refused_before_any_work(monkeypatch, size):
    monkeypatch.setattr(zca, "moments", lambda images: pytest.fail("they are read"))
    with pytest.raises(UserError, match=f"^ZCA of {size}x{size} images"):
        zca.fit(np.zeros((2, 3, size, size), np.uint8))


# Memory


def test_a_matrix_is_brought_once(monkeypatch):
    brought, place = [], zca.place
    monkeypatch.setattr(zca, "place", lambda tensor, device: brought.append(tensor) or place(tensor, device))
    held = skew()
    for _ in range(3):
        held.encode(torch.rand(1, 3, 2, 2))
    assert [tensor.shape for tensor in brought] == [(3, 2, 2), (12, 12)]
    held.decode(torch.rand(1, 3, 2, 2))
    assert len(brought) == 3
    assert brought[2] is held.unwhiten
    with FakeTensorMode():  # not the ones that are real
        held.encode(torch.rand(1, 3, 2, 2))
    assert len(brought) == 5


def both(count):
    """What is counted on real tensors and on fake ones."""
    real = count()
    with FakeTensorMode():
        return real, count()


def test_fake_tensors_give_the_same_peak():
    data = dataset(size=SIDE)
    fitted = zca.fit(data.train.images)

    def count():
        images = RealImages(data.train, fitted, CPU)
        with LiveBytes() as live:
            peaks = []
            for indices in (np.arange(4), np.arange(8), np.arange(2)):
                held = images.batch(indices).requires_grad_()
                fitted.decode(held).sum().backward()
                peaks.append((live.peak, live.current))
        return peaks

    real, fake = both(count)
    assert real == fake
    assert real[0][0] >= 4 * 2 * WIDTH**2  # both matrices were counted,
    assert real[-1][1] < 4 * 2 * WIDTH**2 + 4 * 10 * 8 * WIDTH  # and once


def test_fake_tensors_give_the_same_peak_of_a_distillation():
    data = dataset(size=16)
    fitted = zca.fit(data.train.images)
    cell = dm_cell(data, pixels="zca", batch_real=8, uses={"zca": ("0" * 64,)})
    real, fake = both(lambda: count_live_bytes(cell, data, CPU, {"zca": fitted}))
    assert real == fake > 4 * (3 * 16**2) ** 2


# Files


@pytest.fixture
def file(tmp_path):
    return lambda name: tmp_path / name


def refused(call, *arguments, **named):
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_saved_and_loaded_is_the_same(file):
    FITTED.save(file(FILE))
    found = ZCA.load(file(FILE))
    for name in ("mean", "whiten", "unwhiten"):
        assert torch.equal(getattr(found, name), getattr(FITTED, name))
    assert found == FITTED
    assert hash(found) == hash(FITTED)
    assert found.file == file(FILE)


def test_loaded_under_a_fake_mode_it_is_real(file):
    FITTED.save(file(FILE))
    with FakeTensorMode():
        found = ZCA.load(file(FILE))
        assert isinstance(found.encode(torch.rand(1, 3, SIDE, SIDE)), torch._subclasses.FakeTensor)
    assert torch.equal(found.encode(UNIT), FITTED.encode(UNIT))


def test_spaces_are_equal_where_their_maps_are():
    parts = [getattr(FITTED, name) for name in ("mean", "whiten", "unwhiten")]
    assert ZCA(*[part.clone() for part in parts]) == FITTED
    for i in range(3):
        changed = [part.clone() for part in parts]
        changed[i].view(-1)[5] += 1e-6
        assert ZCA(*changed) != FITTED
    assert PixelSpace("unit") != FITTED
    whole = b"".join(part.numpy().tobytes() for part in parts)
    assert FITTED.to_json() == {"kind": "zca", "sha256": hashlib.sha256(whole).hexdigest()}
    assert space("zca", (0, 0, 0), (1, 1, 1), FITTED) is FITTED


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("whiten"),
        lambda tensors: tensors.update(whiten=tensors["whiten"][1:].clone()),
        lambda tensors: tensors.update(unwhiten=tensors["unwhiten"].double()),
        lambda tensors: tensors.update(mean=tensors["mean"].flatten()),
    ],
)
def test_other_files_are_refused(file, change):
    tensors = {"mean": FITTED.mean, "whiten": FITTED.whiten, "unwhiten": FITTED.unwhiten}
    change(tensors)
    save_file(tensors, file(FILE))
    assert refused(ZCA.load, file(FILE)) == f"{file(FILE)}: damaged, or no file of ZCA matrices"


def test_damaged_files_are_refused(file):
    FITTED.save(file("whole"))
    whole = file("whole").read_bytes()
    for cut in (0, 7, 100, len(whole) - 1):
        file(FILE).write_bytes(whole[:cut])
        assert "damaged, or no file" in refused(ZCA.load, file(FILE))
    assert refused(ZCA.load, file("none")) == f"{file('none')}: no such file"


def test_kept_beside_a_set_by_a_link_or_a_copy(file, monkeypatch):
    for name in ("linked", "copied", "saved", "none"):
        file(name).mkdir()
    FITTED.save(file(FILE))
    held = ZCA.load(file(FILE))
    zca.keep_beside(held, file("linked"))
    assert file("linked").joinpath(FILE).samefile(file(FILE))

    def no_links(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(zca.os, "link", no_links)
    zca.keep_beside(held, file("copied"))
    zca.keep_beside(FITTED, file("saved"))
    for name in ("copied", "saved"):
        assert not file(name).joinpath(FILE).samefile(file(FILE))
        assert ZCA.load(file(name) / FILE) == held
    zca.keep_beside(NORMALISED, file("none"))
    assert list(file("none").iterdir()) == []
