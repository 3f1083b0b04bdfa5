"""The two kinds of trouble that are not bugs.

Everything else is a bug and keeps its traceback.
"""


class UserError(Exception):
    """A mistake in what the user gave: one line that says what, where, and what would be right.

    The command line prints it on standard error and ends with exit status 2.
    """


class CellFailure(Exception):
    """A cell that cannot be finished (NaN, out of memory, an image size that a network refuses).

    The runner records the reason with the cell and goes on with the others.
    """


def near(name: str, known: "list[str] | tuple[str, ...]") -> str:
    """The end of an error about an unknown ``name``: the nearest known names, and all of them if few."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    listed = ", ".join(known) if len(known) <= 24 else f"{', '.join(known[:24])}, … ({len(known)} in all)"
    return f"{hint}known: {listed}"
