"""No method takes more memory than it did, and none keeps anything from one update to the next.

``tests/memory.json`` has each method's peak of live bytes on a small set, with and without MetaDD, counted on
fake tensors. Where a change of it is meant, write the file anew::

    METADD_GOLDEN=write uv run pytest tests/test_memory_regression.py -m "slow or not slow"
"""

import json
import os
from pathlib import Path

import pytest
import torch
from memory_of_updates import made, peaks_and_rests
from small import dataset
from test_plugged import METHODS

from baselines import dm

pytestmark = pytest.mark.usefixtures("one_thread", "quick_collections")

FILE = Path(__file__).with_name("memory.json")
#: Operators of another PyTorch may make other temporary tensors.
TOLERANCE = 0.03
#: Updates that are run; a leak of one graph each has shown by the last. Both even: `dm-multi` takes turns.
FIRST, LAST = 4, 6


@pytest.fixture(scope="module")
def data():
    return dataset()


def counted(data, method, plugin):
    """A method's peak, if it does not grow with updates.

    Augmentation draws operations that take different memory, so there is none.
    """
    plain = {} if "sre2l" in method else {"augment": "none"}
    if isinstance(inner := METHODS[method].get("inner"), dict):
        plain = {"inner": {**inner, "augment": "none"}}
    peaks, rests = peaks_and_rests(made(data, method, plugin, iterations=99, **plain), data, LAST)
    assert peaks[FIRST - 1] == peaks[-1], f"{method}: the peak grew from update {FIRST} to update {LAST}"
    assert rests[FIRST - 1] == rests[-1], f"{method}: something is kept from update to update"
    return peaks[-1]


def compared(name, peak):
    """A peak against the one that was committed."""
    before = json.loads(FILE.read_text())[name]
    assert peak == pytest.approx(before, rel=TOLERANCE), f"{name} took {before} bytes and takes {peak}"


#: What is counted whenever the tests run: each kind of method, with MetaDD or without.
ALWAYS = {("dm", "none"), ("dm", "metadd"), ("dsa", "none"), ("mtt", "none"), ("sre2l", "metadd")}
EVERY = [(method, plugin) for method in METHODS for plugin in ("none", "metadd")]
MARKED = [pytest.param(*each, marks=() if each in ALWAYS else pytest.mark.slow) for each in EVERY]


@pytest.mark.parametrize(("method", "plugin"), MARKED)
def test_a_method_takes_what_it_took(data, method, plugin):
    name, peak = f"{method}, {plugin}", counted(data, method, plugin)
    if os.environ.get("METADD_GOLDEN") == "write":
        known = json.loads(FILE.read_text()) if FILE.exists() else {}
        FILE.write_text(json.dumps({**known, name: peak}, indent=1) + "\n")
    compared(name, peak)


def test_a_graph_that_is_kept_from_each_update_is_found(data, monkeypatch):
    kept, whole = [], dm.dm_loss

    def leaking(real, synthetic):
        kept.append(whole(real, synthetic))
        return kept[-1]

    monkeypatch.setattr(dm, "dm_loss", leaking)
    with pytest.raises(AssertionError, match="the peak grew"):
        counted(data, "dm", "none")


def test_a_number_that_is_kept_from_each_update_is_found(data, monkeypatch):
    """Too little to show at the peak of a method whose peak lies elsewhere."""
    kept, whole = [], dm.dm_loss

    def leaking(real, synthetic):
        kept.append(torch.zeros(1))
        return whole(real, synthetic)

    monkeypatch.setattr(dm, "dm_loss", leaking)
    with pytest.raises(AssertionError):
        counted(data, "dm", "none")


def test_a_tenth_more_is_found(data, monkeypatch):
    peak, kept, whole = counted(data, "dm", "none"), [], dm.dm_loss

    def larger(real, synthetic):
        kept[:] = [torch.zeros(peak // 40)]  # a tenth, in floats
        return whole(real, synthetic)

    monkeypatch.setattr(dm, "dm_loss", larger)
    grown = counted(data, "dm", "none")  # the same after each update: it is no leak
    with pytest.raises(AssertionError, match="takes"):
        compared("dm, none", grown)
