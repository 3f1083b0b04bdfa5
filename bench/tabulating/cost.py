"""How costs are printed (:mod:`bench.measuring.cost`)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from bench.measuring.cost import PER_OPERATOR, STAGES, Costs, Sum

_HOUR, _MIB = 3600, 2**20
_GROUP = ("dataset", "kind", "what", "ipc", "network", "recipe")


def to_csv(found: Costs, budget: float | None = None) -> str:
    """One line per kind of cell: how many, hours of one and of all, how these are known, MiB at the peak."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_GROUP, "cells", "hours of one", "hours", "basis", "peak MiB"])
    for group, sums in found.groups().items():
        each = sums.seconds / sums.cells / _HOUR
        known = ["" if value is None else value for value in group]
        hours = [f"{each:.6f}", f"{sums.seconds / _HOUR:.4f}"]
        writer.writerow([*known, sums.cells, *hours, _basis(sums), _mib(sums.memory)])
    return text.getvalue()


def to_markdown(found: Costs, budget: float | None = None) -> str:
    """The total, each dataset's stages, each row, what rows share, and how far a budget (hours) goes."""
    groups = found.groups()
    whole = _sum(groups.values())
    counted = (
        f"not measured: counted operations at an assumed {found.rate / 1e12:g} TFLOPS, or "
        f"{PER_OPERATOR * 1e6:g} µs per operator started where that is longer"
    )
    lines = [f"# What suite `{found.plan.suite}` takes: {whole.seconds / _HOUR:,.0f} GPU hours", ""]
    share = f"{whole.measured} of {whole.cells} cells by measured seconds per update, the others " * bool(
        whole.measured
    )
    order = "One GPU, one cell after the other; what rows share counts in the first of them."
    lines += [f"{whole.cells} cells; {share}{counted}. {order}", ""]
    lines += _stages(groups)
    lines += ["", "## Rows", ""]
    lines += _rows(groups)
    lines += ["", "## Shared by rows", ""]
    lines += _shared(groups)
    bought = found.bought((budget or 0) * _HOUR)
    lines += ["", "## In the order in which a run makes them", ""]
    header = ["First", "cells", "GPU hours", "so far"] + ([f"in {budget:g} h"] if budget else [])
    body, so_far = [], 0.0
    for each in bought:
        so_far += each.all.seconds
        numbers = [str(each.all.cells), _hours(each.all.seconds), _hours(so_far)]
        body.append([each.words, *numbers, *([f"{each.reached} cells"] if budget else [])])
    lines += _table(header, body)
    return "\n".join(lines) + "\n"


#: How costs are printed.
FORMATS = {"md": to_markdown, "csv": to_csv}


def _stages(groups: dict[tuple[Any, ...], Sum]) -> list[str]:
    kinds = ("pretrain", *STAGES)
    by: dict[str, dict[str, float]] = {}
    for (dataset, kind, *_), sums in groups.items():
        of = by.setdefault(dataset, dict.fromkeys(kinds, 0.0))
        of[kind] += sums.seconds
    body = [
        [name, *(_hours(of[kind]) for kind in kinds), _hours(sum(of.values()))] for name, of in by.items()
    ]
    totals = [sum(of[kind] for of in by.values()) for kind in kinds]
    body.append(["all", *map(_hours, totals), _hours(sum(totals))])
    return _table(["Dataset", "pretraining", *STAGES.values(), "GPU hours"], body)


def _rows(groups: dict[tuple[Any, ...], Sum]) -> list[str]:
    rows: dict[tuple[Any, ...], dict[str, Sum]] = {}
    for (dataset, kind, what, ipc, *_), sums in groups.items():
        if kind != "pretrain":
            of = rows.setdefault((dataset, ipc, what), {})
            of[kind] = _sum([of.get(kind, Sum()), sums])
    body = []
    for (dataset, ipc, what), of in rows.items():
        made = of.get("distil", Sum())
        one = _hours(made.seconds / made.cells) if made.seconds else ""
        hours = [_hours(of[kind].seconds) if kind in of else "" for kind in STAGES]
        whole = _hours(sum(sums.seconds for sums in of.values()))
        body.append(
            [dataset, ipc or "", what, made.cells or "", one, *hours, whole, _mib(made.memory), _basis(made)]
        )
    header = [
        "Dataset",
        "IPC",
        "Method",
        "distil cells",
        "one",
        *STAGES.values(),
        "GPU hours",
        "peak MiB",
        "time",
    ]
    return _table(header, body)


def _shared(groups: dict[tuple[Any, ...], Sum]) -> list[str]:
    body = [
        [dataset, what, network or "", sums.cells, _hours(sums.seconds), _mib(sums.memory), _basis(sums)]
        for (dataset, kind, what, _, network, _), sums in groups.items()
        if kind == "pretrain"
    ]
    return _table(["Dataset", "what", "network", "cells", "GPU hours", "peak MiB", "time"], body)


def _sum(several: Iterable[Sum]) -> Sum:
    whole = Sum()
    for sums in several:
        whole.cells += sums.cells
        whole.seconds += sums.seconds
        whole.measured += sums.measured
        if sums.memory is not None:
            whole.memory = max(whole.memory or 0, sums.memory)
    return whole


def _basis(sums: Sum) -> str:
    """Whether the hours rest on measured seconds."""
    if not sums.cells:
        return ""
    return {0: "counted", sums.cells: "measured"}.get(sums.measured, "partly measured")


def _hours(seconds: float) -> str:
    hours = seconds / _HOUR
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _mib(size: int | None) -> str:
    return "not known" if size is None else f"{size / _MIB:.0f}"


def _table(header: list[str], body: list[list[Any]]) -> list[str]:
    rows = [header, ["---"] * len(header), *body]
    return [f"| {' | '.join(map(str, row))} |" for row in rows]
