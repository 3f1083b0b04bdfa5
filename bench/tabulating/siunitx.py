r"""A table's columns of numbers, as LaTeX's package siunitx (version 3) sets them.

A cell is a number, ``11.0 \pm 1.4`` where it has a spread, and behind it in braces what is text: the mark of
a network that was seen, the interval of a difference, of how many. Numbers of a column are aligned at their
decimal points, and the text follows where the number ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.tabulating.latextext import latex_text
from bench.tabulating.table import TableCell
from bench.tabulating.wording import Parts, parts

#: What the numbers are set with: a spread behind ±, signs and zeros as they stand, text next to its number,
#: and digits as bold as what is around them.
SETTINGS = (
    "uncertainty-mode=separate",
    "retain-explicit-plus",
    "retain-negative-zero",
    "retain-zero-uncertainty",
    "group-digits=none",
    "table-align-uncertainty=false",
    "table-align-text-before=false",
    "table-align-text-after=false",
    "text-series-to-math",
    "reset-text-series=false",
)
#: Widths of characters in em, as in Computer Modern; what is not here is about as wide as a digit.
_EM = {**dict.fromkeys(".,[] ", 0.29), **dict.fromkeys("()", 0.39), **dict.fromkeys("+-−×≈±%", 0.8)}
_DIGIT, _MARK = 0.5, 0.4
#: What bold type is wider by, and the spaces on both sides of ±.
_BOLD, _AROUND = 1.16, 0.45


@dataclass(frozen=True)
class Column:
    """What a column's cells have in common."""

    #: Digits before the decimal point and behind it, at most; and before that of a spread.
    whole: int = 0
    places: int = 0
    spread: int = 0
    signed: bool = False
    #: What stands before a number.
    lead: str = ""
    #: What marks a number.
    mark: str = ""
    #: What the text behind the numbers needs besides the room of a spread, in em.
    room: float = 0.0

    @property
    def words(self) -> bool:
        """Whether no cell has a number: nothing is there to be aligned."""
        return not self.whole

    @property
    def letter(self) -> str:
        """The column as a tabular asks for it."""
        if self.words:
            return "c"
        sign = "+" if self.signed else ""
        spread = f"({self.spread + self.places})" if self.spread else ""
        lead = f"{{{latex_text(self.lead)}}}" if self.lead else ""
        room = rf"{{\hspace{{{self.room:.1f}em}}}}" if self.room else ""
        places = f".{self.places}" if self.places else ""
        return f"S[table-format={lead}{sign}{self.whole}{places}{spread}{room}]"


def column(cells: Sequence[TableCell | None]) -> Column:
    """What a column is like, from its cells."""
    said = [(it, bool(cell and cell.bold)) for cell in cells if (it := parts(cell)).number]
    if not said:
        return Column()
    digits = [it.number.lstrip("+-").partition(".") for it, _ in said]
    known = Column(
        max(len(whole) for whole, _, _ in digits),
        max(len(places) for _, _, places in digits),
        max(len(it.spread.partition(".")[0]) for it, _ in said),
        any(it.number[0] in "+-" for it, _ in said),
        max(it.lead for it, _ in said),
        max(it.mark for it, _ in said),
    )
    reserved = _behind(known.places, known.spread + known.places if known.spread else 0)
    room = max(_needed(it, known) * (_BOLD if bold else 1.0) for it, bold in said) - reserved
    # A tenth is lost to rounding.
    return replace(known, room=max(0.0, room + 0.1))


def _behind(places: int, spread: int) -> float:
    """The em from a decimal point to the end of a spread of so many digits."""
    return _DIGIT * (places + spread) + (_EM["±"] + _AROUND + _EM["."] if spread else 0)


def _needed(it: Parts, known: Column) -> float:
    """The em from a number's decimal point to the end of its cell, with what :func:`_filled` adds."""
    places = len(it.number.partition(".")[2])
    spread = known.spread + known.places if it.spread else 0
    text = f"{_interval(it.between)}{it.more} ({it.n})"
    mark = _MARK if known.mark else 0
    return _behind(places, spread) + mark + sum(_EM.get(each, _DIGIT) for each in text)


def _interval(ends: Sequence[str]) -> str:
    return f" [{', '.join(ends)}]" if ends else ""


def number(cell: TableCell | None, of: Column) -> str:
    """A cell of a column; what has no number is text, in braces where the column has some."""
    it = parts(cell)
    if it.words:
        return latex_text(it.words) if of.words else f"{{{latex_text(it.words)}}}"
    bold = r"\bfseries " if cell and cell.bold else ""
    lead = f"{{{latex_text(it.lead)}}}" if it.lead else ""
    spread = rf" \pm {it.spread}" if it.spread else ""
    ends = tuple(rf"\num{{{end}}}" for end in it.between)
    text = f"{latex_text(it.mark)}{_filled(it, of)}{_interval(ends)}{latex_text(it.more)} ({it.n})"
    return f"{bold}{lead}{it.number}{spread}{{{text.replace(' (', '~(').replace(' [', '~[')}}}"


def _filled(it: Parts, of: Column) -> str:
    """As much nothing as brings what follows below that of the column's widest cells."""
    if not (it.spread or it.between):
        return ""
    mark = latex_text(of.mark) if not it.mark else ""
    digits = "0" * (of.spread - len(it.spread.partition(".")[0])) if it.spread else ""
    return rf"\hphantom{{{mark}{digits}}}" if mark or digits else ""
