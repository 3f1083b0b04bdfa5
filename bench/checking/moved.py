"""What a check found, as Markdown: a row for each accuracy that was judged, and what moved besides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from bench.checking.findings import MEMORY, SHOWN, TIME, Accuracy, Checked, Outcome, Ratio
from bench.stats import LEVEL, Summary
from bench.tabulating.formats import grid
from bench.tabulating.table import MISSING

_NAMES = {"ipc": "IPC", "distilled_on": "Distilled on", "test images": "Test images"}
#: So many names of a kind are printed at most.
_MOST = 20
_VERDICT = {
    Outcome.worse: "**worse**",
    Outcome.same_or_better: "no drop shown",
    Outcome.cannot_tell: "cannot tell",
}


def lines(found: Checked, against: str) -> Iterator[str]:
    """The whole of it, line by line; ``against`` is what the reference is called."""
    yield from (f"### Check of {found.suite} against {against}: {found.outcome}", "")
    if found.accuracy:
        yield from _accuracies(found.accuracy)
        yield from ("", _explanation(found.accuracy), "")
    yield from _costs("Memory", found.memory, MEMORY, 2**20, "MiB")
    yield from _times(found)
    yield _bits(found)
    yield from found.notes
    for text in _some([f"missing: {each}" for each in found.missing]):
        yield f"- {text}"
    if found.worse:
        yield from ("", f"Worse: {'; '.join(_some(found.worse))}.")
    elif found.outcome is Outcome.cannot_tell:
        yield from ("", "Cannot tell: no row has the seeds to find even a drop to chance. Add seeds.")


def _accuracies(rows: Sequence[Accuracy]) -> list[str]:
    told_apart = [tag for tag in rows[0].about if tag not in SHOWN if len({r.about[tag] for r in rows}) > 1]
    tags = [*SHOWN, *told_apart]
    head = [_NAMES.get(tag, tag.capitalize()) for tag in tags]
    head += ["reference", "now", "change", "p", "smallest drop found", "verdict"]
    body = []
    for row in rows:
        low, high = row.change.interval
        between = "" if low is None else f" [{low:.1f}, {high:.1f}]"
        drop = f"{row.detectable:.1f}" if math.isfinite(row.detectable) else "none"
        change = f"{row.change.mean:+.1f}{between}{' by seed' if len(row.change.tests) > 1 else ''}"
        about = [MISSING if row.about[tag] is None else str(row.about[tag]) for tag in tags]
        p = f"{row.p:.3f}" if row.change.tests else MISSING
        body.append(
            [*about, _sample(row.reference), _sample(row.now), change, p, drop, _VERDICT[row.outcome]]
        )
    return grid(head, body, len(tags))


def _sample(summary: Summary) -> str:
    spread = "" if summary.std is None else f" ± {summary.std:.1f}"
    return f"{summary.mean:.1f}{spread} ({summary.n})"


def _explanation(rows: Sequence[Accuracy]) -> str:
    judged = sum(row.outcome is not Outcome.cannot_tell for row in rows)
    return (
        "Accuracy in %, the mean over each row's networks; ± over (n) distillation seeds; change with its "
        "95% interval. One-sided t test for a drop, p adjusted by Holm over the rows: the chance of a false "
        f"alarm anywhere is at most {100 * LEVEL:.0f}%. “by seed”: the same cells were made again, and a "
        "paired test takes part. “smallest drop found”: in 80% of cases, in points. Cannot tell: not even a "
        "drop to chance would be found. "
        f"{judged} of {len(rows)} rows can be judged."
    )


def _costs(name: str, rows: Sequence[Ratio], limit: float, unit: float, called: str) -> Iterator[str]:
    """How many rows there are of a cost, and those that moved by more than the limit."""
    if not rows:
        yield f"{name}: nothing to compare."
        return
    moved = [row for row in rows if not 1 / limit <= row.ratio <= limit]
    rest = f"{len(rows) - len(moved)} of {len(rows)} rows within {100 * (limit - 1):.0f}%"
    yield f"{name}: {rest}{':' if moved else '.'}"
    for row in sorted(moved, key=lambda each: -each.ratio)[:_MOST]:
        word = "more" if row.ratio > 1 else "less"
        numbers = f"{row.reference / unit:.4g} -> {row.now / unit:.4g} {called}"
        yield f"- {word}: {row.about}: {numbers} (x {row.ratio:.3f})"


def _times(found: Checked) -> Iterator[str]:
    gate = f"over x {found.slower:g} is worse" if found.slower else "told, not judged"
    limit = min(TIME, found.slower) if found.slower else TIME
    name = f"Seconds per update on the same device with the same software ({gate})"
    yield from _costs(name, found.time, limit, 1, "s")


def _bits(found: Checked) -> str:
    if not found.promised:
        return (
            "Bits: no cell has the reference's key, kind of device, threads and versions; none are promised."
        )
    equal = found.promised - len(found.differing)
    same = "equal key, kind of device, threads and versions"
    text = f"Bits: {equal} of {found.promised} cells of {same} are equal"
    return text + (
        f". They should be, and are not: {'; '.join(_some(found.differing))}." if found.differing else "."
    )


def _some(texts: Sequence[str]) -> list[str]:
    """The first of many."""
    more = len(texts) - _MOST
    return [*texts[:_MOST], *([f"and {more} more"] if more > 0 else [])]
