"""``list``."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.verbs.options import Kind, MethodPaths, TablesFile


def list_(
    kind: Annotated[Kind | None, typer.Argument(help="what to list; everything by default")] = None,
    tables: TablesFile = None,
    method_path: MethodPaths = None,
) -> None:
    """List suites, methods, networks, datasets, recipes, tables and figures."""
    from baselines import METHODS
    from bench.data import NAMES
    from bench.networks.names import PRESETS
    from bench.own import add_methods
    from bench.spec import read
    from bench.training.recipes import AUTHORS, RECIPES

    add_methods(method_path or ())
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
