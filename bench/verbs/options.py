"""What the command line lets one choose: values and options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

#: Exit statuses: cells that failed, a user's mistake, a time limit that was reached, Ctrl-C.
FAILED, MISTAKE, OUT_OF_TIME, INTERRUPTED = 1, 2, 4, 130


class DeviceName(StrEnum):
    """Where to run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class PixelsName(StrEnum):
    """How the images of a file are held."""

    unit = "unit"
    normalised = "normalised"
    zca = "zca"
    uint8 = "uint8"


class TableFormat(StrEnum):
    """How a table is printed."""

    md = "md"
    csv = "csv"
    latex = "latex"
    html = "html"


class EstimateFormat(StrEnum):
    """How estimates are printed."""

    md = "md"
    csv = "csv"


class PictureFormat(StrEnum):
    """How a figure is drawn."""

    png = "png"
    svg = "svg"
    pdf = "pdf"


class Kind(StrEnum):
    """What can be listed."""

    suites = "suites"
    methods = "methods"
    networks = "networks"
    datasets = "datasets"
    recipes = "recipes"
    tables = "tables"
    figures = "figures"


SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="a suite of the tables file; see `list`")]
DataDir = Annotated[Path | None, typer.Option(help="where datasets are [default: $METADD_DATA, else data]")]
StoreDir = Annotated[Path, typer.Option(help="the folder of finished cells")]
ResultsDir = Annotated[Path, typer.Option(help="the folder of published results")]
TablesFile = Annotated[
    Path | None, typer.Option(help="the file of suites, tables and figures [default: the installed one]")
]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="only cells with this tag (method, network, seed, …); repeatable"),
]
MethodPaths = Annotated[
    list[Path] | None,
    typer.Option(
        "--method-path", metavar="FILE", help="a file with a method or plug-in of your own; repeatable"
    ),
]
Device = Annotated[DeviceName, typer.Option(help="where to run")]
