import gc

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from bench.augment import DSA, OPS, Draw
from bench.memory import LiveBytes, device_peak, real_tensors, reset_peak, to_fake

pytestmark = pytest.mark.usefixtures("quick_collections")


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GroupNorm(8, 8),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.GroupNorm(8, 8),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 16, 10),
    )


def batch(n):
    return torch.randn(n, 3, 16, 16), torch.arange(n) % 10


# Small programs, peaks by hand (float32: 4 bytes).


def test_a_birth_and_a_death():
    with LiveBytes() as live:
        a = torch.zeros(1000)
        assert (live.current, live.peak) == (4000, 4000)
        b = a + 1
        assert live.current == 8000
        del a
        assert live.current == 4000
        del b
        assert (live.current, live.peak, live.held_bytes) == (0, 8000, 0)
    assert live.peak == 8000


def test_temporaries():
    with LiveBytes() as live:
        a = torch.zeros(1000)
        b = (a + 1).mul(2).sum()  # a, a + 1 and its double at once
    assert (live.peak, live.current) == (12000, 4004)
    assert b == 2000


def test_views_and_in_place_results_add_nothing():
    with LiveBytes() as live:
        a = torch.zeros(1000)
        b = a.view(10, 100)[2:4].t()
        a.add_(1).mul_(2)
        torch.add(a, 1, out=a)
        del a
        assert live.current == 4000  # the view keeps all of it
        del b
    assert (live.peak, live.current) == (4000, 0)


def test_a_resized_storage_counts_its_bytes_of_the_time():
    with LiveBytes() as live:
        a = torch.zeros(10)
        a.resize_(1000)
        assert live.current == 4000
        a.untyped_storage().resize_(0)
        a.detach()
    assert (live.peak, live.current) == (4000, 0)


def test_saved_tensors_are_freed_by_backward():
    w = torch.ones(1000, requires_grad=True)
    with LiveBytes(held=[w]) as live:
        loss = w.exp().exp().sum()  # both results are saved
        assert live.current == 4000 * 3 + 4
        loss.backward()
        assert live.current == 4000 * 2 + 4  # w, its gradient, the loss
    assert live.held_bytes == 4000


def test_held_counts_once_and_from_the_start():
    net = nn.Linear(10, 10, bias=False)
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(1, 10)).sum().backward()
    opt.step()
    x = torch.zeros(100)
    with LiveBytes(held=[net, opt, {"x": x, "view": x[:3]}, None]) as live:
        assert live.held_bytes == live.current == live.peak == 3 * 400 + 400
        del x
        assert live.current == 3 * 400
        torch.zeros(10)
    assert live.peak == 4 * 400


def test_a_tensor_from_before_counts_when_first_read():
    x = torch.zeros(100)
    with LiveBytes() as live:
        assert live.current == 0
        x.sum()
    assert (live.peak, live.current) == (404, 400)


def test_what_holds_tensors_unseen_is_refused():
    with pytest.raises(TypeError, match="tensors of a object"):
        LiveBytes(held=[object()]).__enter__()
    assert gc.isenabled()


def test_cycles_do_not_make_the_peak_depend_on_the_collector():
    def peak():
        with LiveBytes() as live:
            for _ in range(5):
                cycle = [torch.zeros(100)]
                cycle.append(cycle)
                [[] for _ in range(3000)]  # enough objects for a collection
        return live.peak

    assert peak() == peak() == 2000


def test_nothing_is_left_behind_after_an_exception():
    live = LiveBytes()
    a = b = None

    def fail():
        nonlocal a
        with live:
            a = torch.zeros(100)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert gc.isenabled()
    assert _get_current_dispatch_mode_stack() == []
    assert live.peak == 400
    b = torch.zeros(1000)
    del a, b
    assert (live.peak, live.current) == (400, 400)  # as it was at exit
    with pytest.raises(RuntimeError, match="once"), live:
        pass


def test_nested_counters():
    with LiveBytes() as outer:
        a = torch.zeros(100)
        with LiveBytes() as inner:
            b = torch.zeros(10)
        assert not gc.isenabled()
        assert inner.peak == 40
        del b
        assert (outer.current, outer.peak) == (400, 440)
        del a
    assert gc.isenabled()


# The same bytes on fake tensors.


def infer(net, x, y):
    with torch.no_grad():
        return net(x).argmax(1)


def train(net, x, y):
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(2):
        opt.zero_grad()
        cross_entropy(net(x), y).backward()
        opt.step()


def accumulate(net, x, y):
    for rows in (slice(0, 8), slice(8, 16)):
        cross_entropy(net(x[rows]), y[rows]).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)


def match_gradients(net, x, y):
    weights = list(net.parameters())
    images = x[:4].clone().requires_grad_()
    real = torch.autograd.grad(cross_entropy(net(x), y), weights)
    ours = torch.autograd.grad(cross_entropy(net(images), y[:4]), weights, create_graph=True)
    loss = sum(
        1 - cosine_similarity(a.flatten(1), b.flatten(1)).sum()
        for a, b in zip(real, ours, strict=True)
        if a.ndim > 1
    )
    images.grad = torch.autograd.grad(loss, images)[0]
    return images


def unroll(net, x, y):
    images, rate = x[:4].clone().requires_grad_(), torch.tensor(0.1, requires_grad=True)
    weights = {name: w.detach().requires_grad_() for name, w in net.named_parameters()}
    for _ in range(2):
        loss = cross_entropy(torch.func.functional_call(net, weights, (images,)), y[:4])
        steps = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {name: w - rate * g for (name, w), g in zip(weights.items(), steps, strict=True)}
    return torch.autograd.grad(sum(w.square().sum() for w in weights.values()), [images, rate])


def live_bytes(program, *held):
    with LiveBytes(held=held) as live:
        result = program(*held)
        at_end = live.current
    del result
    return live.held_bytes, live.peak, at_end


@pytest.mark.parametrize(
    ("program", "norm"),
    [(p, "group") for p in (infer, train, accumulate, match_gradients, unroll)] + [(train, "batch")],
)
def test_fake_tensors_count_the_same_bytes(program, norm):
    net, (x, y) = network(), batch(16)
    if norm == "batch":
        net[1], net[5] = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
    mode = FakeTensorMode()
    fakes = to_fake(mode, [net, x, y])
    with mode:
        fake = live_bytes(program, *fakes)
    real = live_bytes(program, net, x, y)
    assert fake == real
    net.zero_grad()
    assert live_bytes(program, net, x, y) == real


@pytest.mark.parametrize("op", [*OPS, "siamese"])
def test_fake_tensors_count_the_same_bytes_under_augmentation(op):
    dsa, rng = DSA(16), np.random.default_rng(0)
    draw = dsa.draw_siamese(rng, 8) if op == "siamese" else DSA(16, (op,)).draw_batch(rng, 8)
    assert isinstance(draw, Draw)
    net, images = network(), torch.randn(8, 5, 3, 16, 16, requires_grad=True)

    def program(net, images):
        loss = net(dsa.apply(images, draw).flatten(0, 1)).square().sum()
        return torch.autograd.grad(loss, images)

    mode = FakeTensorMode()
    fakes = to_fake(mode, [net, images])
    with mode:
        fake = live_bytes(program, *fakes)
    assert fake == live_bytes(program, net, images)


def test_the_order_of_the_modes_does_not_matter():
    def program():
        return torch.zeros(100).add(1).softmax(0)

    with FakeTensorMode(), LiveBytes() as inner:
        program()
    with LiveBytes() as outer, FakeTensorMode():
        program()
    with LiveBytes() as real:
        program()
    assert inner.peak == outer.peak == real.peak > 0


def test_near_what_pytorch_counts():
    tracker = pytest.importorskip("torch.distributed._tools.mem_tracker")
    net, (x, y) = network(), batch(16)
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def step():
        opt.zero_grad()
        cross_entropy(net(x), y).backward()
        opt.step()

    step()
    with LiveBytes(held=[net, opt, x, y]) as live:
        step()
    theirs = tracker.MemTracker()
    theirs.track_external(net, opt, x, y)
    with theirs:
        step()
    peak = theirs.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert live.peak == pytest.approx(peak, rel=0.01)


# Conversion.


def test_to_fake_copies_and_keeps_ties():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    net[1].weight = net[0].weight
    net[0].bias.requires_grad_(False)
    net[0].bias.grad = torch.ones(4)
    net[1].extra = base = torch.zeros(10)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    mode = FakeTensorMode()
    fake, fake_opt, view = to_fake(mode, [net, opt, base[2:5]])
    assert type(net[0].weight) is nn.Parameter  # the original is as it was
    assert all(isinstance(t, FakeTensor) for t in [*fake.parameters(), *fake.buffers(), fake[1].extra])
    assert all(isinstance(p, nn.Parameter) for p in fake.parameters())
    assert [p.requires_grad for p in fake.parameters()] == [p.requires_grad for p in net.parameters()]
    assert fake[1].weight is fake[0].weight
    assert isinstance(fake[0].bias.grad, FakeTensor)
    assert fake[1].extra.untyped_storage() is view.untyped_storage()
    assert to_fake(mode, base) is fake[1].extra
    assert fake_opt.param_groups[0]["params"][0] is fake[0].weight
    with mode:
        fake(torch.zeros(2, 4)).sum().backward()
        fake_opt.step()
    assert net[0].weight.grad is None


def test_real_tensors_inside_a_fake_run_count_once_converted():
    def program():
        with real_tensors() as mode:
            net = nn.Linear(100, 100)
            assert type(net.weight.data) is torch.Tensor
        if mode is not None:
            net = to_fake(mode, net)
        current = live.current
        return net(torch.ones(2, 100)), current

    with FakeTensorMode(), LiveBytes() as live:
        out, current = program()
        assert isinstance(out, FakeTensor)
        fake = live.peak, current
    with LiveBytes() as live:
        out, current = program()
        assert (live.peak, current) == fake
    assert current == 40400


@pytest.mark.gpu
def test_device_peak():
    device = torch.device("cuda")
    reset_peak(device)
    before = device_peak(device)["allocated"]
    a = torch.zeros(1 << 20, device=device)
    del a
    peak = device_peak(device)
    assert peak["allocated"] - before == 4 << 20
    assert peak["reserved"] >= peak["allocated"]
