"""The table of accuracies, from rows alone, without torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.spec import TableSpec
from bench.stats import differences, summarise
from bench.tabulating import pairs, verdicts
from bench.tabulating.table import (
    MISSING,
    NAMES,
    SEEN,
    Table,
    TableCell,
    TableRow,
    column_of,
    range_of,
    row_tags,
    text_of,
)

if TYPE_CHECKING:
    from bench.tabulating.published import Beside

_MEAN = "mean"
#: The columns with means over the networks that some plug-in has looked through, and over the others.
_ROLES = ("seen", "unseen")
#: The columns whose primary differences are tested, in this order.
_TESTED = (_MEAN, "unseen")
#: What is drawn anew for each network that is trained on a set.
_DRAWN = ("seed", "evaluation_seed")
#: What no paper's number is told apart by.
_NO_PAPERS = ("protocol", "test_images")


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The current evaluate rows as a frame.

    A column per tag, and ``accuracy``, ``test_images``, ``key`` and ``without`` (see
    :mod:`bench.tabulating.pairs`).
    """
    flat = [
        {
            **tags,
            "accuracy": row["result"]["accuracy"],
            "test_images": row["result"].get("test_images"),
            "key": row["key"],
        }
        for row in rows
        if row["current"] and row["cell"]["kind"] == "evaluate"
        for tags in (row["tags"], *row.get("also", ()))
    ]
    found = pd.DataFrame(flat)
    # IPC is missing for the whole training set, which would make floats of the others.
    return pairs.with_plain_names(found.astype({"ipc": "Int64", "test_images": "Int64"})) if flat else found


def accuracy_table(
    name: str,
    spec: TableSpec,
    evaluations: pd.DataFrame,
    header: Sequence[str] = (),
    published: Beside | None = None,
    panel: Collection[str] | None = None,
) -> Table:
    """Test accuracy: mean ± standard deviation over distillation seeds.

    The networks trained on one set are averaged first, because the distillation seed is the unit of
    statistics. Behind the columns stands the mean over them, of the seeds that have them all; where they are
    networks, over those of the ``panel`` (None: all), which every row should have, and where some rows have a
    plug-in, also the means over those of them that took part in distilling with one, and over the others.

    Below each row with a plug-in stands what this changes: the difference from the same seeds without it,
    paired, from the networks trained on both sets alone. The primary ones are tested (see
    :mod:`bench.tabulating.verdicts`). Below these stand the ``published`` numbers, and what ours differ by.
    With ``spec.means`` the means alone are printed, of the rows that have one.
    """
    if spec.only is not None:
        evaluations = evaluations[[spec.is_about(row) for row in evaluations.to_dict("records")]]
    if evaluations.empty:
        return _nothing_of_ours(name, spec, header, published)
    data = evaluations.assign(column=evaluations[spec.columns].map(column_of))
    columns = list(data["column"].unique())
    averaged = columns
    if spec.columns == "network" and panel is not None:
        averaged = [column for column in columns if column in panel] or columns
    roles = _roles(data, averaged) if spec.columns == "network" else {}
    by = row_tags(spec, data)
    if published and published.columns:
        apart = row_tags(spec, pd.concat([data, published.tags()]))
        by += [tag for tag in apart if tag not in (*by, *_NO_PAPERS)]
        by += [] if "method" in by else ["method"]
    rows: list[TableRow] = []
    changed, gaps = {}, 0
    for _, group in data.groupby(by, sort=False, dropna=False):
        first = group.iloc[0]
        sets, over = _sets(group), {column: [column] for column in columns} | {_MEAN: averaged}
        over |= roles.get((first["dataset"], first["ipc"]), {})
        cells = {shown: _cell(sets, of) for shown, of in over.items()}
        if published:
            cells = published.marked({**first}, cells)
        rows.append(TableRow(tuple(text_of(first[tag]) for tag in by), cells))
        gaps += _gaps(group)
        if (plain := _without(data, group)) is not None:
            both = tuple(_sets(each) for each in _of_both(group, plain))
            changes = {shown: _cell(both[0], of, both[1]) for shown, of in over.items()}
            change = {**first, "method": pairs.change_label(first)}
            changed[len(rows)] = first
            rows.append(TableRow(tuple(text_of(change[tag]) for tag in by), changes))
        if published:
            rows += published.under({**first}, cells, by)
    if published:
        rows += published.rest(by)
        columns = list(dict.fromkeys((*columns, *published.columns)))
    names = tuple(NAMES[tag] for tag in by)
    # Over images per class a mean says nothing by itself; a comparison may be tested on it.
    averages = (_MEAN,) if spec.columns == "network" or spec.primary != [] else ()
    shown_columns = (*([] if spec.means else columns), *averages, *(_ROLES if roles else ()))
    tested = [each for each in _TESTED if each in shown_columns]
    judged, tests = verdicts.judged(rows, changed, tested, spec.primary)
    if spec.means:  # a row that lacks a network has none
        judged = tuple(
            row
            for row in judged
            if any(row.cells[each].summary for each in shown_columns if each in row.cells)
        )
    notes = (
        _explanation(
            rows, data, by, [each for each in columns if each not in averaged] if averages else None
        ),
        *_roles_note(roles),
        *tests,
        *_warnings(data, gaps),
    )
    if published:
        notes, details = (*notes, *published.notes()), (*Table.details, "source")
    else:
        details = Table.details
    return Table(name, spec.title, tuple(header), names, shown_columns, judged, notes, details, tests)


def _nothing_of_ours(name: str, spec: TableSpec, header: Sequence[str], published: Beside | None) -> Table:
    """A table with no result: what is published for it."""
    notes = ["No finished evaluation yet."]
    by: list[str] = list(dict.fromkeys((*spec.rows, "method")))
    if not (published and published.columns):
        return Table(name, spec.title, tuple(header), notes=tuple(notes))
    by += [tag for tag in row_tags(spec, published.tags()) if tag not in by]
    columns, rows = tuple(published.columns), tuple(published.rest(by))
    notes += published.notes()
    names, details = tuple(NAMES[tag] for tag in by), (*Table.details, "source")
    return Table(name, spec.title, tuple(header), names, columns, rows, tuple(notes), details)


def _roles(data: pd.DataFrame, columns: Sequence[str]) -> dict[tuple[Any, Any], dict[str, list[str]]]:
    """The networks that any row with a plug-in has seen, and those that none has, by dataset and IPC.

    Of all such rows together, so that a method's rows with and without are means over the same networks.
    """
    found = {}
    plugged = data[data["plugin"] != pairs.NONE]
    for (dataset, ipc), group in plugged.groupby(["dataset", "ipc"], sort=False):
        seen = group.groupby("column")["seen"].any().to_dict()
        found[dataset, ipc] = {
            "seen": [column for column in columns if seen.get(column, False)],
            "unseen": [column for column in columns if not seen.get(column, True)],
        }
    return found


def _sets(group: pd.DataFrame) -> pd.DataFrame:
    """One line per column and seed: the mean accuracy of the networks trained on the set, and how many."""
    sets = group.groupby(["column", "seed"], sort=False).agg(
        accuracy=("accuracy", "mean"),
        networks=("accuracy", "size"),
        seen=("seen", "all"),
        keys=("key", tuple),
    )
    return sets.reset_index()


def _gaps(group: pd.DataFrame) -> int:
    """How many networks of a row are missing, of the seeds of either kind that it has elsewhere."""
    each = group["seed"].nunique() * group["evaluation_seed"].nunique()
    there = group.drop_duplicates(["column", *_DRAWN]).groupby("column").size()
    return int((each - there).sum())


def _without(data: pd.DataFrame, group: pd.DataFrame) -> pd.DataFrame | None:
    """The evaluations of a row without its plug-in, of the columns where there are any."""
    parts = [pairs.without(data, part.iloc[0]) for _, part in group.groupby("column", sort=False)]
    there = [part for part in parts if part is not None]
    return pd.concat(there) if there else None


def _of_both(group: pd.DataFrame, plain: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of two rows' evaluations those that both have: a network that one side lacks would be a difference."""
    mine, theirs = (pd.MultiIndex.from_frame(each[["column", *_DRAWN]]) for each in (group, plain))
    return group[mine.isin(theirs)], plain[theirs.isin(mine)]


def _cell(sets: pd.DataFrame, columns: Sequence[str], plain: pd.DataFrame | None = None) -> TableCell:
    """The mean over some columns; or its difference from that of ``plain`` sets, by seed."""
    by_seed = _by_seed(sets, columns)
    without = None if plain is None else _by_seed(plain, columns)
    values = [*by_seed.values()] if without is None else differences(by_seed, without)
    if (summary := summarise(values)) is None:
        return TableCell()
    here = sets[sets["column"].isin(columns)]
    counts = [
        each.loc[each["column"].isin(columns), "networks"] for each in (sets, plain) if each is not None
    ]
    networks = (min(int(each.min()) for each in counts), max(int(each.max()) for each in counts))
    seen = bool(here["seen"].all())
    seeds = [seed for seed in by_seed if without is None or seed in without]
    keys = tuple(key for each in (sets, plain) if each is not None for key in _keys(each, columns, seeds))
    differing = tuple(values) if plain is not None else ()
    return TableCell(summary, networks, seen, plain is not None, differing, keys=keys)


def _keys(sets: pd.DataFrame, columns: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """The keys of the evaluations behind some columns and seeds."""
    found = sets.loc[sets["column"].isin(columns) & sets["seed"].isin(seeds), "keys"]
    return [key for keys in found for key in keys]


def _by_seed(sets: pd.DataFrame, columns: Sequence[str]) -> dict[int, float]:
    """The mean over some columns, of the seeds that have a result in each of them."""
    if not columns:
        return {}
    wide = sets.pivot(index="seed", columns="column", values="accuracy").reindex(columns=list(columns))
    means = wide.dropna().mean(axis="columns")
    return dict(zip(means.index.tolist(), means.tolist(), strict=True))


def _explanation(
    rows: Sequence[TableRow], data: pd.DataFrame, by: Sequence[str], apart: Sequence[str] | None
) -> str:
    """What a number is; ``apart`` are the columns that are not in the mean (None: there is no mean)."""
    cells = [cell for row in rows for cell in row.cells.values() if cell.summary and cell.networks[1]]
    low, high = min(cell.networks[0] for cell in cells), max(cell.networks[1] for cell in cells)
    tested = sorted(data["test_images"].dropna().unique()) if "test_images" in data else []
    on = f" on {tested[0]} test images" if len(tested) == 1 and "test_images" not in by else ""
    what = "network" if high == 1 else "networks"
    text = (
        f"Accuracy in %{on}, once, after the last training step: mean ± standard deviation (n) over n "
        f"distillation seeds, each the mean of {range_of(low, high)} {what} trained on that seed's set. "
        "With n = 1 there is no ±. "
    )
    if apart is not None:
        but = f" but {', '.join(apart)}, which not all rows have," if apart else ","
        text += f"“{_MEAN}” is over the columns{but} of the seeds that have them all. "
    text += f"{MISSING}: no result, or not applicable."
    if any(cell.seen for cell in cells):
        text += f" {SEEN}: seen, a network of this architecture took part in distilling."
    if any(cell.differences for cell in cells):
        text += f" {pairs.NOTE}"
    return text


def _roles_note(roles: Mapping[tuple[Any, Any], Mapping[str, Sequence[str]]]) -> Iterator[str]:
    """Over which networks the columns ``seen`` and ``unseen`` are."""
    if not roles:
        return
    texts = {
        place: "; ".join(f"{role}: {', '.join(networks) or 'none'}" for role, networks in each.items())
        for place, each in roles.items()
    }
    if len(set(texts.values())) == 1:
        networks = f"Here {next(iter(texts.values()))}."
    else:
        networks = " ".join(f"{dataset}, IPC {ipc}: {text}." for (dataset, ipc), text in texts.items())
    yield (
        "“seen” and “unseen” are means as well: over the networks whose architecture took part in distilling "
        "with a plug-in, in any row of the same dataset and IPC, and over those whose did not. Rows with and "
        f"without are so means over the same networks. {networks}"
    )


def _warnings(data: pd.DataFrame, gaps: int) -> list[str]:
    found = []
    if gaps:
        found.append(
            f"Incomplete: {gaps} result(s) are missing in cells whose row has more seeds elsewhere; "
            "`metadd-bench status SUITE` counts what is not finished."
        )
    tags = [name for name in data if name not in ("accuracy", "key", "test_images", "column")]
    twice = data[data.duplicated(tags, keep=False)]
    if not twice.empty:
        methods = ", ".join(sorted(set(twice["method"])))
        found.append(
            f"Not to be trusted: {len(twice)} results of different settings go by the same names ({methods}) "
            "and are averaged here; give each block of the suite a `label` of its own."
        )
    return found
