"""Operation counts: against PyTorch's own counter, and what is shortened against the whole."""

import pytest
import torch
from small import cell, dataset
from test_plugged import NETWORKS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from baselines.defaults.generator import GeneratorSettings
from bench.cells import AUXILIARY, PretrainCell
from bench.measuring import standins
from bench.measuring.operations import Counted, Operations, Work
from bench.memory import to_fake
from bench.networks.build import build, parameters_count
from bench.seeds import forked
from bench.stages.distill import Distillation
from bench.training import recipes
from metadd import CAM

pytestmark = pytest.mark.usefixtures("one_thread", "quick_collections")

CPU = torch.device("cpu")
DATA = dataset()


class Given:
    """What cells use, as :class:`bench.measuring.standins.StandIns` gives it."""

    def __init__(self):
        with forked("test operations"):
            self.cams = {AUXILIARY + name: CAM(build(name, 3, 16), 16) for name in NETWORKS}
        self.experts = standins.Vectors(1, parameters_count("convnet@w8", 3, 16))

    def used(self, made, mode):
        found = {"experts": self.experts} if made.method == "mtt" else {}
        if made.plugin["name"] != "none":
            found |= {name: to_fake(mode, one) for name, one in self.cams.items()}
        return found


@pytest.fixture(scope="module")
def given():
    return Given()


@pytest.fixture
def operations(given):
    return Operations(given, {cell(DATA, "dm").dataset: DATA})


def whole(made, given, counter=Counted):
    """The work of one iteration as it is run, on fake tensors; or what another counter says."""
    mode = FakeTensorMode()
    used = given.used(made, mode)
    with mode:
        job = Distillation(made, DATA, CPU, used)
        with counter() as counted:
            for _ in job.updates():
                pass
    return counted.work if counter is Counted else counted.get_total_flops()


def test_a_matrix_product_is_two_operations_for_each_of_its_terms():
    with Counted() as counted:
        product = torch.zeros(3, 5) @ torch.zeros(5, 7)
        product.view(7, 3)  # starts nothing
    assert counted.work == Work(2 * 3 * 5 * 7, 3)


SHORT = {
    "dm": {"batch_real": 4},
    "dc": {"batch_real": 4, "outer": 3, "inner": 5},
    "dsa": {"batch_real": 4, "outer": 3, "inner": 4, "batch_train": 4},
    "mtt": {
        "syn_steps": 7,
        "max_start_epoch": 2,
        "expert_epochs": 1,
        "augment": "none",
        "pixels": "normalised",
    },
}


@pytest.mark.parametrize("method", SHORT)
def test_what_is_shortened_counts_as_the_whole(operations, given, method):
    made = cell(DATA, method, iterations=2, **SHORT[method])
    short, full = operations.iteration(made), whole(made, given)
    assert short.operations == pytest.approx(full.operations, rel=1e-12)
    if method in ("dm", "dsa"):  # PyTorch's own counter cannot follow the others' gradients of gradients
        counted = whole(made, given, lambda: FlopCounterMode(display=False))
        assert short.operations == pytest.approx(counted, rel=1e-12)
    assert short.operators == pytest.approx(full.operators, rel=0.15)  # augmentation draws its operations


def test_a_chunk_of_classes_takes_what_its_classes_take_with_fewer_operators(operations, given):
    one, all_three = (
        operations.iteration(cell(DATA, "dc", chunk=chunk, iterations=2, batch_real=12)) for chunk in (1, 3)
    )
    assert all_three.operations == one.operations
    assert all_three.operators < 0.7 * one.operators


def test_mtt_with_batches_of_two_sizes_is_not_shortened(operations, given):
    made = cell(DATA, "mtt", iterations=2, **SHORT["mtt"], batch_syn=4)
    assert operations.iteration(made) == whole(made, given)


@pytest.mark.parametrize("settings", [{}, {"every": 2}, {"images_per_update": 4}, {"chunk": 2}])
def test_the_plug_in_s_share_comes_on_top(operations, given, settings):
    networks = {"networks": NETWORKS}
    made = cell(DATA, "dm", plugin={**networks, **settings}, iterations=2, batch_real=4)
    plain = operations.iteration(cell(DATA, "dm", iterations=2, batch_real=4))
    found = operations.iteration(made) - plain
    added = whole(made, given) - plain  # of the first update, which has the plug-in's turn
    assert found.operations * settings.get("every", 1) == pytest.approx(added.operations, rel=1e-9)


@pytest.mark.parametrize("network", ["convnet@w8", "resnet18@w4", "vit_tiny@w32"])
def test_training_grows_with_the_images_of_a_step(operations, network):
    about = cell(DATA, "dm").dataset
    recipe = recipes.resolve("dc", {"epochs": 3}, 16)
    step, forward = operations.training(network, recipe, about)
    net, images = build(network, 3, 16), torch.zeros(7, 3, 16, 16)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        torch.nn.functional.cross_entropy(net(images), torch.zeros(7, dtype=torch.int64)).backward()
    assert step.operations * 7 == pytest.approx(counter.get_total_flops(), rel=1e-9)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        net.eval()(images)
    assert forward.operations * 7 == pytest.approx(counter.get_total_flops(), rel=1e-9)
    assert 0 < forward.operators < step.operators


def test_a_generator_s_penalty_is_due_now_and_then(operations):
    about = cell(DATA, "dm").dataset
    settings = {"width": 4, "latent": 4, "dim": 8, "batch": 4, "r1_every": 4}

    def step(**more):
        values = GeneratorSettings.model_validate({**settings, **more}).model_dump(mode="json")
        return operations.generator_step(PretrainCell(about, "generator", values, 0, {}))

    without, always, now_and_then = step(r1=0.0), step(r1_every=1), step()
    assert now_and_then.operations == pytest.approx(0.75 * without.operations + 0.25 * always.operations)


def test_seeds_and_parts_are_counted_once(operations, monkeypatch):
    made = cell(DATA, "dm", iterations=2, batch_real=4)
    first = operations.iteration(made)
    monkeypatch.setattr(Operations, "_job", None)
    assert operations.iteration(cell(DATA, "dm", iterations=2, batch_real=4, seed=3)) == first
