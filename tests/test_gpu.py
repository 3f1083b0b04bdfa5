"""What needs a GPU to be seen: `uv run pytest -m gpu -rP` where there is one. Its times mean nothing."""

import contextlib
import warnings

import pytest
import torch
from command_line import rows, run_here, suite, write_tables
from memory_of_updates import given, made
from small import dataset
from test_plugged import METHODS
from torch._subclasses.fake_tensor import FakeTensorMode

from bench import device as devices
from bench.arithmetic import Arithmetic
from bench.device import computing
from bench.measuring import standins
from bench.measuring.holders import count_by_holder
from bench.memory import to_fake
from bench.networks.build import build, parameters_count
from bench.pixels import PixelSpace
from bench.real import RealImages
from bench.seeds import rng
from bench.stages.distill import Distillation

pytestmark = pytest.mark.gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PLUGINS = pytest.mark.parametrize("plugin", ["none", "metadd"])
RUN = ("run", "tiny", "--tables", "tables.yaml", "--device")


@pytest.fixture(scope="module")
def data():
    return dataset()


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Run a suite of these changes on a device, in a folder of its own; gives how it ended and its rows."""

    def go(device="cuda", **changes):
        folder = tmp_path / device
        folder.mkdir()
        monkeypatch.chdir(folder)
        write_tables(folder / "tables.yaml", tiny=suite(**changes))
        done = run_here(monkeypatch, capfd, *RUN, device)
        return done, rows(folder) if (folder / "results/tiny/rows.jsonl").exists() else []

    return go


def there(used, device):
    return {name: one.to(device) if isinstance(one, torch.nn.Module) else one for name, one in used.items()}


def distillation(data, method, plugin, device):
    cell = made(data, method, plugin)
    return Distillation(cell, data, device, there(given(data, cell, device), device))


def iterate(job):
    for _ in job.updates():
        pass
    job.iterations_done += 1


def test_a_run_measures_the_device_and_says_how_it_computed(run):
    done, found = run(tables=["accuracy"], figures=["sets"])
    assert (done.status, done.err) == (0, "")
    for row in found:
        assert row["provenance"]["device_kind"] == "cuda"
        assert row["cost"]["peak_reserved_bytes"] >= row["cost"]["peak_allocated_bytes"] > 0
        assert "peak_live_bytes" not in row["cost"]
        arithmetic = row["provenance"]["arithmetic"]
        print(row["cell"]["kind"], arithmetic)
        assert (arithmetic["precision"], arithmetic["deterministic"]) == ("fp32", True)


def test_gpu_and_cpu_start_from_the_same_images(run):
    """Initial images and networks come from the CPU's generators, so the first loss is nearly the same."""
    (_, on_cpu), (_, on_gpu) = run("cpu"), run("cuda")
    assert on_cpu[0]["result"]["first_loss"] == pytest.approx(on_gpu[0]["result"]["first_loss"], rel=1e-3)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_other_arithmetic_runs_to_the_end(run, precision, channels_last):
    done, found = run(precision=precision, channels_last=channels_last)
    assert (done.status, done.err) == (0, "")
    for row in found:
        arithmetic = row["provenance"]["arithmetic"]
        assert (arithmetic["precision"], arithmetic["channels_last"]) == (precision, channels_last)


@PLUGINS
@pytest.mark.parametrize("method", METHODS)
def test_fp32_gives_the_cpu_s_loss_and_gradient(data, method, plugin):
    losses, gradients = [], []
    for device in (CPU, CUDA):
        with computing(device):
            job = distillation(data, method, "none", device)
            pull_back = job.x.pull_back
            job.x.pull_back = lambda j=job, p=pull_back: (
                gradients.append(j.x.gradient.flatten().clone()),
                p(),
            )
            loss, _ = next(job.updates())
            losses.append(loss.item())
            if plugin == "metadd":  # a gradient of its own: it may be small beside the method's
                with_it = distillation(data, method, plugin, device)
                next(with_it.updates())
                assert with_it.x.images.isfinite().all()
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert torch.cosine_similarity(gradients[0], gradients[1].cpu(), dim=0) > 0.999


def test_fp32_is_more_exact_than_tf32():
    """On a GPU with TF32; so that `ieee` is known to reach the kernels."""
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    drawn = torch.Generator().manual_seed(0)
    images, weight = (torch.randn(shape, generator=drawn) for shape in ((8, 64, 32, 32), (64, 64, 3, 3)))
    exact = torch.nn.functional.conv2d(images.double(), weight.double(), padding=1)
    off = {}
    for precision in ("fp32", "tf32"):
        with computing(CUDA, Arithmetic(precision)):
            found = torch.nn.functional.conv2d(images.to(CUDA), weight.to(CUDA), padding=1).cpu()
        off[precision] = ((found - exact).norm() / exact.norm()).item()
    print(off)
    assert off["fp32"] < 1e-5 < 1e-4 < off["tf32"] < 1e-2


@contextlib.contextmanager
def waiting_is_an_error():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode")  # is a prototype, it says
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@PLUGINS
@pytest.mark.parametrize("method", METHODS)
def test_an_update_does_not_wait_for_the_gpu(data, method, plugin):
    with computing(CUDA):
        job = distillation(data, method, plugin, CUDA)
        iterate(job)  # libraries start, and constants are sent
        with waiting_is_an_error():
            iterate(job)


@PLUGINS
@pytest.mark.parametrize("method", ["dm", "dc", "dsa", "mtt", "sre2l", "glad"])
def test_two_runs_give_the_same_bits(data, method, plugin):
    found = []
    for _ in range(2):
        with computing(CUDA) as how:
            job = distillation(data, method, plugin, CUDA)
            while job.iterations_done < job.iterations:
                iterate(job)
            found.append(job.x.images.cpu())
            print(how.record["not_deterministic"])
    assert torch.equal(*found)


def test_images_that_do_not_fit_are_read_as_they_are_drawn(data, monkeypatch):
    space = PixelSpace("normalised", data.mean, data.std)
    on_device = RealImages(data.train, space, CUDA)
    monkeypatch.setattr(devices, "SHARE_FOR_IMAGES", 0.0)
    read = RealImages(data.train, space, CUDA)
    assert (on_device._resident is None, read._resident is None) == (False, True)
    chosen = read.draw(1, 5, rng("test"))
    with waiting_is_an_error():
        one, other = on_device.batch(chosen), read.batch(chosen)
    assert torch.equal(one, other)


def test_out_of_memory_is_a_failed_cell_with_a_reason(run):
    """Of a run that may have 200 MB: three classes under a wide network take several times that."""
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 200e6) / whole)
    settings = {"iterations": 2, "batch_real": 128, "chunk": 3}
    try:
        done, found = run(
            network="convnet@w256",
            grid=[{"method": "dm", "settings": settings}, {"method": "random"}],
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert done.status == 1
    reason = next(line for line in done.err.splitlines() if "distil DM" in line)
    print(reason)
    assert "out of memory on the GPU" in reason
    assert "; its estimated peak is " in reason
    assert "it would take a quarter less" in reason
    assert {row["tags"]["method"] for row in found} == {"Random"}


WIDE = "convnet@w128"
#: Large enough that libraries' workspaces are small beside the tensors.
LARGER = {
    "dm": {"batch_real": 128, "chunk": 10},
    "dsa": {"batch_real": 128},
    "mtt": {"syn_steps": 4, "batch_syn": 256},
    "sre2l": {"batch": 500},
    "glad": {"inner": {"batch_real": 128, "chunk": 10}},
}


@PLUGINS
@pytest.mark.parametrize("method", LARGER)
def test_the_peak_is_near_its_estimate(method, plugin):
    classes = 100 if method == "sre2l" else 10  # it recovers one image of each at a time
    data = dataset(classes=classes, size=32, per_class=200)
    cell = made(data, method, plugin, network=WIDE, ipc=50, **LARGER[method])
    used = given(data, cell)
    if "experts" in used:
        used["experts"] = standins.Vectors(1, parameters_count(WIDE, classes, 32))
    if "teacher" in used:
        used["teacher"] = build(f"{WIDE}@bn", classes, 32).eval().requires_grad_(False)
    mode = FakeTensorMode()
    fakes = {name: to_fake(mode, x) if isinstance(x, torch.nn.Module) else x for name, x in used.items()}
    with mode:
        estimate = sum(count_by_holder(cell, data, CUDA, fakes).values())
    if "experts" in used:
        used["experts"] = standins.Vectors(1, parameters_count(WIDE, classes, 32), CUDA)
    with computing(CUDA):
        once = torch.ones(8, 8, device=CUDA, requires_grad=True)
        (once @ once).sum().backward()  # cuBLAS takes its workspaces: autograd has a thread of its own
        before = torch.cuda.memory_allocated()
        job = Distillation(cell, data, CUDA, there(used, CUDA))
        devices.reset_peak(CUDA)
        iterate(job)
        peak = devices.peak(CUDA)["peak_allocated_bytes"] - before
    print(f"{method} {plugin}: {peak / 2**20:.1f} MiB, {peak / estimate:.3f} of what was estimated")
    assert 0.8 * estimate < peak < 1.5 * estimate + 256 * 2**20  # cuDNN's workspaces are in no estimate
