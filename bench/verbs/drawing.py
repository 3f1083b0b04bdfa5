"""``table`` and ``plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.verbs.options import MethodPaths, PictureFormat, ResultsDir, TableFormat, TablesFile
from bench.verbs.places import published


def table(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="tables; all by default")
    ] = None,
    suite: Annotated[
        list[str] | None, typer.Option(help="of these suites; all that have results by default")
    ] = None,
    results: ResultsDir = Path("results"),
    format_: Annotated[TableFormat, typer.Option("--format", help="how to print")] = TableFormat.md,
    tables: TablesFile = None,
    method_path: MethodPaths = None,
) -> None:
    """Print tables from published rows."""
    from bench.own import check_there
    from bench.spec import read
    from bench.tables import table as tables_of
    from bench.tabulating.formats import FORMATS

    check_there(method_path or ())
    spec = read(tables)
    found = [
        tables_of(spec, name, kept, names or spec.suites[name].tables)
        for name, kept in published(spec, suite, results)
    ]
    for made in (made for of_suite in found for made in of_suite):
        typer.echo(FORMATS[format_.value](made))


def plot(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="figures; all by default")
    ] = None,
    suite: Annotated[
        list[str] | None, typer.Option(help="of these suites; all that have results by default")
    ] = None,
    results: ResultsDir = Path("results"),
    format_: Annotated[PictureFormat, typer.Option("--format", help="how to draw")] = PictureFormat.png,
    tables: TablesFile = None,
    method_path: MethodPaths = None,
) -> None:
    """Draw figures from published rows and pictures, into the results folder."""
    from bench import plots
    from bench.own import check_there
    from bench.spec import read

    check_there(method_path or ())
    spec = read(tables)
    for name, kept in published(spec, suite, results):
        for figure in names or spec.suites[name].figures:
            file = kept.folder / "figures" / f"{figure}.{format_.value}"
            drawn = plots.plot(spec, name, kept, figure, file)
            typer.echo(str(file) if drawn else f"{name}: {figure}: nothing to draw yet")
