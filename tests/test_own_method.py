"""A method of one's own in one file: the example of the docs, run as it stands there."""

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml
from command_line import run_here

from baselines import METHODS, own

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "own-method.md").read_text()


def block(language):
    """The page's first block of code in this language."""
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL).group(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the page's two files; the registry is put back afterwards."""
    before = dict(METHODS)
    (tmp_path / "mean.py").write_text(block("python"))
    (tmp_path / "mine.yaml").write_text(block("yaml"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    METHODS.clear()
    METHODS.update(before)
    sys.modules.pop("metadd_own_mean", None)


def test_the_page_s_method_runs_as_the_page_says(folder, monkeypatch, capfd):
    command = re.search(r"^metadd-bench (run .*)$", PAGE, re.MULTILINE).group(1).split()
    done = run_here(monkeypatch, capfd, *command)
    assert (done.status, done.err) == (0, "")
    assert "| Mean images |" in done.out
    assert "6 cells: 0 hits, 6 made, 0 failed" in done.out
    again = run_here(monkeypatch, capfd, *command)
    assert "6 cells: 6 hits, 0 made" in again.out


def test_another_file_means_other_cells(folder, monkeypatch, capfd):
    dry = ("run", "mine", "--tables", "mine.yaml", "--method-path", "mean.py", "--dry-run")
    first = run_here(monkeypatch, capfd, *dry).out
    METHODS.pop("mean")
    (folder / "mean.py").write_text(block("python") + "# changed\n")
    second = run_here(monkeypatch, capfd, *dry).out
    for line, other in zip(first.splitlines(), second.splitlines(), strict=True):
        assert (line == other) == ("Mean images" not in line)


def test_without_the_file_the_method_is_unknown(folder, monkeypatch, capfd):
    done = run_here(monkeypatch, capfd, "run", "mine", "--tables", "mine.yaml")
    assert done.status == 2
    assert "no method 'mean'" in done.err
    assert "; a file of your own is named by --method-path" in done.err


def test_another_exception_of_the_file_keeps_its_traceback(folder, monkeypatch, capfd):
    (folder / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        run_here(monkeypatch, capfd, "list", "methods", "--method-path", "broken.py")


def test_verbs_that_read_rows_take_the_file_and_the_report_asks_for_it(folder, monkeypatch, capfd):
    places = ("--tables", "mine.yaml", "--method-path", "mean.py")
    assert run_here(monkeypatch, capfd, "run", "mine", *places).status == 0
    (folder / "mean.py").write_text("1 / 0\n")  # so they do not run it
    assert "| Mean images |" in run_here(monkeypatch, capfd, "table", "accuracy", *places).out
    assert run_here(monkeypatch, capfd, "plot", *places).status == 0
    update = ("check", "mine", "--update", "--reason", "first")
    assert run_here(monkeypatch, capfd, *update, *places).status == 0
    METHODS.pop("mean")
    assert run_here(monkeypatch, capfd, "report", "mine", *places[:2]).status == 0
    asked = "<code>metadd-bench report mine --method-path FILE</code> tells it."
    assert asked in (folder / "results/mine/report.html").read_text()


def test_listed_with_its_label(folder, monkeypatch, capfd):
    done = run_here(monkeypatch, capfd, "list", "methods", "--method-path", "mean.py")
    assert re.search(r"^mean +Mean images$", done.out, re.MULTILINE)


def test_an_installed_module_adds_its_method(folder, monkeypatch):
    (folder / "my_module.py").write_text(block("python"))
    monkeypatch.syspath_prepend(folder)
    point = EntryPoint("average", "my_module", own.GROUP)
    monkeypatch.setattr(own, "entry_points", lambda group: [point] if group == own.GROUP else [])
    assert own.add_installed() == ["average"]
    assert own.add_installed() == ["average"]  # again: nothing changes
    assert METHODS["average"].settings.label == "Mean images"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("missing.py", None, "missing.py: cannot be read"),
        ("empty.py", "", "one class derived from MethodSettings is expected, not none"),
        ("dm.py", block("python"), "there is a method 'dm' already"),
        ("mean.txt", "", "a Python file, ending in .py, is expected"),
        ("bare.py", block("python").replace("    label:", "    name:"), "needs a `label`"),
        (
            "far.py",
            "import json\nimport not_there\n",
            "far.py, line 2: ModuleNotFoundError: No module named 'not_there'",
        ),
        (
            "part.py",
            "from json import nothing\n",
            "part.py, line 1: ImportError: cannot import name 'nothing'",
        ),
        ("broken.py", "\nx = (\n", "broken.py, line 2: no Python ('(' was never closed)"),
        (
            "other.py",
            "import sys\nsys.path.insert(0, '.')\nimport bad_helper\n",
            "other.py, line 3: SyntaxError: ",
        ),
    ],
)
def test_what_is_no_method_is_refused_in_one_line(folder, monkeypatch, capfd, name, text, said):
    if text is not None:
        (folder / name).write_text(text)
    (folder / "bad_helper.py").write_text("x = (\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    done = run_here(monkeypatch, capfd, "run", "mine", "--tables", "mine.yaml", "--method-path", name)
    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (folder / "store").exists()


def test_the_page_s_tables_file_is_yaml():
    assert yaml.safe_load(block("yaml"))["suites"]["mine"]["grid"] == [{"method": ["random", "mean"]}]
