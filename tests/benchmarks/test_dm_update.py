"""DM's update: its time at a small size, and the comparison with the reference implementation's."""

import os
from pathlib import Path

import pytest
from dm_update import Ours, main, random_dataset


def test_our_update(benchmark):
    with random_dataset(per_class=40) as data:
        ours = Ours(data, ipc=1, network="convnet@w16", batch_real=32)
        loss = benchmark(ours.update)
    assert loss > 0


@pytest.mark.slow
@pytest.mark.parametrize("ipc", [1, 10])
@pytest.mark.skipif(
    "METADD_REFERENCE_VICO" not in os.environ, reason="METADD_REFERENCE_VICO: no checkout given"
)
def test_against_the_reference(ipc, capsys):
    """Prints the ratios; a time is no reason to fail."""
    checkout = Path(os.environ["METADD_REFERENCE_VICO"])
    with capsys.disabled():
        ratio = main(["--reference", str(checkout), "--pairs", "5", "--ipc", str(ipc)])
    assert ratio > 0
