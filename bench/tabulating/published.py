"""Published accuracies beside ours: what papers print for the cells of a table, from one file, without torch.

``results/published.csv`` holds them under the names that our rows have; docs/tables.md says by which rule.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from bench.spec import Suite, TableSpec
from bench.stats import Summary
from bench.tabulating.table import WHOLE, TableCell, TableRow, column_of, text_of
from bench.validation import validated

#: What names a published cell, as the tags of our rows do.
_CELL = ("method", "plugin", "dataset", "ipc", "recipe", "distilled_on", "network")


def _none(value: Any) -> Any:
    return None if value == "" else value


_Text = Annotated[str | None, BeforeValidator(_none)]


class Number(BaseModel):
    """One accuracy of a paper. What is empty is not stated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(description="our name of the method's rows, without a plug-in's")
    plugin: Literal["none", "metadd"]
    dataset: Literal["cifar10", "cifar100", "tiny-imagenet"]
    ipc: Annotated[int | None, BeforeValidator(_none)] = Field(ge=1, description="None: all training images")
    recipe: str = Field(description="our recipe, or protocol, nearest to the one it was evaluated by")
    distilled_on: _Text = Field(description="None where nothing is distilled, or where it is not stated")
    network: _Text
    accuracy: float = Field(ge=0, le=100, description="in percent")
    std: Annotated[float | None, BeforeValidator(_none)] = Field(ge=0, description="the ± beside it")
    spread_of: _Text = Field(description="what the ± is over")
    labels: Literal["hard", "soft"]
    selection: str = Field(description="which of a training's accuracies it is")
    canonical: Literal["yes", "no"] = Field(description="whether it is the one of its cell to compare with")
    paper: str
    arxiv: _Text
    source: str = Field(description="where it was read")
    note: _Text

    @property
    def tags(self) -> dict[str, Any]:
        """The tags that a row of ours about the same has."""
        plugin = {"none": "", "metadd": " + MetaDD"}[self.plugin]
        return {**{name: getattr(self, name) for name in _CELL}, "method": self.method + plugin}

    @property
    def where(self) -> str:
        """The paper, what its ± is over, and which accuracy of a training it prints."""
        spread = {None: "no ±", "not stated": "± over what is not stated"}.get(self.spread_of)
        about = [f"arXiv {self.arxiv}"] if self.arxiv else []
        about.append(spread or f"± {self.spread_of}")
        about.append("which step is not stated" if self.selection == "not stated" else self.selection)
        return f"{self.paper} ({'; '.join([*about, *([self.note] if self.note else [])])})"


def default_file() -> Path:
    """The file of this installation: in ``results`` in a checkout, inside the package in a wheel."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "published.csv"
    return inside if inside.exists() else package.parent / "results/published.csv"


def read(file: Path | None = None) -> tuple[Number, ...]:
    """Every number of a file (by default this installation's), in its order.

    Raises:
        UserError: a line has a wrong value; the message says which.
    """
    file = default_file() if file is None else file
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return tuple(validated(Number, row, f"{file}, line {i}") for i, row in enumerate(rows, start=2))


def planned(suite: Suite, numbers: Iterable[Number]) -> list[Number]:
    """The canonical numbers on the datasets, at the IPC and of the networks of a suite.

    Those whose paper does not name the network, too.
    """
    datasets = {name for block in suite.grid for name in (block.dataset or suite.dataset)}
    ipcs = {ipc for block in suite.grid for ipc in (block.ipc or suite.ipc)} | {None}
    networks = {name for block in suite.grid for name in (block.evaluate or suite.evaluate).networks}
    return [
        each
        for each in numbers
        if each.canonical == "yes" and each.dataset in datasets and each.ipc in ipcs
        if each.network in networks or each.network is None
    ]


class Beside:
    """Puts published numbers under the rows of one table of accuracy.

    Args:
        numbers: of the suite.
        spec: the table.
        protocol: the suite's.
    """

    def __init__(self, numbers: Iterable[Number], spec: TableSpec, protocol: str | None = None) -> None:
        about = [each for each in numbers if spec.is_about({**each.tags, "protocol": protocol})]
        self._left = {_key(each.tags): each for each in about if each.network}
        self._vague = [each for each in about if not each.network]
        self._shown: list[Number] = []
        self._column, self._protocol = spec.columns, protocol
        #: The columns that have a published number.
        self.columns = list(dict.fromkeys(column_of(each.tags[spec.columns]) for each in self._left.values()))

    def tags(self) -> pd.DataFrame:
        """The tags of the numbers, and the ``column`` that each belongs in, as those of our rows."""
        found = [{**each.tags, "column": column_of(each.tags[self._column])} for each in self._left.values()]
        return pd.DataFrame(found, columns=[*_CELL, "column"])

    def marked(self, row: Mapping[str, Any], cells: Mapping[str, TableCell]) -> dict[str, TableCell]:
        """The cells of a row of ours, with those as missing that have a published number and no result."""
        absent = [name for name in self._found(row) if name not in cells or cells[name].summary is None]
        return {**cells, **dict.fromkeys(absent, TableCell(missing="missing"))}

    def under(
        self, row: Mapping[str, Any], cells: Mapping[str, TableCell], by: Sequence[str]
    ) -> list[TableRow]:
        """The published numbers for a row of ours with these tags and cells, and what ours differ by."""
        found = self._found(row)
        if not found:
            return []
        for number in found.values():
            self._shown.append(self._left.pop(_key(number.tags)))
        name = row["method"]
        shown = {column: _published(number) for column, number in found.items()}
        rows = [_row(row, f"{name}: published", by, shown)]
        less = {column: _less(cells[column], number) for column, number in found.items() if column in cells}
        if any(cell.summary for cell in less.values()):
            rows.append(_row(row, f"{name}: ours − published", by, less))
        return rows

    def _found(self, row: Mapping[str, Any]) -> dict[str, Number]:
        """The numbers for a row with these tags that are not shown yet, by column."""
        keys = {
            column: _key({**row, self._column: None if column == WHOLE else column})
            for column in self.columns
        }
        return {column: self._left[key] for column, key in keys.items() if key in self._left}

    def rest(self, by: Sequence[str]) -> list[TableRow]:
        """What has no row of ours: a row that says so, and the published numbers."""
        rows = []
        while self._left:
            tags = next(iter(self._left.values())).tags
            tags |= {"protocol": self._protocol, "test_images": None}
            rows.append(_row(tags, tags["method"], by, self.marked(tags, {})))
            rows += self.under(tags, {}, by)
        return rows

    def notes(self) -> Iterator[str]:
        """How to read these rows, and where each number is from."""
        if self._shown:
            yield (
                "“METHOD: published” is what papers print for the same dataset, IPC, distilling network and "
                "evaluation network, by the authors' recipe or one near it; (?): of how many is not known. "
                "“ours − published” has the 95% interval of ours alone, as if the published number were "
                "exact: it leaves out the noise of theirs, and how their set-up differs. “missing”: "
                "published, but not among our results."
            )
            yield f"Published: {_sources(self._shown)}."
        if self._vague:
            yield (
                "Published without naming the networks, so compared with no column: "
                f"{_sources(self._vague, accuracies=True)}."
            )


def _key(tags: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(text_of(tags[name]) for name in _CELL)


def _row(tags: Mapping[str, Any], name: str, by: Sequence[str], cells: Mapping[str, TableCell]) -> TableRow:
    return TableRow(tuple(text_of({**tags, "method": name}[tag]) for tag in by), cells)


def _published(number: Number) -> TableCell:
    bases = [(name or "").partition("@")[0] for name in (number.network, number.distilled_on)]
    return TableCell(
        Summary(number.accuracy, number.std, 0),
        seen=bases[0] == bases[1],
        details={"source": number.where},
    )


def _less(ours: TableCell, number: Number) -> TableCell:
    """Our mean less a published one, which counts as exact."""
    if ours.summary is None:
        return TableCell()
    moved = replace(ours.summary, mean=ours.summary.mean - number.accuracy)
    return replace(ours, summary=moved, difference=True, bold=False, details={"source": number.where})


def _sources(numbers: Iterable[Number], accuracies: bool = False) -> str:
    """Each source with the cells that it gives."""
    found: dict[str, list[str]] = {}
    for each in numbers:
        about = [f"{each.tags['method']} {each.dataset}", f"IPC {each.ipc}" if each.ipc else ""]
        about += [each.network or "", f"{each.accuracy:g}%" if accuracies else ""]
        found.setdefault(each.where, []).append(" ".join(text for text in about if text))
    return "; ".join(f"{source}: {', '.join(cells)}" for source, cells in found.items())
