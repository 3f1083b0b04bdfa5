"""The regression gate: a suite's rows against a reference's, from stored rows alone, without torch.

A cell is found again by what tables call it (method, seed, network, …) and not by its key, so that a change
of settings or of a stage's version is judged like any other.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.cells import canonical
from bench.checking.drops import Change, change
from bench.checking.findings import SHOWN, Accuracy, Checked, Ratio
from bench.errors import UserError
from bench.files import write_text
from bench.results import Results
from bench.stats import Summary, holm, summarise

Row = Mapping[str, Any]

#: Peaks by their name in a row's cost; what a cell has first is compared.
_PEAKS = ("peak_live_bytes", "peak_allocated_bytes")
#: What tells rows of tables apart, and with :data:`_WHICH` cells.
_ROW = ("dataset", "ipc", "protocol", "method", "plugin", "what", "recipe", "distilled_on", "role", "network")
_WHICH = ("seed", "evaluation_seed", "number")
#: The columns that a row of accuracies has besides where they tell rows apart.
_ELSE = ("protocol", "distilled_on", "test images")
#: Where a reference's reasons are written, beside its rows.
_ACCEPTED = "accepted.jsonl"


def check(suite: str, results: Path, against: Path, slower: float | None = None) -> Checked:
    """Compare ``results/SUITE`` with ``against/SUITE``.

    Args:
        suite: its name.
        results: the folder of results.
        against: a folder of results like it: the reference.
        slower: so many times slower is worse too; None: times are only told.

    Raises:
        UserError: one of the two has no rows, or a damaged one.
    """
    now, reference = rows_of(results / suite), rows_of(against / suite)
    if not now:
        raise UserError(f"{results / suite}: no rows; `metadd-bench run {suite}` makes some")
    if not reference:
        update = f"metadd-bench check {suite} --results {results} --against {against} --update --reason TEXT"
        raise UserError(f"{against / suite}: no reference; `{update}` makes these rows the reference")
    return compare(suite, reference, now, slower)


def rows_of(folder: Path) -> list[Row]:
    """The current rows of a suite's folder."""
    return [row for row in Results(folder).rows.values() if row["current"]]


def compare(suite: str, reference: Iterable[Row], now: Iterable[Row], slower: float | None = None) -> Checked:
    """The check itself, of current rows."""
    before, after = _by_cell(reference), _by_cell(now)
    pairs = [
        (cell, old, new)
        for cell, olds in before.items()
        for old, new in zip(olds, after.get(cell, ()), strict=False)
    ]
    missing = [
        _name(cell) for cell, olds in before.items() for _ in range(len(olds) - len(after.get(cell, ())))
    ]
    missing += [f"{_name(cell)}: its memory" for cell, old, new in pairs if _unmeasured(old, new)]
    added = sum(max(0, len(news) - len(before.get(cell, ()))) for cell, news in after.items())
    promised = [each for each in pairs if _same_bits(each[1], each[2])]
    differing = [_name(cell) for cell, old, new in promised if old["result"] != new["result"]]
    notes = [f"{added} cells are new; nothing is compared with them."] if added else []
    return Checked(
        suite,
        tuple(accuracies(_samples(reference), _samples(now))),
        tuple(_memory(pairs)),
        tuple(_time(pairs)),
        tuple(missing),
        len(promised),
        tuple(differing),
        (*notes, *_data(pairs), *_devices(pairs)),
        slower,
    )


_Cell = tuple[tuple[str, Any], ...]
_Pair = tuple[_Cell, Row, Row]


def _by_cell(rows: Iterable[Row]) -> dict[_Cell, list[Row]]:
    """Rows by what tables call their cells, in the plan's order where several go by one name."""
    found = defaultdict(list)
    for row in rows:
        tags = {name: row["tags"][name] for name in (*_ROW, *_WHICH) if name in row["tags"]}
        tags["part"] = row["cell"].get("part") or None
        found[(("kind", row["cell"]["kind"]), *tags.items())].append(row)
    return found


def _name(cell: Iterable[tuple[str, Any]]) -> str:
    """A cell as text, without what it has nothing of."""
    about = {name: value for name, value in cell if value is not None and (name, value) != ("plugin", "none")}
    about.pop("plugin", None)  # the method's name has it
    return ", ".join(
        f"{name} {v}" if name in (*_WHICH, "ipc", "part") else str(v) for name, v in about.items()
    )


@dataclass(frozen=True)
class Sample:
    """One row's accuracies by network and seed, each the mean of the networks trained on the set."""

    by_network: Mapping[str, Mapping[int, float]]
    #: The keys of the cells behind each seed.
    keys: Mapping[int, frozenset[str]]
    classes: int
    #: Test images; None where rows do not say.
    images: int | None


def _samples(rows: Iterable[Row]) -> dict[str, tuple[Mapping[str, Any], Sample]]:
    """Each row of accuracies with what it is about, by its name."""
    groups: dict[str, list[Row]] = defaultdict(list)
    abouts: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["cell"]["kind"] == "evaluate":
            about = {name: row["tags"].get(name) for name in (*SHOWN, *_ELSE[:-1])}
            about[_ELSE[-1]] = row["result"].get("test_images")
            abouts[canonical(about)] = about
            groups[canonical(about)].append(row)
    return {name: (abouts[name], _sample(group)) for name, group in groups.items()}


def _sample(rows: Sequence[Row]) -> Sample:
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    keys: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        seed = row["tags"]["seed"]
        values[row["tags"]["network"]][seed].append(row["result"]["accuracy"])
        keys[seed].add(row["key"])
    means = {
        network: {seed: math.fsum(found) / len(found) for seed, found in of_network.items()}
        for network, of_network in values.items()
    }
    first = rows[0]
    classes, images = first["cell"]["dataset"]["classes"], first["result"].get("test_images")
    return Sample(means, {seed: frozenset(found) for seed, found in keys.items()}, classes, images)


def accuracies(
    reference: Mapping[str, tuple[Mapping[str, Any], Sample]],
    now: Mapping[str, tuple[Mapping[str, Any], Sample]],
) -> list[Accuracy]:
    """The rows that both have, each over the networks that both have, tested together."""
    found = []
    for name, (about, before) in reference.items():
        if name in now and (each := _change(before, now[name][1])) is not None:
            found.append((about, before, *each))
    tested = [each[-1].p for each in found if each[-1].tests]
    adjusted = (p for (p,) in holm([[p] for p in tested]))
    return [
        Accuracy(
            *(about, old, new, moved, next(adjusted) if moved.tests else 1.0),
            *(moved.detectable(len(tested)), old.mean - 100 / before.classes),
        )
        for about, before, old, new, moved in found
    ]


def _change(before: Sample, after: Sample) -> tuple[Summary, Summary, Change] | None:
    networks = [each for each in before.by_network if each in after.by_network]
    first, second = _by_seed(before, networks), _by_seed(after, networks)
    same = all(before.keys[seed] == after.keys[seed] for seed in first if seed in second)
    step = 100 / before.images if before.images else 0.01
    if (moved := change(first, second, same, step)) is None:
        return None
    sides = [(_of(before, network, first), _of(after, network, second)) for network in networks]
    each = [one for old, new in sides if (one := change(old, new, same, step))]
    old, new = summarise([*first.values()]), summarise([*second.values()])
    return (old, new, moved.over(each)) if old and new else None


def _of(sample: Sample, network: str, seeds: Iterable[int]) -> dict[int, float]:
    return {seed: sample.by_network[network][seed] for seed in seeds}


def _by_seed(sample: Sample, networks: Sequence[str]) -> dict[int, float]:
    """The mean over networks, of the seeds that have them all."""
    each = [sample.by_network[network] for network in networks]
    seeds = [seed for seed in each[0] if all(seed in other for other in each)] if each else []
    return {seed: math.fsum(of[seed] for of in each) / len(each) for seed in seeds}


def _peak(row: Row) -> tuple[str, float] | None:
    """Which peak a row has, and how much it is in bytes."""
    return next(((name, row["cost"][name]) for name in _PEAKS if row["cost"].get(name)), None)


def _unmeasured(old: Row, new: Row) -> bool:
    """Whether a peak is gone on the same kind of device."""
    kinds = {row["provenance"].get("device_kind") for row in (old, new)}
    return _peak(old) is not None and _peak(new) is None and len(kinds) == 1


def _memory(pairs: Iterable[_Pair]) -> Iterator[Ratio]:
    """Of each row the cell whose peak rose most."""
    for about, found in _rows(pairs):
        ratios = [
            Ratio(about, first[1], second[1])
            for old, new in found
            if (first := _peak(old)) and (second := _peak(new)) and first[0] == second[0]
        ]
        if ratios:
            yield max(ratios, key=lambda each: each.ratio)


def _time(pairs: Iterable[_Pair]) -> Iterator[Ratio]:
    """Of each row the median seconds per update of cells made on the same device with the same software."""
    for about, found in _rows(pairs):
        timed = [
            (old["cost"]["seconds_per_update"], new["cost"]["seconds_per_update"])
            for old, new in found
            if old["cost"].get("seconds_per_update") and new["cost"].get("seconds_per_update")
            if all(_where(old)[name] == _where(new)[name] for name in ("device", *_SAME))
        ]
        if timed:
            yield Ratio(about, median(old for old, _ in timed), median(new for _, new in timed))


def _rows(pairs: Iterable[_Pair]) -> Iterator[tuple[str, list[tuple[Row, Row]]]]:
    found: dict[str, list[tuple[Row, Row]]] = defaultdict(list)
    for cell, old, new in pairs:
        found[_name(tag for tag in cell if tag[0] not in (*_WHICH, "part"))].append((old, new))
    yield from found.items()


#: What must be equal, besides the key, for equal bits to be promised.
_SAME = ("device_kind", "threads", "versions")


def _where(row: Row) -> dict[str, Any]:
    return {name: row["provenance"].get(name) for name in ("device", *_SAME)}


def _same_bits(old: Row, new: Row) -> bool:
    here, there = _where(old), _where(new)
    return old["key"] == new["key"] and all(here[name] == there[name] for name in _SAME)


def _data(pairs: Iterable[_Pair]) -> Iterator[str]:
    """A warning for each dataset that is not the reference's."""
    contents = {(old["cell"]["dataset"]["name"], _content(old), _content(new)) for _, old, new in pairs}
    for name in sorted({name for name, old, new in contents if old != new}):
        yield f"`{name}` has other content than the reference's: these are results on other images."


def _content(row: Row) -> str:
    return str(row["cell"]["dataset"]["content"])


def _devices(pairs: Iterable[_Pair]) -> Iterator[str]:
    found = [(str(_where(old)["device"]), str(_where(new)["device"])) for _, old, new in pairs]
    old, new = {each for each, _ in found}, {each for _, each in found}
    if old != new:
        yield f"Made on {', '.join(sorted(new))}; the reference on {', '.join(sorted(old))}."


def accept(suite: str, results: Path, against: Path, reason: str) -> Checked | None:
    """Make a suite's current rows the reference, and keep the reason, and what was worse, beside them.

    Returns:
        The check against the reference before; None where there was none.

    Raises:
        UserError: there is no row, or the reason is empty.
    """
    if not reason.strip():
        raise UserError("--reason: say why these rows become the reference, in a few words")
    folder = against / suite
    before = check(suite, results, against) if (folder / "rows.jsonl").exists() else None
    rows = rows_of(results / suite)
    if not rows:
        raise UserError(f"{results / suite}: no rows; `metadd-bench run {suite}` makes some")
    last = max((row["provenance"] for row in rows), key=lambda each: str(each.get("finished")))
    entry = {
        "reason": " ".join(reason.split()),
        "cells": len(rows),
        "finished": last.get("finished"),
        "commit": last.get("commit"),
        "outcome": str(before.outcome) if before else "first reference",
        "worse": list(before.worse) if before else [],
    }
    log = folder / _ACCEPTED
    earlier = log.read_text(encoding="utf-8") if log.exists() else ""
    lines = [json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in rows]
    write_text(folder / "rows.jsonl", "".join(lines))
    write_text(log, earlier + json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n")
    return before
