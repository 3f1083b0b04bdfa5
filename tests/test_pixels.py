import pytest
import torch

from bench.errors import UserError
from bench.pixels import PixelSpace, check_zca, space

MEAN, STD = (0.49, 0.48, 0.45), (0.2, 0.19, 0.21)
NORMALISED = PixelSpace("normalised", MEAN, STD)


@pytest.mark.parametrize("held", [PixelSpace("unit"), NORMALISED])
def test_there_and_back_again(held):
    unit = torch.rand(2, 5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(held.decode(held.encode(unit)), unit)


def test_normalised_by_hand():
    pixel = torch.tensor([0.5, 0.5, 0.5]).reshape(1, 3, 1, 1)
    expected = torch.tensor([0.01 / 0.2, 0.02 / 0.19, 0.05 / 0.21]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(NORMALISED.encode(pixel), expected)


@pytest.mark.parametrize("held", [PixelSpace("unit"), NORMALISED])
def test_bytes_enter_as_their_255th_part(held):
    raw = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    before = raw.clone()
    torch.testing.assert_close(held.encode_uint8(raw, torch.float32), held.encode(raw.float() / 255))
    assert torch.equal(raw, before)


def test_the_way_back_is_differentiable():
    images = torch.zeros(1, 3, 2, 2, requires_grad=True)
    NORMALISED.decode(images).sum().backward()
    torch.testing.assert_close(images.grad[0, :, 0, 0], torch.tensor(STD))


def test_json_is_what_stored_sets_say():
    assert NORMALISED.to_json() == {"kind": "normalised", "mean": MEAN, "std": STD}
    for held in (PixelSpace("unit"), NORMALISED):
        assert PixelSpace.from_json(held.to_json()) == held


def test_the_unit_space_has_no_statistics():
    assert space("unit", MEAN, STD) == PixelSpace("unit")
    assert space("normalised", MEAN, STD) == NORMALISED


def test_the_zca_space_is_the_one_that_was_fitted():
    fitted = PixelSpace("unit")  # stands for it: any space is handed on as it is
    assert space("zca", MEAN, STD, fitted) is fitted
    with pytest.raises(TypeError, match="ZCA"):
        space("zca", MEAN, STD)


def test_images_too_large_for_zca_are_refused_with_what_they_would_take():
    check_zca(32)
    with pytest.raises(UserError, match=r"^ZCA of 64x64 images.*604 MB.* 32x32 .*normalised$"):
        check_zca(64)
    with pytest.raises(UserError, match=" 33x33 "):
        check_zca(33)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "norm"},
        {"kind": "zca"},
        {"mean": [0.1, 0.2]},
        {"std": [1, 1, 0]},
        {"std": [1, 1, "x"]},
        {"std": None},
    ],
)
def test_what_is_no_space_is_refused(change):
    with pytest.raises((ValueError, TypeError)):
        PixelSpace.from_json(NORMALISED.to_json() | change)
