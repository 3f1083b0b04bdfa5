"""Methods and plug-ins of one's own, added to their registries without editing the suite.

How a file (``--method-path mine.py``) defines a method, :mod:`baselines.own` says. For a plug-in it has one
class derived from :class:`metadd.PluginSettings`, and a function ``make(settings, networks, mean, std)`` that
gives a :class:`metadd.Plugin`; the file's stem is the plug-in's name in ``tables.yaml``.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Sequence
from pathlib import Path

from baselines import own as methods
from bench.errors import UserError, near
from metadd import PLUGINS, PluginEntry, PluginSettings


class NotKnown(UserError):
    """No method or plug-in has this name; it may stand in a file that was not named.

    Args:
        where: the place of the name in the tables file.
        what: ``method`` or ``plug-in``.
        name: the name.
        known: the names that there are.
    """

    def __init__(self, where: str, what: str, name: str, known: list[str]) -> None:
        hint = "a file of your own is named by --method-path"
        super().__init__(f"{where}: no {what} {name!r}; {near(name, known)}; {hint}")


def add_methods(files: Sequence[Path] = ()) -> None:
    """Make methods of one's own known: those of installed packages, and those in these files.

    A file may define a plug-in instead.

    Raises:
        UserError: a file or module defines neither.
    """
    try:
        methods.add_installed()
        for file in files:
            if not add_plugin(file):
                methods.add_file(file)
    except methods.NotAMethod as problem:
        raise UserError(str(problem)) from None


def check_there(files: Sequence[Path]) -> None:
    """See that these files can be read, for verbs that take them as others do and need nothing of them.

    Raises:
        UserError: one cannot.
    """
    for file in files:
        try:
            file.open("rb").close()
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); a Python file is expected") from None


def add_plugin(path: Path) -> bool:
    """Add the plug-in that a file defines; False where its text derives no class from ``PluginSettings``.

    The file is run if it does.

    Raises:
        UserError: the file is no whole plug-in, or its name is taken.
        NotAMethod: what it imports is not there.
    """
    try:
        text = path.read_bytes()
    except OSError:
        return False  # whoever looks for a method there says what is wrong
    if path.suffix != ".py" or not _derives(text, path):
        return False
    name, module_name = path.stem, f"metadd_own_plugin_{path.stem}"
    module = methods.imported(path, module_name)
    found = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, PluginSettings) and each.__module__ == module_name
    ]
    if len(found) != 1:
        names = ", ".join(each.__name__ for each in found)
        raise UserError(f"{path}: one class derived from PluginSettings is expected, not {names}")
    if not callable(getattr(module, "make", None)):
        raise UserError(
            f"{path}: a function make(settings, networks, mean, std) is expected beside the settings"
        )
    source = hashlib.sha256(text).hexdigest()
    entry = PluginEntry(f"{module_name}:{found[0].__name__}", f"{module_name}:make", source)
    if name == "none" or PLUGINS.get(name, entry) != entry:
        raise UserError(f"{path}: there is a plug-in {name!r} already; give yours another name")
    PLUGINS[name] = entry
    return True


def _derives(text: bytes, path: Path) -> bool:
    """Whether a class in this Python text names ``PluginSettings`` among its bases."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: no Python ({error.msg})") from None
    except ValueError as error:  # a byte 0
        raise UserError(f"{path}: no Python ({error})") from None
    bases = [base for each in ast.walk(tree) if isinstance(each, ast.ClassDef) for base in each.bases]
    return any("PluginSettings" in (getattr(base, "id", ""), getattr(base, "attr", "")) for base in bases)
