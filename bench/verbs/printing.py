"""What the verbs that plan and run say of cells."""

from __future__ import annotations

import typer

from bench import api
from bench.api import Opened
from bench.walk import Report


def describe(opened: Opened, key: str) -> str:
    """A cell in a few words, with the beginning of its key."""
    return f"{opened.plan.planned[key].words} [{key[:12]}]"


def plan(opened: Opened) -> None:
    """Every cell and where it stands."""
    for key, item in opened.plan.planned.items():
        typer.echo(f"{opened.store.state(item.cell):<9} {describe(opened, key)}")
    counts(opened)


def counts(opened: Opened) -> None:
    """How many cells of each kind stand where."""
    for kind, found in api.status(opened).items():
        there = ", ".join(f"{count} {state}" for state, count in found.items() if count)
        typer.echo(f"{sum(found.values())} {kind} cells: {there}")


def end(report: Report, opened: Opened) -> None:
    """How a run ended; each failed cell with its reason."""
    typer.echo(
        f"{report.cells} cells: {report.hits} hits, {report.made} made, {len(report.failed)} failed"
        f" — {opened.results.folder}"
    )
    for key, reason in report.failed.items():
        typer.echo(f"failed: {describe(opened, key)}: {reason}", err=True)
    if report.out_of_time:
        typer.echo("time limit reached: run the same command again to go on where it stopped", err=True)
