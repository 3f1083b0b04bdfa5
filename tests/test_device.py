"""How cells compute: precision, layout, determinism; in keys only where chosen, in every row as it was."""

import contextlib
import warnings

import pytest
import torch
from command_line import is_one_line, rows, run_here, spec, suite, write_tables
from memory_of_updates import given, made
from small import dataset

from bench import augment, device
from bench.arithmetic import REFERENCE, Arithmetic, arithmetic_of
from bench.cells import DatasetId
from bench.device import computing
from bench.networks.build import build
from bench.plan import Dataset, plan
from bench.seeds import forked
from bench.spec import Spec
from bench.stages.distill import Distillation
from bench.validation import validated
from metadd import CAM, MetaDD

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BF16, LAST = Arithmetic("bf16"), Arithmetic(channels_last=True)


@pytest.fixture(scope="module")
def data():
    return dataset()


# Settings and keys


def planned(**changes):
    """The cells of a suite by kind and method, with and without a generator."""
    about = DatasetId("digits[3]", "0" * 64, 3, 32)
    found = validated(Spec, spec(tiny=suite(**changes)), "test").suites["tiny"]
    return list(plan("tiny", found, lambda name: Dataset(about, name, 100, 30)))


MTT = {"method": "mtt", "settings": {"iterations": 1, "experts": 1, "pixels": "zca"}}
GLAD = {"method": "glad", "settings": {"iterations": 1, "generator": "random"}}
GRID = [MTT, GLAD, {"method": "random"}]


def test_the_default_is_in_no_cell():
    said = planned(grid=GRID, precision="fp32", channels_last=False)
    assert [item.cell.key for item in said] == [item.cell.key for item in planned(grid=GRID)]
    assert not any("arithmetic" in item.cell.value for item in said)


def test_a_suite_s_choice_is_in_what_computes_by_networks():
    for item in planned(grid=GRID, precision="bf16", channels_last=True):
        cell = item.cell
        bare = getattr(cell, "what", None) in ("generator", "zca") or getattr(cell, "method", "") == "random"
        expected = REFERENCE if bare else Arithmetic("bf16", True)
        assert arithmetic_of(cell.value) == expected, item.words


def test_a_grid_entry_s_choice_leaves_what_entries_share():
    cells = [item.cell for item in planned(grid=[MTT, {**MTT, "label": "MTT, bf16", "precision": "bf16"}])]
    kinds = [(cell.kind, arithmetic_of(cell.value).precision) for cell in cells]
    assert kinds.count(("distil", "bf16")) == kinds.count(("distil", "fp32")) == 1
    assert kinds.count(("evaluate", "bf16")) == kinds.count(("evaluate", "fp32")) == 1
    assert {precision for kind, precision in kinds if kind == "pretrain"} == {"fp32"}
    assert kinds.count(("pretrain", "fp32")) == 2  # an expert and ZCA


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Run a suite of these changes on the CPU."""
    monkeypatch.chdir(tmp_path)

    def go(**changes):
        write_tables(tmp_path / "tables.yaml", tiny=suite(**changes))
        return run_here(monkeypatch, capfd, "run", "tiny", "--tables", "tables.yaml", "--device", "cpu")

    return go


def test_rows_say_how_they_were_computed(run, tmp_path):
    assert run(precision="bf16").status == 0
    found = rows(tmp_path)
    assert len(found) == 2
    for row in found:
        assert row["provenance"]["arithmetic"] == {"precision": "bf16", "channels_last": False}
        assert row["cell"]["arithmetic"] == {"precision": "bf16"}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"precision": "tf32"}, ["precision: tf32", "--device cuda"]),
        ({"precision": "fp16"}, ["tiny.precision", "bf16"]),
        ({"channels_last": "yes"}, ["tiny.channels_last"]),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, setting, words):
    is_one_line(run(**setting), *words)
    assert not (tmp_path / "store").exists()


# What it does to a gradient


def first_gradient(data, method, arithmetic, plugin="none"):
    cell = made(data, method, plugin)
    with computing(CPU, arithmetic):
        job = Distillation(cell, data, CPU, given(data, cell, CPU))
        found = []
        pull_back = job.x.pull_back
        job.x.pull_back = lambda: (found.append(job.x.gradient.clone()), pull_back())
        next(job.updates())
    assert all(param.dtype == torch.float32 for param in job.params.values())
    return found[0].flatten()


@pytest.mark.parametrize("method", ["dc", "dsa", "dm", "mtt", "sre2l", "glad"])
def test_bf16_is_near_and_channels_last_the_same(data, method):
    exact = first_gradient(data, method, REFERENCE)
    assert torch.equal(exact, first_gradient(data, method, REFERENCE))
    rounded, laid_out = (first_gradient(data, method, each) for each in (BF16, LAST))
    assert not torch.equal(exact, rounded)
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.95
    assert (exact - laid_out).norm() < 1e-3 * exact.norm()


def plugged(arithmetic, gradient):
    """MetaDD's gradient through networks that are not too narrow to have a map."""
    nets = []
    for name in ("convnet@w32", "vit_tiny@w64"):
        with forked(name):
            nets.append(CAM(build(name, 3, 16), 16, gradient))
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with computing(CPU, arithmetic):
        MetaDD(nets, size=16, mean=(0.5,) * 3, std=(0.2,) * 3).backward(images, torch.arange(6) % 3)
    return images.grad.flatten()


def test_the_plug_in_works_in_bf16():
    exact, rounded, laid_out = (plugged(each, "through") for each in (REFERENCE, BF16, LAST))
    assert not torch.equal(exact, rounded)
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.9
    assert (exact - laid_out).norm() < 1e-3 * exact.norm()


def test_a_network_gives_32_bits_and_64_stay():
    network, images = build("convnet@w8", 3, 16), torch.zeros(1, 3, 16, 16)
    with computing(CPU, BF16):
        assert network(images).dtype == network.embed(images).dtype == torch.float32
    assert network.double()(images.double()).dtype == torch.float64


# A GPU's settings, which need no GPU to be set


def flags():
    backends = torch.backends
    places = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    return (
        *(place.fp32_precision for place in places),
        backends.cudnn.deterministic,
        backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.is_warn_always_enabled(),
        backends.cuda.math_sdp_enabled(),
        backends.cuda.flash_sdp_enabled() or backends.cuda.mem_efficient_sdp_enabled(),
        backends.cuda.cudnn_sdp_enabled(),
    )


@pytest.mark.parametrize(("precision", "set_to"), [("fp32", "ieee"), ("tf32", "tf32")])
def test_fp32_is_fp32_on_a_gpu(precision, set_to):
    before = flags()
    with contextlib.suppress(KeyError), computing(CUDA, Arithmetic(precision)):
        assert flags() == (set_to,) * 3 + (True, False, True, True, False, True, True, False, False)
        with computing(CUDA, Arithmetic("tf32" if precision == "fp32" else "fp32")):
            assert flags()[0] != set_to
        assert flags()[0] == set_to
        raise KeyError
    assert flags() == before


def test_a_cpu_s_settings_stay_as_they_are():
    before = flags()
    with computing(CPU, BF16):
        assert flags() == before


def test_operators_that_are_not_deterministic_are_taken_down():
    x, at = torch.zeros(4), torch.tensor([0, 0])
    for _ in range(2):  # the second time too, though Python shows a warning once
        with computing(CUDA) as found:
            x.put_(at, torch.ones(2))
            with computing(CUDA) as same:
                x.put_(at, torch.ones(2))
            with pytest.warns(UserWarning, match="another"):
                warnings.warn("another", stacklevel=1)
        assert same is found
        assert found.record == {
            "precision": "fp32",
            "channels_last": False,
            "deterministic": True,
            "not_deterministic": ["put_"],
        }
    assert "deterministic" not in device.recorded(CPU)


def test_the_transpose_of_sampling_in_order_is_the_kernel_s():
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(3, 2, 8, 8, generator=rng, dtype=torch.float64)
    grid = 3 * torch.rand(3, 8, 8, 2, generator=rng, dtype=torch.float64) - 1.5  # also far outside
    own = augment._spread_in_order(values, grid)
    assert torch.allclose(own, augment._Spread.forward(values, grid), atol=1e-12)
