"""The few functions under the command line's verbs. Importing them costs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench import data
from bench.cells import DatasetId
from bench.errors import UserError
from bench.own import add_methods
from bench.plan import Dataset, Plan, plan
from bench.results import Results
from bench.spec import Spec, find_suite, read
from bench.store import State, Store
from bench.walk import Report, Silent, Watcher, collect, to_make

if TYPE_CHECKING:
    from bench.measuring.estimate import Estimates
    from bench.tabulating.table import Table

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Opened:
    """A suite with its plan and the places it reads and writes; what most functions here start from."""

    name: str
    spec: Spec
    #: The cells asked for.
    plan: Plan
    #: All cells of the suite: what is published.
    whole: Plan
    store: Store
    results: Results
    #: Files with methods of one's own, which another process has to read too.
    method_paths: Sequence[Path] = ()


def open_suite(
    suite: str,
    *,
    data_dir: Path | None = None,
    store: Path = Path("store"),
    results: Path = Path("results"),
    only: Mapping[str, str] | None = None,
    tables: Path | None = None,
    method_paths: Sequence[Path] = (),
) -> Opened:
    """Read the suite, look at its data, and plan its cells; nothing is run and nothing is written.

    Args:
        suite: its name in the tables file.
        data_dir: where datasets are (default: ``METADD_DATA``, else ``data``).
        store: the folder of finished cells.
        results: the folder of published results; ``results/SUITE`` counts as finished cells too.
        only: tags that a cell must have, such as ``{"method": "DM", "seed": "0"}``.
        tables: the file of suites, tables and figures (default: this installation's).
        method_paths: files that define methods of one's own (:mod:`baselines.own`).

    Raises:
        UserError: something is misspelt, missing, damaged or impossible.
    """
    add_methods(method_paths)
    spec = read(tables)
    found = find_suite(spec, suite)
    kept = Results(checked_folder(results / suite, "--results"))
    opened = Store(checked_folder(store, "--store"), kept)

    def identify(name: str) -> Dataset:
        seen = data.identify(name, data_dir)
        return Dataset(DatasetId.of(seen), seen.spec, min(seen.train), min(seen.test))

    planned = plan(suite, found, identify)
    asked = planned.only(only) if only else planned
    return Opened(suite, spec, asked, planned, opened, kept, tuple(method_paths))


def run(
    opened: Opened,
    *,
    data_dir: Path | None = None,
    device: Device = "auto",
    time_limit: float | None = None,
    checkpoint_every: float = 30.0,
    watcher: Watcher | None = None,
    command: str = "python",
    memory: str | None = None,
    fit_check: bool = True,
    jobs: int = 1,
    together: int = 1,
    graphs: bool = False,
) -> Report:
    """Make the suite's missing cells, then write its rows, tables and figures to its results folder.

    Args:
        opened: from :func:`open_suite`.
        data_dir: as there.
        device: ``auto`` takes a GPU if there is one.
        time_limit: seconds after which to stop; what was begun goes on in the next run.
        checkpoint_every: seconds between two checkpoints of a cell.
        watcher: who is told how it goes.
        command: what the rows' provenance says was run.
        memory: a size such as ``24GiB``: what is estimated to take more is not distilled; by default what a
            GPU has, an equal part for each of ``jobs``, and no limit on a CPU.
        fit_check: whether anything is estimated at all.
        jobs: processes that make cells side by side, with this one's threads among them.
        together: evaluation networks of one set that are trained at once, at most. Results then differ from
            those of one by one in the last bits of a sum, and their rows say so.
        graphs: whether evaluation networks are trained by CUDA graphs, on a GPU.

    Raises:
        UserError: something is misspelt, missing, damaged or impossible.
    """
    from bench.measuring.fit import parse_size

    limit = None if memory is None else parse_size(memory)
    if limit is not None and not fit_check:
        raise UserError("--memory and --no-fit-check contradict each other: leave one out")
    collect(opened.whole, opened.store)  # a damaged row is named before anything is made
    missing = to_make(opened.plan, opened.store)
    watcher = watcher or Silent()
    if missing:
        from bench import runner
        from bench.device import choose, has_graphs, memory_of
        from bench.jobs import beside as jobs_beside

        chosen = choose(device)
        if limit is None and fit_check and (whole := memory_of(chosen)) is not None:
            limit = whole // jobs  # they share it
        if graphs and not has_graphs(chosen):
            raise UserError(f"--cuda-graphs: a {chosen.type} has none; leave it out, or run --device cuda")
        options = runner.Options(
            data_dir, chosen, command, time_limit, checkpoint_every, limit, together, graphs
        )
        with jobs_beside(jobs - 1, opened.plan, opened.store, options, opened.method_paths):
            report = runner.run(opened.plan, opened.store, options, watcher)
        if jobs > 1:  # what the others made is no hit
            left = len(to_make(opened.plan, opened.store)) - len(report.failed)
            report.hits = len(opened.plan) - len(missing)
            report.made = len(missing) - len(report.failed) - left
    else:
        watcher.begin(len(opened.plan), len(opened.plan))
        report = Report(cells=len(opened.plan), hits=len(opened.plan))
    publish(opened)
    return report


def publish(opened: Opened) -> None:
    """Bring the results folder up to date with the store: rows, small sets, tables, figures."""
    from bench.plots import plot
    from bench.plotting.cams import first_seeds

    rows = collect(opened.whole, opened.store)
    analyses = {row["key"] for row in first_seeds(rows)}
    for row in rows:
        cell = opened.whole.planned[row["key"]].cell
        if cell.kind == "distil" or row["key"] in analyses:
            paths = (opened.store.artifact(cell, name) for name in row["artifacts"])
            opened.results.keep(row["key"], [path for path in paths if path is not None])
    changed = opened.results.write(rows)
    suite = opened.spec.suites[opened.name]
    write_tables(opened.spec, opened.name, opened.results, suite.tables)
    for name in suite.figures:
        file = opened.results.folder / f"figures/{name}.png"
        if changed or not file.exists():
            plot(opened.spec, opened.name, opened.results, name, file)


def write_tables(spec: Spec, suite: str, results: Results, names: Sequence[str]) -> list[Table]:
    """Make tables of a suite anew, in its results folder."""
    from bench.files import write_text
    from bench.tables import table
    from bench.tabulating.formats import to_csv, to_markdown

    found = table(spec, suite, results, names)
    for made in found:
        folder = results.folder / "tables"
        write_text(folder / f"{made.name}.md", to_markdown(made))
        write_text(folder / f"{made.name}.csv", to_csv(made))
    return found


def status(opened: Opened) -> dict[str, dict[State, int]]:
    """How many cells of each kind are finished, failed, running and missing."""
    counts: dict[str, dict[State, int]] = {}
    for item in opened.plan:
        of_kind = counts.setdefault(item.cell.kind, dict.fromkeys(State, 0))
        of_kind[opened.store.state(item.cell)] += 1
    return counts


def failures(opened: Opened) -> dict[str, str]:
    """The reason of each cell of the suite that failed the last time, by key."""
    found = {item.cell.key: opened.store.failure(item.cell) for item in opened.plan}
    return {key: reason for key, reason in found.items() if reason is not None}


def estimate(
    suite: str,
    *,
    data_dir: Path | None = None,
    only: Mapping[str, str] | None = None,
    tables: Path | None = None,
    method_paths: Sequence[Path] = (),
    device: Device = "auto",
    memory: str | None = None,
) -> Estimates:
    """Estimate the memory of a suite's distillations without a GPU, data or anything trained.

    Args:
        suite: as for :func:`open_suite`, like ``data_dir``, ``only``, ``tables`` and ``method_paths``.
        data_dir: where folders of images are; of the official datasets the shapes are known.
        only: tags that a row must have.
        tables: the file of suites.
        method_paths: files that define methods of one's own.
        device: as where; ``cuda`` needs no GPU here. ``auto`` is a GPU if there is one.
        memory: a size such as ``24GiB``; the estimates then say whether they fit, and what would.

    Raises:
        UserError: something is misspelt, missing, damaged or impossible.
    """
    from bench.measuring.fit import parse_size

    limit = None if memory is None else parse_size(memory)
    add_methods(method_paths)
    found = find_suite(read(tables), suite)
    from bench.measuring.estimate import estimates

    return estimates(suite, found, only or {}, device, limit, data_dir)


def checked_folder(path: Path, option: str) -> Path:
    """A folder that is there or can be made.

    Raises:
        UserError: a file is in the way; the message names the option.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UserError(f"{option} {path}: the file {there} is in the way; a folder is needed")
    return path
