"""A suite's figures from its published rows and pictures alone, whatever their kind; without torch."""

from __future__ import annotations

from pathlib import Path

from bench.errors import UserError
from bench.results import Results
from bench.spec import Spec, find_suite, unknown


def plot(spec: Spec, suite: str, results: Results, name: str, file: Path) -> bool:
    """Draw a figure of a suite; False where there is nothing to draw.

    Raises:
        UserError: there is no such figure, or a row is damaged.
    """
    from bench.plotting import accuracy, cams, cost, images

    if name not in spec.figures:
        raise UserError(unknown("figure", name, spec.figures))
    asked, note = spec.figures[name], f"Suite {suite}."
    if asked.kind in accuracy.DRAW:
        from bench.tabulating.accuracy import frame

        panel = find_suite(spec, suite).panel
        return accuracy.DRAW[asked.kind](asked, frame(results.rows.values()), note, file, panel)
    if asked.kind in cost.DRAW:
        return cost.DRAW[asked.kind](asked, results, note, file)
    note += " First seed of each set; values clamped to [0, 1] for display."
    if asked.kind == "cams":
        shown = cams.panels(asked, results.rows.values(), results)
        note += f" {cams.NOTE}"
    else:
        shown = images.panels(asked, results.rows.values(), results)
    if shown:
        images.distilled(asked, shown, note, file)
    return bool(shown)
