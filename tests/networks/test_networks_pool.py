"""The ConvNet's pooling: PyTorch's own, to the bit and to the second derivative."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.networks.convnet import HalvingPool


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [1, 3, 16, 33])
@pytest.mark.parametrize("channels", [1, 3, 8, 20, 128])
@pytest.mark.parametrize("side", [2, 3, 7, 8, 13, 32])
def test_bits_are_those_of_avg_pool(n, channels, side):
    maps = randn(n, channels, side, side) * 10.0 ** randn(1, seed=1).round().item()
    for x in (maps, maps.relu(), maps.contiguous(memory_format=torch.channels_last)):
        if n * channels * (side // 2) ** 2 == 1:  # oneDNN takes a scalar product, whose order is its own
            torch.testing.assert_close(HalvingPool()(x), F.avg_pool2d(x, 2), rtol=3e-7, atol=0)
        else:
            assert torch.equal(HalvingPool()(x), F.avg_pool2d(x, 2))


@pytest.mark.parametrize("shape", [(2, 8, 16, 16), (3, 5, 7, 9), (1, 128, 4, 4)])
def test_derivatives_are_those_of_avg_pool(shape):
    maps = randn(*shape).requires_grad_()

    def derivatives(pool):
        (first,) = torch.autograd.grad(pool(maps).square().sum(), maps, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(3).sum(), maps)
        return first.detach(), second

    for ours, theirs in zip(
        derivatives(HalvingPool()), derivatives(lambda x: F.avg_pool2d(x, 2)), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_other_dtypes_and_vmap():
    maps = randn(4, 2, 8, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(HalvingPool(), (maps,))
    stacked = randn(3, 4, 2, 8, 8)
    torch.testing.assert_close(
        torch.func.vmap(HalvingPool())(stacked), F.avg_pool2d(stacked.flatten(0, 1), 2).unflatten(0, (3, 4))
    )


def test_shape_on_fake_tensors():
    with FakeTensorMode():
        maps = torch.empty(2, 8, 7, 6, requires_grad=True)
        pooled = HalvingPool()(maps)
        assert pooled.shape == (2, 8, 3, 3)
        assert torch.autograd.grad(pooled.sum(), maps)[0].shape == maps.shape
