"""``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.verbs.options import Only, ResultsDir, StoreDir, TablesFile
from bench.verbs.places import wanted


def export(
    to: Annotated[Path, typer.Option(metavar="DIR", help="a new or empty folder")],
    cell: Annotated[
        str | None, typer.Argument(metavar="[CELL]", help="the key of a distil cell, or its beginning")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="of this suite; of any by default")] = None,
    only: Only = None,
    soft_labels: Annotated[
        bool, typer.Option("--soft-labels", help="also what its teachers said of each augmented view")
    ] = False,
    store: StoreDir = Path("store"),
    results: ResultsDir = Path("results"),
    tables: TablesFile = None,
) -> None:
    """Write a distilled set for use elsewhere: tensors, a folder of images and a dataset card."""
    from bench.disk import naming
    from bench.errors import UserError
    from bench.export import choose
    from bench.export import export as write
    from bench.spec import find_suite, read

    spec = read(tables)
    if suite is not None:
        find_suite(spec, suite)
    if not results.is_dir():
        raise UserError(f"--results {results}: no such folder; `metadd-bench run SUITE` makes one")
    chosen = choose(results, suite, cell, wanted(only))
    known = spec.suites.get(chosen.suite)
    about = f"{known.title}. {known.note}".strip() if known else ""
    with naming(to):
        done = write(chosen, to, store, about, soft_labels)
    typer.echo(f"{done.what}: {done.images} images in {done.folder}")
    if done.clamped:
        share = done.clamped / done.values
        typer.echo(
            f"{done.clamped} of {done.values} values ({share:.1%}) lie outside [0, 1] and were clamped in "
            "the PNGs; set.safetensors has them as they are"
        )
