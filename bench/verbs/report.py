"""``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.errors import UserError
from bench.verbs.options import MethodPaths, ResultsDir, SuiteName, TablesFile
from bench.verbs.places import published


def report(
    suite: SuiteName,
    results: ResultsDir = Path("results"),
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="where to write [default: RESULTS/SUITE/report.html]")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="also name the cells that failed there [default: results alone]")
    ] = None,
    tables: TablesFile = None,
    method_path: MethodPaths = None,
) -> None:
    """Write a suite's report: one HTML page with its verdicts, tables, figures, and the cells behind them."""
    from bench import api
    from bench.files import write_text
    from bench.own import add_methods
    from bench.report import page
    from bench.spec import read
    from bench.store import Store

    add_methods(method_path or ())
    spec = read(tables)
    ((name, kept),) = published(spec, [suite], results)
    file = to or kept.folder / "report.html"
    failures = None if store is None else Store(api.checked_folder(store, "--store"))
    text = page(spec, name, kept, failures)
    try:
        write_text(file, text)
    except OSError as error:
        raise UserError(f"--to {file}: cannot be written ({error.strerror}); name a file") from None
    typer.echo(str(file))
