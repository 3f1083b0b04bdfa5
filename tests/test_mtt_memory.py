"""The live-byte peak of MTT's updates: fake tensors agree with real ones; the adjoint's graph stays small."""

from pathlib import Path

import pytest
import torch
from small import cell, dataset
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.measuring import standins
from bench.networks.build import parameters_count
from bench.stages.distill import count_live_bytes
from bench.training import experts

pytestmark = pytest.mark.usefixtures("one_thread", "quick_collections")

CPU = torch.device("cpu")
PAGE = Path(__file__).resolve().parent.parent / "docs" / "mtt-memory.md"


class Even:
    """Experts whose parameters are all the same number; their values are nothing to memory."""

    def __init__(self, parameters):
        self.count = parameters

    def __len__(self):
        return 2

    def parameters(self, expert, epoch):
        return torch.full((self.count,), 0.01 * (epoch + 1))


def fake_peak(data, network, **settings):
    """The peak of two updates on fake tensors."""
    count = parameters_count(network, len(data.classes), data.size)
    this = cell(data, "mtt", network=network, **{"pixels": "normalised", **settings})
    with FakeTensorMode():
        return count_live_bytes(this, data, CPU, {"experts": Even(count)})


@pytest.fixture(scope="module")
def digits_like():
    return dataset(classes=10, size=16, per_class=10, spec="digits")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Two experts on disk of ``convnet@w8``, and of its form with batch norm: it has as many parameters."""
    paths = [tmp_path_factory.mktemp("experts") / f"{expert}.safetensors" for expert in range(2)]
    count = parameters_count("convnet@w8", 10, 16)
    assert count == parameters_count("convnet@w8@bn", 10, 16)
    generator = torch.Generator().manual_seed(0)
    for path in paths:
        experts.write(path, 0.05 * torch.randn(5, count, generator=generator), {})
    return experts.StoredExperts(paths, CPU)


def small_cell(data, **settings):
    small = {"network": "convnet@w8", "ipc": 2, "syn_steps": 3, "max_start_epoch": 3, **settings}
    return cell(data, "mtt", pixels="normalised", **small)


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient": "adjoint"},
        {"gradient": "unrolled"},
        {"gradient": "adjoint", "batch_syn": 8, "chunk": 3},
        {"gradient": "unrolled", "batch_syn": 8, "augment": "none", "iterations": 1},
        {"gradient": "adjoint", "network": "convnet@w8@bn"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_fake_tensors_give_the_same_peak(digits_like, stored, settings):
    this = small_cell(digits_like, **settings)
    real = count_live_bytes(this, digits_like, CPU, {"experts": stored})
    with FakeTensorMode():
        fake = count_live_bytes(this, digits_like, CPU, {"experts": stored})
    assert real == fake > 4 * 4 * parameters_count("convnet@w8", 10, 16)


def test_the_adjoint_keeps_one_vector_a_step_and_no_more(digits_like):
    """From 5 to 50 steps: N + 1 vectors of parameters; what is beside them grows by at most a hundredth."""
    count, beside = parameters_count("convnet@w16", 10, 16), []
    for steps in (5, 50):
        this = small_cell(digits_like, network="convnet@w16", syn_steps=steps, iterations=1)
        peak = count_live_bytes(this, digits_like, CPU, {"experts": Even(count)})
        beside.append(peak - 4 * count * (steps + 1))
    assert fake_peak(digits_like, "convnet@w16", ipc=2, max_start_epoch=3, syn_steps=5, iterations=1) == (
        beside[0] + 6 * 4 * count
    )
    assert 0 < beside[1] <= 1.01 * beside[0]


def test_the_whole_graph_grows_with_the_steps(digits_like):
    few, many = (
        fake_peak(digits_like, "convnet@w16@d1", ipc=2, syn_steps=n, iterations=1, gradient="unrolled")
        for n in (2, 10)
    )
    assert many > 3 * few


def test_a_chunk_s_graph_takes_less_than_a_batch_s(digits_like):
    whole, chunked = (
        fake_peak(digits_like, "convnet@w16@d1", ipc=5, syn_steps=2, iterations=1, chunk=chunk)
        for chunk in (None, 10)
    )
    assert chunked < 0.5 * whole


# The page: authors' settings, ConvNet of width 128, normalised pixels.

SETTINGS = {
    "CIFAR-10, IPC 1": ("cifar10", 1),
    "CIFAR-10, IPC 10": ("cifar10", 10),
    "CIFAR-10, IPC 50": ("cifar10", 50),
    "CIFAR-100, IPC 10": ("cifar100", 10),
    "Tiny-ImageNet, IPC 1": ("tiny-imagenet", 1),
    "Tiny-ImageNet, IPC 10": ("tiny-imagenet", 10),
    "Tiny-ImageNet, IPC 50": ("tiny-imagenet", 50),
}
GRADIENTS = ({"gradient": "unrolled"}, {}, {"chunk": 50})


def row(name):
    """The page's row of a setting, counted."""
    spec, ipc = SETTINGS[name]
    data = standins.dataset(standins.identify(spec))
    settings = cell(data, "mtt", network="convnet", ipc=ipc).settings
    peaks = [fake_peak(data, "convnet", ipc=ipc, **how) for how in GRADIENTS]
    mib = [f"{peak / 2**20:,.0f}" for peak in peaks]
    saved = f"{peaks[0] / peaks[1]:.1f}"
    shape = len(data.classes), data.size
    vectors = 4 * parameters_count("convnet", *shape) * (settings["syn_steps"] + 1) / 2**20
    batch = settings["batch_syn"] or len(data.classes) * ipc
    cells = (name, settings["syn_steps"], batch, mib[0], mib[1], saved, f"{vectors:,.0f}", mib[2])
    return f"| {' | '.join(map(str, cells))} |"


def test_the_page_has_these_rows():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and ", IPC" in line]
    assert [line.split(" | ")[0].removeprefix("| ") for line in rows] == list(SETTINGS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_the_page_says_what_is_counted(name):
    assert row(name) in PAGE.read_text().splitlines()
