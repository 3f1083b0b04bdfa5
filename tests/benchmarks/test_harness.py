"""What a user waits for before anything is computed: loading data, planning, tables.

Run once as a test; ``uv run pytest tests/benchmarks --benchmark-enable --benchmark-only`` for the times.
Planning 10,000 cells and a table from 10,000 rows are to stay under 2 s each.
"""

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from bench import plan, results, spec
from bench.cells import DatasetId
from bench.data import load
from bench.data.spec import KINDS
from bench.data.types import Contents, Part, Source, offsets_of
from bench.tabulating import accuracy, formats

CELLS = 10_000


@pytest.fixture
def cifar_sized(monkeypatch, tmp_path):
    """A source of CIFAR-10's classes and size in place of CIFAR-10's own, and an empty cache."""
    pixels = np.random.default_rng(0).integers(0, 256, (5_000, 3, 32, 32), np.uint8)

    @contextmanager
    def read():
        parts = [
            Part(offsets_of([n] * 10), lambda n=n: (pixels[:n] for _ in range(10))) for n in (5_000, 1_000)
        ]
        yield Contents(tuple(str(label) for label in range(10)), 32, *parts)

    kind = replace(KINDS["cifar10"], find=lambda folder: Source(lambda: "made up", read))
    monkeypatch.setitem(KINDS, "cifar10", kind)
    return tmp_path


def test_second_load(benchmark, cifar_sized):
    """Checksums of 184 MB included; the user waits for less than a second."""
    load("cifar10", cache_dir=cifar_sized)
    data = benchmark(load, "cifar10", cache_dir=cifar_sized)
    assert data.train.images.shape == (50_000, 3, 32, 32)


@pytest.fixture(scope="module")
def suite():
    """One block with two methods, five networks, and enough seeds: 10,000 cells."""
    return spec.validated(
        spec.Suite,
        {
            "title": "large",
            "protocol": "authors",
            "dataset": "cifar10",
            "network": "convnet",
            "ipc": [1, 10, 50, 100],
            "seeds": 50,
            "evaluate": {
                "networks": ["convnet", "resnet18", "vgg11", "alexnet", "vit_tiny"],
                "recipe": "dsa",
                "seeds": 5,
            },
            "grid": [{"method": ["dm", "random"]}],
        },
        "test",
    )


def identify(name):
    return plan.Dataset(DatasetId(name, "0" * 64, 10, 32), name, 5000, 1000)


def test_plan(benchmark, suite):
    planned = benchmark(plan.plan, "large", suite, identify)
    assert len(planned) == 2 * 4 * 50 * (1 + 5 * 5)
    assert len(planned) > CELLS


@pytest.fixture(scope="module")
def folder(suite, tmp_path_factory):
    """A results folder with a row for each of 10,000 planned cells."""
    folder = tmp_path_factory.mktemp("results") / "large"
    rng = np.random.default_rng(0)
    rows = [
        {
            "key": item.cell.key,
            "cell": item.cell.value,
            "tags": dict(item.tags),
            "result": {"accuracy": rng.normal(50, 2), "correct": 1, "test_images": 1, "train_loss": 0.1},
            "cost": {"seconds": 1.0, "updates": 1000, "seconds_per_update": 0.001},
            "provenance": {"commit": "0" * 40, "dirty": False, "device": "CPU"},
            "artifacts": {},
        }
        for item, _ in zip(plan.plan("large", suite, identify), range(CELLS), strict=False)
    ]
    results.Results(folder).write(rows)
    return folder


def test_table(benchmark, folder):
    declared = spec.TableSpec(
        title="Accuracy", kind="accuracy", rows=["dataset", "ipc", "method"], columns="network"
    )

    def table():
        rows = results.Results(folder).rows.values()
        made = accuracy.accuracy_table("large", declared, accuracy.frame(rows))
        return formats.to_markdown(made), formats.to_csv(made)

    markdown, comma_separated = benchmark(table)
    assert "| DM" in markdown
    assert len(comma_separated.splitlines()) > 40


def test_rows_are_written(benchmark, folder):
    rows = list(results.Results(folder).rows.values())
    benchmark(lambda: results.Results(folder).write(rows))
    lines = (folder / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == [row["key"] for row in rows]
