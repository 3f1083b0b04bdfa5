"""What WordNet calls Tiny-ImageNet's classes, whose names are its ids: for readers, in no key and no row."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def words() -> dict[str, str]:
    """The first word of each of the 200 ids, such as ``n01443537``: ``goldfish``."""
    text = (Path(__file__).parent / "wordnet.txt").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return dict(line.split(" ", 1) for line in lines)


def called(name: str) -> str:
    """A class as readers know it: the word of an id, any other name as it is."""
    return words().get(name, name)
