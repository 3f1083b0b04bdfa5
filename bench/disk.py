"""A full disk, and a place that may not be written to: no bugs, so one line says what would be right."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, EFBIG, ENOSPC, EPERM, EROFS
from pathlib import Path

_FULL = (ENOSPC, EDQUOT, EFBIG)
_CLOSED = (EROFS, EACCES, EPERM)
#: How libraries in Rust (safetensors) end what they say of an error of the operating system.
_NUMBER = re.compile(r"\(os error (\d+)\)")


@contextmanager
def naming(place: Path) -> Iterator[None]:
    """Let errors of a full or closed disk say where: in ``place``, unless they name a path themselves.

    Those of PyTorch and safetensors become an ``OSError`` like any other.
    """
    try:
        yield
    except Exception as error:
        number = _number(error)
        if number not in (*_FULL, *_CLOSED) or getattr(error, "filename", None) is not None:
            raise
        raise OSError(number, os.strerror(number), str(place)) from error


def is_closed(error: OSError) -> bool:
    """Whether a place may not be written to, or not even be read."""
    return error.errno in _CLOSED


def trouble(error: OSError) -> str | None:
    """What is wrong with the disk, where, and what would be right; None for other errors."""
    place = error.filename2 or error.filename  # of two, the second is what was to be written
    where = f"{place}: " if place is not None else ""
    if error.errno in _FULL:
        right = "make room there"
    elif is_closed(error):
        right = "allow reading and writing there"
    else:
        return None
    return (
        f"{where}{error.strerror}; {right} or name another folder, then run the same command again: "
        "what is finished stays"
    )


def _number(error: Exception) -> int | None:
    """The operating system's number of an error, which libraries wrap in exceptions of their own."""
    if isinstance(error, OSError):
        return error.errno
    if found := _NUMBER.search(str(error)):
        return int(found[1])
    # torch.save finds, while it ends a file that could not be written, that the file is too short.
    inner = error.__context__ if isinstance(error, RuntimeError) else None
    return inner.errno if isinstance(inner, OSError) else None
