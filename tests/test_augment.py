import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from bench.augment import DSA, OPS, OPS_WITHOUT_FLIP, Draw, for_dataset
from bench.errors import UserError
from bench.memory import to_fake


def draw_of(op, *rows):
    params = np.zeros((len(rows), 3))
    for g, row in enumerate(rows):
        params[g, : len(row)] = row
    return Draw((op,) * len(rows), params)


def random_images(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# The formulas, pixel by pixel. x is one image, [C, H, W], as nested lists.


def literal(op, x, p):
    channels, side = len(x), len(x[0])
    across = range(side)

    def build(pixel):
        return [[[pixel(c, r, q) for q in across] for r in across] for c in range(channels)]

    def at(c, r, q):
        return x[c][r][q] if 0 <= r < side and 0 <= q < side else 0.0

    def bilinear(c, r, q):
        r0, q0 = math.floor(r), math.floor(q)
        return sum(
            at(c, r0 + i, q0 + j) * (1 - abs(r - r0 - i)) * (1 - abs(q - q0 - j))
            for i in (0, 1)
            for j in (0, 1)
        )

    def sampled(c, r, q, matrix):
        u, v = (2 * q + 1) / side - 1, (2 * r + 1) / side - 1
        u, v = matrix[0][0] * u + matrix[0][1] * v, matrix[1][0] * u + matrix[1][1] * v
        return bilinear(c, ((v + 1) * side - 1) / 2, ((u + 1) * side - 1) / 2)

    if op == "color":
        x = build(lambda c, r, q: x[c][r][q] + p[0])
        grey = [[sum(x[c][r][q] for c in range(channels)) / channels for q in across] for r in across]
        x = build(lambda c, r, q: (x[c][r][q] - grey[r][q]) * p[1] + grey[r][q])
        mean = np.mean(x)
        return build(lambda c, r, q: (x[c][r][q] - mean) * p[2] + mean)
    if op == "crop":
        return build(lambda c, r, q: at(c, r + int(p[0]), q + int(p[1])))
    if op == "cutout":
        hole = int(side * 0.5 + 0.5)
        rows, columns = ({int(centre) - hole // 2 + i for i in range(hole)} for centre in p[:2])
        return build(lambda c, r, q: 0.0 if r in rows and q in columns else x[c][r][q])
    if op == "flip":
        return build(lambda c, r, q: x[c][r][side - 1 - q] if p[0] else x[c][r][q])
    if op == "scale":
        return build(lambda c, r, q: sampled(c, r, q, [[p[0], 0], [0, p[1]]]))
    turn = [[math.cos(p[0]), -math.sin(p[0])], [math.sin(p[0]), math.cos(p[0])]]
    return build(lambda c, r, q: sampled(c, r, q, turn))


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("op", OPS)
def test_each_operation_is_its_formula(op, size):
    dsa = DSA(size, (op,))
    draw = dsa.draw_batch(np.random.default_rng(1), 5)
    images = random_images(5, 2, 3, size, size)
    before = images.clone()
    out = dsa.apply(images, draw)
    want = [[literal(op, image.tolist(), draw.params[g]) for image in images[g]] for g in range(5)]
    torch.testing.assert_close(out, torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("op", "rows"),
    [
        ("crop", [(-1, -1), (1, 1), (0, 0), (-1, 1)]),
        ("cutout", [(0, 0), (8, 8), (0, 8), (4, 4)]),
        ("scale", [(1 / 1.2, 1.2), (1, 1), (1.2, 1.2), (1 / 1.2, 1 / 1.2)]),
        ("rotate", [(-math.pi / 12,), (math.pi / 12,), (0,), (0.1,)]),
        ("color", [(-0.5, 0, 0.5), (0.5, 2, 1.5), (0, 1, 1), (0, 0, 1)]),
    ],
)
def test_the_ends_of_the_ranges(op, rows):
    images = random_images(4, 1, 3, 8, 8)
    out = DSA(8).apply(images, draw_of(op, *rows))
    for g, row in enumerate(rows):
        want = torch.tensor(literal(op, images[g, 0].tolist(), row), dtype=torch.float64)
        torch.testing.assert_close(out[g, 0], want, rtol=0, atol=1e-12)


def test_scale_below_one_magnifies_and_identities_change_nothing():
    images = random_images(1, 1, 3, 8, 8)
    dsa = DSA(8)
    assert torch.equal(dsa.apply(images, draw_of("crop", (0, 0))), images)
    assert torch.equal(dsa.apply(images, draw_of("flip", (0,))), images)
    torch.testing.assert_close(dsa.apply(images, draw_of("scale", (1, 1))), images)
    dot = torch.zeros(1, 3, 8, 8)
    dot[:, :, 3:5, 3:5] = 1
    assert dsa.apply(dot, draw_of("scale", (1 / 1.2, 1 / 1.2))).sum() > dot.sum() * 1.3


# The draws.


@pytest.mark.parametrize(("size", "shift", "hole"), [(32, 4, 16), (64, 8, 32), (7, 1, 4), (9, 1, 5)])
def test_ranges_and_distributions(size, shift, hole):
    dsa, rng = DSA(size), np.random.default_rng(0)
    draw = dsa.draw_siamese(rng, 60_000)
    ops = np.array(draw.ops)
    for op in OPS:
        assert (ops == op).mean() == pytest.approx(1 / 6, abs=0.01)
    of = {op: draw.params[ops == op] for op in OPS}
    columns = {
        "color": [(-0.5, 0.5), (0, 2), (0.5, 1.5)],
        "scale": [(1 / 1.2, 1.2), (1 / 1.2, 1.2)],
        "rotate": [(-math.pi / 12, math.pi / 12)],
    }
    for op, ends in columns.items():
        for i, (low, high) in enumerate(ends):
            values = of[op][:, i]
            assert low <= values.min() < low + 0.01 * (high - low)
            assert high - 0.01 * (high - low) < values.max() <= high
            assert values.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
        assert (of[op][:, len(ends) :] == 0).all()
    whole = {"crop": np.arange(-shift, shift + 1), "cutout": np.arange(size + 1 - hole % 2)}
    for op, values in whole.items():
        for i in (0, 1):
            seen, counts = np.unique(of[op][:, i], return_counts=True)
            assert (seen == values).all()
            assert counts.min() > 0.6 * counts.mean()
        assert abs(np.corrcoef(of[op][:, 0], of[op][:, 1])[0, 1]) < 0.05
    assert set(of["flip"][:, 0]) == {0.0, 1.0}
    assert of["flip"][:, 0].mean() == pytest.approx(0.5, abs=0.02)


def test_siamese_draws_are_per_group_and_batch_draws_share_the_operation():
    rng = np.random.default_rng(0)
    siamese = DSA(32).draw_siamese(rng, 40)
    assert len(set(siamese.ops)) > 3
    chosen = set()
    for _ in range(60):
        draw = DSA(32).draw_batch(rng, 40)
        assert len(draw) == 40
        assert len(set(draw.ops)) == 1
        assert len(np.unique(draw.params, axis=0)) > (1 if draw.ops[0] == "flip" else 20)
        chosen.add(draw.ops[0])
    assert chosen == set(OPS)


def test_draws_come_from_the_generator_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    draws = []
    for _ in range(2):
        rng = np.random.default_rng(7)
        draws.append([DSA(8).draw_siamese(rng, 20), DSA(8).draw_batch(rng, 20)])
    images = random_images(20, 2, 3, 8, 8)
    for a, b in zip(*draws, strict=True):
        assert a.ops == b.ops
        assert (a.params == b.params).all()
        assert torch.equal(DSA(8).apply(images, a), DSA(8).apply(images, b))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


def test_without_flip():
    assert "flip" not in DSA(8, OPS_WITHOUT_FLIP).draw_siamese(np.random.default_rng(0), 1000).ops
    assert len(OPS_WITHOUT_FLIP) == 5
    assert for_dataset("digits", 8) == DSA(8, OPS_WITHOUT_FLIP)
    assert for_dataset("cifar10", 32) == DSA(32)


def test_a_draw_is_frozen():
    draw = draw_of("scale", (1, 1))
    with pytest.raises(ValueError, match="read-only"):
        draw.params[0, 0] = 2
    with pytest.raises(ValueError, match="need params of shape"):
        Draw(("flip",), np.zeros((2, 3)))


# Application.


def test_real_and_synthetic_images_of_a_class_get_the_same():
    dsa = DSA(8)
    draw = dsa.draw_siamese(np.random.default_rng(0), 12)
    real = random_images(12, 6, 3, 8, 8)
    synthetic = real[:, 2:3].clone()
    assert torch.equal(dsa.apply(real, draw)[:, 2:3], dsa.apply(synthetic, draw))


@pytest.mark.parametrize("size", [7, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_splitting_the_groups_changes_no_bit(dtype, size):
    dsa = DSA(size)
    rng = np.random.default_rng(3)
    grouped = [(dsa.draw_siamese(rng, 13), random_images(13, 5, 3, size, size, dtype=dtype))]
    for op in OPS:
        draw = DSA(size, (op,)).draw_batch(rng, 13)
        grouped.append((draw, random_images(13, 3, size, size, dtype=dtype)))
    for draw, images in grouped:
        images.requires_grad_()
        whole = dsa.apply(images, draw)
        weights = random_images(*whole.shape, dtype=dtype, seed=1)
        (gradient,) = torch.autograd.grad(whole, images, weights)
        for step in (1, 4, 7):
            for i in range(0, 13, step):
                part = dsa.apply(images[i : i + step], draw[i : i + step])
                assert torch.equal(part, whole[i : i + step])
                (piece,) = torch.autograd.grad(part, images, weights[i : i + step])
                assert torch.equal(piece[i : i + step], gradient[i : i + step])


def test_splitting_the_samples_changes_no_bit():
    dsa = DSA(96)  # more than 32768 numbers an image, where PyTorch splits a lone sum among threads
    draw = dsa.draw_siamese(np.random.default_rng(3), 10)
    assert "color" in draw.ops
    images = random_images(10, 3, 3, 96, 96, dtype=torch.float32)
    whole = dsa.apply(images, draw)
    for g in range(10):
        assert torch.equal(dsa.apply(images[g : g + 1, :1], draw[g : g + 1]), whole[g : g + 1, :1])


def test_images_of_any_layout():
    dsa, draw = DSA(8), DSA(8).draw_siamese(np.random.default_rng(0), 12)
    images = random_images(12, 2, 1, 8, 8)
    strided = images.permute(3, 4, 2, 0, 1).contiguous().permute(3, 4, 2, 0, 1)
    torch.testing.assert_close(dsa.apply(strided, draw), dsa.apply(images, draw))
    for op in OPS:
        one = DSA(8, (op,)).draw_batch(np.random.default_rng(0), 12)
        torch.testing.assert_close(dsa.apply(strided, one), dsa.apply(images, one))
        torch.testing.assert_close(dsa.apply(images[:, 0], one), dsa.apply(images, one)[:, 0])


@pytest.mark.parametrize("op", [*OPS, "siamese"])
def test_first_and_second_derivatives(op):
    dsa, rng = DSA(4), np.random.default_rng(0)
    draw = dsa.draw_siamese(rng, 4) if op == "siamese" else DSA(4, (op,)).draw_batch(rng, 4)
    images = random_images(4, 1, 2, 4, 4).requires_grad_()

    def apply(x):
        return dsa.apply(x, draw)

    assert torch.autograd.gradcheck(apply, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(apply, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: apply(x).pow(3), images, fast_mode=True)


def test_derivatives_under_function_transforms():
    dsa = DSA(4)
    draw = DSA(4, ("rotate",)).draw_batch(np.random.default_rng(0), 3)
    images = random_images(3, 2, 4, 4)
    by_transform = torch.func.grad(lambda x: dsa.apply(x, draw).square().sum())(images)
    leaf = images.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(dsa.apply(leaf, draw).square().sum(), leaf)
    torch.testing.assert_close(by_transform, by_autograd)
    many = torch.stack([images, 2 * images])
    torch.testing.assert_close(
        torch.vmap(lambda x: dsa.apply(x, draw))(many), torch.stack([dsa.apply(x, draw) for x in many])
    )


@pytest.mark.parametrize("op", [*OPS, "siamese"])
def test_fake_tensors(op):
    dsa, rng = DSA(8), np.random.default_rng(0)
    draw = dsa.draw_siamese(rng, 6) if op == "siamese" else DSA(8, (op,)).draw_batch(rng, 6)
    mode = FakeTensorMode()
    images = to_fake(mode, torch.zeros(6, 2, 3, 8, 8, requires_grad=True))
    with mode:
        out = dsa.apply(images, draw)
        (gradient,) = torch.autograd.grad(out.square().sum(), images, create_graph=True)
        gradient.square().sum().backward()
    for tensor in (out, gradient, images.grad):
        assert isinstance(tensor, FakeTensor)
        assert tensor.shape == images.shape


@pytest.mark.parametrize("shape", [(3, 2, 3, 8, 8), (2, 3, 8, 7), (2, 3, 4, 4), (3, 8, 8), (8, 8)])
def test_images_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="do not fit a draw of 2 groups"):
        DSA(8).apply(torch.zeros(shape), draw_of("flip", (1,), (0,)))


def test_unknown_operations():
    with pytest.raises(UserError, match="'flop'; did you mean 'flip'"):
        DSA(8, ("color", "flop"))
    with pytest.raises(UserError, match="no operation"):
        DSA(8, ())
    with pytest.raises(UserError, match="at least 1"):
        DSA(0)


@pytest.mark.skipif("METADD_REFERENCE_VICO" not in os.environ, reason="METADD_REFERENCE_VICO is not set")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("op", OPS)
def test_agrees_with_the_reference(op, monkeypatch):
    """Give the reference's functions our numbers where it draws its own."""
    folder = Path(os.environ["METADD_REFERENCE_VICO"])
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("vico_utils", folder / "utils.py")
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    images = random_images(6, 3, 8, 8, dtype=torch.float32)
    dsa = DSA(8, (op,))
    draw = dsa.draw_batch(np.random.default_rng(0), 6)
    p = torch.tensor(draw.params, dtype=torch.float32).T
    uniform = {
        "color": [p[0] + 0.5, p[1] / 2, p[2] - 0.5],
        "flip": [1 - p[0]],
        "scale": [(p[i] - 1 / 1.2) / (1.2 - 1 / 1.2) for i in (0, 1)],
        "rotate": [p[0] / (2 * math.pi / 12) + 0.5],
    }
    draws = iter(uniform.get(op, [p[0].long(), p[1].long()]))
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: next(draws).view(shape))
    monkeypatch.setattr(torch, "randint", lambda *_, size, **__: next(draws).view(*size))
    param = theirs.ParamDiffAug()
    param.Siamese, param.latestseed = False, -1
    want = images
    for function in theirs.AUGMENT_FNS[op]:
        want = function(want, param)
    torch.testing.assert_close(dsa.apply(images, draw), want, rtol=0, atol=2e-5)
