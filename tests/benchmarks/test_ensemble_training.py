"""Five evaluation networks trained at once against one after the other: seconds of the same epochs, on a CPU.

``OMP_NUM_THREADS=1 uv run pytest FILE --benchmark-enable --benchmark-only``, this file being FILE.
"""

import pytest
import torch

from bench import seeds
from bench.augment import DSA
from bench.batches import Augmentation, SyntheticSet
from bench.ensembles import Ensemble
from bench.networks.build import build
from bench.recipes import Recipe
from bench.training import Training

SEEDS, EPOCHS = 5, 3
RECIPE = Recipe(name="benchmark", epochs=1000, augment="dsa")


@pytest.mark.parametrize("how", ["alone", "together"])
@pytest.mark.parametrize(("network", "ipc"), [("convnet@w16", 1), ("convnet", 1)], ids=["digits", "cifar10"])
def test_five_networks(benchmark, network, ipc, how):
    data = SyntheticSet(torch.zeros(10 * ipc, 3, 32, 32), torch.arange(10).repeat_interleave(ipc))
    augmentation = Augmentation(DSA(32), torch.zeros(3, 1, 1))
    streams = [(0, number) for number in range(SEEDS)]
    networks = []
    for stream in streams:
        with seeds.forked("benchmark", *stream):
            networks.append(build(network, 10, 32))
    if how == "together":
        trainings = [Ensemble(networks, data, RECIPE, 0.01, augmentation, streams)]
    else:
        each = zip(networks, streams, strict=True)
        trainings = [Training(one, data, RECIPE, 0.01, augmentation, stream) for one, stream in each]

    def epochs():
        for training in trainings:
            for _ in range(EPOCHS):
                training.epoch()

    benchmark.pedantic(epochs, rounds=5, warmup_rounds=1)
    assert {training.epochs_done for training in trainings} <= {EPOCHS, 6 * EPOCHS}
