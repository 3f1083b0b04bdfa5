"""Suites that are made of others: ``union: [cifar10, cifar100]`` in ``tables.yaml``. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.errors import UserError, near

#: What a block takes from its suite; one of the whole training set may have the second half only.
_DISTILLING = ("ipc", "network", "plugin", "teacher")
_ALWAYS = ("dataset", "evaluate", "protocol", "seeds")
#: The method of such a block (:data:`bench.planning.grid.FULL`).
_FULL = "full"


def with_unions(content: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The content of a tables file with each union spelt out: the blocks of its suites, one after the other.

    A block takes what it leaves out from the suite that it stands in; all else that the union leaves out, it
    takes from its first suite. The cells are those of the suites, by key.

    Raises:
        UserError: a union is no list of other suites of the file.
    """
    suites = content.get("suites")
    if not isinstance(suites, Mapping):
        return content  # said to be wrong when the file is checked
    there = {name: suite for name, suite in suites.items() if not _is_union(suite)}
    made = {name: _made(name, suite, there, where) for name, suite in suites.items() if _is_union(suite)}
    return {**content, "suites": {**suites, **made}}


def _is_union(suite: Any) -> bool:
    return isinstance(suite, Mapping) and "union" in suite


def _made(name: str, suite: Mapping[str, Any], there: Mapping[str, Any], where: str) -> dict[str, Any]:
    names, place = suite["union"], f"{where}: suites.{name}"
    if not isinstance(names, list) or not names:
        raise UserError(f"{place}.union: a list of suites is expected")
    if "grid" in suite:
        raise UserError(f"{place}.grid: a union has the blocks of its suites and none of its own")
    blocks: list[Any] = []
    for each in names:
        if not isinstance(there.get(each), Mapping):
            raise UserError(
                f"{place}.union: no suite {each!r} that is no union; {near(str(each), list(there))}"
            )
        blocks += [_filled(block, there[each]) for block in there[each].get("grid", ())]
    own = {key: value for key, value in suite.items() if key != "union"}
    return {**there[names[0]], **own, "grid": blocks}


def _filled(block: Any, suite: Mapping[str, Any]) -> Any:
    """A block with what its suite says."""
    if not isinstance(block, Mapping):
        return block  # said to be wrong when the file is checked
    taken = _ALWAYS if block.get("method") == _FULL else (*_ALWAYS, *_DISTILLING)
    return {**{key: suite[key] for key in taken if key in suite}, **block}
