"""Tables as Markdown, CSV, LaTeX and HTML: all but CSV show the same numbers in the same words."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Sequence

from bench.tabulating.latex import to_latex
from bench.tabulating.table import MISSING, Table, TableCell, range_of
from bench.tabulating.wording import CODE, number_text


def to_markdown(table: Table) -> str:
    """A Markdown table between its title and header, and its notes."""
    lines = [f"### {table.title}", ""]
    for note in table.header:
        lines += [note, ""]
    if table.rows:
        body = [[*row.about, *(_markdown(row.cells.get(c)) for c in table.columns)] for row in table.rows]
        lines += [*grid([*table.row_names, *table.columns], body, len(table.row_names)), ""]
    for note in table.notes:
        lines += [note, ""]
    return "\n".join(lines)


def grid(head: Sequence[str], body: Sequence[Sequence[str]], names: int) -> list[str]:
    """The lines of an aligned Markdown table: the first ``names`` columns are to the left."""
    body = [[text.replace("|", "\\|") for text in line] for line in body]
    widths = [max(3, *(len(line[i]) for line in [head, *body])) for i in range(len(head))]
    rule = ["-" * w if i < names else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = []
    for line in [head, rule, *body]:
        padded = [
            text.ljust(w) if i < names else text.rjust(w)
            for i, (text, w) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(padded)} |")
    return lines


def to_csv(table: Table) -> str:
    """One line per row and column: mean, std, n, the 95% interval, and the table's ``details``.

    Numbers have four decimals; what there is no result of is empty, with n = 0.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    numbers = ["mean", "std", "n", "low95", "high95"]
    writer.writerow([*table.row_names, "column", *numbers, *table.details])
    for row in table.rows:
        about = ["" if text == MISSING else text for text in row.about]
        for column in table.columns:
            cell = row.cells.get(column, TableCell())
            if (it := cell.summary) is None:
                writer.writerow([*about, column, "", "", 0, "", "", *("" for _ in table.details)])
                continue
            size = it.n or None  # None: a paper's, which is not known
            shown = [f"{x:.4f}" if isinstance(x, float) else x for x in (it.mean, it.std, size, *it.interval)]
            per_set = range_of(*cell.networks) if cell.networks[1] else ""
            known = {"networks_per_set": per_set, "seen": "true" if cell.seen else "false", "source": ""}
            known |= cell.details
            writer.writerow([*about, column, *shown, *(known[name] for name in table.details)])
    return out.getvalue()


def to_html(table: Table) -> str:
    """One ``<table>``, title and header its caption, the notes at its foot; it needs no style sheet."""
    header = "".join(f"<p>{html_text(note)}</p>" for note in table.header)
    lines = ["<table>", f"<caption><strong>{html_text(table.title)}</strong>{header}</caption>"]
    if table.rows:
        head = [f'<th scope="col">{html_text(name)}</th>' for name in table.row_names]
        head += [f'<th scope="col" {_RIGHT}>{html_text(column)}</th>' for column in table.columns]
        lines += ["<thead>", f"<tr>{''.join(head)}</tr>", "</thead>", f"<tbody {_NUMBERS}>"]
        for row in table.rows:
            body = [f'<th scope="row" {_LEFT}>{html_text(text)}</th>' for text in row.about]
            body += [f"<td>{_html_cell(row.cells.get(column))}</td>" for column in table.columns]
            lines.append(f"<tr>{''.join(body)}</tr>")
        lines.append("</tbody>")
    if table.notes:
        notes = "".join(f"<p>{html_text(note)}</p>" for note in table.notes)
        width = max(1, len(table.row_names) + len(table.columns))
        lines += ["<tfoot>", f'<tr><td colspan="{width}">{notes}</td></tr>', "</tfoot>"]
    return "\n".join([*lines, "</table>", ""])


_LEFT, _RIGHT = (f'style="text-align: {side}"' for side in ("left", "right"))
_NUMBERS = 'style="text-align: right; white-space: nowrap"'


def _html_cell(cell: TableCell | None) -> str:
    text = html.escape(number_text(cell))
    return f"<strong>{text}</strong>" if cell and cell.bold else text


def html_text(text: str) -> str:
    """Text with what is special to HTML escaped, and what stands between backticks as code."""
    return CODE.sub(r"<code>\1</code>", html.escape(text))


def _markdown(cell: TableCell | None) -> str:
    return f"**{number_text(cell)}**" if cell and cell.bold else number_text(cell)


#: How a table is printed, by the name of the format.
FORMATS: dict[str, Callable[[Table], str]] = {
    "md": to_markdown,
    "csv": to_csv,
    "latex": to_latex,
    "html": to_html,
}
