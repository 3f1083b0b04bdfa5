"""metadd-bench: dataset distillation, with and without a plug-in, measured across architectures.

The functions of the command line::

    import bench

    suite = bench.open_suite("smoke")      # read, check and plan; nothing is run
    report = bench.run(suite)              # make what is missing, then rows, tables and figures
    tables = bench.table(suite.spec, "smoke", suite.results, ["cross-architecture"])
    scores = bench.evaluate(path, "cifar10", ["convnet"])

Importing this costs no torch.
"""

from bench.api import failures, open_suite, plot, publish, run, status, table
from bench.data import fetch
from bench.errors import UserError
from bench.outside import evaluate

__all__ = [
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
