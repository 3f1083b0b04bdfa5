"""MetaDD: meta features for cross-architecture dataset distillation, a plug-in for anybody's training loop.

``from metadd import MetaDD`` gives the loss; ``CAM`` the maps it looks at; ``metadd.features`` what they are
split into. Nothing here imports the harness (``bench``) or the methods (``baselines``). Importing this
package costs no torch until ``MetaDD``, ``CAM`` or ``Weights`` is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metadd.base import PLUGINS, Plugin, PluginEntry, PluginSettings, Unsuitable

if TYPE_CHECKING:
    from metadd.cam import CAM
    from metadd.loss import Weights
    from metadd.plugin import MetaDD

__all__ = ["CAM", "PLUGINS", "MetaDD", "Plugin", "PluginEntry", "PluginSettings", "Unsuitable", "Weights"]

_LAZY = {"MetaDD": "metadd.plugin", "CAM": "metadd.cam", "Weights": "metadd.loss"}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
