"""The report: one HTML page of a suite, from rows, pictures and figures alone, without torch.

The page needs nothing else: no network, no file beside it. Every number of its tables leads to the rows that
it was computed from.
"""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps

from bench import plots, tables
from bench.errors import UserError
from bench.reporting.records import Records
from bench.reporting.standing import KINDS, Standing, standing
from bench.reporting.surroundings import duration, machines
from bench.results import PLATE, Results
from bench.spec import Spec, find_suite
from bench.store import Store
from bench.tabulating.formats import html_text
from bench.tabulating.table import NAMES, Table, TableCell
from bench.tabulating.wording import number_text

#: Bytes that figures, rows and pictures of sets may take together; the pictures give way.
_ROOM = 4_300_000
#: Of these, bytes that the pictures of sets may take at most.
_PICTURES = 2_700_000
#: The words that a verdict begins with (:class:`bench.tabulating.verdicts.Verdict`), behind the numbers it is
#: about, or behind the column where there are none.
_OUTCOME = re.compile(r"[:”] (better|worse|no difference shown|cannot tell)\b")
_HERE = Path(__file__).parent / "reporting"


@dataclass(frozen=True)
class Number:
    """A number as the page shows it.

    ``of`` are its rows by number; ``about`` its statistics in words, or where it is from if it has no rows.
    """

    text: str
    of: str
    about: str
    bold: bool


@dataclass(frozen=True)
class Line:
    """A table's row as the page shows it; ``change``: whether it holds differences only."""

    about: Mapping[str, str]
    numbers: Sequence[Number]
    change: bool


@dataclass(frozen=True)
class Verdict:
    """What a table says of one primary comparison; ``outcome`` in one word or a few."""

    text: str
    outcome: str


def page(spec: Spec, suite: str, results: Results, store: Store | None = None) -> str:
    """The report of a suite as HTML, the same for the same files.

    Args:
        spec: the tables file.
        suite: the name of one of its suites.
        results: its published results.
        store: where to look for cells that failed; None where that is not asked.

    Raises:
        UserError: there are no rows, or one is damaged.
    """
    found = find_suite(spec, suite)
    rows = results.rows
    records = Records([*rows.values(), *results.measures.rows.values()])
    if not records.rows:
        raise UserError(f"{results.folder}: no results yet; `metadd-bench run {suite}` makes some")
    made = tables.table(spec, suite, results, found.tables)
    figures = dict(_figures(spec, suite, results))
    where = standing(spec, suite, rows, store)
    common = _common_header(made)
    data = _json(records.data)
    room = _ROOM - len(data) - sum(map(len, figures.values()))
    environment = Environment(
        loader=PackageLoader("bench", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"note": html_text, "duration": duration}
    return environment.get_template("page.html").render(
        name=suite,
        suite=found,
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        tables=[(it, _header(it, common), _lines(it, records), _same(it)) for it in made],
        header=[text for text in common if text not in tables.suite_header(suite, found)],
        verdicts=[(it.title, it.verdicts[0], _verdicts(it)) for it in made if it.verdicts],
        figures=[(spec.figures[each].title, each, picture) for each, picture in figures.items()],
        standing=where,
        kinds=_kinds(where),
        of=lambda count: records.numbers(count.finished),
        machines=machines(records.rows),
        records=records,
        old=sum(not row["current"] for row in rows.values()),
        measures_alone=not rows,
        data=data,
        pictures=_json(_pictures(records, results, min(room, _PICTURES))),
    )


def _json(value: Any) -> str:
    """JSON that may stand in a ``<script>``."""
    return htmlsafe_json_dumps(value, separators=(",", ":"))


def _lines(table: Table, records: Records) -> list[Line]:
    """A table's rows."""
    found = []
    for row in table.rows:
        cells = [row.cells.get(column) for column in table.columns]
        there = [cell for cell in cells if cell and cell.summary]
        change = bool(there) and all(cell.difference for cell in there)
        about = dict(zip(table.row_names, row.about, strict=True))
        found.append(Line(about, [_number(cell, records) for cell in cells], change))
    return found


def _same(table: Table) -> dict[str, str]:
    """What all rows of a table have in common, by its name; their column is left out. Not the method."""
    values = {name: {row.about[i] for row in table.rows} for i, name in enumerate(table.row_names)}
    return {
        name: found.pop() for name, found in values.items() if len(found) == 1 and name != NAMES["method"]
    }


def _number(cell: TableCell | None, records: Records) -> Number:
    cell = cell or TableCell()
    of = records.numbers(cell.keys)
    # A published number has no rows but a paper.
    about = _statistics(cell) if of else cell.details.get("source", "")
    return Number(number_text(cell), of, about, cell.bold)


def _statistics(cell: TableCell) -> str:
    """A number's statistics in words, with one digit more than the table shows."""
    if (it := cell.summary) is None:
        return ""
    places = cell.decimals + 1
    what = "mean difference" if cell.difference else "mean"
    texts = [f"{what} {it.mean:.{places}f}"]
    low, high = it.interval
    texts += [] if it.std is None else [f"standard deviation {it.std:.{places}f}"]
    texts += [] if low is None else [f"95% interval {low:.{places}f} to {high:.{places}f}"]
    return ", ".join([*texts, f"n = {it.n or 'not known'}"])


def _common_header(made: Iterable[Table]) -> tuple[str, ...]:
    """What stands above every table, which the page says once."""
    found = [table.header for table in made]
    return tuple(text for text in found[0] if all(text in header for header in found)) if found else ()


def _header(table: Table, common: Collection[str]) -> list[str]:
    """What stands above this table and not above all."""
    return [text for text in table.header if text not in common]


def _verdicts(table: Table) -> list[Verdict]:
    """What a table's tests say, without how they are done."""
    found = [(text, _OUTCOME.search(text)) for text in table.verdicts[1:]]
    return [Verdict(text, outcome[1] if outcome else "") for text, outcome in found]


def _kinds(where: Standing) -> list[str]:
    """The kinds of cells that the suite's rows have."""
    return [kind for kind in KINDS if any(kind in counts for counts in where.rows.values())]


def _figures(spec: Spec, suite: str, results: Results) -> Iterable[tuple[str, str]]:
    """The suite's figures by name, as data URLs; drawn where the results folder has none."""
    for name in spec.suites[suite].figures:
        file = results.folder / "figures" / f"{name}.png"
        if file.exists():
            yield name, _data_url(file.read_bytes())
            continue
        with tempfile.TemporaryDirectory() as folder:
            drawn = Path(folder) / file.name
            if plots.plot(spec, suite, results, name, drawn):
                yield name, _data_url(drawn.read_bytes())


def _pictures(records: Records, results: Results, room: int) -> Mapping[str, str]:
    """Pictures of distilled sets as data URLs, by the number of their row: first seeds first, while room."""
    found: dict[str, str] = {}
    places = [number for number, row in enumerate(records.rows) if row["cell"]["kind"] == "distil"]
    for number in sorted(places, key=lambda number: (records.rows[number]["cell"].get("seed", 0), number)):
        plate = results.artifact(records.rows[number]["key"], PLATE)
        if plate.exists():
            url = _data_url(plate.read_bytes())
            room -= len(url)
            if room < 0:
                break
            found[str(number)] = url
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
