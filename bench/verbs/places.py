"""What several verbs begin with: a suite and its places, tags that cells must have, published results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UserError

if TYPE_CHECKING:
    from bench.api import Opened
    from bench.results import Results
    from bench.spec import Spec


def open_suite(
    suite: str,
    data_dir: Path | None,
    store: Path,
    results: Path,
    only: list[str] | None,
    tables: Path | None,
    method_paths: list[Path] | None,
) -> Opened:
    """The suite with its plan and places; see :func:`bench.api.open_suite`."""
    from bench import api

    return api.open_suite(
        suite,
        data_dir=data_dir,
        store=store,
        results=results,
        only=wanted(only),
        tables=tables,
        method_paths=method_paths or (),
    )


def wanted(only: list[str] | None) -> dict[str, str]:
    """The tags of ``--only``."""
    found = {}
    for text in only or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--only {text}: KEY=VALUE is expected, such as method=DM")
        found[key] = value
    return found


def published(spec: Spec, suites: list[str] | None, results: Path) -> list[tuple[str, Results]]:
    """The results of these suites, or of all that have some."""
    from bench.results import Results, has_rows
    from bench.spec import find_suite

    if not results.is_dir():
        raise UserError(f"--results {results}: no such folder; `metadd-bench run SUITE` makes one")
    for name in suites or []:
        find_suite(spec, name)
    found = suites or [name for name in spec.suites if has_rows(results / name)]
    if not found:
        raise UserError(f"--results {results}: no results of any suite; `metadd-bench run SUITE` makes some")
    return [(name, Results(results / name)) for name in found]
