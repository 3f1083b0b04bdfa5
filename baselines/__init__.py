"""The distillation methods: one file each, one class, one settings model, losses as pure functions.

Nothing here imports the harness (``bench``) or the plug-in (``metadd``); what a method needs is handed to
it (:class:`baselines.base.Tools`). Importing this package costs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from baselines.base import Method, MethodSettings, Task

__all__ = ["METHODS", "Entry", "Method", "MethodSettings", "Task"]


@dataclass(frozen=True)
class Entry:
    """Where a method's settings and class are, as ``module:name``; the class's module may import torch."""

    settings_at: str
    method_at: str
    #: SHA-256 of the file of a method of one's own: part of its cells' keys, for nobody raises a version.
    source: str | None = None

    @property
    def settings(self) -> type[MethodSettings]:
        """The settings model; importing it costs no torch."""
        found: type[MethodSettings] = _load(self.settings_at)
        return found

    @property
    def method(self) -> type[Method[Any]]:
        """The class that distils."""
        found: type[Method[Any]] = _load(self.method_at)
        return found


def _load(at: str) -> Any:
    module, name = at.split(":")
    return getattr(import_module(module), name)


#: Every method by the name that ``tables.yaml`` uses.
METHODS: dict[str, Entry] = {
    "random": Entry("baselines.defaults.random:RandomSettings", "baselines.random:Random"),
    "alone": Entry("baselines.defaults.alone:AloneSettings", "baselines.alone:Alone"),
    "dc": Entry("baselines.defaults.dc:DCSettings", "baselines.dc:DC"),
    "dsa": Entry("baselines.defaults.dc:DSASettings", "baselines.dc:DC"),
    "dm": Entry("baselines.defaults.dm:DMSettings", "baselines.dm:DM"),
    "dm-multi": Entry("baselines.defaults.dm:DMMultiSettings", "baselines.dm:DMMulti"),
    "mtt": Entry("baselines.defaults.mtt:MTTSettings", "baselines.mtt:MTT"),
    "sre2l": Entry("baselines.defaults.sre2l:SRe2LSettings", "baselines.sre2l:SRe2L"),
    "glad": Entry("baselines.defaults.glad:GLaDDMSettings", "baselines.glad:GLaD"),
    "glad(dc)": Entry("baselines.defaults.glad:GLaDDCSettings", "baselines.glad:GLaD"),
    "glad(mtt)": Entry("baselines.defaults.glad:GLaDMTTSettings", "baselines.glad:GLaD"),
    "glad(sre2l)": Entry("baselines.defaults.glad:GLaDSRe2LSettings", "baselines.glad:GLaD"),
}
