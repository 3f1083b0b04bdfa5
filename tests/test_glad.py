"""GLaD: what it starts from, which learning rate moves what, and its distillations under each method."""

import numpy as np
import pytest
import torch
from small import cell, dataset
from torch.nn.utils import parameters_to_vector
from torch.optim.lr_scheduler import CosineAnnealingLR

from baselines.generators.base import Generator
from baselines.generators.compact import CompactGenerator
from baselines.glad import GLaD, Latents, noise_like, tame
from bench.errors import CellFailure
from bench.networks.build import build
from bench.pixels import space
from bench.real import RealImages
from bench.seeds import forked, rng
from bench.stages.distill import Distillation

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
UNDER = ("glad", "glad(dc)", "glad(mtt)", "glad(sre2l)")
#: What makes each of them quick.
QUICK = {
    "glad": {"batch_real": 5},
    "glad(dc)": {"batch_real": 5},
    "glad(mtt)": {"syn_steps": 3},
    "glad(sre2l)": {},
}


def compact(classes=3, size=16, width=8, seed=0):
    with forked("test generator", seed):
        generator = CompactGenerator(classes, size, width, latent=6, dim=10, mapping_layers=2)
    return generator.eval().requires_grad_(False)


class Trajectory:
    """One expert: a network in training on all real images, kept at the start and after each of 8 epochs."""

    def __init__(self, data, network):
        with forked("test expert"):
            net = build(network, len(data.classes), data.size)
        real = RealImages(data.train, space("normalised", data.mean, data.std), CPU)
        images, sgd = real.batch(np.arange(len(real))), torch.optim.SGD(net.parameters(), lr=0.05)
        kept = [parameters_to_vector(net.parameters()).detach()]
        for _ in range(8):
            for _ in range(4):
                sgd.zero_grad()
                torch.nn.functional.cross_entropy(net(images), real.labels).backward()
                sgd.step()
            kept.append(parameters_to_vector(net.parameters()).detach())
        self.kept = torch.stack(kept)

    def __len__(self):
        return 1

    def parameters(self, expert, epoch):
        return self.kept[epoch]


def artifacts(data, generator=None, network="convnet@w8"):
    """All that any of the methods needs."""
    classes = len(data.classes)
    with forked("test teacher"):
        teacher = build("convnet@w8@bn", classes, data.size).eval().requires_grad_(False)
    return {
        "generator": generator or compact(classes, data.size),
        "experts": Trajectory(data, network),
        "teacher": teacher,
    }


def distillation(data, method="glad", generator=None, iterations=5, ipc=1, seed=0, inner=None, **settings):
    how = {"iterations": iterations, "inner": {**QUICK[method], **(inner or {})}, **settings}
    made = cell(data, method, ipc=ipc, seed=seed, **how)
    return Distillation(made, data, CPU, artifacts(data, generator))


# What it starts from.


def test_latents_are_the_mapped_normals_of_the_stream_and_features_their_forward():
    data, generator = dataset(classes=3, size=16), compact()
    job = distillation(data, generator=generator, ipc=4, seed=7, layer=2, chunk=5)
    z = rng("initial latents", 7, 0, 0).standard_normal((12, 6), np.float32)
    labels = torch.arange(3).repeat_interleave(4)
    w = generator.mapping(torch.from_numpy(z), labels)
    assert torch.equal(job.params["latents"], w)
    f = generator.features(w, 2)
    torch.testing.assert_close(job.params["features"], f.clamp(-10, 10))
    unit = job.space.decode(job.x.images)
    torch.testing.assert_close(unit, generator(torch.from_numpy(z), labels), rtol=1e-4, atol=1e-5)
    assert job.x.labels.tolist() == labels.tolist()


def test_the_seed_decides_what_it_starts_from_and_the_class_is_part_of_it():
    data = dataset(classes=3, size=16)
    first, again, other = (distillation(data, ipc=2, seed=seed).params for seed in (0, 0, 1))
    for name in ("latents", "features"):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
    generator = compact()
    z = rng("initial latents", 0, 0, 0).standard_normal((6, 6), np.float32)
    as_if_one_class = generator.mapping(torch.from_numpy(z), torch.zeros(6, dtype=torch.int64))
    differs = (first["latents"] != as_if_one_class).flatten(1).any(1)
    assert differs.tolist() == [False, False, True, True, True, True]


def test_average_styles_are_the_mean_of_a_thousand():
    data, generator = dataset(classes=3, size=16), compact()
    job = distillation(data, generator=generator, average_w=True)
    for label in range(3):
        z = rng("averaged latents", 0, 0, 0, label).standard_normal((1000, 6), np.float32)
        w = generator.mapping(torch.from_numpy(z), torch.full((1000,), label)).double()
        torch.testing.assert_close(job.params["latents"][label].double(), w.mean(0), rtol=1e-4, atol=1e-6)


def test_random_features_have_each_image_s_mean_and_deviation():
    data = dataset(classes=3, size=16)
    plain, random = (distillation(data, ipc=2, random_features=r, layer=4).params for r in (False, True))
    assert torch.equal(plain["latents"], random["latents"])
    features, noise = plain["features"], random["features"]
    assert features.shape == noise.shape
    assert not torch.equal(features, noise)
    for i in range(6):
        numbers = features[i].numel()
        of = features[i].std().item() / numbers**0.5
        assert noise[i].mean().item() == pytest.approx(features[i].mean().item(), abs=5 * of)
        assert noise[i].std().item() == pytest.approx(features[i].std().item(), rel=5 / numbers**0.5)
    again = distillation(data, ipc=2, random_features=True, layer=4).params
    assert torch.equal(again["features"], noise)


def test_noise_takes_the_literal_mean_and_deviation():
    features = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
    noise = torch.tensor([[[[0.0, 1.0], [-1.0, 2.0]]]])
    deviation = (20 / 3) ** 0.5  # unbiased, as torch.std in glad_utils.py
    assert noise_like(features, noise).flatten().tolist() == pytest.approx(
        [4, 4 + deviation, 4 - deviation, 4 + 2 * deviation]
    )


def test_features_start_finite_and_limited():
    wild = torch.tensor([np.nan, np.inf, -np.inf, 3.0, 11.0, -1e30])
    assert tame(wild).tolist() == [0, 5, -5, 3, 10, -10]


def test_a_generator_that_overflows_still_starts_finite():
    generator = compact()
    generator.chain[0].bias[0] = torch.inf
    generator.chain[0].bias[1] = 1e20
    job = distillation(dataset(classes=3, size=16), generator=generator, layer=1)
    features = job.params["features"]
    assert features.isfinite().all()
    assert features[:, 0].unique().tolist() == [5]
    assert features[:, 1].unique().tolist() == [10]


# Which classes, which generator.


def test_classes_of_a_generator_can_be_named():
    data, generator = dataset(classes=3, size=16), compact(classes=8)
    named = distillation(data, generator=generator, generator_classes=[6, 0, 7]).params["latents"]
    z = rng("initial latents", 0, 0, 0).standard_normal((3, 6), np.float32)
    assert torch.equal(named, generator.mapping(torch.from_numpy(z), torch.tensor([6, 0, 7])))


@pytest.mark.parametrize(
    ("generator", "settings", "message"),
    [
        ({"classes": 8}, {}, "knows 8 classes and cifar10 has 3"),
        ({"classes": 8}, {"generator_classes": [1, 2]}, "generator_classes"),
        ({"classes": 8}, {"generator_classes": [1, 2, 8]}, "generator_classes"),
        ({"size": 32}, {}, "32 pixels, not of 16"),
        ({}, {"layer": 7}, "only 6 layers"),
    ],
)
def test_a_generator_that_does_not_fit_is_refused(generator, settings, message):
    with pytest.raises(CellFailure, match=message):
        distillation(dataset(classes=3, size=16), generator=compact(**generator), **settings)


# One update.


@pytest.mark.parametrize("layer", [0, 2, 5, 6])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_the_gradient_in_chunks_is_the_end_to_end_one(layer, chunk):
    """Of the pixels' gradient that DM leaves: through the generator at once, in float32, to 1e-5."""
    data, generator = dataset(classes=3, size=16), compact()
    job = distillation(data, generator=generator, ipc=2, layer=layer, chunk=chunk)
    leaves = {name: param.clone().requires_grad_() for name, param in job.params.items()}
    images = job.space.encode(generator.images(leaves["features"], leaves["latents"], layer))
    list(job.method.iteration(0, job.x, job.tools.at(0)))
    assert job.x.gradient.abs().max() > 0
    expected = torch.autograd.grad(images, list(leaves.values()), job.x.gradient, materialize_grads=True)
    job.x.pull_back()
    for param, gradient in zip(job.params.values(), expected, strict=True):
        assert (param.grad - gradient).abs().max() <= 1e-5 * gradient.abs().max()
    assert job.params["features"].grad.abs().max() > 0
    dead, alive = job.params["latents"].grad.split([layer, 6 - layer], 1)
    assert not dead.any()
    assert layer == 6 or alive.abs().amax((0, 2)).min() > 0


def test_each_learning_rate_reaches_what_it_is_for():
    """SGD's first step is the gradient times the learning rate: of one, then of the other."""
    data = dataset(classes=3, size=16)
    for moved, rates in (
        ("latents", {"lr_w": 0.5, "lr_f": 1e-30}),
        ("features", {"lr_w": 1e-30, "lr_f": 2.0}),
    ):
        job = distillation(data, **rates)
        before = {name: param.clone() for name, param in job.params.items()}
        job.iterate()
        for name, param in job.params.items():
            rate = rates["lr_w" if name == "latents" else "lr_f"]
            step = rate * param.grad if name == moved else torch.zeros_like(param)
            torch.testing.assert_close(param, before[name] - step, rtol=1e-5, atol=1e-12)
        assert not torch.equal(before[moved], job.params[moved])


@pytest.mark.parametrize(
    ("method", "lr_w", "lr_f"),
    [("glad", 0.01, 10), ("glad(dc)", 0.001, 1), ("glad(mtt)", 10, 10_000), ("glad(sre2l)", 0.01, 0.1)],
)
def test_optimisers_have_two_groups_and_leave_extras_to_the_inner_method(method, lr_w, lr_f):
    job = distillation(dataset(classes=3, size=16), method)
    first, *others = job.optimisers.optimisers
    found = [(group["params"], group["lr"]) for group in first.param_groups]
    assert found == [([job.params["latents"]], lr_w), ([job.params["features"]], lr_f)]
    if method == "glad(sre2l)":
        assert [group["betas"] for group in first.param_groups] == [(0.5, 0.9)] * 2
        (schedule,) = job.optimisers.schedules
        assert isinstance(schedule, CosineAnnealingLR)
        assert (schedule.T_max, schedule.optimizer) == (job.iterations, first)
    else:
        assert [group["momentum"] for group in first.param_groups] == [0.5] * 2
        assert not job.optimisers.schedules
    if method == "glad(mtt)":
        ((group,),) = (optimiser.param_groups for optimiser in others)
        assert group["params"] == [job.params["step_size"]]
        assert group["lr"] == 1e-6
    else:
        assert not others


def test_it_asks_the_inner_method():
    job = distillation(dataset(classes=3, size=16), "glad(mtt)")
    assert job.method.extras()["step_size"].item() == pytest.approx(0.01)
    assert "step size became -1" in job.method.trouble({"step_size": -1.0})
    assert job.method.trouble({"step_size": 0.01}) is None


# Through the harness.


def bits(job):
    return [job.x.images.clone(), *(param.clone() for param in job.params.values())]


@pytest.mark.parametrize("method", UNDER)
def test_the_same_seed_gives_the_same_bits_and_a_cut_run_too(method, tmp_path):
    data = dataset(classes=3, size=16)
    whole, again, other, first = (distillation(data, method, seed=seed) for seed in (0, 0, 1, 0))
    for job in (whole, again, other):
        for _ in range(5):
            job.iterate()
    for _ in range(2):
        first.iterate()
    torch.save(first.state(), tmp_path / "state.pt")
    second = distillation(data, method)
    second.take_up(torch.load(tmp_path / "state.pt"))
    while second.iterations_done < 5:
        second.iterate()
    for job in (again, second):
        assert all(torch.equal(a, b) for a, b in zip(bits(whole), bits(job), strict=True))
        job.record.observe()
    assert second.record.losses == again.record.losses
    assert not torch.equal(whole.x.images, other.x.images)
    assert whole.x.images.isfinite().all()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("glad", {"lr_f": 1.0}),
        ("glad(dc)", {"lr_f": 0.1}),
        ("glad(mtt)", {"lr_f": 100.0, "lr_w": 0.1}),
        ("glad(sre2l)", {}),
    ],
)
def test_the_loss_falls(method, settings):
    data = dataset(classes=3, size=16, per_class=30)
    job = distillation(data, method, iterations=40, **settings)
    for _ in range(40):
        job.iterate()
    job.record.observe()
    losses = job.record.losses
    assert np.mean(losses[-10:]) < 0.95 * np.mean(losses[:5])


def test_sre2l_s_clamp_leaves_latents_alone():
    job = distillation(dataset(classes=3, size=16), "glad(sre2l)")
    job.params["features"][0] += 100
    before = [param.clone() for param in job.params.values()]
    job.method.project(job.params, job.tools)
    assert all(torch.equal(a, b) for a, b in zip(before, job.params.values(), strict=True))


def test_its_images_are_those_of_its_generator_s_range():
    """After updates too: what is stored is what the latents render to."""
    data, generator = dataset(classes=3, size=16), compact()
    job = distillation(data, generator=generator, ipc=3, chunk=4)
    job.iterate()
    source = Latents(generator, job.method.settings.layer, 4, job.params["latents"], job.params["features"])
    torch.testing.assert_close(job.x.images, job.space.encode(source.render(source.params)))
    assert isinstance(generator, Generator)
    assert isinstance(job.method, GLaD)
