"""CIFAR-10: 50,000 + 10,000 images of 32x32 in 10 classes, in the official order."""

from __future__ import annotations

from pathlib import Path

from bench.data import cifar
from bench.data.types import Kind, Source

LAYOUT = cifar.Layout(
    name="cifar10",
    recipe="cifar10 1",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test=("test_batch.bin",),
    train_records=10_000,
    test_records=10_000,
    label_bytes=1,
)


def find(data_dir: Path) -> Source:
    """See ``cifar.find``."""
    return cifar.find(LAYOUT, data_dir)


# The statistics that every reference implementation uses.
KIND = Kind("cifar10", 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), find)
