"""Evaluation of one set by several networks at once, each as :mod:`bench.stages.evaluate` makes it alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import device as devices
from bench.cells import EvaluateCell
from bench.errors import CellFailure
from bench.stages import Context, Outcome, checkpoint
from bench.stages.evaluate import TOGETHER, Lesson, graphs_of, set_of, trained_with
from bench.training import graphs
from bench.training.ensembles import Ensemble


class Refused(Exception):
    """These networks cannot be trained together; the text says why."""


def run(cells: Sequence[EvaluateCell], contexts: Sequence[Context]) -> list[Outcome | CellFailure]:
    """Train and test the networks of cells that differ in their evaluation seed alone.

    A network that diverges fails alone. The peak of memory in a cost is that of all together, and the seconds
    are an equal part of what all took. A checkpoint of the group is one of each cell, as it leaves alone.

    Args:
        cells: two or more.
        contexts: of each; the checkpoints in them are after equally many epochs (:func:`epochs_done`).

    Raises:
        Refused: nothing was done.
        CellFailure: none of them can be evaluated so, for want of memory, say; perhaps they can one by one.
        OutOfTime: the time limit was reached; a checkpoint of each is in its ``partial``.
    """
    started = time.monotonic()
    context = contexts[0]
    lesson = Lesson(cells[0], set_of(cells[0], context), context)

    def fresh(number: int) -> Ensemble:
        return Ensemble([lesson.training(cell) for cell in cells[:number]])

    try:
        fresh(2).try_one_step()
    except (RuntimeError, TypeError, ValueError) as problem:
        raise Refused(str(problem).partition("\n")[0]) from None
    memory = lesson.live_bytes(lambda: fresh(len(cells)))
    if context.graphs:
        graphs.collect()
    devices.reset_peak(context.device)
    ensemble, together = _taken_up(lesson, cells, contexts)
    if context.graphs:
        ensemble.graph()
    failed: dict[int, CellFailure] = {}
    epochs = lesson.recipe.epochs

    def save() -> None:
        for each, state in zip(contexts, ensemble.states(), strict=True):
            checkpoint.save(each.partial, state | trained_with(together))

    while ensemble.epochs_done < epochs and len(failed) < len(cells):
        ensemble.epoch()
        done = ensemble.epochs_done
        if lesson.is_observed(done):
            for number, loss in enumerate(ensemble.read_losses()):
                if diverged := lesson.divergence(done, loss):
                    failed.setdefault(number, diverged)
        context.progress(done, epochs)
        if done < epochs:
            context.may_stop(save)
    members = list(enumerate(ensemble.members))
    results = {number: lesson.test(training) for number, training in members if number not in failed}
    seconds = (time.monotonic() - started) / len(cells)
    memory |= graphs_of(ensemble) | devices.peak(context.device)
    costs = [lesson.cost(training, seconds, together) | memory for _, training in members]
    return [failed.get(number) or Outcome(results[number], costs[number]) for number, _ in members]


def epochs_done(partial: Path) -> int:
    """After how many epochs the checkpoint of an evaluation in this folder is; 0 without one."""
    state = checkpoint.load(partial, torch.device("meta"), told=False)
    return int(state["epochs_done"]) if state else 0


def _taken_up(
    lesson: Lesson, cells: Sequence[EvaluateCell], contexts: Sequence[Context]
) -> tuple[Ensemble, int]:
    """The networks where their checkpoints are, and how many were together at most, then or now."""
    trainings, together = [], len(cells)
    for cell, context in zip(cells, contexts, strict=True):
        training = lesson.training(cell)
        if state := checkpoint.load(context.partial):
            training.take_up(state)
            together = max(together, state.get(TOGETHER, 1))
        trainings.append(training)
    return Ensemble(trainings), together
