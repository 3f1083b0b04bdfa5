"""The same small run on a GPU: `uv run pytest -m gpu` where there is one."""

import pytest
from command_line import rows, run_here, suite, write_tables

pytestmark = pytest.mark.gpu


def test_a_run_on_the_gpu_measures_the_device(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_tables(tmp_path / "tables.yaml", tiny=suite(tables=["accuracy"], figures=["sets"]))
    done = run_here(monkeypatch, capfd, "run", "tiny", "--tables", "tables.yaml", "--device", "cuda")
    assert (done.status, done.err) == (0, "")
    for row in rows(tmp_path):
        assert row["provenance"]["device_kind"] == "cuda"
        assert row["cost"]["peak_reserved_bytes"] >= row["cost"]["peak_allocated_bytes"] > 0
        assert "peak_live_bytes" not in row["cost"]


def test_gpu_and_cpu_start_from_the_same_images(monkeypatch, capfd, tmp_path):
    """Initial images and networks come from the CPU's generators, so the first loss is nearly the same."""
    losses = []
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        folder.mkdir()
        monkeypatch.chdir(folder)
        write_tables(folder / "tables.yaml", tiny=suite())
        done = run_here(monkeypatch, capfd, "run", "tiny", "--tables", "tables.yaml", "--device", device)
        assert done.status == 0
        losses.append(rows(folder)[0]["result"]["first_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
