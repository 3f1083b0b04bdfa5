"""Published results for tests of the report: a suite planned as any other, with results made up."""

import json
from dataclasses import dataclass

import numpy as np
import yaml
from PIL import Image, PngImagePlugin

from bench.plan import DatasetId, plan
from bench.planning.grid import Dataset
from bench.results import PLATE, Results
from bench.spec import read

#: A name that must not become markup, nor end a script.
HOSTILE = "</script><script>alert('1')</script> & \"DM\" <b>"

_PLUGIN = {"name": "metadd", "networks": ["convnet@w8", "vgg11@w8"]}
_SUITE = {
    "title": "made up",
    "note": f"Nothing was run: {HOSTILE}.",
    "protocol": "common",
    "dataset": "digits",
    "network": "convnet@w8",
    "ipc": [1, 10],
    "evaluate": {"networks": ["convnet@w8", "alexnet@w8"], "recipe": "short", "seeds": 2},
    "grid": [
        {"method": "random", "seeds": 3},
        {"method": "dm", "seeds": 4, "plugin": ["none", _PLUGIN, {**_PLUGIN, "align": 0}]},
        {"method": "dm", "label": HOSTILE, "settings": {"iterations": 7}, "ipc": 1, "seeds": 2},
    ],
    "analyse": {"auxiliary": ["convnet@w8", "vgg11@w8"], "unseen": ["alexnet@w8", "resnet18@w4"]},
    "tables": ["accuracy", "features", "memory", "time"],
}
_TABLES = {
    "accuracy": {"title": "Accuracy", "kind": "accuracy", "rows": ["dataset", "ipc", "method"]},
    "features": {"title": "Features", "kind": "meta-features", "rows": ["ipc", "method"]},
    "memory": {"title": "Memory", "kind": "memory", "rows": ["dataset", "ipc", "method"]},
    "time": {"title": "Time", "kind": "time", "rows": ["dataset", "ipc", "method"]},
}
_CONTENT = "c0ffee" * 10 + "beef"
_PROVENANCE = {
    "commit": "1234567890abcdef" * 2,
    "dirty": False,
    "versions": {"torch": "2.15.0"},
    "device": "a processor",
    "device_kind": "cpu",
    "threads": 1,
    "platform": "Linux",
    "cuda": None,
    "driver": None,
    "command": f"metadd-bench run made-up --only method={HOSTILE}",
}


@dataclass
class MadeUp:
    """A suite ``made-up`` with its spec, plan and results."""

    spec: object
    plan: object
    results: Results

    @property
    def rows(self):
        return self.results.rows


def publish(folder, seed=0, left_out=lambda item: False, **changes):
    """Results of a suite in ``folder``, with numbers drawn by ``seed``; a plate for each first set."""
    tables = folder / "tables.yaml"
    content = {"suites": {"made-up": {**_SUITE, **changes}}, "tables": _TABLES}
    content["figures"] = {"sets": {"title": "Sets", "kind": "images"}}
    folder.mkdir(parents=True, exist_ok=True)
    tables.write_text(yaml.safe_dump(content))
    spec = read(tables)
    data = Dataset(DatasetId("digits", _CONTENT, 10, 32), "digits", 1000, 1000)
    planned = plan("made-up", spec.suites["made-up"], lambda name: data)
    results, rng = Results(folder / "results/made-up"), np.random.default_rng(seed)
    results.write(row(item, rng) for item in planned if not left_out(item))
    for item in planned:
        if item.cell.kind == "distil" and item.tags["seed"] == 0 and item.cell.ipc == 1:
            write_plate(results.artifact(item.cell.key, PLATE), rng)
    return MadeUp(spec, planned, results)


def row(item, rng):
    """A finished row of a planned cell."""
    kinds = {
        "pretrain": ["accuracy"],
        "distil": ["first_loss", "last_loss"],
        "relabel": ["agreement"],
        "evaluate": ["accuracy"],
        "analyse": ["meta", "heterogeneous", "iou", "divergence", "cross_entropy"],
    }
    result = {name: float(rng.uniform(0, 1)) for name in kinds[item.cell.kind]}
    if "accuracy" in result:
        result["accuracy"] = round(100 * result["accuracy"], 2)
    if item.cell.value.get("what") == "generator":
        result["samples"] = 1000
    if item.cell.kind == "analyse":
        result["accuracies"] = {"convnet@w8": 50.0}
    cost = {"seconds": float(rng.uniform(0, 1000))}
    if item.cell.kind == "distil":
        updates = 0 if item.cell.method == "random" else 100
        cost |= {"updates": updates, "seconds_per_update": float(rng.uniform(0, 1))}
        cost["peak_live_bytes"] = int(rng.integers(10**6, 10**8))
    return {
        "key": item.cell.key,
        "tags": dict(item.tags),
        **({"also": [dict(tags) for tags in item.also]} if item.also else {}),
        "cell": json.loads(json.dumps(item.cell.value)),
        "result": result,
        "cost": cost,
        "provenance": {**_PROVENANCE, "finished": "2026-11-21T11:41:30+00:00"},
        "artifacts": {},
    }


def write_plate(path, rng):
    """The picture of a set of ten classes with an image each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = PngImagePlugin.PngInfo()
    about.add_text("metadd", json.dumps({"classes": [str(i) for i in range(10)], "columns": 1}))
    picture = Image.fromarray(rng.integers(0, 256, (320, 32, 3), np.uint8))
    picture.save(path, pnginfo=about)


def measure(item, rng):
    """A row of a planned measure (:class:`bench.measuring.measures.Measured`), with numbers made up."""
    cell = item.cell
    gpu, timed = cell.device == "cuda", cell.how == "run"
    result = {"how": cell.how, "device": cell.device, "trouble": None, "seconds_per_update": None}
    result["peak_live_bytes"] = None if gpu and timed else int(rng.integers(10**6, 10**8))
    result["peak_allocated_bytes"] = int(rng.integers(10**6, 10**8)) if gpu and timed else None
    cost = {"seconds": float(rng.uniform(0, 9))}
    if timed:
        result["seconds_per_update"] = {"median": float(rng.uniform(0, 1)), "n": 5}
        cost["whole"] = {"seconds": float(rng.uniform(0, 1000)), "updates": 9, "extrapolated": True}
    device = {"device": "a GPU" if gpu else "a processor", "device_kind": cell.device}
    return {
        "key": cell.key,
        "tags": dict(item.planned.tags),
        **({"also": [dict(tags) for tags in item.planned.also]} if item.planned.also else {}),
        "cell": json.loads(json.dumps(cell.value)),
        "result": result,
        "cost": cost,
        "provenance": {**_PROVENANCE, **device, "finished": "2026-11-21T11:41:30+00:00"},
        "artifacts": {},
    }
