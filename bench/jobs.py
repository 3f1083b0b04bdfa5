"""Several processes on this machine that make one plan's cells together."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bench import device, runner
from bench.disk import trouble
from bench.own import add_methods
from bench.walk import Silent

if TYPE_CHECKING:
    from bench.plan import Plan
    from bench.store import Store


@contextmanager
def beside(
    number: int, plan: Plan, store: Store, options: runner.Options, own: Sequence[Path] = ()
) -> Iterator[None]:
    """While the context is open, ``number`` processes make cells as well; on exit they are done.

    ``own`` are files with methods of one's own, which each of them has to read.

    They share the store, whose locks see to it that each cell is made once, and this process's threads.

    Raises:
        RuntimeError: one of them ended by a bug, whose traceback it has printed.
    """
    before = torch.get_num_threads()
    threads = max(1, before // (number + 1))
    spawn, arguments = get_context("spawn"), (plan, store, options, own, threads)
    processes = [spawn.Process(target=_work, args=arguments) for _ in range(number)]
    for process in processes:
        process.start()
    torch.set_num_threads(threads)
    try:
        yield
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        torch.set_num_threads(before)
        for process in processes:
            process.join()
    if broken := [process.exitcode for process in processes if process.exitcode]:
        raise RuntimeError(f"{len(broken)} of {number} processes ended with status {broken[0]}; see above")


def _work(plan: Plan, store: Store, options: runner.Options, own: Sequence[Path], threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it is told, and ends it
    torch.set_num_threads(threads)
    device.choose(options.device.type)
    add_methods(own)
    try:
        runner.run(plan, store, options, Silent())
    except OSError as error:
        if trouble(error) is None:
            raise
        # The disk is full, say. Who started this makes what is left, or is stopped by the same and says so.
