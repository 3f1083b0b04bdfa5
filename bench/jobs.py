"""Several processes on this machine that make one plan's cells together."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING

import torch

from bench import device, runner

if TYPE_CHECKING:
    from bench.api import Opened


@contextmanager
def beside(number: int, opened: Opened, options: runner.Options) -> Iterator[None]:
    """While the context is open, ``number`` processes make cells as well; on exit they are done.

    They share the store, whose locks see to it that each cell is made once, and this process's threads.

    Raises:
        RuntimeError: one of them ended by a bug, whose traceback it has printed.
    """
    before = torch.get_num_threads()
    threads = max(1, before // (number + 1))
    spawn = get_context("spawn")
    processes = [spawn.Process(target=_work, args=(opened, options, threads)) for _ in range(number)]
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


def _work(opened: Opened, options: runner.Options, threads: int) -> None:
    from bench import api

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it is told, and ends it
    torch.set_num_threads(threads)
    device.choose(options.device.type)
    api.add_methods(opened.method_paths)
    runner.run(opened.plan, opened.store, options, api.Silent())
