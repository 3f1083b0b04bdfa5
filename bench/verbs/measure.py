"""``measure``."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.errors import UserError
from bench.options import DataDir, DeviceName, EstimateFormat, MethodPaths, Only, SuiteName, TablesFile
from bench.verbs.places import wanted


def measure(
    suite: SuiteName,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="from shapes alone: no GPU, no data, nothing trained")
    ] = False,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="say what fits into so much, such as 24GiB")
    ] = None,
    only: Only = None,
    device: Annotated[
        DeviceName, typer.Option(help="estimate as on this device; a GPU is given larger batches")
    ] = DeviceName.auto,
    format_: Annotated[EstimateFormat, typer.Option("--format", help="how to print")] = EstimateFormat.md,
    data_dir: DataDir = None,
    tables: TablesFile = None,
    method_path: MethodPaths = None,
) -> None:
    """Estimate the memory that a suite's distillations take at their peak, by what holds it."""
    if not estimate:
        raise UserError("measure: only estimates can be made yet; add --estimate")
    from bench import api

    found = api.estimate(
        suite,
        data_dir=data_dir,
        only=wanted(only),
        tables=tables,
        method_paths=method_path or (),
        device=device.value,
        memory=memory,
    )
    from bench.estimate import FORMATS

    for line in FORMATS[format_.value](found):
        typer.echo(line)
