"""``measure``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bench.errors import UserError
from bench.verbs.options import (
    FAILED,
    DataDir,
    DeviceName,
    EstimateFormat,
    MethodPaths,
    Only,
    ResultsDir,
    StoreDir,
    SuiteName,
    TablesFile,
)
from bench.verbs.places import wanted

if TYPE_CHECKING:
    from bench.measuring.measure import Found, Measuring

#: The kinds of tables that measures are for.
_TABLES = ("memory", "time")


def measure(
    suite: SuiteName,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="from shapes alone: no GPU, no data, nothing trained")
    ] = False,
    save: Annotated[bool, typer.Option("--save", help="keep and publish estimates, as measures are")] = False,
    updates: Annotated[int | None, typer.Option(min=1, help="timed updates per cell [default: 5]")] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="updates before those [default: 2]")] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="of estimates, say what fits into so much, such as 24GiB"),
    ] = None,
    only: Only = None,
    device: Annotated[
        DeviceName, typer.Option(help="where to run, or as where to estimate; a GPU is given larger batches")
    ] = DeviceName.auto,
    format_: Annotated[EstimateFormat, typer.Option("--format", help="how to print estimates")] = (
        EstimateFormat.md
    ),
    data_dir: DataDir = None,
    store: StoreDir = Path("store"),
    results: ResultsDir = Path("results"),
    tables: TablesFile = None,
    method_path: MethodPaths = None,
) -> None:
    """Measure what a suite's cells take, memory and time of a few updates each, or estimate the memory.

    Nothing is trained for it, and the official datasets need not be there.
    """
    from bench import api
    from bench.measuring.fit import parse_size
    from bench.own import add_methods
    from bench.spec import find_suite, read

    _check(estimate, {"--save": save, "--memory": memory is not None, "--format": format_ != "md"}, True)
    _check(estimate, {"--updates": updates is not None, "--warmup": warmup is not None}, False)
    limit = None if memory is None else parse_size(memory)
    add_methods(method_path or ())
    spec = read(tables)
    found = find_suite(spec, suite)
    kind = _kind(device, estimate)
    from bench.measuring.measure import Measuring

    measuring = Measuring(
        suite,
        found,
        wanted(only),
        "estimate" if estimate else "run",
        kind,
        5 if updates is None else updates,
        2 if warmup is None else warmup,
        store=api.checked_folder(store, "--store"),
        results=api.checked_folder(results / suite, "--results"),
        data_dir=data_dir,
        command=_command(suite, estimate, kind, only),
    )
    failed = 0
    if estimate:
        _print_estimates(measuring, limit, save, format_)
    else:
        for each in measuring.run():
            typer.echo(_line(each))
            failed += each.row["result"]["trouble"] is not None
    if estimate and not save:
        return
    measuring.publish()
    names = [name for name in found.tables if spec.tables[name].kind in _TABLES]
    from bench.results import Results
    from bench.tabulating.formats import to_markdown

    for table in api.write_tables(spec, suite, Results(results / suite), names):
        typer.echo(f"\n{to_markdown(table)}")
    if failed:
        raise typer.Exit(FAILED)


def _check(estimate: bool, given: dict[str, bool], needed: bool) -> None:
    for option, there in given.items():
        if there and estimate != needed:
            raise UserError(f"measure: {option} goes {'only' if needed else 'not'} with --estimate")


def _kind(device: DeviceName, estimate: bool) -> Literal["cpu", "cuda"]:
    if estimate and device != DeviceName.auto:
        return "cuda" if device == DeviceName.cuda else "cpu"
    from bench.device import choose

    return "cuda" if choose(device.value).type == "cuda" else "cpu"


def _print_estimates(measuring: Measuring, limit: int | None, save: bool, format_: EstimateFormat) -> None:
    from bench.measuring.estimate import FORMATS

    found = measuring.estimates(limit, save)
    for line in FORMATS[format_.value](found):
        typer.echo(line)


def _line(found: Found) -> str:
    """A measure in one line: what, how much, how long."""
    cell, tags, result = found.measured.cell, found.measured.planned.tags, found.row["result"]
    about = [tags["method"] if tags["method"] else f"{tags['what']} {tags['network'] or ''}".strip()]
    about += [f"IPC {tags['ipc']}"] if tags["ipc"] else []
    words = f"{cell.what} {', '.join((tags['dataset'], *about))}: "
    if result["trouble"] is not None:
        return f"{words}{result['trouble']}"
    peak = result["peak_live_bytes"] if cell.device == "cpu" else result["peak_allocated_bytes"]
    words += "memory not measured" if peak is None else f"{peak / 2**20:.1f} MiB"
    if (times := result["seconds_per_update"]) is not None:
        words += f", {times['median']:.4g} s per update (median of {times['n']})"
    return f"{words}{'' if found.made else ' [found]'}"


def _command(suite: str, estimate: bool, kind: str, only: list[str] | None) -> str:
    parts = [
        f"metadd-bench measure {suite} --device {kind}",
        *(["--estimate"] if estimate else []),
        *(f"--only {text}" for text in only or []),
    ]
    return " ".join(parts)
