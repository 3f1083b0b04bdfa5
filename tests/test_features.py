"""What maps share and what they do not, against loops of numbers in double precision, and by hand."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from metadd import features

pytestmark = pytest.mark.usefixtures("one_thread")


def maps(networks=3, images=4, side=5, seed=0):
    """Maps in [0, 1] of several networks; some positions tie at 0 and 1, as normalised maps do."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(-0.3, 1.3, (networks, images, side, side)).clip(0, 1))


def resized(image, grid):
    """Bilinear, literally: a position's centre, its four neighbours, the edge repeated."""
    side = len(image)
    found = np.zeros((grid, grid))
    for i in range(grid):
        for j in range(grid):
            for rows, row_share in neighbours(i, side, grid):
                for columns, column_share in neighbours(j, side, grid):
                    found[i, j] += row_share * column_share * image[rows, columns]
    return found


def neighbours(position, side, grid):
    centre = max(0.0, (position + 0.5) * side / grid - 0.5)
    low = min(int(centre), side - 1)
    share = centre - low
    return (low, 1 - share), (min(low + 1, side - 1), share)


@pytest.mark.parametrize(("side", "grid"), [(4, 8), (8, 8), (7, 8), (16, 8), (4, 32), (5, 4)])
def test_normalised_is_relu_bilinear_and_min_max_of_each_image(side, grid):
    cams = torch.from_numpy(np.random.default_rng(0).normal(0.2, 1, (3, side, side)))
    found = features.normalised(cams, grid)
    for cam, image in zip(cams.numpy(), found.numpy(), strict=True):
        expected = resized(np.maximum(cam, 0), grid)
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        np.testing.assert_allclose(image, expected, atol=1e-12)
        assert (image.min(), image.max()) == (0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_scale_of_a_network_does_not_matter(dtype, scale):
    cams = torch.from_numpy(np.random.default_rng(0).normal(0.2, 1, (3, 4, 4))).to(dtype)
    found = features.normalised(cams * scale, 8)
    torch.testing.assert_close(found, features.normalised(cams, 8))


@pytest.mark.parametrize("value", [-3.0, 0.0, 1e-20, 0.1, 1e7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_flat_map_stays_flat_and_gives_no_gradient(value, dtype):
    flat = torch.full((2, 4, 4), value, dtype=dtype, requires_grad=True)
    found = features.normalised(flat, 7)
    assert not found.any()
    (gradient,) = torch.autograd.grad((found * torch.rand(2, 7, 7)).sum(), flat)
    assert not gradient.any()


def test_what_is_against_the_class_everywhere_points_nowhere():
    """A flat map beside one that is not: each image has its own range."""
    cams = torch.stack([torch.full((4, 4), -1.0), torch.arange(16.0).view(4, 4)])
    found = features.normalised(cams, 4)
    assert not found[0].any()
    torch.testing.assert_close(found[1], torch.arange(16.0).view(4, 4) / 15)


def test_normalised_has_the_right_gradient():
    cams = torch.from_numpy(np.random.default_rng(3).normal(0.5, 1, (2, 4, 4))).requires_grad_()
    assert torch.autograd.gradcheck(lambda cam: features.normalised(cam, 6), cams)


def test_supports():
    seen = maps()
    soft = features.soft_support(seen, 0.4, 0.2)
    hard = features.hard_support(seen, 0.4)
    for index, value in np.ndenumerate(seen.numpy()):
        assert soft[index].item() == pytest.approx(1 / (1 + math.exp(-(value - 0.4) / 0.2)), abs=1e-14)
        assert hard[index].item() == (1.0 if value >= 0.4 else 0.0)


def test_the_threshold_itself_counts_as_seen():
    assert features.hard_support(torch.tensor([0.49, 0.5, 0.51]), 0.5).tolist() == [0, 1, 1]


def test_meta_and_heterogeneous_maps_split_the_supports():
    supports = features.soft_support(maps(), 0.5, 0.1)
    meta, rest = features.meta_map(supports), features.heterogeneous_maps(supports)
    for image, i, j in np.ndindex(4, 5, 5):
        values = [supports[m, image, i, j].item() for m in range(3)]
        assert meta[image, i, j].item() == min(values)
        for m in range(3):
            assert rest[m, image, i, j].item() == values[m] - min(values)
    assert rest.min() == 0


def test_several_that_are_least_share_the_gradient():
    supports = torch.tensor([[0.2, 0.2, 0.2], [0.2, 0.1, 0.5], [0.2, 0.9, 0.2]]).view(3, 1, 1, 3)
    leaf = supports.clone().requires_grad_()
    features.meta_map(leaf).sum().backward()
    third, half = 1 / 3, 1 / 2
    expected = torch.tensor([[third, 0, half], [third, 1, 0], [third, 0, half]]).view(3, 1, 1, 3)
    torch.testing.assert_close(leaf.grad, expected)


def softmax(values, temperature):
    exponents = [math.exp((value - max(values)) / temperature) for value in values]
    return [each / sum(exponents) for each in exponents]


def divergence(images, temperature):
    """Mean over networks of KL(p_m || mean p), for one image's maps."""
    ps = [softmax(image.ravel().tolist(), temperature) for image in images]
    mean = [sum(column) / len(ps) for column in zip(*ps, strict=True)]
    return sum(sum(p * math.log(p / q) for p, q in zip(one, mean, strict=True)) for one in ps) / len(ps)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_distributions_and_divergence(temperature):
    seen = maps()
    log_p = features.log_distribution(seen, temperature)
    assert log_p.shape == (3, 4, 25)
    np.testing.assert_allclose(
        log_p[1, 2].exp().numpy(), softmax(seen[1, 2].flatten().tolist(), temperature), rtol=1e-12
    )
    found = features.kl(log_p, features.log_mean(log_p)).mean(0)
    for image in range(4):
        expected = divergence(seen[:, image].numpy(), temperature)
        assert found[image].item() == pytest.approx(expected, abs=1e-12)


def test_a_description():
    seen = maps(networks=4)
    found = features.describe(seen, threshold=0.6, temperature=0.3)
    for image in range(4):
        sets = [{tuple(at) for at in np.argwhere(one >= 0.6)} for one in seen[:, image].numpy()]
        everyone, anyone = set.intersection(*sets), set.union(*sets)
        ious = [len(a & b) / len(a | b) for a, b in combinations(sets, 2)]
        assert found.meta[image].item() == pytest.approx(len(everyone) / 25)
        assert found.heterogeneous[image].item() == pytest.approx(len(anyone - everyone) / 25)
        assert found.iou[image].item() == pytest.approx(sum(ious) / len(ious))
        assert found.divergence[image].item() == pytest.approx(divergence(seen[:, image].numpy(), 0.3))


def test_equal_maps_share_all_that_they_see():
    one = maps(networks=1)
    found = features.describe(one.expand(3, -1, -1, -1))
    torch.testing.assert_close(found.iou, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(found.divergence, torch.zeros(4, dtype=torch.float64), atol=1e-14, rtol=0)
    torch.testing.assert_close(found.meta, (one[0] >= 0.5).double().mean((1, 2)))
    assert not found.heterogeneous.any()


def test_disjoint_maps_share_nothing():
    """Each network sees a position of its own; at a low temperature all its weight is there: log M nats."""
    networks = 4
    seen = torch.zeros(networks, 1, 4, 4, dtype=torch.float64)
    for m in range(networks):
        seen[m, 0, m, m] = 1
    found = features.describe(seen, temperature=0.02)
    assert (found.iou.item(), found.meta.item()) == (0, 0)
    assert found.heterogeneous.item() == networks / 16
    assert found.divergence.item() == pytest.approx(math.log(networks), abs=1e-12)


def test_half_of_what_two_see_is_shared():
    seen = torch.zeros(2, 1, 2, 4)
    seen[0, 0, 0, :3] = 1
    seen[1, 0, 0, 1:] = 1
    found = features.describe(seen)
    assert (found.iou.item(), found.meta.item(), found.heterogeneous.item()) == (0.5, 0.25, 0.25)


def test_two_that_see_nothing_overlap_in_nothing():
    found = features.describe(torch.zeros(2, 3, 4, 4))
    assert not found.iou.any()
    assert not found.divergence.any()


def test_what_one_network_shares_is_no_question():
    with pytest.raises(ValueError, match="needs two of them or more, not 1"):
        features.describe(maps(networks=1))
