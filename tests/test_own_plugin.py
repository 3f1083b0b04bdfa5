"""A plug-in of one's own in one file: the example of the docs, run as it stands there."""

import re
import sys
from pathlib import Path

import pytest
import torch
from command_line import run_here

from bench import api, own
from metadd import PLUGINS

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "own-plugin.md").read_text()


def block(language):
    """The page's first block of code in this language."""
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL).group(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the page's two files; the registry is put back afterwards."""
    before = dict(PLUGINS)
    (tmp_path / "smooth.py").write_text(block("python"))
    (tmp_path / "smoothed.yaml").write_text(block("yaml"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    PLUGINS.clear()
    PLUGINS.update(before)
    sys.modules.pop("metadd_own_plugin_smooth", None)


def test_the_page_s_plug_in_runs_as_the_page_says(folder, monkeypatch, capfd):
    command = re.search(r"^metadd-bench (run .*)$", PAGE, re.MULTILINE).group(1).split()
    done = run_here(monkeypatch, capfd, *command)
    assert (done.status, done.err) == (0, "")
    for row in ("DM", "DM + smoothness", "DM: smoothness − without"):
        assert re.search(rf"\| {re.escape(row)} +\|", done.out), row
    assert "8 cells: 0 hits, 8 made, 0 failed" in done.out
    again = run_here(monkeypatch, capfd, *command)
    assert "8 cells: 8 hits, 0 made" in again.out
    opened = api.open_suite("smoothed", tables=folder / "smoothed.yaml", method_paths=[folder / "smooth.py"])
    rough = {}
    for item in opened.plan:
        if item.cell.kind == "distil":
            from bench.sets import stored

            images = stored([opened.store.artifact(item.cell, "images.safetensors")])
            unit = images.space.decode(images.images)
            rough.setdefault(item.tags["method"], []).append(float(unit.diff(dim=3).square().mean()))
    pairs = zip(rough["DM"], rough["DM + smoothness"], strict=True)
    assert all(smoothed < 0.98 * plain for plain, smoothed in pairs)


def test_its_gradient_is_that_of_its_loss(folder):
    assert own.add_plugin(folder / "smooth.py")
    entry = PLUGINS["smooth"]
    plugin = entry.make(entry.settings(power=3.0), [], (0.5,) * 3, (0.2,) * 3)
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leaf = images.clone().requires_grad_()
    labels = torch.tensor([0, 1])
    loss = plugin.backward(leaf, labels)
    step = torch.zeros_like(images)
    step[1, 2, 3, 0] = 1e-6
    moved = plugin.backward((images + step).requires_grad_(), labels)
    assert float(leaf.grad[1, 2, 3, 0]) == pytest.approx(float((moved - loss) / 1e-6), rel=1e-4)
    ((value, norm),) = plugin.terms(images, labels).values()
    assert (value, norm) == (loss, leaf.grad.norm())


def test_another_file_means_other_cells_of_the_plug_in_alone(folder, monkeypatch, capfd):
    dry = ("run", "smoothed", "--tables", "smoothed.yaml", "--method-path", "smooth.py", "--dry-run")
    first = run_here(monkeypatch, capfd, *dry).out
    PLUGINS.pop("smooth")
    (folder / "smooth.py").write_text(block("python") + "# changed\n")
    second = run_here(monkeypatch, capfd, *dry).out
    lines = list(zip(first.splitlines(), second.splitlines(), strict=True))
    assert any("smoothness" in line for line, _ in lines)
    for line, other in lines:
        assert (line == other) == ("smoothness" not in line)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("metadd.py", block("python"), "there is a plug-in 'metadd' already"),
        ("none.py", block("python"), "there is a plug-in 'none' already"),
        ("bare.py", block("python").replace("def make", "def makes"), "a function make("),
        (
            "two.py",
            block("python") + "class Other(SmoothSettings):\n    pass\n",
            "one class derived from PluginSettings is expected, not SmoothSettings, Other",
        ),
        ("broken.py", "class Broken(:\n", "broken.py, line 1: no Python (invalid syntax)"),
        ("far.py", "import not_there\n" + block("python"), "far.py, line 1: ModuleNotFoundError"),
        ("smooth.txt", block("python"), "a Python file, ending in .py, is expected"),
    ],
)
def test_what_is_no_plug_in_is_refused_in_one_line(folder, monkeypatch, capfd, name, text, said):
    (folder / name).write_text(text)
    ask = ("run", "smoothed", "--tables", "smoothed.yaml", "--method-path", name)
    done = run_here(monkeypatch, capfd, *ask)
    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1


def test_without_the_file_the_plug_in_is_unknown(folder, monkeypatch, capfd):
    done = run_here(monkeypatch, capfd, "run", "smoothed", "--tables", "smoothed.yaml")
    assert done.status == 2
    assert "no plug-in 'smooth'" in done.err
