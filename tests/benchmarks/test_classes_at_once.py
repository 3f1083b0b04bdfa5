"""DC's matching class by class against ten classes at once, CIFAR-10's shapes: seconds on a CPU, and MiB.

``OMP_NUM_THREADS=1 uv run pytest FILE --benchmark-enable --benchmark-only``, this file being FILE; on a busy
machine with ``--benchmark-timer time.process_time``. In pairs that take turns, which a machine's other work
bears on less: ``OMP_NUM_THREADS=1 uv run python FILE [--ipc 1] [--pairs 5] [--width 128]`` prints the medians
of processor time and their ratio. On a GPU: tests/test_gpu_classes.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.func import vmap

from baselines.classes import differentiable_gradients, gradients
from baselines.dc import mean_gradient, rows_distance
from bench.device import images_per_forward, keep_freed_memory
from bench.networks.build import build
from bench.seeds import forked

CLASSES, SIZE, REAL = 10, 32, 256


class Sides:
    """Ten classes of real and synthetic images of noise under one network; each side both ways."""

    def __init__(self, ipc: int, width: int, real: int = REAL) -> None:
        with forked("benchmark"):
            self.network: nn.Module = build(f"convnet@w{width}", CLASSES, SIZE).eval()
            self.real = torch.randn(CLASSES, real, 3, SIZE, SIZE)
            self.synthetic = torch.randn(CLASSES, ipc, 3, SIZE, SIZE)
        self.labels = torch.arange(CLASSES)
        self.at_once = images_per_forward(torch.device("cpu"), SIZE)
        self.target = self.real_at_once()

    def real_one_by_one(self) -> list[torch.Tensor]:
        """The real images' gradients as DC makes them by default."""
        each = [
            mean_gradient(self.network, images, label.expand(len(images)), self.at_once)
            for images, label in zip(self.real, self.labels, strict=True)
        ]
        return [torch.stack(of_parameter) for of_parameter in zip(*each, strict=True)]

    def real_at_once(self) -> list[torch.Tensor]:
        """The same, of all classes at once."""
        return gradients(self.network, self.real, self.labels, self.at_once)

    def synthetic_one_by_one(self) -> torch.Tensor:
        """The gradient of the distances at the synthetic images, as DC makes it by default."""
        found = []
        for number, label in enumerate(self.labels):
            leaf = self.synthetic[number].clone().requires_grad_()
            loss = F.cross_entropy(self.network(leaf), label.expand(len(leaf)))
            of_class = torch.autograd.grad(loss, list(self.network.parameters()), create_graph=True)
            apart = rows_distance(of_class, [tensor[number] for tensor in self.target])
            found.append(torch.autograd.grad(apart, leaf)[0])
        return torch.stack(found)

    def synthetic_at_once(self) -> torch.Tensor:
        """The same, of all classes at once."""
        leaf = self.synthetic.clone().requires_grad_()
        apart = vmap(rows_distance)(differentiable_gradients(self.network, leaf, self.labels), self.target)
        return torch.autograd.grad(apart.sum(), leaf)[0]


@pytest.mark.parametrize("how", ["one_by_one", "at_once"])
@pytest.mark.parametrize("side", ["real", "synthetic"])
def test_ten_classes(benchmark, side, how):
    sides = Sides(ipc=1, width=16, real=16)
    found = benchmark.pedantic(getattr(sides, f"{side}_{how}"), rounds=3, warmup_rounds=1)
    expected = getattr(sides, f"{side}_one_by_one")()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def seconds(work: Callable[[], object]) -> float:
    """Processor time of some work."""
    clock = time.process_time()
    work()
    return time.process_time() - clock


def main() -> None:
    """Print the medians of both sides, both ways, in pairs that take turns in going first."""
    parser = argparse.ArgumentParser()
    for name, default in (("ipc", 1), ("pairs", 5), ("width", 128), ("real", REAL)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    keep_freed_memory()
    sides = Sides(asked.ipc, asked.width, asked.real)
    for side in ("synthetic", "real"):
        ways = [getattr(sides, f"{side}_{how}") for how in ("one_by_one", "at_once")]
        taken: list[list[float]] = []
        for number in range(asked.pairs + 1):
            pair = [0.0, 0.0]
            for which in (0, 1) if number % 2 else (1, 0):
                pair[which] = seconds(ways[which])
            taken.append(pair)
        one, many = zip(*taken[1:], strict=True)  # the first pair warms up
        ratios = sorted(a / b for a, b in zip(one, many, strict=True))
        print(
            f"{side}, IPC {asked.ipc}, width {asked.width}: class by class {statistics.median(one):.3f} s, "
            f"at once {statistics.median(many):.3f} s; ratio {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}, n = {asked.pairs})",
            flush=True,
        )


if __name__ == "__main__":
    main()
