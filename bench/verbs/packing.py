"""``pack`` and ``unpack``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.verbs.options import DataDir, MethodPaths, ResultsDir, StoreDir, TablesFile
from bench.verbs.places import open_suite

if TYPE_CHECKING:
    from collections.abc import Iterable

PackFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="the pack; its pieces are FILE.001, FILE.002, …")
]


def pack(
    file: PackFile,
    suites: Annotated[
        list[str] | None, typer.Argument(metavar="[SUITE]...", help="of these suites; everything by default")
    ] = None,
    store: StoreDir = Path("store"),
    results: ResultsDir = Path("results"),
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="split into pieces of at most so much, such as 16MiB")
    ] = None,
    largest: Annotated[
        str | None, typer.Option(metavar="SIZE", help="leave artifacts of more than this behind; rows travel")
    ] = None,
    data_dir: DataDir = None,
    tables: TablesFile = None,
    method_path: MethodPaths = None,
) -> None:
    """Put rows, sets, checkpoints and teachers into a file, to carry them to another machine."""
    from bench.carrying import pack as packing
    from bench.measuring.fit import parse_size

    keys = {
        suite: frozenset(open_suite(suite, data_dir, store, results, None, tables, method_path).whole.planned)
        for suite in suites or ()
    }
    packed = packing.pack(
        file,
        store,
        results,
        suites=keys or None,
        max_size=parse_size(max_size, "--max-size") if max_size else None,
        largest=parse_size(largest, "--largest") if largest else None,
    )
    size = sum(path.stat().st_size for path in packed.files)
    places = f"{file}" if packed.files == [file] else f"{file}.001 to .{len(packed.files):03}"
    typer.echo(
        f"packed {packed.cells} cells, {packed.checkpoints} checkpoints, "
        f"rows of {', '.join(packed.suites) or 'no suite'}: {places}, {size / 2**20:.1f} MiB"
    )
    _say("left out, larger than asked for", packed.left_out)
    _say("left out, running", packed.running)
    _say("left out, damaged", map(str, packed.damaged))


def unpack(
    file: PackFile,
    store: StoreDir = Path("store"),
    results: ResultsDir = Path("results"),
) -> None:
    """Put what a pack holds in its place, after all of it was verified; nothing that is here is replaced."""
    from bench.api import checked_folder
    from bench.carrying import unpack as unpacking

    found = unpacking.unpack(file, checked_folder(store, "--store"), checked_folder(results, "--results"))
    typer.echo(
        f"new: {found.cells} cells, {found.checkpoints} checkpoints, {found.rows} published rows, "
        f"{found.sets} files of sets; known already: {found.known}"
    )
    _say("not in the pack, it ran there", found.missing)
    _say("left alone, running here", found.running)
    _say("differs from what is here, which was kept", found.differ)


def _say(what: str, names: Iterable[str]) -> None:
    for name in names:
        typer.echo(f"{what}: {name}", err=True)
