"""Plug-ins: an extra loss on synthetic images that any distillation method can take.

Nothing here imports the harness (``bench``) or the methods (``baselines``). Importing this package costs
no torch. MetaDD itself is the next issue's work; what stands here is what the harness asks of a plug-in.
"""

from metadd.base import PLUGINS, Plugin, PluginEntry, PluginSettings

__all__ = ["PLUGINS", "Plugin", "PluginEntry", "PluginSettings"]
