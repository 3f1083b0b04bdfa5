"""Tables as LaTeX: numbers set by siunitx, no type smaller than can be read, nothing beyond the page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.tabulating import siunitx
from bench.tabulating.latextext import latex_text
from bench.tabulating.table import NAMES, Table, TableRow
from bench.tabulating.wording import number_text

#: Points: the text of a page of LaTeX's ``article``, what is left of its height beside a caption, a character
#: of a table on average, the space between two columns, a row.
_WIDTH, _HEIGHT, _CAPTION, _CHARACTER, _GAP, _ROW = 345.0, 550.0, 60.0, 4.9, 12.0, 12.0
#: Of notes, in smaller type: characters in a line, and the height of one.
_NOTE_WIDTH, _NOTE_LINE = 86, 9.5
#: A table is scaled down to about this share at most: type of 5.5 points, where text has 10.
_LEAST = 0.55


@dataclass(frozen=True)
class _Sheet:
    """As much of a table as a page holds."""

    rows: Sequence[TableRow]
    columns: Sequence[str]


def to_latex(table: Table) -> str:
    """A LaTeX ``table`` with booktabs and siunitx, scaled down where it is too wide.

    What would become too small is set sideways, and what is too large for a page is parted. Notes stand
    below, or behind it where a page has no room for them.
    """
    sideways, sheets = _sheets(table)
    floats = [_float(table, sheet, sideways, n > 0) for n, sheet in enumerate(sheets)]
    notes = [rf"{latex_text(note)}\par" for note in (*table.header, *table.notes)]
    packages = ["booktabs", "graphicx", *(["rotating"] if sideways else [])]
    uses = ", ".join(rf"\usepackage{{{package}}}" for package in packages)
    lines = [rf"% Needs {uses} and \usepackage{{siunitx}} (version 3)."]
    style = r"\footnotesize\raggedright\setlength{\parskip}{2pt}"
    if not sideways and len(sheets) == 1 and _fits(table, sheets[0]):
        *above, end = floats[0]
        start = rf"\par\medskip\begin{{minipage}}{{\linewidth}}{style}"
        return "\n".join([*lines, *above, start, *notes, r"\end{minipage}", end, ""])
    lines += [line for each in floats for line in each]
    start = rf"{{{style}\setlength{{\parindent}}{{0pt}}\par Table~\ref{{{_label(table)}}}:\par"
    return "\n".join([*lines, start, *notes, "}", ""])


def _sheets(table: Table) -> tuple[bool, list[_Sheet]]:
    """Whether the table is set sideways, and what of it stands on each page; columns are parted last."""
    names = sum(_width(name, (row.about[i] for row in table.rows)) for i, name in enumerate(table.row_names))
    widths = {
        column: _width(column, (number_text(row.cells.get(column)) for row in table.rows))
        for column in table.columns
    }
    sideways = (names + sum(widths.values())) * _LEAST > _WIDTH
    wide, high = (_HEIGHT, _WIDTH) if sideways else (_WIDTH, _HEIGHT)
    found = []
    for columns in _groups(widths, wide / _LEAST - names):
        scale = min(1.0, wide / (names + sum(widths[column] for column in columns)))
        most = int((high - _CAPTION) / (_ROW * scale)) - 2
        found += [_Sheet(rows, columns) for rows in _blocks(table, most)]
    return sideways, found or [_Sheet((), ())]


def _width(head: str, texts: Iterator[str]) -> float:
    return _CHARACTER * max(len(head), *(len(text) for text in texts), 0) + _GAP


def _groups(widths: Mapping[str, float], room: float) -> list[list[str]]:
    """The columns in order, in about as few groups as have room, of about equal widths."""
    count = math.ceil(sum(widths.values()) / room) if room > 0 else len(widths)
    most = sum(widths.values()) / max(1, count)
    while len(found := _filled(widths, most)) > max(1, count):
        most *= 1.02
    return found


def _filled(widths: Mapping[str, float], most: float) -> list[list[str]]:
    found: list[list[str]] = []
    used = math.inf
    for column, width in widths.items():
        if used + width > most:
            found.append([])
            used = 0.0
        found[-1].append(column)
        used += width
    return found


def _blocks(table: Table, most: int) -> list[list[TableRow]]:
    """The rows in order, about so many at most together; what is said of a method stays with it."""
    method = table.row_names.index(NAMES["method"]) if NAMES["method"] in table.row_names else None
    share = math.ceil(len(table.rows) / math.ceil(len(table.rows) / most))
    found: list[list[TableRow]] = [[]]
    for row in table.rows:
        if len(found[-1]) >= share and (method is None or ": " not in row.about[method]):
            found.append([])
        found[-1].append(row)
    return found


def _fits(table: Table, sheet: _Sheet) -> bool:
    """Whether a page has room for the table and its notes."""
    lines = sum(math.ceil(len(note) / _NOTE_WIDTH) for note in (*table.header, *table.notes))
    return _CAPTION + len(sheet.rows) * _ROW + lines * _NOTE_LINE <= _HEIGHT


def _label(table: Table) -> str:
    return f"tab:{re.sub(r'[^A-Za-z0-9.:-]', '-', table.name)}"


def _float(table: Table, sheet: _Sheet, sideways: bool, continued: bool) -> list[str]:
    """The lines of one float; one that is continued has the number of that before it."""
    kind = "sidewaystable" if sideways else "table"
    lines = [rf"\begin{{{kind}}}" if sideways else rf"\begin{{{kind}}}[htbp]", r"\centering"]
    if continued:
        lines += [r"\addtocounter{table}{-1}", rf"\caption{{{latex_text(table.title)} (continued)}}"]
    else:
        lines += [rf"\caption{{{latex_text(table.title)}}}", rf"\label{{{_label(table)}}}"]
    if sheet.rows:
        lines += [r"\sbox0{%", *_tabular(table, sheet), "}%"]
        lines.append(r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi")
    return [*lines, rf"\end{{{kind}}}"]


def _tabular(table: Table, sheet: _Sheet) -> list[str]:
    """The lines of the tabular: a column of LaTeX for each name of a row and each column of numbers."""
    # What a column is like goes by all its rows, so that every page sets it alike.
    columns = [siunitx.column([row.cells.get(name) for row in table.rows]) for name in sheet.columns]
    head = [latex_text(name) for name in table.row_names]
    head += [f"{{{latex_text(name)}}}" for name in sheet.columns]
    lines = [
        rf"\sisetup{{{', '.join(siunitx.SETTINGS)}}}%",
        rf"\begin{{tabular}}{{{'l' * len(table.row_names)}{''.join(each.letter for each in columns)}}}",
        r"\toprule",
        rf"{' & '.join(head)} \\",
        r"\midrule",
    ]
    for row in sheet.rows:
        cells = [row.cells.get(name) for name in sheet.columns]
        body = [siunitx.number(cell, of) for cell, of in zip(cells, columns, strict=True)]
        # An empty group, because \\ and \midrule would take a [ or * that follows for their own.
        lines.append(rf"{{}}{' & '.join([*map(latex_text, row.about), *body])} \\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]
