"""Where data and caches lie when nobody says, and trouble with files in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import UserError


def data_folder(given: Path | None) -> Path:
    """Return the folder given, else ``METADD_DATA``, else ``data`` in the working folder."""
    return given or Path(os.environ.get("METADD_DATA") or "data")


def cache_folder(given: Path | None) -> Path:
    """Return the folder given, else ``METADD_CACHE``, else the user's cache folder."""
    if given:
        return given
    if folder := os.environ.get("METADD_CACHE"):
        return Path(folder)
    from platformdirs import user_cache_path

    return user_cache_path("metadd-bench")


@contextmanager
def plain_errors(place: Path) -> Iterator[None]:
    """Turn trouble with files (rights, no space) into a UserError that names the file, else ``place``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or place}: {error.strerror or error}") from error
