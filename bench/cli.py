"""The command line: parses, calls one function, prints. Exit status: see the README."""

from __future__ import annotations

import sys

import typer

from bench.disk import trouble
from bench.errors import CellFailure, UserError
from bench.verbs import check, cost, drawing, export, measure, names, packing, report, running, sets
from bench.verbs.options import FAILED, INTERRUPTED, MISTAKE

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Dataset distillation, with and without a plug-in, measured across architectures.",
)
for verb in (
    running.run,
    running.status,
    measure.measure,
    names.list_,
    sets.data,
    sets.evaluate,
    drawing.table,
    drawing.plot,
    report.report,
    export.export,
    check.check,
    cost.cost,
    packing.pack,
    packing.unpack,
):
    app.command(name=verb.__name__.rstrip("_"))(verb)


def main() -> None:
    """The entry point: users' mistakes are one line and exit status 2, bugs keep their traceback."""
    try:
        status = app(sys.argv[1:] or ["--help"], prog_name="metadd-bench", standalone_mode=False)
        if status == INTERRUPTED:  # what Typer makes of Ctrl-C
            goes_on = "; the same command goes on where it stopped" if sys.argv[1] == "run" else ""
            status = _complain(f"interrupted{goes_on}", INTERRUPTED)
    except UserError as error:
        status = _complain(str(error), MISTAKE)
    except typer.TyperException as error:  # options and arguments that do not exist or do not fit
        context = getattr(error, "ctx", None)
        verb = context.command_path if context else "metadd-bench"
        status = _complain(f"{error.format_message().rstrip('.')} (see `{verb} --help`)", MISTAKE)
    except CellFailure as failure:
        status = _complain(f"failed: {failure}", FAILED)
    except OSError as error:
        if (said := trouble(error)) is None:
            raise
        status = _complain(said, MISTAKE)
    sys.exit(status)


def _complain(text: str, status: int) -> int:
    """One line on standard error, and the exit ``status`` for it."""
    print(f"metadd-bench: {' '.join(text.split())}", file=sys.stderr)
    return status
