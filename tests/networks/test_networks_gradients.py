"""The networks: higher gradients, double precision, fake tensors, drawing again."""

import pytest
import torch
from fresh_networks import OURS, SMALL, fresh, images
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from bench.networks.build import Network, build, reinitialise
from bench.networks.names import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")

# Higher gradients, double precision, fake tensors.


@pytest.mark.parametrize("name", [*SMALL, "convnet@w8@bn", "resnet18@w8@bn", "alexnet@w8@bn"])
def test_second_order_gradient_matches_differences(name):
    """The slope along a direction of a gradient-matching loss, by autograd and by central differences."""
    net = fresh(name).double()
    labels = torch.tensor([1, 2, 3])

    def matching(x: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(net(x), labels)
        gradients = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
        return sum(((g - 0.01) ** 2).sum() for g in gradients)

    x = images(3, 32, torch.float64).requires_grad_()
    direction = images(3, 32, torch.float64, seed=5)
    (slope,) = torch.autograd.grad(matching(x), x)
    assert slope.isfinite().all()
    step = 1e-7
    with torch.no_grad():
        ahead, behind = (x + step * direction).requires_grad_(), (x - step * direction).requires_grad_()
    difference = (matching(ahead) - matching(behind)).detach() / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), difference, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["mobilenetv2@w8", "vit_tiny@w32"])
def test_adapted_networks_run_in_double_and_give_image_gradients(name):
    net = fresh(name).double().eval()
    x = images(2, 32, torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(net(x).logsumexp(1).sum(), x)
    assert slope.dtype == torch.float64
    assert slope.abs().sum() > 0


def faked(net: Network, mode: FakeTensorMode) -> Network:
    for layer in net.modules():
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                layer._parameters[name] = nn.Parameter(mode.from_tensor(parameter.detach()))
        for name, buffer in layer._buffers.items():
            if buffer is not None:
                layer._buffers[name] = mode.from_tensor(buffer)
    return net


@pytest.mark.parametrize(
    "name",
    [*SMALL, "resnet18@w8@bn", "googlenet", "mobilenetv2@w8", "efficientnet_b0@w8", "vit_tiny", "swin_t"],
)
def test_training_runs_on_fake_tensors(name):
    mode = FakeTensorMode()
    net = faked(fresh(name), mode)
    with mode:
        x = torch.randn(2, 3, 32, 32, requires_grad=True)
        loss = nn.functional.cross_entropy(net(x), torch.zeros(2, dtype=torch.int64))
        gradients = torch.autograd.grad(loss, list(net.parameters()), create_graph=name in SMALL)
        if name in SMALL:
            (slope,) = torch.autograd.grad(sum(g.pow(2).sum() for g in gradients), x)
            assert slope.shape == x.shape
            reinitialise(net)
    assert all(isinstance(g, FakeTensor) for g in gradients)


# Drawing again.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*SMALL, *(f"{name}@bn" for name in SMALL)])
def test_reinitialise_has_the_bits_of_a_fresh_build(name, dtype):
    net = fresh(name, seed=3).to(dtype)
    net(images(4, 32, dtype) * 2 + 1)  # moves the running statistics
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        expected = build(name, 10, 32).to(dtype).state_dict()
        after_build = torch.get_rng_state()
        torch.manual_seed(8)
        reinitialise(net)
        assert torch.equal(after_build, torch.get_rng_state())
    drawn = net.state_dict()
    assert drawn.keys() == expected.keys()
    for key, tensor in drawn.items():
        assert torch.equal(tensor, expected[key]), key
        assert tensor.dtype == expected[key].dtype


def test_reinitialise_keeps_the_tensors_and_their_settings():
    net = fresh("convnet@w8").requires_grad_(False)
    held = list(net.parameters())
    reinitialise(net)
    assert all(a is b for a, b in zip(held, net.parameters(), strict=True))
    assert not any(p.requires_grad for p in net.parameters())


def test_only_our_own_networks_can_be_drawn_again():
    with torch.device("meta"):
        nets = {name: build(name, 10, 32) for name in PRESETS}
    assert tuple(name for name, net in nets.items() if net.redrawable) == OURS
    with pytest.raises(ValueError, match="cannot be drawn again"):
        reinitialise(nets["googlenet"])


def test_the_build_depends_on_the_global_generator_alone():
    assert torch.equal(
        fresh("convnet@w8", seed=4).classifier.weight, fresh("convnet@w8", seed=4).classifier.weight
    )
    assert not torch.equal(
        fresh("convnet@w8", seed=4).classifier.weight, fresh("convnet@w8", seed=5).classifier.weight
    )
