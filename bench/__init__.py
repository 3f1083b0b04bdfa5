"""metadd-bench: dataset distillation, with and without a plug-in, measured across architectures.

The functions of the command line::

    import bench

    suite = bench.open_suite("smoke")      # read, check and plan; nothing is run
    report = bench.run(suite)              # make what is missing, then rows, tables and figures
    tables = bench.table(suite.spec, "smoke", suite.results, ["cross-architecture"])
    for score in bench.evaluate(path, "cifar10", ["convnet"]):
        print(score.network, score.summary.mean)

Importing this costs nothing: each name is looked up when it is first used, and only those that compute
import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api import failures, open_suite, publish, run, status
    from bench.data import fetch
    from bench.errors import CellFailure, UserError
    from bench.outside import evaluate
    from bench.plots import plot
    from bench.tables import table

__all__ = [
    "CellFailure",
    "UserError",
    "evaluate",
    "failures",
    "fetch",
    "open_suite",
    "plot",
    "publish",
    "run",
    "status",
    "table",
]

_HOME = {
    "CellFailure": "bench.errors",
    "UserError": "bench.errors",
    "evaluate": "bench.outside",
    "fetch": "bench.data",
    "plot": "bench.plots",
    "table": "bench.tables",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "bench.api")), name)
