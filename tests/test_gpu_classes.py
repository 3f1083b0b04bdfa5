"""DC's ten classes at once on a GPU against class after class; prints how much faster each side is."""

import time

import pytest
import torch
from small import cell, dataset

from bench.device import computing
from bench.stages.distill import Distillation

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
WARM_UP, PAIRS = 3, 10
#: What is timed: the methods of DC, by what they go through.
SIDES = {"real": "_real_gradient", "synthetic": "_match_classes"}


@pytest.fixture(scope="module")
def data():
    """CIFAR-10's shapes, 256 images a class."""
    return dataset(classes=10, size=32, per_class=256)


def listened(job):
    """The seconds that each side took so far, by waiting for the GPU before and after it."""
    seconds = dict.fromkeys(SIDES, 0.0)

    def timed(side, function):
        def wrapped(*arguments):
            torch.cuda.synchronize()
            clock = time.perf_counter()
            found = function(*arguments)
            torch.cuda.synchronize()
            seconds[side] += time.perf_counter() - clock
            return found

        return wrapped

    for side, name in SIDES.items():
        setattr(job.method, name, timed(side, getattr(job.method, name)))
    return seconds


def update(job):
    """Seconds of one iteration, which is one update, waited for; and its loss."""
    torch.cuda.synchronize()
    clock = time.perf_counter()
    ((loss, _),) = job.updates()
    job.iterations_done += 1
    torch.cuda.synchronize()
    return time.perf_counter() - clock, loss.item()


def median(numbers):
    return sorted(numbers)[len(numbers) // 2]


@pytest.mark.parametrize("network", ["convnet", "resnet18"])
@pytest.mark.parametrize("ipc", [1, 10])
@pytest.mark.parametrize("method", ["dc", "dsa"])
def test_ten_classes_at_once_are_class_after_class(data, capsys, method, ipc, network):
    how = {"network": network, "ipc": ipc, "outer": 1, "iterations": 1000}
    with computing(CUDA):
        jobs, peaks = [], []
        for chunk in (1, 10):
            jobs.append(Distillation(cell(data, method, chunk=chunk, **how), data, CUDA))
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            _, loss = update(jobs[-1])
            peaks.append((torch.cuda.max_memory_allocated() - before) / 2**20)
            jobs[-1].first = loss
        one, ten = jobs
        assert not ten.method._one_by_one
        assert ten.first == pytest.approx(one.first, rel=1e-4)
        moved = [job.x.images.clone() for job in jobs]
        torch.testing.assert_close(moved[1], moved[0], rtol=1e-3, atol=1e-3 * moved[0].std().item())
        for job in jobs * WARM_UP:
            update(job)
        pairs = [[update(job)[0] for job in (jobs, jobs[::-1])[number % 2]] for number in range(PAIRS)]
        pairs = [pair if number % 2 == 0 else pair[::-1] for number, pair in enumerate(pairs)]
        sides = [listened(job) for job in jobs]
        for job in jobs * PAIRS:
            update(job)
    ratios = [alone / at_once for alone, at_once in pairs]
    by_side = {side: sides[0][side] / sides[1][side] for side in SIDES}
    with capsys.disabled():
        print(
            f"\n{method}, {network}, IPC {ipc}: ten classes at once {median(ratios):.2f}x as fast "
            f"({min(ratios):.2f} to {max(ratios):.2f}, n = {PAIRS}; "
            f"{1000 * median([a for a, _ in pairs]):.1f} and {1000 * median([b for _, b in pairs]):.1f} ms); "
            + ", ".join(f"{side} {ratio:.2f}x" for side, ratio in by_side.items())
            + f"; {peaks[0]:.0f} and {peaks[1]:.0f} MiB over the rest"
        )


@pytest.mark.parametrize("chunk", [10])
def test_dm_s_ten_classes_at_once_are_class_after_class(data, capsys, chunk):
    with computing(CUDA):
        jobs = [Distillation(cell(data, "dm", "convnet", 1, chunk=c), data, CUDA) for c in (1, chunk)]
        losses = [update(job)[1] for job in jobs]
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
        for job in jobs * WARM_UP:
            update(job)
        ratios = [update(jobs[0])[0] / update(jobs[1])[0] for _ in range(PAIRS)]
    with capsys.disabled():
        print(
            f"\ndm, convnet, IPC 1: {chunk} classes at once {median(ratios):.2f}x as fast "
            f"({min(ratios):.2f} to {max(ratios):.2f}, n = {PAIRS})"
        )
