"""Rows with a plug-in beside the same rows without it: which belong together, and how tables say it."""

from __future__ import annotations

from typing import Any

import pandas as pd

#: The tag ``plugin`` of a row without one.
NONE = "none"
#: What a table says of its differences.
NOTE = "“− without”: mean difference over the seeds that have both, with its 95% interval by Student's t."

#: What a pair of rows has in common. What they were distilled on is another matter: a plug-in brings networks
#: of its own to those of the method.
_COMMON = ("dataset", "ipc", "protocol", "recipe", "network", "test_images", "role")


def with_plain_names(data: pd.DataFrame) -> pd.DataFrame:
    """Rows with a column ``without`` more: the method's name without its plug-in.

    A row's name is the plain one, " + ", and the plug-in's. Either may have a "+" of its own, so the longest
    plain name among the rows that fits is taken; where none does, what stands before the last " + ".
    """
    plain = list(data.loc[data["plugin"] == NONE, "method"].unique())
    plugged = data.loc[data["plugin"] != NONE, "method"].unique()
    names = {name: name for name in plain} | {name: _plain_name(name, plain) for name in plugged}
    return data.assign(without=data["method"].map(names))


def _plain_name(name: str, plain: list[str]) -> str:
    fitting = [each for each in plain if name.startswith(f"{each} + ")]
    return max(fitting, key=len, default=name.rpartition(" + ")[0])


def without(data: pd.DataFrame, row: pd.Series[Any]) -> pd.DataFrame | None:
    """The rows of ``data`` that are as this one but for its plug-in, of any seed.

    None where the row has no plug-in, where there are none, and where those of several networks would fit: it
    does not say which of these it belongs to.
    """
    if row["plugin"] == NONE:
        return None
    same = (data["method"] == row["without"]) & (data["plugin"] == NONE)
    for tag in _COMMON:
        if tag in data:
            same &= data[tag].isna() if pd.isna(row[tag]) else (data[tag] == row[tag]).fillna(False)
    mine = _networks(row["distilled_on"])
    found = data[same & data["distilled_on"].map(lambda each: _networks(each) <= mine)]
    return found if found["distilled_on"].nunique(dropna=False) == 1 else None


def _networks(distilled_on: Any) -> set[str]:
    """The networks that took part in distilling a row."""
    return set() if pd.isna(distilled_on) else set(str(distilled_on).split("+"))


def plugin_label(row: pd.Series[Any]) -> str:
    """What a row's name calls its plug-in."""
    return str(row["method"]).removeprefix(f"{row['without']} + ")


def change_label(row: pd.Series[Any]) -> str:
    """What the difference that a row's plug-in makes is called."""
    return f"{row['without']}: {plugin_label(row)} − without"
