"""Methods of one's own, added to the registry without editing the suite.

A file (``--method-path mine.py``) or an installed module (an entry point in the group
``metadd_bench.methods``) defines one class derived from :class:`~baselines.Method` and its settings, derived
from :class:`~baselines.MethodSettings`. The file's stem, or the entry point's name, is the method's name.
"""

from __future__ import annotations

import hashlib
import sys
from importlib import import_module, util
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb
from types import ModuleType

from baselines import METHODS, Entry, Method, MethodSettings

#: The group of entry points that installed packages add methods by.
GROUP = "metadd_bench.methods"


class NotAMethod(Exception):
    """A file or module that defines no method; the message says what is wrong with it."""


def add_file(path: Path) -> str:
    """Add the method that a file defines, and return its name; the file is run.

    Raises:
        NotAMethod: there is no such file, it does not define one method, or its name is taken.
    """
    name, module_name = path.stem, f"metadd_own_{path.stem}"
    try:
        source = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise NotAMethod(f"{path}: cannot be read ({error.strerror}); a Python file is expected") from None
    module = imported(path, module_name)
    _add(name, _entry(module, str(path), source), str(path))
    return name


def imported(path: Path, module_name: str) -> ModuleType:
    """Run a file as a module of this name.

    Raises:
        NotAMethod: it is no Python file, or what it imports is not there. Whatever else it raises is its bug.
    """
    spec = util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise NotAMethod(f"{path}: a Python file, ending in .py, is expected")
    module = util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        del sys.modules[module_name]
        raise NotAMethod(f"{path}{_line(error, path)}: {type(error).__name__}: {error}") from None
    return module


def _line(error: Exception, path: Path) -> str:
    """Which line of a file an exception came from; nothing where it was none of the file's."""
    lines = [
        frame.lineno for frame in extract_tb(error.__traceback__) if Path(frame.filename) == path.absolute()
    ]
    return f", line {lines[-1]}" if lines else ""


def add_installed() -> list[str]:
    """Add the methods of installed packages, and return their names; their modules are imported.

    Raises:
        NotAMethod: a module does not define one method, or its name is taken by another.
    """
    return [_add_installed(point) for point in entry_points(group=GROUP)]


def _add_installed(point: EntryPoint) -> str:
    module = import_module(point.module)
    source = hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()
    _add(point.name, _entry(module, point.module, source), point.module)
    return point.name


def _add(name: str, entry: Entry, where: str) -> None:
    if METHODS.get(name, entry) != entry:
        raise NotAMethod(f"{where}: there is a method {name!r} already; give yours another name")
    METHODS[name] = entry


def _entry(module: ModuleType, where: str, source: str) -> Entry:
    settings = _only(module, MethodSettings, where)
    method = _only(module, Method, where)
    if "label" not in vars(settings):
        raise NotAMethod(f"{where}: {settings.__name__} needs a `label`, its name in tables")
    return Entry(f"{module.__name__}:{settings.__name__}", f"{module.__name__}:{method.__name__}", source)


def _only(module: ModuleType, base: type, where: str) -> type:
    found = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, base) and each.__module__ == module.__name__
    ]
    if len(found) != 1:
        names = ", ".join(each.__name__ for each in found) or "none"
        raise NotAMethod(f"{where}: one class derived from {base.__name__} is expected, not {names}")
    return found[0]
