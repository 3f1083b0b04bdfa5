"""How tables say a number in words and signs, and mark code, in whatever format."""

from __future__ import annotations

import re

from bench.tables import SEEN, TableCell

#: What stands between backticks is code.
CODE = re.compile(r"`([^`]+)`")


def number_text(cell: TableCell | None) -> str:
    """A number as every form but CSV says it."""
    return " ".join(part for part in parts(cell) if part)


def parts(cell: TableCell | None) -> tuple[str, str]:
    """A number as text: up to where LaTeX aligns it, and the rest; the rest is empty where there is none."""
    cell = cell or TableCell()
    if (it := cell.summary) is None:
        return cell.missing, ""
    if cell.text is not None:
        return cell.text, f"({it.n})"
    mark, places = SEEN if cell.seen else "", cell.decimals
    if cell.difference:
        low, high = it.interval
        between = "" if low is None else f"[{low:.{places}f}, {high:.{places}f}] "
        return f"{it.mean:+.{places}f}{mark}", f"{between}({it.n})"
    spread = "" if it.std is None else f"± {it.std:.{places}f} "
    return f"{it.mean:.{places}f}{mark}", f"{spread}({it.n or '?'})"
