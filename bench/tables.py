"""A suite's tables from its published rows alone, whatever their kind; without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.cells import canonical
from bench.errors import UserError
from bench.spec import Spec, Suite, TableSpec, find_suite, unknown

if TYPE_CHECKING:
    from bench.results import Results
    from bench.tabulating.published import Beside
    from bench.tabulating.table import Table


def table(spec: Spec, suite: str, results: Results, names: Sequence[str]) -> list[Table]:
    """The named tables of a suite.

    Raises:
        UserError: there is no such table, or a row is damaged.
    """
    for name in names:
        if name not in spec.tables:
            raise UserError(unknown("table", name, spec.tables))
    rows = results.rows.values()
    header = (*suite_header(suite, find_suite(spec, suite)), *pretrained(rows))
    return [_table(spec, suite, results, name, header) for name in names]


def _table(spec: Spec, suite: str, results: Results, name: str, header: Sequence[str]) -> Table:
    from bench.tabulating import accuracy, memory, meta, time

    asked, rows, measures = spec.tables[name], results.rows.values(), results.measures.rows.values()
    match asked.kind:
        case "meta-features":
            return meta.meta_table(name, asked, meta.frame(rows), header)
        case "memory":
            return memory.memory_table(name, asked, memory.frame(rows), header, measures)
        case "time":
            return time.time_table(name, asked, rows, header, measures)
    if asked.primary is None:
        asked = asked.model_copy(update={"primary": spec.suites[suite].primary})
    of = find_suite(spec, suite)
    return accuracy.accuracy_table(name, asked, accuracy.frame(rows), header, _published(asked, of), of.panel)


def _published(asked: TableSpec, suite: Suite) -> Beside | None:
    """The papers' numbers, where the suite says that any belong to it."""
    if not suite.published:
        return None
    from bench.tabulating.published import Beside, planned, read

    numbers = planned(suite, read())
    return None if numbers is None else Beside(numbers, asked, suite.protocol)


def suite_header(name: str, suite: Suite) -> tuple[str, ...]:
    """What a reader of any table of a suite must know: what it is, its protocol, and what is reduced."""
    end = "" if suite.title.endswith((".", "?", "!")) else "."
    first = f"Suite `{name}`: {suite.title}{end} Protocol: {suite.protocol}."
    return tuple(text for text in (first, suite.note.strip()) if text)


def pretrained(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """What was made from the real data beforehand and how good it is, a sentence for each dataset."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["current"] and row["cell"]["kind"] == "pretrain" and "accuracy" in row["result"]:
            cell = row["cell"]
            group = (cell["dataset"]["name"], cell["what"], canonical(cell["settings"]))
            groups.setdefault(group, []).append(row)
    found: dict[str, list[str]] = {}
    for (dataset, what, _), made in groups.items():
        found.setdefault(dataset, []).append(_quality(what, made))
    return tuple(f"Made beforehand on {name}: {'; '.join(texts)}." for name, texts in found.items())


def _quality(what: str, made: Sequence[Mapping[str, Any]]) -> str:
    """One kind of pretrained thing and its accuracy in %."""
    settings = made[0]["cell"]["settings"]
    accuracies = [row["result"]["accuracy"] for row in made]
    if what == "generator":
        samples = made[0]["result"]["samples"]
        return (
            f"{settings['kind']} generator ({settings['steps']} steps), of whose {samples} class-conditional "
            f"samples a classifier finds {accuracies[0]:.1f}% in their class"
        )
    many = f"{len(made)} " if len(made) > 1 else ""
    name = f"{many}{what}{'s' if many else ''} {settings['network']} ({settings['epochs']} epochs)"
    low, high = min(accuracies), max(accuracies)
    return f"{name}, test accuracy {low:.1f}" + (f" to {high:.1f}%" if many else "%")
