"""``run`` and ``status``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.verbs.options import (
    FAILED,
    OUT_OF_TIME,
    DataDir,
    Device,
    DeviceName,
    MethodPaths,
    Only,
    ResultsDir,
    StoreDir,
    SuiteName,
    TablesFile,
)
from bench.verbs.places import open_suite


def run(
    suite: SuiteName,
    data_dir: DataDir = None,
    store: StoreDir = Path("store"),
    results: ResultsDir = Path("results"),
    device: Device = DeviceName.auto,
    only: Only = None,
    time_limit: Annotated[
        float | None, typer.Option(min=0, help="seconds after which to stop; a later run goes on")
    ] = None,
    checkpoint_every: Annotated[float, typer.Option(min=0, help="seconds between checkpoints")] = 30.0,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="distil nothing that takes more [default: what the GPU has]"),
    ] = None,
    no_fit_check: Annotated[
        bool, typer.Option("--no-fit-check", help="try on a GPU what is estimated not to fit, too")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="processes that make cells side by side")] = 1,
    evaluate_together: Annotated[
        int, typer.Option(min=1, help="evaluation networks of one set trained at once, at most")
    ] = 1,
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="train evaluation networks by CUDA graphs")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the cells and what is there; run nothing")
    ] = False,
    tables: TablesFile = None,
    method_path: MethodPaths = None,
) -> None:
    """Make a suite's missing cells, then its rows, tables and figures."""
    from bench import api
    from bench.progress import watcher
    from bench.verbs import printing

    opened = open_suite(suite, data_dir, store, results, only, tables, method_path)
    if dry_run:
        printing.plan(opened)
        return
    with watcher() as watching:
        report = api.run(
            opened,
            data_dir=data_dir,
            device=device.value,
            time_limit=time_limit,
            checkpoint_every=checkpoint_every,
            watcher=watching,
            command=_command(suite, device, only, evaluate_together, cuda_graphs),
            memory=memory,
            fit_check=not no_fit_check,
            jobs=jobs,
            together=evaluate_together,
            graphs=cuda_graphs,
        )
    for name in opened.spec.suites[suite].tables:
        typer.echo((opened.results.folder / "tables" / f"{name}.md").read_text(encoding="utf-8"))
    printing.end(report, opened)
    if report.failed:
        raise typer.Exit(FAILED)
    if report.out_of_time:
        raise typer.Exit(OUT_OF_TIME)


def status(
    suite: SuiteName,
    data_dir: DataDir = None,
    store: StoreDir = Path("store"),
    results: ResultsDir = Path("results"),
    only: Only = None,
    tables: TablesFile = None,
    method_path: MethodPaths = None,
) -> None:
    """Print how many of a suite's cells are finished, failed, running and missing."""
    from bench import api
    from bench.verbs import printing

    opened = open_suite(suite, data_dir, store, results, only, tables, method_path)
    for kind, counts in api.status(opened).items():
        typer.echo(f"{kind}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    for key, reason in api.failures(opened).items():
        typer.echo(f"failed: {printing.describe(opened, key)}: {reason}")


def _command(suite: str, device: DeviceName, only: list[str] | None, together: int, graphs: bool) -> str:
    """What was asked for, without the paths of this machine."""
    parts = [
        "metadd-bench run",
        suite,
        f"--device {device.value}",
        *(f"--only {text}" for text in only or []),
        *([f"--evaluate-together {together}"] if together > 1 else []),
        *(["--cuda-graphs"] if graphs else []),
    ]
    return " ".join(parts)
