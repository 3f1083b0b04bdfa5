"""Five evaluation networks trained at once against one after the other: seconds of the same epochs, on a CPU.

``OMP_NUM_THREADS=1 uv run pytest FILE --benchmark-enable --benchmark-only``, this file being FILE; on a busy
machine with ``--benchmark-timer time.process_time``. On a GPU: tests/test_gpu_ensembles.py.
"""

import pytest
import torch

from bench import seeds
from bench.augment import DSA
from bench.networks.build import build
from bench.training.batches import Augmentation, SyntheticSet
from bench.training.ensembles import Ensemble
from bench.training.loop import Training
from bench.training.recipes import Recipe

SEEDS = 5
RECIPE = Recipe(name="benchmark", epochs=1000, augment="dsa")


@pytest.mark.parametrize("how", ["alone", "together"])
@pytest.mark.parametrize("network", ["convnet@w16", "convnet", "vgg11"])
def test_five_networks_on_one_image_per_class(benchmark, network, how):
    data = SyntheticSet(torch.zeros(10, 3, 32, 32), torch.arange(10))
    augmentation = Augmentation(DSA(32), torch.zeros(3, 1, 1))
    trainings = []
    for number in range(SEEDS):
        with seeds.forked("benchmark", number):
            made = build(network, 10, 32)
        trainings.append(Training(made, data, RECIPE, 0.01, augmentation, (0, number)))
    advanced = [Ensemble(trainings)] if how == "together" else trainings

    def epoch():
        for training in advanced:
            training.epoch()

    benchmark.pedantic(epoch, rounds=3, warmup_rounds=1)
    assert {training.epochs_done for training in trainings} <= {1, 4}
