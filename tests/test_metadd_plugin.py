"""MetaDD in anybody's loop: its gradient by finite differences, streamed and joint, and the docs' example."""

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from vits import class_token_vit

from bench.networks.build import build
from bench.seeds import forked
from metadd import CAM, PLUGINS, MetaDD, Unsuitable, Weights
from metadd.features import normalised
from metadd.loss import joint_loss

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parent.parent
PAGE, README = (ROOT / "docs" / "metadd.md").read_text(), (ROOT / "README.md").read_text()
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)

#: One network of each form, and both layouts of Grad-CAM.
NETWORKS = {
    "ConvNet": lambda: build("convnet@w4", 10, 32),
    "VGG": lambda: build("vgg11@w4", 10, 32),
    "ViT": lambda: build("vit_tiny@w16", 10, 32),
    "class token": class_token_vit,
}


def network(name, seed=0):
    """Of double precision; its logits scaled so that they differ, as those of a trained network do."""
    with forked("networks", seed):
        found = NETWORKS[name]().double()
    linear = [module for module in found.modules() if isinstance(module, nn.Linear)][-1]
    linear.weight.data *= 5
    return found


def plugin(*names, **settings):
    names = names or tuple(NETWORKS)
    return MetaDD([network(name) for name in names], size=32, mean=MEAN, std=STD, **settings)


def batch(images=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(images, 3, 32, 32, generator=generator, dtype=torch.float64)
    return pictures.requires_grad_(), torch.randint(10, (images,), generator=generator)


EVERY = Weights(ce=0.7, align=1.3, meta=0.9)
VARIANCE = Weights(ce=0.7, align=1.3, meta=0.9, alignment="variance")


@pytest.mark.parametrize("weights", [EVERY, VARIANCE, Weights(ce=0)], ids=["kl", "variance", "kl alone"])
@pytest.mark.parametrize(
    "names", [("ConvNet", "VGG"), ("VGG", "ViT"), ("class token", "ConvNet"), tuple(NETWORKS)], ids="+".join
)
def test_the_gradient_is_the_slope(names, weights):
    """Central differences along random directions; steps so small that hardly a ReLU changes its side."""
    loss_of = plugin(*names, weights=weights)
    images, labels = batch(images=2)
    (gradient,) = torch.autograd.grad(loss_of(images, labels), images)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
        direction += gradient.sign()  # a slope that does not vanish among the rounding
        step = 1e-7
        with torch.no_grad():
            up, down = (loss_of(images + sign * step * direction, labels) for sign in (1, -1))
        slope = ((up - down) / (2 * step)).item()
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=2e-5)


@pytest.mark.parametrize("chunk", [1, 3, 5])
@pytest.mark.parametrize("weights", [EVERY, VARIANCE, EVERY.alone("ce")], ids=["kl", "variance", "ce"])
def test_streamed_and_joint_give_one_gradient(weights, chunk):
    one = plugin(weights=weights, chunk=chunk)
    images, labels = batch()
    loss = one(images, labels)
    (expected,) = torch.autograd.grad(loss, images)
    streamed = one.backward(images, labels)
    assert not streamed.requires_grad
    assert streamed.item() == pytest.approx(loss.item(), abs=1e-10)
    assert (images.grad - expected).abs().max() < 1e-8 * expected.abs().max()
    one.backward(images, labels)
    assert (images.grad - 2 * expected).abs().max() < 2e-8 * expected.abs().max()  # added to what is there


def test_the_same_network_twice_is_a_tie_everywhere():
    """Both are least at each position: the minimum's gradient is shared, streamed as well as joint."""
    twin = network("ConvNet")
    one = MetaDD([twin, twin], size=32, weights=Weights(ce=0, align=0, meta=1))
    alone = MetaDD([twin], size=32, weights=Weights(ce=0, align=0, meta=1))
    images, labels = batch()
    (joint,) = torch.autograd.grad(one(images, labels), images)
    one.backward(images, labels)
    (expected,) = torch.autograd.grad(alone(images, labels), images)
    for found in (joint, images.grad):
        assert (found - expected).abs().max() < 1e-8 * expected.abs().max()


def test_the_loss_is_that_of_the_networks_maps():
    one = plugin(weights=EVERY, grid=5)
    images, labels = batch()
    mean, std = (torch.tensor(each, dtype=torch.float64).view(3, 1, 1) for each in (MEAN, STD))
    logits, maps = [], []
    for name in NETWORKS:
        said, cam = CAM(network(name), 32)((images - mean) / std, labels)
        logits.append(said)
        maps.append(normalised(cam, 5))
    expected, terms = joint_loss(logits, torch.stack(maps), labels, EVERY)
    assert one(images, labels).item() == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(one.maps(images, labels), torch.stack(maps).detach(), atol=1e-10, rtol=0)
    found = one.terms(images, labels)
    assert {name: value.item() for name, (value, _) in found.items()} == pytest.approx(
        {name: value.item() for name, value in terms.items()}, abs=1e-10
    )


def test_the_terms_gradients_are_those_of_the_terms_alone_and_make_up_the_whole():
    one = plugin(weights=EVERY)
    images, labels = batch()
    found = one.terms(images, labels)
    assert images.grad is None
    assert list(found) == ["ce", "align", "meta"]
    whole = torch.zeros_like(images)
    for name, (_, norm) in found.items():
        alone = plugin(weights=EVERY.alone(name))
        (gradient,) = torch.autograd.grad(alone(images, labels), images)
        assert norm.item() == pytest.approx(gradient.norm().item(), rel=1e-8)
        assert list(alone.terms(images, labels)) == [name]
        whole += gradient
    one.backward(images, labels)
    torch.testing.assert_close(images.grad, whole, rtol=0, atol=1e-10)


def test_weight_multiplies_the_loss():
    images, labels = batch()
    for factor in (0.0, 0.25):
        images.grad = None
        one, plain = plugin(weight=factor, weights=EVERY), plugin(weights=EVERY)
        assert one(images, labels).item() == pytest.approx(factor * plain(images, labels).item())
        assert one.backward(images, labels).item() == pytest.approx(factor * plain(images, labels).item())
        (expected,) = torch.autograd.grad(plain(images, labels), images)
        torch.testing.assert_close(images.grad, factor * expected, rtol=1e-8, atol=1e-14)


def test_one_forward_of_each_network_and_one_more_to_stream_maps():
    one = plugin("ConvNet", "class token")
    counts = Counter()
    for index, cam in enumerate(one.cams):
        cam.network.register_forward_hook(lambda *_, index=index: counts.update([index]))
    images, labels = batch()
    one(images, labels)
    assert counts == {0: 1, 1: 1}
    one.backward(images, labels)
    assert counts == {0: 3, 1: 3}
    counts.clear()
    one.weights = Weights(align=0)
    one.backward(images, labels)
    assert counts == {0: 1, 1: 1}


def test_nothing_of_the_networks_changes():
    own = network("VGG")
    before = {name: value.clone() for name, value in own.state_dict().items()}
    one = MetaDD([own], size=32).train()
    images, labels = batch()
    one.backward(images, labels)
    one(images, labels).backward()
    assert not own.training
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert all(parameter.grad is None for parameter in own.parameters())
    assert not any(module._forward_hooks for module in own.modules())


def test_it_draws_no_random_numbers():
    state = torch.get_rng_state()
    one = plugin()
    images, labels = batch()
    one.backward(images, labels)
    assert torch.equal(torch.get_rng_state(), state)


def test_networks_kept_at_home_give_the_same_gradient():
    images, labels = batch()
    (expected,) = torch.autograd.grad(plugin()(images, labels), images)
    one = plugin(home="cpu")
    one.backward(images, labels)
    torch.testing.assert_close(images.grad, expected, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="home: one graph needs all networks on the device"):
        one(images, labels)


@pytest.mark.gpu
def test_networks_at_home_give_the_same_gradient_on_a_gpu():
    images, labels = batch()
    images, labels = images.detach().cuda().requires_grad_(), labels.cuda()
    one = plugin(home="cpu")
    one.backward(images, labels)
    assert not any(parameter.is_cuda for parameter in one.parameters())
    (expected,) = torch.autograd.grad(plugin().cuda()(images, labels), images)
    torch.testing.assert_close(images.grad, expected, rtol=1e-7, atol=1e-9)


def test_the_harness_s_settings_reach_the_library():
    entry = PLUGINS["metadd"]
    values = {"ce": 0.5, "align": 2.0, "meta": 0.1, "alignment": "variance", "temperature": 0.3}
    values |= {"threshold": 0.4, "softness": 0.2}
    settings = entry.settings(**values, grid=6, chunk=7, gradient="constant", offload=True)
    one = entry.make(settings, [CAM(network("class token"), 32)], MEAN, STD)
    assert one.weights == Weights(**values)
    assert (one.grid, one.chunk, one.cams[0].gradient) == (6, 7, "constant")
    with pytest.raises(ValueError, match="home"):
        one(*batch())
    defaults = entry.make(entry.settings(), [CAM(network("ConvNet"), 32)], MEAN, STD)
    assert defaults.weights == Weights()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ce": 0, "align": 0}, "one of ce, align and meta must be above 0"),
        ({"networks": ["convnet", "vgg11", "convnet"]}, "networks: each is expected once"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PLUGINS["metadd"].settings(**settings)


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({}, "MetaDD"),
        ({"meta": 0.1}, "MetaDD"),
        ({"align": 0.0}, "CE only"),
        ({"ce": 0.0}, "alignment only"),
        ({"ce": 0.0, "align": 0.0, "meta": 1.0}, "exposure only"),
        ({"align": 0.0, "meta": 1.0}, "CE and exposure only"),
    ],
)
def test_a_row_says_what_is_left_of_it(values, label):
    assert PLUGINS["metadd"].settings(**values).row_label == label


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="networks: at least one"):
        MetaDD([], size=32)
    with pytest.raises(ValueError, match="not 1 and 32"):
        plugin("ConvNet", grid=1)
    with pytest.raises(ValueError, match="not 8 and 0"):
        plugin("ConvNet", chunk=0)
    with pytest.raises(Unsuitable, match="no class activation map"):
        MetaDD([nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))], size=32)


def test_the_docs_example_runs_as_it_stands():
    """In a program with networks, images and a method of its own, it lowers both losses."""
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1)
    assert code in README
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    images, labels = batch()
    images, target = images.detach().float(), torch.full((5, 3, 32, 32), 0.5)
    given = {
        "networks": [network(name).float() for name in NETWORKS],
        "images": images,
        "labels": labels,
        "method_loss": lambda images, labels: (images - target).square().mean(),
        "steps": 3,
    }
    before = images.clone()
    exec(compile(code, "docs/metadd.md", "exec"), given)
    assert not torch.equal(given["images"], before)
    one = given["plugin"]
    assert isinstance(one, MetaDD)
    with torch.no_grad():
        assert one(given["images"], labels) < one(before, labels)
