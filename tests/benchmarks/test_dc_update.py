"""DC's iteration: its time at a small size, and the comparison with the reference implementation's."""

import os

import pytest
from dc_update import Ours, main
from dm_update import random_dataset

from baselines.defaults.dc import DCSettings


def test_our_iteration(benchmark):
    settings = DCSettings(outer=2, batch_real=16, augment="dsa")
    with random_dataset(per_class=40) as data:
        ours = Ours(data, "dc", 1, "convnet@w8", settings)
        loss = benchmark(ours.update)
    assert loss > 0
    assert len(ours.operations()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dc", "dsa"])
@pytest.mark.skipif(
    "METADD_REFERENCE_VICO" not in os.environ, reason="METADD_REFERENCE_VICO: no checkout given"
)
def test_against_the_reference(method, capsys):
    """Prints the ratios; a time is no reason to fail."""
    with capsys.disabled():
        ratio = main(["--reference", os.environ["METADD_REFERENCE_VICO"], "--method", method, "--pairs", "3"])
    assert ratio > 0
