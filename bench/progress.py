"""What a person at a terminal sees; nothing where the output is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from bench.plan import Planned


class Bars:
    """One bar for the cells of the run, one for the steps of the cell being made."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._cells = progress.add_task("cells", total=None)
        self._steps = progress.add_task("", total=None, visible=False)

    def begin(self, total: int, done: int) -> None:
        """Show how much there is."""
        self._progress.update(self._cells, total=total, completed=done)

    def cell(self, planned: Planned) -> Callable[[int, int], None]:
        """Show a new cell's steps."""
        self._progress.reset(self._steps, description=planned.words, visible=True, total=None)
        return lambda done, total: self._progress.update(self._steps, completed=done, total=total)

    def finished(self, planned: Planned) -> None:
        """One cell more is done."""
        self._progress.advance(self._cells)


@contextmanager
def watcher() -> Iterator[Bars]:
    """Bars on standard error, with the time left; invisible unless that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield Bars(progress)


@contextmanager
def download(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for a download: called with (bytes there, bytes in all)."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
