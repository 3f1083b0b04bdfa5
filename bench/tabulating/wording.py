"""How tables say a number in words and signs, and mark code, in whatever format."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.tabulating.table import SEEN, TableCell

#: What stands between backticks is code.
CODE = re.compile(r"`([^`]+)`")
#: A text that begins with a number: what stands before it, the number, what follows.
_NUMBER = re.compile(r"(≈?)([+-]?\d+(?:\.\d+)?)(.*)")


@dataclass(frozen=True)
class Parts:
    """What a cell says, piece by piece; what it has not is empty."""

    #: In place of a number.
    words: str = ""
    #: Before the number: ≈.
    lead: str = ""
    number: str = ""
    #: Of a network that was seen.
    mark: str = ""
    #: What follows ±.
    spread: str = ""
    #: The ends of an interval.
    between: tuple[str, ...] = ()
    #: What a table of cost says beside the number.
    more: str = ""
    #: Of how many.
    n: str = ""


def number_text(cell: TableCell | None) -> str:
    """A number as every form but CSV and LaTeX says it."""
    it = parts(cell)
    if it.words:
        return it.words
    spread = f" ± {it.spread}" if it.spread else ""
    between = f" [{', '.join(it.between)}]" if it.between else ""
    return f"{it.lead}{it.number}{it.mark}{spread}{between}{it.more} ({it.n})"


def parts(cell: TableCell | None) -> Parts:
    """A cell's pieces."""
    cell = cell or TableCell()
    if (it := cell.summary) is None:
        return Parts(words=cell.missing)
    if cell.text is not None:
        found = _NUMBER.fullmatch(cell.text)
        if found is None:
            return Parts(words=f"{cell.text} ({it.n})")
        lead, number, more = found.groups()
        return Parts(lead=lead, number=number, more=more, n=f"{it.n}")
    mark, places = SEEN if cell.seen else "", cell.decimals
    if cell.difference:
        between = () if it.std is None else tuple(f"{end:.{places}f}" for end in it.interval)
        return Parts(number=f"{it.mean:+.{places}f}", mark=mark, between=between, n=f"{it.n}")
    spread = "" if it.std is None else f"{it.std:.{places}f}"
    return Parts(number=f"{it.mean:.{places}f}", mark=mark, spread=spread, n=f"{it.n or '?'}")
