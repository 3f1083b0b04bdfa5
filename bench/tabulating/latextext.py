"""Text as LaTeX prints it."""

from __future__ import annotations

import re

from bench.tabulating.wording import CODE

#: Characters that LaTeX does not print as they stand.
_LATEX = {
    **{each: f"\\{each}" for each in "{}$&#%_"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "→": r"$\rightarrow$",
    "†": r"$^{\dagger}$",
    "…": r"\ldots{}",
    "“": "``",
    "”": "''",
    "—": "---",
    "–": "--",
}
_MINUS = re.compile(r"(?<![\w-])-(?=\d)")


def latex_text(text: str) -> str:
    """Text with what is special to LaTeX escaped, and what stands between backticks in typewriter."""
    found = ["".join(_LATEX.get(each, each) for each in part) for part in CODE.split(text)]
    for i, part in enumerate(found):
        # Two hyphens would become a dash, and the hyphen before a number is a minus.
        found[i] = rf"\texttt{{{part.replace('--', '-{}-')}}}" if i % 2 else _MINUS.sub("$-$", part)
    return "".join(found)
