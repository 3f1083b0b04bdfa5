"""What cells need that is made from the real data beforehand (teachers, experts, generators), planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from baselines import Task
from baselines.base import Need
from bench.arithmetic import REFERENCE, Arithmetic
from bench.cells import FILE, DatasetId, PretrainCell
from bench.errors import UserError
from bench.files import content
from bench.networks.names import parse as parse_network
from bench.pixels import check_zca
from bench.planning import pretraining
from bench.validation import explain

#: The need that the suite's ``teacher`` says more about.
TEACHER = "teacher"


@dataclass(frozen=True)
class Made:
    """What is needed: the keys of the cells that make it, and the network that they train, if any."""

    keys: tuple[str, ...]
    network: str | None = None


class Needs:
    """The pretrain cells of one block.

    Args:
        dataset: what they are trained on.
        teacher: what the suite says of teachers.
        files: takes up where things made elsewhere are, by ``file:SHA256``.
        arithmetic: of the networks; a generator is trained in the default one.
    """

    def __init__(
        self,
        dataset: DatasetId,
        teacher: Mapping[str, Any],
        files: dict[str, Path],
        arithmetic: Arithmetic = REFERENCE,
    ) -> None:
        self._dataset, self._teacher, self._files = dataset, teacher, files
        self._arithmetic = arithmetic.value
        self._planned: list[tuple[PretrainCell, dict[str, Any]]] = []

    def take(self) -> list[tuple[PretrainCell, dict[str, Any]]]:
        """The cells planned since the last call, each after those that it needs, with their tags."""
        planned, self._planned = self._planned, []
        return planned

    def need(self, name: str, need: Need, where: str) -> Made:
        """Plan what makes ``need``, which goes by ``name``.

        Raises:
            UserError: what is asked for is impossible; the message begins with ``where``.
        """
        overrides = dict(need.settings)
        if name == TEACHER:
            overrides = {**pretraining.TEACHER, **self._teacher, **overrides}
        network = None
        if isinstance(overrides.get("network"), str):
            network = overrides["network"] = checked_network(overrides["network"], f"{where}.network")
        dataset = self._dataset
        try:
            settings = pretraining.resolve(
                need.what, overrides, Task(dataset.name, dataset.classes, dataset.size, 1)
            )
        except ValidationError as error:
            raise UserError(explain(error, pretraining.model(need.what), where)) from None
        uses: dict[str, tuple[str, ...]] = {}
        if settings.get("pixels") == "zca":
            uses["zca"] = self.zca(where).keys
        if need.what == "generator" and settings["steps"]:
            judge = Need("classifier", settings["judge"])
            uses["judge"] = self.need(TEACHER, judge, f"{where}.judge").keys
        return self._plan(need.what, settings, network, uses, need.count)

    def zca(self, where: str) -> Made:
        """Plan the whitening of the dataset."""
        try:
            check_zca(self._dataset.size)
        except UserError as error:
            raise UserError(f"{where}.pixels: {error}") from None
        return self._plan("zca", {"version": pretraining.VERSIONS["zca"]}, None, {}, 1)

    def file(self, text: str, where: str) -> Made:
        """What was made elsewhere, ``file:PATH``, by its content."""
        path = Path(text.removeprefix(FILE)).expanduser()
        try:
            found = FILE + content(path)
        except OSError as error:
            raise UserError(f"{where}: {path}: cannot be read ({error.strerror})") from None
        self._files[found] = path
        return Made((found,))

    def _plan(
        self,
        what: str,
        settings: Mapping[str, Any],
        network: str | None,
        uses: Mapping[str, tuple[str, ...]],
        count: int,
    ) -> Made:
        arithmetic = self._arithmetic if what in ("classifier", "expert") else {}
        cells = [
            PretrainCell(self._dataset, what, settings, number, uses, arithmetic=arithmetic)
            for number in range(count)
        ]
        tags = {"dataset": self._dataset.name, "what": what, "network": network}
        self._planned += [(cell, {**tags, "number": cell.number}) for cell in cells]
        return Made(tuple(cell.key for cell in cells), network)


def checked_network(name: str, where: str) -> str:
    """The canonical name of a network.

    Raises:
        UserError: there is no such network; the message begins with ``where``.
    """
    try:
        return str(parse_network(name))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
