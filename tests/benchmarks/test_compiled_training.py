"""A step of training compiled by ``torch.compile`` against the same step as it is, on a CPU.

``OMP_NUM_THREADS=1 uv run pytest FILE --benchmark-enable --benchmark-only``, this file being FILE; on a busy
machine with ``--benchmark-timer time.process_time``. It needs a C++ compiler. Compiling is not in the times.
"""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)

from bench import seeds
from bench.device import keep_freed_memory
from bench.networks.build import build


@pytest.mark.filterwarnings("ignore")  # the compiler's own, of tensors that it looks at
@pytest.mark.parametrize("how", ["as it is", "compiled"])
@pytest.mark.parametrize("batch", [10, 100])
@pytest.mark.parametrize("name", ["convnet@w16", "convnet", "resnet18@w16"])
def test_a_step_of_training(benchmark, name, batch, how):
    keep_freed_memory()
    with seeds.forked("benchmark"):
        network = build(name, 10, 32).train()
    forward = torch.compile(network, dynamic=False) if how == "compiled" else network
    images, labels = torch.zeros(batch, 3, 32, 32), torch.arange(batch) % 10
    sgd = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step():
        sgd.zero_grad()
        F.cross_entropy(forward(images), labels).backward()
        sgd.step()

    benchmark.pedantic(step, rounds=5, iterations=5, warmup_rounds=1)
    torch._dynamo.reset()
