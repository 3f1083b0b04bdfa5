"""Our Adam: PyTorch's, bit for bit, but for running on fake tensors; and the paper's algorithm."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.lr_scheduler import CosineAnnealingLR

from baselines.adam import Adam
from baselines.base import Optimisers

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 20


def start(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in ((), (7,), (2, 3, 5, 5))]


def gradients(step, params):
    """Of very different size from step to step and from number to number."""
    generator = torch.Generator().manual_seed(step + 1)
    for param in params:
        size = torch.logspace(-9, 3, param.numel(), dtype=param.dtype).view_as(param)
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype) * size


def moved(optimisers, params, steps=range(STEPS)):
    """Copies of the parameters after each step, and the learning rate of each."""
    after, rates = [], []
    for step in steps:
        gradients(step, params)
        rates.append(optimisers.optimisers[0].param_groups[0]["lr"])
        optimisers.step()
        after.append([param.clone() for param in params])
    return after, rates


def ours(params, lr=0.25, steps=STEPS, **how):
    adam = Adam(params, lr, **how)
    return Optimisers([adam], [CosineAnnealingLR(adam, steps)])


def equal(a, b):
    return all(
        torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("how", [{}, {"betas": (0.5, 0.9)}, {"betas": (0.0, 0.3), "eps": 1e-2}])
def test_it_gives_the_bits_of_pytorch_s(dtype, how):
    mine, theirs = start(dtype), start(dtype)
    reference = torch.optim.Adam(theirs, 0.25, foreach=False, **how)
    expected = moved(Optimisers([reference], [CosineAnnealingLR(reference, STEPS)]), theirs)
    got = moved(ours(mine, **how), mine)
    assert equal(got[0], expected[0])
    assert got[1] == expected[1]
    assert not torch.equal(mine[1], start(dtype)[1])


def test_it_is_the_algorithm_of_the_paper():
    """Algorithm 1 of Kingma and Ba, number by number in Python, under the cosine's closed form."""
    params = [torch.tensor([0.3, -2.0], dtype=torch.float64)]
    lr, (beta1, beta2), eps = 0.1, (0.5, 0.9), 1e-8
    optimisers = ours(params, lr, betas=(beta1, beta2))
    theta, m, v = params[0].tolist(), [0.0, 0.0], [0.0, 0.0]
    for step in range(STEPS):
        gradients(step, params)
        for i, g in enumerate(params[0].grad.tolist()):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            corrected_m, corrected_v = m[i] / (1 - beta1 ** (step + 1)), v[i] / (1 - beta2 ** (step + 1))
            alpha = lr * (1 + math.cos(math.pi * step / STEPS)) / 2
            theta[i] -= alpha * corrected_m / (math.sqrt(corrected_v) + eps)
        optimisers.step()
        assert params[0].tolist() == pytest.approx(theta, rel=1e-12)


def test_cut_and_gone_on_from_a_checkpoint(tmp_path):
    uncut = start()
    expected = moved(ours(uncut), uncut)
    params = start()
    optimisers = ours(params)
    moved(optimisers, params, range(8))
    torch.save([params, optimisers.state_dict()], tmp_path / "state.pt")
    loaded, state = torch.load(tmp_path / "state.pt", weights_only=True)
    again = ours(loaded)
    again.load_state_dict(state)
    got = moved(again, loaded, range(8, STEPS))
    assert equal(got[0], expected[0][8:])
    assert got[1] == expected[1][8:]


def test_it_runs_on_fake_tensors():
    with FakeTensorMode():
        params = [torch.ones(3)]
        optimisers = ours(params)
        for _ in range(3):
            params[0].grad = torch.ones(3)
            optimisers.step()
    assert optimisers.optimisers[0].state[params[0]]["step"] == 3


def test_what_has_no_gradient_stays():
    still, moving = torch.ones(2), torch.ones(2)
    moving.grad = torch.ones(2)
    ours([still, moving]).step()
    assert torch.equal(still, torch.ones(2))
    assert torch.allclose(moving, torch.full((2,), 0.75))


def test_a_closure_is_refused():
    with pytest.raises(TypeError, match="closure"):
        Adam([torch.ones(1)], 0.1).step(lambda: 0.0)
