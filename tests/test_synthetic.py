"""The images being distilled: pixels that are moved themselves, and images that a parametrization renders."""

import pytest
import torch

from bench.pixels import PixelSpace
from bench.synthetic import Rendered, Synthetic

pytestmark = pytest.mark.usefixtures("one_thread")

SPACE = PixelSpace("normalised", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
CLASSES, IPC = 3, 4
N = CLASSES * IPC


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Painter:
    """Images as a smooth function of two parameters; keeps how many it rendered at once, and with a graph."""

    def __init__(self, chunk, dtype=torch.float64):
        self.chunk = chunk
        self.params = {"hue": randn(N, 3, dtype=dtype), "shape": randn(N, 2, 4, 4, dtype=dtype, seed=1)}
        self.mix = randn(3, 2, dtype=dtype, seed=2)
        self.calls = []

    def render(self, params):
        images = (
            torch.einsum("oc,nchw->nohw", self.mix, params["shape"].tanh()) * params["hue"][..., None, None]
        )
        self.calls.append((len(images), images.requires_grad))
        return images.sin()


def end_to_end(source, loss):
    """Images and gradients of a loss of all images, by one graph."""
    leaves = {name: param.clone().requires_grad_() for name, param in source.params.items()}
    images = SPACE.encode(source.render(leaves))
    gradients = torch.autograd.grad(loss(images), list(leaves.values()))
    return images.detach(), dict(zip(leaves, gradients, strict=True))


def entangled(images):
    """A loss that depends on all images together."""
    return (images.mean(0) ** 2).sum() + (images[0] * images[-1]).sum() + images.square().mean().exp()


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("chunk", [1, 4, 5, N, 100])
def test_gradient_pulled_back_in_chunks_is_the_end_to_end_one(chunk, dtype, within):
    source = Painter(chunk, dtype)
    images, expected = end_to_end(source, entangled)
    x = Rendered(source, SPACE, CLASSES, IPC)
    torch.testing.assert_close(x.images, images)
    leaf = x.leaf(slice(None))
    x.add(slice(None), torch.autograd.grad(entangled(leaf), leaf)[0])
    x.pull_back()
    for name, param in x.params.items():
        largest = expected[name].abs().max()
        assert (param.grad - expected[name]).abs().max() < within * largest


def test_gradients_of_one_update_do_not_leak_into_the_next():
    source = Painter(5)
    x = Rendered(source, SPACE, CLASSES, IPC)
    found = []
    for _ in range(2):
        x.add(x.rows(1, 2), torch.ones(IPC, 3, 4, 4, dtype=torch.float64))
        x.pull_back()
        found.append({name: param.grad.clone() for name, param in x.params.items()})
        x.render()
    for name in found[0]:
        assert torch.equal(found[0][name], found[1][name])
        assert found[0][name][x.rows(1, 2)].abs().sum() > 0
        assert found[0][name][x.rows(0, 1)].abs().sum() == 0


def test_no_more_than_a_chunk_is_rendered_at_once():
    source = Painter(5)
    x = Rendered(source, SPACE, CLASSES, IPC)
    x.pull_back()
    x.render()
    sizes = [5, 5, 2]
    assert source.calls == [(n, graph) for graph in (False, True, False) for n in sizes]


def test_images_follow_what_the_optimiser_moved():
    source = Painter(5)
    x = Rendered(source, SPACE, CLASSES, IPC)
    images = x.images
    before = images.clone()
    x.params["hue"][0] += 1
    x.render()
    assert x.images is images
    assert not torch.equal(images[0], before[0])
    assert torch.equal(images[1:], before[1:])
    torch.testing.assert_close(images, SPACE.encode(source.render(source.params)))


def test_a_parameter_that_images_do_not_depend_on_gets_zeros():
    source = Painter(5)
    source.params["unread"] = randn(N, 7)
    x = Rendered(source, SPACE, CLASSES, IPC)
    x.add(slice(None), torch.ones_like(x.images))
    x.pull_back()
    assert torch.equal(x.params["unread"].grad, torch.zeros(N, 7, dtype=torch.float64))
    assert x.params["hue"].grad.abs().sum() > 0


def test_pixels_are_moved_themselves():
    start = randn(N, 3, 4, 4)
    x = Synthetic(start, CLASSES, IPC)
    assert x.labels.tolist() == [0] * IPC + [1] * IPC + [2] * IPC
    leaf = x.leaf(x.rows(1, 3))
    assert leaf.requires_grad
    assert torch.equal(leaf.detach(), start[IPC:])
    x.add(x.rows(1, 3), torch.ones_like(leaf))
    x.add(x.rows(2, 3), torch.ones_like(leaf[:IPC]))
    x.pull_back()
    torch.optim.SGD(list(x.params.values()), lr=1.0).step()
    moved = (start - x.images).unflatten(0, (CLASSES, IPC))
    torch.testing.assert_close(moved.mean((1, 2, 3, 4)), torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
    x.render()
    assert x.gradient.abs().sum() == 0
