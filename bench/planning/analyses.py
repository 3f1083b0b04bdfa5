"""Analyses as cells: each set of a suite, and real test images, seen through two groups of networks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from baselines.base import Need
from bench.cells import TEST_IMAGES, AnalyseCell, Cell, DatasetId
from bench.errors import UserError, near
from bench.networks.names import parse as parse_network
from bench.planning.needs import Needs
from bench.spec import Analysis

#: What tables call the real test images.
REAL = "Real test images"
#: What the networks are to the methods of the suite; a key of :class:`Analysis` each.
ROLES = ("auxiliary", "unseen")

_Tagged = tuple[AnalyseCell, dict[str, Any]]


class Analyses:
    """The analyse cells of one block.

    The networks are planned in ``needs`` with the first cells that are asked for.

    Args:
        asked: what the suite says; None where nothing is analysed.
        where: its place in the file, for messages.
        dataset: the block's.
        smallest_test: how many test images its smallest class has.
        needs: plans the networks, as it does those of plug-ins, so that they are shared.
    """

    def __init__(
        self, asked: Analysis | None, where: str, dataset: DatasetId, smallest_test: int, needs: Needs
    ) -> None:
        self._asked, self._where = asked, where
        self._dataset, self._smallest_test, self._needs = dataset, smallest_test, needs

    def of_real_images(self) -> Iterator[_Tagged]:
        """The cells of the dataset's test images, with their tags.

        Raises:
            UserError: what the suite asks for is impossible.
        """
        if self._asked is None:
            return
        if (wanted := self._asked.real_per_class) > self._smallest_test:
            raise UserError(
                f"{self._where}.real_per_class: {wanted} asked for, but the smallest test class of "
                f"{self._dataset.name} has {self._smallest_test}"
            )
        tags: dict[str, Any] = {"dataset": self._dataset.name, "protocol": None}
        tags |= {"method": REAL, "without": REAL}
        tags |= {"plugin": "none", "ipc": None, "distilled_on": None, "seed": 0}
        yield from self._cells((TEST_IMAGES,), wanted, tags)

    def of_set(
        self, parts: Sequence[Cell], row: Mapping[str, Any], without: str, seen: Collection[str]
    ) -> Iterator[_Tagged]:
        """The cells of one distilled set, with their tags.

        Args:
            parts: the cells that make it.
            row: the tags of its evaluations, with its seed.
            without: the method's name in tables without its plug-in: what differences are taken from.
            seen: the networks that took part in distilling.

        Raises:
            UserError: what the suite asks for is impossible.
        """
        if self._asked is None:
            return
        architectures = {parse_network(name).base for name in seen}
        for name in self._asked.unseen:
            if parse_network(name).base in architectures:
                raise UserError(
                    f"{self._where}.unseen: {name}: a network of this architecture takes part in distilling "
                    f"{row['method']}"
                )
        tags = {name: value for name, value in row.items() if name != "recipe"}
        yield from self._cells(tuple(cell.key for cell in parts), None, {**tags, "without": without})

    def _cells(
        self, images: tuple[str, ...], per_class: int | None, tags: Mapping[str, Any]
    ) -> Iterator[_Tagged]:
        assert self._asked is not None
        settings = self._asked.model_dump(mode="json", include={"grid", "threshold", "temperature"})
        for role, networks in self._networks.items():
            yield AnalyseCell(self._dataset, images, per_class, networks, settings), {**tags, "role": role}

    @cached_property
    def _networks(self) -> dict[str, tuple[str, ...]]:
        """The keys of the cells of each role's networks."""
        assert self._asked is not None
        training = self._asked.training
        asked = {"auxiliary": self._asked.auxiliary, "unseen": self._asked.unseen}
        known = ["all", *(name for names in asked.values() for name in names)]
        for name in training:
            if name not in known:
                raise UserError(f"{self._where}.training: {name}: no network of these; {near(name, known)}")
        found: dict[str, tuple[str, ...]] = {}
        architectures: dict[str, set[str]] = {}
        for role, names in asked.items():
            where = f"{self._where}.{role}"
            made = [
                self._needs.need(
                    name,
                    Need(
                        "classifier", {**training.get("all", {}), **training.get(name, {}), "network": name}
                    ),
                    where,
                )
                for name in names
            ]
            found[role] = tuple(key for each in made for key in each.keys)
            if len(set(found[role])) < len(names):
                raise UserError(f"{where}: {', '.join(names)}: a network stands twice")
            architectures[role] = {parse_network(str(each.network)).base for each in made}
        if both := sorted(architectures["auxiliary"] & architectures["unseen"]):
            raise UserError(f"{self._where}.unseen: {both[0]} is the architecture of an auxiliary network")
        return found
