"""The command line: parses, calls one function, prints. Exit status: see the README."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import CellFailure, UserError
from bench.options import (
    DataDir,
    Device,
    DeviceName,
    EstimateFormat,
    Kind,
    MethodPaths,
    Only,
    PictureFormat,
    PixelsName,
    ResultsDir,
    StoreDir,
    SuiteName,
    TableFormat,
    TablesFile,
)

if TYPE_CHECKING:
    from bench.api import Opened
    from bench.results import Results
    from bench.spec import Spec

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Dataset distillation, with and without a plug-in, measured across architectures.",
)

FAILED, MISTAKE, OUT_OF_TIME = 1, 2, 4


@app.command()
def run(
    suite: SuiteName,
    data_dir: DataDir = None,
    store: StoreDir = Path("store"),
    results: ResultsDir = Path("results"),
    device: Device = DeviceName.auto,
    only: Only = None,
    time_limit: Annotated[
        float | None, typer.Option(min=0, help="seconds after which to stop; a later run goes on")
    ] = None,
    checkpoint_every: Annotated[float, typer.Option(min=0, help="seconds between checkpoints")] = 30.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the cells and what is there; run nothing")
    ] = False,
    tables: TablesFile = None,
    method_path: MethodPaths = None,
) -> None:
    """Make a suite's missing cells, then its rows, tables and figures."""
    from bench import api, printing
    from bench.progress import watcher

    opened = _open(suite, data_dir, store, results, only, tables, method_path)
    if dry_run:
        printing.plan(opened)
        return
    with watcher() as watching:
        report = api.run(
            opened,
            data_dir=data_dir,
            device=device.value,
            time_limit=time_limit,
            checkpoint_every=checkpoint_every,
            watcher=watching,
            command=_command(suite, device, only),
        )
    for name in opened.spec.suites[suite].tables:
        typer.echo((opened.results.folder / "tables" / f"{name}.md").read_text(encoding="utf-8"))
    printing.end(report, opened)
    if report.failed:
        raise typer.Exit(FAILED)
    if report.out_of_time:
        raise typer.Exit(OUT_OF_TIME)


@app.command()
def status(
    suite: SuiteName,
    data_dir: DataDir = None,
    store: StoreDir = Path("store"),
    results: ResultsDir = Path("results"),
    only: Only = None,
    tables: TablesFile = None,
    method_path: MethodPaths = None,
) -> None:
    """Print how many of a suite's cells are finished, failed, running and missing."""
    from bench import api, printing

    opened = _open(suite, data_dir, store, results, only, tables, method_path)
    for kind, counts in api.status(opened).items():
        typer.echo(f"{kind}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    for key, reason in api.failures(opened).items():
        typer.echo(f"failed: {printing.describe(opened, key)}: {reason}")


@app.command()
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
        only=_wanted(only),
        tables=tables,
        method_paths=method_path or (),
        device=device.value,
        memory=memory,
    )
    from bench.estimate import FORMATS

    for line in FORMATS[format_.value](found):
        typer.echo(line)


@app.command(name="list")
def list_(
    kind: Annotated[Kind | None, typer.Argument(help="what to list; everything by default")] = None,
    tables: TablesFile = None,
    method_path: MethodPaths = None,
) -> None:
    """List suites, methods, networks, datasets, recipes, tables and figures."""
    from baselines import METHODS
    from bench import api
    from bench.data import NAMES
    from bench.networks.names import PRESETS
    from bench.recipes import AUTHORS, RECIPES
    from bench.spec import read

    api.add_methods(method_path or ())
    spec = read(tables)
    recipes = dict.fromkeys(RECIPES, "") | {AUTHORS: "each method's own"}
    found = {
        Kind.suites: {name: suite.title for name, suite in spec.suites.items()},
        Kind.methods: {name: entry.settings.label for name, entry in METHODS.items()} | {"full": "Full data"},
        Kind.networks: dict.fromkeys(PRESETS, ""),
        Kind.datasets: dict.fromkeys(NAMES, ""),
        Kind.recipes: recipes,
        Kind.tables: {name: table.title for name, table in spec.tables.items()},
        Kind.figures: {name: figure.title for name, figure in spec.figures.items()},
    }
    for each in [kind] if kind else Kind:
        if kind is None:
            typer.echo(f"{each.value}:")
        for name, about in found[each].items():
            typer.echo(f"{'' if kind else '  '}{name:<20}{about}".rstrip())


@app.command()
def data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a dataset; see `list datasets`")],
    data_dir: DataDir = None,
) -> None:
    """Fetch a dataset's official archive, verify it, and decode it into the cache."""
    from bench.data import NAMES, fetch, identify
    from bench.progress import download

    if name in NAMES and name != "digits":
        with download(name) as progress:
            path = fetch(name, data_dir or Path(os.environ.get("METADD_DATA") or "data"), progress=progress)
        typer.echo(f"{name}: {path}")
    found = identify(name, data_dir)
    typer.echo(
        f"{found.spec}: {sum(found.train)} train and {sum(found.test)} test images, "
        f"{len(found.classes)} classes, {found.size}x{found.size}, content {found.content[:12]}"
    )


@app.command()
def evaluate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="a .npz, .safetensors or .pt file, or a folder")
    ],
    dataset: Annotated[str, typer.Option(help="the dataset that the set is for")],
    network: Annotated[list[str], typer.Option(help="a network to train; repeatable")],
    recipe: Annotated[str, typer.Option(help="how to train it")] = "dsa",
    epochs: Annotated[int | None, typer.Option(help="instead of the recipe's")] = None,
    pixels: Annotated[PixelsName | None, typer.Option(help="how float images are held")] = None,
    seeds: Annotated[int, typer.Option(help="networks per set")] = 5,
    test_per_class: Annotated[int | None, typer.Option(help="test images per class [default: all]")] = None,
    data_dir: DataDir = None,
    device: Device = DeviceName.auto,
) -> None:
    """Train networks on a distilled set from elsewhere and print their test accuracy."""
    from bench import outside

    scores = outside.evaluate(
        file,
        dataset,
        network,
        recipe=recipe,
        overrides={} if epochs is None else {"epochs": epochs},
        pixels=pixels.value if pixels else None,
        seeds=seeds,
        test_per_class=test_per_class,
        data_dir=data_dir,
        device=device.value,
    )
    for score in scores:
        summary = score.summary
        spread = "± ? (one)" if summary.std is None else f"± {summary.std:.2f}"
        what = f"n = {summary.n} {score.of}"
        if score.of == "sets":
            what += f", each the mean of {score.per_set} networks"
        else:
            what += " of one set: evaluation noise only"
        typer.echo(f"{score.network}: {summary.mean:.2f} {spread} ({what}; {score.test_images} test images)")
        if score.at_chance:
            typer.echo(
                f"warning: {score.network} is no better than chance ({score.chance:.1f}%): the usual "
                "causes are the wrong --pixels, another normalisation (or ZCA) than the set was made with, "
                "or labels in another class order",
                err=True,
            )


@app.command()
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
) -> None:
    """Print tables from published rows."""
    from bench import api
    from bench.formats import FORMATS
    from bench.spec import read

    spec = read(tables)
    found = [
        api.table(spec, name, published, names or spec.suites[name].tables)
        for name, published in _published(spec, suite, results)
    ]
    for made in (made for of_suite in found for made in of_suite):
        typer.echo(FORMATS[format_.value](made))


@app.command()
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
) -> None:
    """Draw figures from published rows and pictures, into the results folder."""
    from bench import api
    from bench.spec import read

    spec = read(tables)
    for name, published in _published(spec, suite, results):
        for figure in names or spec.suites[name].figures:
            file = published.folder / "figures" / f"{figure}.{format_.value}"
            drawn = api.plot(spec, name, published, figure, file)
            typer.echo(str(file) if drawn else f"{name}: {figure}: nothing to draw yet")


def _open(
    suite: str,
    data_dir: Path | None,
    store: Path,
    results: Path,
    only: list[str] | None,
    tables: Path | None,
    method_paths: list[Path] | None,
) -> Opened:
    from bench import api

    return api.open_suite(
        suite,
        data_dir=data_dir,
        store=store,
        results=results,
        only=_wanted(only),
        tables=tables,
        method_paths=method_paths or (),
    )


def _wanted(only: list[str] | None) -> dict[str, str]:
    """The tags of ``--only``."""
    wanted = {}
    for text in only or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--only {text}: KEY=VALUE is expected, such as method=DM")
        wanted[key] = value
    return wanted


def _command(suite: str, device: DeviceName, only: list[str] | None) -> str:
    """What was asked for, without the paths of this machine."""
    parts = [
        "metadd-bench run",
        suite,
        f"--device {device.value}",
        *(f"--only {text}" for text in only or []),
    ]
    return " ".join(parts)


def _published(spec: Spec, suites: list[str] | None, results: Path) -> list[tuple[str, Results]]:
    """The results of these suites, or of all that have some."""
    from bench.results import Results
    from bench.spec import find_suite

    if not results.is_dir():
        raise UserError(f"--results {results}: no such folder; `metadd-bench run SUITE` makes one")
    for name in suites or []:
        find_suite(spec, name)
    found = suites or [name for name in spec.suites if (results / name / "rows.jsonl").exists()]
    if not found:
        raise UserError(f"--results {results}: no results of any suite; `metadd-bench run SUITE` makes some")
    return [(name, Results(results / name)) for name in found]


def main() -> None:
    """The entry point: users' mistakes are one line and exit status 2, bugs keep their traceback."""
    try:
        status = app(sys.argv[1:] or ["--help"], prog_name="metadd-bench", standalone_mode=False)
    except UserError as error:
        status = _complain(str(error), MISTAKE)
    except typer.TyperException as error:  # options and arguments that do not exist or do not fit
        context = getattr(error, "ctx", None)
        verb = context.command_path if context else "metadd-bench"
        status = _complain(f"{error.format_message().rstrip('.')} (see `{verb} --help`)", MISTAKE)
    except CellFailure as failure:
        status = _complain(f"failed: {failure}", FAILED)
    sys.exit(status)


def _complain(text: str, status: int) -> int:
    """One line on standard error, and the exit ``status`` for it."""
    print(f"metadd-bench: {' '.join(text.split())}", file=sys.stderr)
    return status
