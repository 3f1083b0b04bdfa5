"""``check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.errors import UserError
from bench.verbs.options import MethodPaths, ResultsDir, SuiteName, TablesFile


def check(
    suite: SuiteName,
    against: Annotated[Path, typer.Option(metavar="DIR", help="the results to compare with")] = Path(
        "results/reference"
    ),
    results: ResultsDir = Path("results"),
    slower: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO", help="so many times slower is worse too; times are only told by default"
        ),
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="make the results the new reference")] = False,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="why, for --update")] = None,
    tables: TablesFile = None,
    method_path: MethodPaths = None,
) -> None:
    """Compare a suite's results with a reference: exit 0 same or better, 1 worse, 3 cannot tell."""
    from bench.check import accept
    from bench.check import check as compare
    from bench.checking.moved import lines
    from bench.own import check_there
    from bench.spec import find_suite, read

    check_there(method_path or ())
    find_suite(read(tables), suite)
    if slower is not None and slower <= 1:
        raise UserError(f"--slower {slower:g}: more than 1 is expected, such as 1.5")
    if reason is not None and not update:
        raise UserError("--reason: only --update takes one")
    if update:
        before = accept(suite, results, against, reason or "")
        for line in lines(before, str(against)) if before else ():
            typer.echo(line)
        typer.echo(f"{against / suite} is now what {results / suite} says")
        return
    found = compare(suite, results, against, slower)
    for line in lines(found, str(against)):
        typer.echo(line)
    if found.outcome.value:
        raise typer.Exit(found.outcome.value)
