"""The command line for tests: in this process, or in processes that can be killed; tiny suites for it."""

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from bench import cli
from bench.cells import key_of

#: A DM cell and its evaluation that take a second together, on three digits.
TINY = {
    "title": "three digits",
    "protocol": "common",
    "dataset": "digits[3]",
    "network": "convnet@w8",
    "evaluate": {
        "networks": ["convnet@w8"],
        "recipe": {"name": "short", "epochs": 3},
        "test_per_class": 10,
    },
    "grid": [{"method": "dm", "settings": {"iterations": 3, "batch_real": 4}}],
}
TABLES = {"accuracy": {"title": "Accuracy", "kind": "accuracy", "rows": ["method"], "columns": "network"}}
FIGURES = {"sets": {"title": "Sets", "kind": "images"}}


def suite(**changes):
    """``TINY`` with some of its keys replaced."""
    return {**TINY, **changes}


def spec(**suites):
    """The content of a tables file with these suites."""
    return {"suites": suites, "tables": TABLES, "figures": FIGURES}


def write_tables(path, **suites):
    path.write_text(yaml.safe_dump(spec(**suites)))
    return path


def rekeyed(row, **cell):
    """A row with some of its cell replaced, and the key that its cell then has."""
    row = {**row, "cell": {**row["cell"], **cell}}
    return {**row, "key": key_of(row["cell"])}


def rows(folder):
    """The rows that a run of the suite ``tiny`` has published there."""
    return [json.loads(line) for line in (folder / "results/tiny/rows.jsonl").read_text().splitlines()]


@dataclass
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


def run_here(monkeypatch, capfd, *arguments):
    """``metadd-bench`` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["metadd-bench", *map(str, arguments)])
    capfd.readouterr()
    try:
        cli.main()
        status = None
    except SystemExit as exit_:
        status = exit_.code
    return Done(status or 0, *capfd.readouterr())


def run_apart(*arguments, cwd):
    """The same in a process of its own, as a user runs it."""
    command = [Path(sys.executable).with_name("metadd-bench"), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    return Done(done.returncode, done.stdout, done.stderr)


@cache
def _processes():
    """Processes forked from one that has imported everything and computed nothing.

    They can be killed like any other, and each saves the eight seconds of importing torch and its compiler,
    which the first optimiser asks for.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.cli", "bench.runner", "bench.tables", "torch._dynamo"])
    return context


def start(folder, *arguments):
    """Start ``metadd-bench`` in ``folder``; its output goes to ``out`` and ``err`` there."""
    folder.mkdir(exist_ok=True)
    process = _processes().Process(
        target=_command, args=(list(map(str, arguments)), folder, dict(os.environ)), daemon=True
    )
    process.start()
    return process


def finish(process, folder, seconds=300):
    """Wait for a command of :func:`start`."""
    process.join(seconds)
    assert process.exitcode is not None, "the command hangs"
    return Done(process.exitcode, (folder / "out").read_text(), (folder / "err").read_text())


def _command(arguments, folder, environment):
    os.environ.update(environment)
    os.chdir(folder)
    for name, number in (("out", 1), ("err", 2)):
        with Path(name).open("wb") as file:
            os.dup2(file.fileno(), number)
    sys.argv = ["metadd-bench", *arguments]
    cli.main()


def snapshot(*roots):
    """Every file and folder under these roots, with a digest of its bytes."""
    found = {}
    for root in roots:
        for path in (root, *sorted(root.rglob("*"))):
            if path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            elif path.is_dir():
                found[str(path)] = "folder"
    return found


def is_one_line(done, *words):
    """Whether a command ended as a mistake does, its line holding these words."""
    assert done.status == 2
    assert done.out == ""
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("metadd-bench: ")
    for word in words:
        assert word in done.err
