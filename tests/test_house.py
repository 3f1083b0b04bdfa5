"""How the house is built: who may import whom, what costs no torch, how long a file may be."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import TINY, finish, start, write_tables

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("bench", "baselines", "metadd")
FILES = {
    str(path.relative_to(ROOT)): path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))
}


def imported(path):
    """The top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add(str(node.module).partition(".")[0])
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_short_and_keeps_to_its_side(name):
    path, package = FILES[name], Path(name).parts[0]
    assert len(path.read_text().splitlines()) <= 400
    allowed = set(PACKAGES) if package == "bench" else {package}
    assert imported(path) & set(PACKAGES) <= allowed


def modules_of(node):
    """What an import may name: modules, and names in them."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def test_no_files_import_each_other():
    """Not even inside functions, or for types. A package's face may import what is in it."""
    names = {name.removesuffix(".py").replace("/", "."): path for name, path in FILES.items()}
    names = {name: path for name, path in names.items() if not name.endswith("__init__")}
    graph = {}
    for name, path in names.items():
        asked = {each for node in ast.walk(ast.parse(path.read_text())) for each in modules_of(node)}
        graph[name] = asked & set(names)
    assert "bench.plan" in graph["bench.api"]
    order = [*graphlib.TopologicalSorter(graph).static_order()]
    assert order.index("bench.plan") < order.index("bench.api")


TESTS = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("*.py"))]


@pytest.mark.parametrize("name", TESTS)
def test_a_test_file_is_short(name):
    assert len((ROOT / name).read_text().splitlines()) <= 400


def test_the_library_needs_nothing_of_the_harness():
    """``from metadd import …`` and ``from baselines import …`` in a program of someone else."""
    code = "import sys, metadd, baselines; print('bench' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("finished")
    write_tables(folder / "tables.yaml", tiny={**TINY, "tables": ["accuracy"], "figures": ["sets"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METADD_CACHE", str(cache))
        assert finish(start(folder, "run", "tiny", "--tables", "tables.yaml"), folder).status == 0
    return folder


#: What needs no torch, and what it prints.
CHEAP = {
    "": "metadd-bench",
    "--help": "evaluate",
    "run --help": "--time-limit",
    "list": "smoke",
    "list networks": "convnet",
    "status tiny --tables tables.yaml": "distil: 1 finished",
    "table --tables tables.yaml": "| DM",
    "plot --tables tables.yaml": "sets.png",
    "export --only method=DM --to exported": "3 images in exported",
    "report tiny --tables tables.yaml": "report.html",
    "check tiny --tables tables.yaml --update --reason first": "is now what",
    "run tiny --tables tables.yaml": "2 cells: 2 hits, 0 made",
    "run tiny --tables tables.yaml --dry-run": "1 distil cells: 1 finished",
    "pack a.pack": "packed 2 cells",
    "unpack a.pack": "known already: 4",
}


def test_what_needs_no_torch(finished):
    """All in one process, because starting ten takes ten times as long."""
    code = f"""
import contextlib, io, sys
import bench
from bench import cli

heavy = ("torch", "torchvision", "timm", "sklearn")
assert not [name for name in heavy if name in sys.modules], "import bench"
for arguments, words in {CHEAP!r}.items():
    sys.argv = ["metadd-bench", *arguments.split()]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            cli.main()
        except SystemExit as end:
            assert not end.code, arguments
    assert words in out.getvalue(), (arguments, out.getvalue())
    assert not [name for name in heavy if name in sys.modules], arguments
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=finished, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_and_list_need_neither_pandas_nor_matplotlib():
    code = """
import sys
from bench import cli
sys.argv = ["metadd-bench", "list"]
try:
    cli.main()
finally:
    print([name for name in ("torch", "pandas", "matplotlib", "scipy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
