"""``cost``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.verbs.options import DataDir, EstimateFormat, MethodPaths, Only, ResultsDir, SuiteName, TablesFile
from bench.verbs.places import wanted


class Kind(StrEnum):
    """The kind of device whose measures count."""

    cpu = "cpu"
    cuda = "cuda"


def cost(
    suite: SuiteName,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="RATE", help="assumed where nothing was measured [default: 20TFLOPS, see docs/gpu.md]"
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="say how far so much time goes, such as 24h")
    ] = None,
    device: Annotated[Kind, typer.Option(help="whose measured seconds count")] = Kind.cuda,
    only: Only = None,
    format_: Annotated[EstimateFormat, typer.Option("--format", help="how to print")] = EstimateFormat.md,
    results: ResultsDir = Path("results"),
    data_dir: DataDir = None,
    tables: TablesFile = None,
    method_path: MethodPaths = None,
) -> None:
    """Print the GPU hours and the memory of a suite's cells; nothing is run, no GPU is needed."""
    from bench.measuring import cost as costs
    from bench.tabulating.cost import FORMATS

    found = costs.costs(
        suite,
        rate=costs.RATE if rate is None else costs.parse_rate(rate),
        device=device.value,
        only=wanted(only),
        results=results,
        tables=tables,
        data_dir=data_dir,
        method_paths=method_path or (),
    )
    hours = None if budget is None else costs.parse_hours(budget)
    typer.echo(FORMATS[format_.value](found, hours), nl=False)
