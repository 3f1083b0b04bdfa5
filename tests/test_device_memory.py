"""A cell that runs out of memory fails by itself, and says what held it and what would take less."""

import pytest
import torch
from command_line import rows, run_here, suite, write_tables

from bench import runner
from bench.measuring.estimate import Estimator
from bench.runner import OutOfMemory
from bench.stages import distill, evaluate

RUN = ("run", "tiny", "--tables", "tables.yaml", "--device", "cpu")
GRID = [
    {"method": "dm", "settings": {"iterations": 2, "batch_real": 64, "chunk": 3, "augment": "none"}},
    {"method": "random"},
]
GPU_SAYS = "CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines"


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_tables(tmp_path / "tables.yaml", tiny=suite(grid=GRID))
    return lambda *arguments: run_here(monkeypatch, capfd, *RUN, *arguments)


def full(error):
    """A stage that runs out of memory where its cell learns something."""

    def stage(cell, context, before=distill.run):
        if cell.settings.get("iterations"):
            raise error
        return before(cell, context)

    return stage


def test_the_reason_names_the_holders_and_what_would_take_less(run, monkeypatch, tmp_path):
    monkeypatch.setattr(distill, "run", full(torch.OutOfMemoryError(GPU_SAYS)))
    done = run()
    assert done.status == 1
    reason = next(line for line in done.err.splitlines() if "distil DM" in line)
    assert "out of memory on the GPU: CUDA out of memory. Tried to allocate 2.00 GiB.; " in reason
    assert "its estimated peak is " in reason
    assert " MiB (real images 2.2, method 1.1, images 0.1)" in reason
    assert (
        reason.endswith("; with chunk 2 it would take a quarter less") or "; with chunk 1 it would" in reason
    )
    assert {row["tags"]["method"] for row in rows(tmp_path)} == {"Random"}  # the rest goes on


def test_an_estimate_that_fails_hides_nothing_and_ends_nothing(run, monkeypatch):
    monkeypatch.setattr(distill, "run", full(MemoryError()))
    monkeypatch.setattr(Estimator, "_estimated", lambda *_: 1 / 0)
    done = run()
    assert done.status == 1
    assert "out of memory on the CPU; what held it cannot be estimated (ZeroDivisionError)" in done.err
    assert done.out.splitlines()[-1].startswith("4 cells: 0 hits, 2 made, 2 failed")


def test_of_a_training_the_error_alone_is_said(run, monkeypatch):
    def stage(cell, context):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(evaluate, "run", stage)
    done = run()
    assert done.status == 1
    assert "out of memory on the GPU: CUDA error: CUBLAS_STATUS_ALLOC_FAILED" in done.err
    assert "estimated" not in done.err


def test_other_errors_are_bugs():
    with pytest.raises(RuntimeError, match="shapes") as caught, runner.failures():
        raise RuntimeError("shapes do not fit")
    assert not isinstance(caught.value, OutOfMemory)
