"""What a run makes, publishes and says, and what happens to cells that cannot be finished."""

import json
import os
import shutil
import time

import numpy as np
import pytest
import torch
from command_line import TINY, rows, run_here, snapshot, suite, write_tables
from PIL import Image

import bench
from baselines import METHODS
from bench import data
from bench.api import Opened, open_suite
from bench.stages import Context, distill, evaluate
from bench.stages.tools import HarnessTools
from bench.walk import Silent
from metadd import PLUGINS, PluginEntry, PluginSettings

RUN = ("run", "tiny", "--tables", "tables.yaml", "--device", "cpu")
CPU = torch.device("cpu")


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Call it with a suite (or none, for the one before) and further arguments."""
    monkeypatch.chdir(tmp_path)

    def call(tiny=None, *further):
        if tiny is not None:
            write_tables(tmp_path / "tables.yaml", tiny=tiny)
        return run_here(monkeypatch, capfd, *RUN, *further)

    return call


def summary(done):
    """The last line on standard output, without the folder."""
    return done.out.splitlines()[-1].partition(" — ")[0]


def evaluation(**changes):
    return {"evaluate": {**TINY["evaluate"], **changes}}


def test_a_run_leaves_rows_sets_tables_and_figures(run, tmp_path):
    done = run(suite(tables=["accuracy"], figures=["sets"]))
    assert (done.status, done.err) == (0, "")
    assert summary(done) == "2 cells: 0 hits, 2 made, 0 failed"
    assert "| DM " in done.out
    distilled, evaluated = rows(tmp_path)
    assert set(distilled["artifacts"]) == {"images.safetensors", "plate.png"}
    assert distilled["cost"]["updates"] == 3
    assert distilled["cost"]["peak_live_bytes"] > 0
    assert distilled["cost"]["seconds_per_update"] > 0
    assert evaluated["result"]["test_images"] == 30
    assert evaluated["result"]["accuracy"] == pytest.approx(100 * evaluated["result"]["correct"] / 30)
    assert evaluated["tags"]["seen"] is True
    for row in (distilled, evaluated):
        about = row["provenance"]
        assert about["command"] == "metadd-bench run tiny --device cpu"
        assert about["device_kind"] == "cpu"
        assert about["versions"]["torch"] == torch.__version__.partition("+")[0]
        assert str(tmp_path) not in json.dumps(row)
    kept = tmp_path / "results" / "tiny"
    assert {path.name for path in (kept / "sets" / distilled["key"]).iterdir()} == set(distilled["artifacts"])
    assert {path.name for path in (kept / "tables").iterdir()} == {"accuracy.md", "accuracy.csv"}
    assert (kept / "figures" / "sets.png").exists()


def test_dry_run_and_status_say_what_is_there_and_write_nothing(run, tmp_path, monkeypatch, capfd):
    both = suite(grid=[*TINY["grid"], {"method": "random"}, {"method": "full"}])
    done = run(both, "--dry-run")
    lines = done.out.splitlines()
    assert done.status == 0
    assert [line.split()[:3] for line in lines[:5]] == [
        ["missing", "distil", "DM"],
        ["missing", "evaluate", "DM"],
        ["missing", "distil", "Random"],
        ["missing", "evaluate", "Random"],
        ["missing", "evaluate", "Full"],
    ]
    assert lines[5:] == ["2 distil cells: 2 missing", "3 evaluate cells: 3 missing"]
    assert [path.name for path in tmp_path.iterdir()] == ["tables.yaml"]

    assert summary(run(None, "--only", "method=DM")) == "2 cells: 0 hits, 2 made, 0 failed"
    before = snapshot(tmp_path)
    lines = run(None, "--dry-run").out.splitlines()
    assert lines[5:] == ["2 distil cells: 1 finished, 1 missing", "3 evaluate cells: 1 finished, 2 missing"]
    status = run_here(monkeypatch, capfd, "status", "tiny", "--tables", "tables.yaml")
    assert status.out.splitlines() == [
        "distil: 1 finished, 0 failed, 0 running, 1 missing",
        "evaluate: 1 finished, 0 failed, 0 running, 2 missing",
    ]
    assert snapshot(tmp_path) == before


def test_only_part_of_a_suite_leaves_the_other_rows_as_they_are(run, tmp_path):
    both = suite(grid=[*TINY["grid"], {"method": "random"}], tables=["accuracy"])
    whole = run(both)
    before = snapshot(tmp_path)
    part = run(None, "--only", "method=DM")
    assert summary(part) == "2 cells: 2 hits, 0 made, 0 failed"
    assert part.out.splitlines()[:-1] == whole.out.splitlines()[:-1]
    assert snapshot(tmp_path) == before


def test_rows_that_are_no_longer_planned_are_kept_aside(run, tmp_path):
    run(suite(tables=["accuracy"]))
    before = rows(tmp_path)
    longer = {"method": "dm", "settings": {"iterations": 4, "batch_real": 4}}
    run(suite(grid=[longer], tables=["accuracy"]))
    after = rows(tmp_path)
    assert [row["current"] for row in after] == [True, True, False, False]
    assert after[2:] == sorted(({**row, "current": False} for row in before), key=lambda row: row["key"])
    assert len((tmp_path / "results/tiny/tables/accuracy.csv").read_text().splitlines()) == 1 + 2
    run(suite(tables=["accuracy"]))
    assert [row["current"] for row in rows(tmp_path)] == [True, True, False, False]
    assert rows(tmp_path)[:2] == before


@pytest.mark.parametrize("sets", ["committed", "not committed"])
def test_committed_results_count_as_finished(run, tmp_path, sets):
    run(suite(figures=["sets"]))
    shutil.rmtree(tmp_path / "store")
    if sets == "not committed":
        shutil.rmtree(tmp_path / "results/tiny/sets")
    again = run(None)
    assert summary(again) == "2 cells: 2 hits, 0 made, 0 failed"
    assert not (tmp_path / "store").exists()
    more = run(suite(**evaluation(seeds=2)))
    made = 1 if sets == "committed" else 2  # the set is made anew for the evaluation that needs it
    assert summary(more) == f"3 cells: {3 - made} hits, {made} made, 0 failed"
    assert (tmp_path / "store/distil").exists() == (sets == "not committed")
    assert [row["current"] for row in rows(tmp_path)] == [True] * 3


def test_a_set_whose_file_was_taken_from_the_store_is_made_anew(run, tmp_path):
    run(TINY)
    (path,) = tmp_path.glob("store/distil/*/*/images.safetensors")
    was = path.read_bytes()
    shutil.rmtree(tmp_path / "results")
    path.unlink()
    done = run(suite(**evaluation(seeds=2)))
    assert (done.status, summary(done)) == (0, "3 cells: 1 hits, 2 made, 0 failed")
    assert path.read_bytes() == was


# Cells that fail.


@pytest.fixture
def small_images(tmp_path):
    """An image folder of 24 x 24 pixels, too small for VGG-11."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return f"imagefolder:{tmp_path / 'pets'}"


def test_failed_cells_are_recorded_named_and_tried_again(run, small_images, tmp_path, monkeypatch, capfd):
    wild = {"name": "short", "epochs": 3, "lr": 1e30}
    failing = suite(
        dataset=small_images,
        evaluate={"networks": ["vgg11@w8", "convnet@w8"], "recipe": {"name": "short", "epochs": 2}},
        grid=[
            {"method": "dm", "network": "vgg11@w8", "settings": {"iterations": 2, "batch_real": 4}},
            {"method": "random"},
            {"method": "full", "evaluate": {"networks": ["convnet@w8"], "recipe": wild}},
        ],
        tables=["accuracy"],
    )
    first = run(failing)
    assert first.status == 1
    assert summary(first) == "7 cells: 0 hits, 2 made, 5 failed"
    too_small = "vgg11 halves its images five times and needs a side of 32 or more, not 24"
    lines = first.err.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("failed: distil DM IPC 1 seed 0 [")
    assert lines[0].endswith(f"]: {too_small}")
    assert lines[1].startswith("failed: evaluate DM IPC 1 seed 0 on vgg11@w8 (0) [")
    assert all(line.endswith(f"]: what it needs failed: {too_small}") for line in lines[1:3])
    assert lines[3].startswith("failed: evaluate Random IPC 1 seed 0 on vgg11@w8")
    assert lines[4].startswith("failed: evaluate Full data seed 0 on convnet@w8")
    assert "diverged by epoch 3" in lines[4]
    assert len(rows(tmp_path)) == 2
    assert "| Random |" in first.out

    recorded = [json.loads(path.read_text()) for path in tmp_path.glob("store/*/*/*.failed.json")]
    assert sorted(record["cell"]["kind"] for record in recorded) == ["distil", "evaluate", "evaluate"]
    assert too_small in {record["reason"] for record in recorded}
    status = run_here(monkeypatch, capfd, "status", "tiny", "--tables", "tables.yaml").out
    assert "distil: 1 finished, 1 failed" in status
    assert f": {too_small}\n" in status

    again = run(None)
    assert (again.status, summary(again)) == (1, "7 cells: 2 hits, 0 made, 5 failed")
    assert again.err == first.err


def test_what_another_run_failed_meanwhile_is_not_tried_again(tmp_path, monkeypatch):
    """But what had failed before the run began is."""
    monkeypatch.chdir(tmp_path)
    opened = open_suite("tiny", tables=write_tables(tmp_path / "tables.yaml", tiny=suite()))
    (cell, _) = (item.cell for item in opened.plan)
    opened.store.fail(cell, "before")

    class Meanwhile(Silent):
        def begin(self, total, done):
            os.utime(next(tmp_path.glob("store/*/*/*.failed.json")), ns=(1, 1))
            opened.store.fail(cell, "meanwhile")

    assert bench.run(opened, device="cpu").failed == {}
    shutil.rmtree(tmp_path / "store")
    opened = open_suite("tiny", tables=tmp_path / "tables.yaml", results=tmp_path / "other")
    opened.store.fail(cell, "before")
    report = bench.run(opened, device="cpu", watcher=Meanwhile())
    assert report.made == 0
    assert report.failed[cell.key] == "meanwhile"


def test_a_diverging_distillation_fails_with_its_evaluations(run):
    done = run(suite(grid=[{"method": "dm", "settings": {"iterations": 6, "batch_real": 4, "lr_img": 1e30}}]))
    assert (done.status, summary(done)) == (1, "2 cells: 0 hits, 0 made, 2 failed")
    first, second = done.err.splitlines()
    assert "a lower learning rate may help" in first
    assert "what it needs failed: " in second


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory on the CPU"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "out of memory on the CPU",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory.\nmore"),
            "out of memory on the GPU: CUDA out of memory.",
        ),
    ],
)
def test_out_of_memory_is_a_failed_cell_that_the_next_run_makes(run, tmp_path, monkeypatch, error, reason):
    def full(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(distill, "run", full)
        done = run(TINY)
    assert done.status == 1
    assert f"]: {reason}" in done.err.splitlines()[0]
    assert summary(run(None)) == "2 cells: 0 hits, 2 made, 0 failed"
    assert list(tmp_path.glob("store/*/*/*.failed.json")) == []


def test_a_bug_in_a_stage_is_no_failed_cell(run, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(distill, "run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run(TINY)
    assert [path.suffix for path in tmp_path.glob("store/*/*/*")] == [".lock"]


# With and without a plug-in.
class StubSettings(PluginSettings):
    row_label = property(lambda self: "Stub")


class Stub:
    """Wants dark images: the gradient of half their square is the images themselves."""

    def __init__(self, *made_of): ...

    def backward(self, images, labels):
        images.grad = images.detach().clone()
        return images.detach().square().sum() / 2


@pytest.fixture
def pair(monkeypatch, tmp_path):
    """From a share rho to (plain cell, cell with the stub, their evaluations, the dataset)."""
    monkeypatch.setitem(PLUGINS, "stub", PluginEntry(f"{__name__}:StubSettings", f"{__name__}:Stub"))

    def make(rho) -> tuple[Opened, list, list, data.Dataset]:
        tiny = suite(plugin=["none", {"name": "stub", "rho": rho}])
        opened = open_suite("tiny", tables=write_tables(tmp_path / "t.yaml", tiny=tiny), store=tmp_path / "s")
        plain, plain_evaluation, other, other_evaluation = [item.cell for item in opened.plan]
        dataset = data.load("digits[3]")
        assert plain.key != other.key
        return opened, [plain, other], [plain_evaluation, other_evaluation], dataset

    return make


def test_a_pair_shares_all_but_the_plugin(pair, monkeypatch, tmp_path):
    opened, cells, evaluations, dataset = pair(0.3)
    assert [item.tags["method"] for item in opened.plan] == ["DM", "DM", "DM + Stub", "DM + Stub"]
    drawn, real = [], HarnessTools.real

    def recording(self, *what):
        images = real(self, *what)
        drawn[-1].append(images.clone())
        return images

    monkeypatch.setattr(HarnessTools, "real", recording)
    jobs, initial, networks = [], [], []
    for cell in cells:
        drawn.append([])
        jobs.append(distill.Distillation(cell, dataset, CPU))
        initial.append(jobs[-1].x.images.clone())
        jobs[-1].iterate()
        networks.append([p.clone() for p in jobs[-1].tools.at(0).network().parameters()])
        jobs[-1].iterate()
    assert torch.equal(*initial)
    assert len(drawn[0]) > 2
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*networks, strict=True))
    assert not torch.equal(jobs[0].x.images, jobs[1].x.images)

    trained = []
    count = evaluate._count_live_bytes
    monkeypatch.setattr(evaluate, "_count_live_bytes", lambda t: (trained.append(t), count(t))[1])
    for cell in evaluations:
        evaluate.train_and_test(
            cell, None, Context(dataset, CPU, {}, tmp_path / "none", tmp_path / "partial")
        )
    first, second = (list(training.network.state_dict().values()) for training in trained)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_no_share_is_no_plugin_bit_for_bit(pair):
    _, cells, _, dataset = pair(0)
    jobs = [distill.Distillation(cell, dataset, CPU) for cell in cells]
    for job in jobs:
        while job.iterations_done < job.iterations:
            job.iterate()
        job.record.observe()
    assert torch.equal(jobs[0].x.images, jobs[1].x.images)
    assert jobs[0].record.losses == jobs[1].record.losses


def test_the_gradient_of_the_plugin_has_its_share(pair):
    rho = 0.25
    _, cells, _, dataset = pair(rho)
    plain, other = (distill.Distillation(cell, dataset, CPU) for cell in cells)
    lr, start = plain.method.settings.lr_img, plain.x.images.clone()
    plain.iterate()
    other.iterate()
    own = (start - plain.x.images) / lr  # the first step of SGD, momentum or not
    added = (plain.x.images - other.x.images) / lr
    assert added.norm() == pytest.approx(rho * float(own.norm()), rel=1e-4)
    # The stub's gradient is the image in [0, 1] units; the same channel deviations bring it back.
    deviations = torch.tensor(dataset.std).view(1, 3, 1, 1)
    wanted = plain.space.decode(start) * deviations
    assert torch.cosine_similarity(added.flatten(), wanted.flatten(), dim=0) == pytest.approx(1, abs=1e-5)


def test_a_plugin_is_refused_where_nothing_is_distilled(pair, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    pair(1)
    write_tables(tmp_path / "tables.yaml", tiny=suite(grid=[{"method": "random", "plugin": "stub"}]))
    done = run_here(monkeypatch, capfd, *RUN)
    assert done.status == 2
    assert "grid.0.plugin: random distils nothing" in done.err
    write_tables(tmp_path / "tables.yaml", tiny=suite(plugin={"name": "stub", "rhoo": 1}))
    assert "did you mean 'rho'" in run_here(monkeypatch, capfd, *RUN).err


def test_list_has_everything_by_name(monkeypatch, capfd):
    listed = run_here(monkeypatch, capfd, "list").out
    for name in ("smoke", *METHODS, "full", "convnet", "digits", "dsa", "cross-architecture", "distilled"):
        assert f"  {name} " in f"{listed}\n".replace("\n", " \n")
    methods = run_here(monkeypatch, capfd, "list", "methods").out
    assert [line.split()[0] for line in methods.splitlines()] == [*METHODS, "full"]


def test_reading_losses_back_is_part_of_what_updates_took(monkeypatch):
    """A GPU takes up work at once and is waited for here. The bound is a lower one: a busy machine passes."""
    stack = torch.stack

    def slowly(losses):
        time.sleep(0.05)
        return stack(losses)

    record = distill.Record()
    record.add(iter([(torch.tensor(1.0), {})]))
    monkeypatch.setattr(torch, "stack", slowly)
    record.observe()
    assert record.losses == [1.0]
    assert record.seconds >= 0.05
