"""Equal cells give equal results: a few numbers, and the versions that stand for them in the keys.

``tests/golden.json`` holds both. Where a number changes, results in stores and in ``results/`` no longer
mean what their keys say: raise the version of what changed (``VERSIONS`` in bench/cells.py for a stage or
what stages share, ``version`` of a method's settings or of a recipe) and write the file anew::

    METADD_GOLDEN=write uv run pytest tests/test_golden.py

Where only a key changes (a new setting, say), all finished cells become missing: be sure that this is meant,
then write the file anew.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from command_line import TINY, spec

from baselines import METHODS
from bench import data, seeds
from bench.augment import for_dataset
from bench.cells import VERSIONS, DatasetId
from bench.plan import Dataset, plan
from bench.planning import pretraining
from bench.spec import Spec
from bench.stages import Context, distill, evaluate
from bench.training import recipes
from bench.validation import validated

FILE = Path(__file__).with_name("golden.json")
SUITE = {
    **TINY,
    "grid": [{"method": "dm", "settings": {"iterations": 3, "batch_real": 8}}, {"method": "random"}],
}
#: Other processors round otherwise.
CLOSE = {"rel": 1e-3, "abs": 1e-5}
#: A network that is trained for some steps, and what rests on it, makes more of that.
NEAR = {"rel": 3e-2, "abs": 1e-3}


def planned(identity):
    tiny = validated(Spec, spec(tiny=SUITE), "golden").suites["tiny"]
    return list(plan("tiny", tiny, lambda name: Dataset(identity, name, 100, 30)))


def versions():
    return {
        "stages": dict(VERSIONS),
        "methods": {name: entry.settings.version for name, entry in METHODS.items()},
        "pretraining": dict(pretraining.VERSIONS),
        "recipes": {name: recipes.resolve(name, {}, 32).version for name in recipes.RECIPES},
    }


def keys():
    """Of a dataset that is none, so that they hold whatever scikit-learn and Pillow are installed."""
    found = planned(DatasetId("digits[3]", "0" * 64, 3, 32))
    return {f"{item.cell.kind} {item.tags['method']}": item.cell.key for item in found}


def draws():
    """The first of several random streams; whole numbers have to be the same everywhere."""
    rng = seeds.rng("real", 0, 0, 1)
    augment = for_dataset("digits", 32)
    siamese = augment.draw_siamese(seeds.rng("siamese", 0, 0, 1), 8)
    batch = augment.draw_batch(seeds.rng("training", 0, 0, 0), 4)
    with seeds.forked("network", 0, 0, 1):
        weights = torch.randn(3).tolist()
    return {
        "seed": seeds.seed("evaluation network", 1, 2),
        "indices": rng.permutation(100)[:8].tolist(),
        "siamese operations": list(siamese.ops),
        "siamese parameters": siamese.params.tolist(),
        "batch operations": list(batch.ops),
        "batch parameters": batch.params.tolist(),
        "weights": weights,
    }


def results(folder):
    """What the tiny cells give."""
    dataset, cpu = data.load("digits[3]"), torch.device("cpu")
    distilled, evaluated, *_ = (item.cell for item in planned(DatasetId.of(data.identify("digits[3]"))))
    job = distill.Distillation(distilled, dataset, cpu)
    found = {"initial images": moments(job.x.images)}
    while job.iterations_done < job.iterations:
        job.iterate()
    job.record.observe()
    found |= {"losses": job.record.losses, "images": moments(job.x.images)}
    workspace = folder / "workspace"
    workspace.mkdir()
    distill.run(distilled, Context(dataset, cpu, {}, workspace, folder / "partial"))
    artifacts = {distilled.key: {path.name: path for path in workspace.iterdir()}}
    context = Context(dataset, cpu, artifacts, folder / "none", folder / "partial")
    outcome = evaluate.run(evaluated, context)
    return found | {"evaluation loss": outcome.result["train_loss"], "right": outcome.result["correct"]}


def of_every_method(folder):
    """Losses of each cell of a suite with every method; counts of images may differ by one elsewhere."""
    lines = (folder / "results/tiny/rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    numbers = {row["key"]: {k: v for k, v in _held(row).items() if isinstance(v, float)} for row in rows}
    counted = ("accuracy", "agreement")
    return {
        f"{row['cell']['kind']} {number}": {
            name: value for name, value in numbers[row["key"]].items() if name not in counted
        }
        for number, row in enumerate(rows)
    }


def _held(row):
    """Of a cell with a plug-in the loss before it acted: its narrow networks differ with thread counts."""
    if row["cell"]["kind"] == "distil" and "plugin" in row["result"]:
        return {"first_loss": row["result"]["first_loss"]}
    return row["result"]


def moments(images):
    """What stands for the images: mean and standard deviation of each."""
    return {"mean": images.mean((1, 2, 3)).tolist(), "std": images.std((1, 2, 3)).tolist()}


def differences(golden, found, where=""):
    """Where two values differ, floats by more than ``CLOSE``."""
    if isinstance(golden, dict) and isinstance(found, dict) and golden.keys() == found.keys():
        return [text for name in golden for text in differences(golden[name], found[name], f"{where}/{name}")]
    if isinstance(golden, list) and isinstance(found, list) and len(golden) == len(found):
        pairs = enumerate(zip(golden, found, strict=True))
        return [text for i, (a, b) in pairs for text in differences(a, b, f"{where}/{i}")]
    if isinstance(golden, float) and isinstance(found, float):
        same = found == pytest.approx(golden, **(NEAR if "of every method" in where else CLOSE))
    else:
        same = golden == found
    return [] if same else [f"{where}: {golden} has become {found}"]


def test_equal_keys_mean_equal_results(tmp_path, every_method):
    found = {"versions": versions(), "keys": keys(), "draws": draws(), "results": results(tmp_path)}
    found["results"]["of every method"] = of_every_method(every_method)
    if os.environ.get("METADD_GOLDEN") == "write":
        FILE.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(FILE.read_text())
    # One image on the edge may fall to the other side on another processor.
    assert abs(golden["results"].pop("right") - found["results"].pop("right")) <= 2
    changed = {part: differences(golden[part], found[part]) for part in golden}
    told = [text for texts in changed.values() for text in texts]
    if changed["versions"]:
        what = "a version was raised: write the file anew"
    elif changed["draws"] or changed["results"]:
        what = "results changed for equal keys: raise the version of what changed, then write the file anew"
    else:
        what = "keys changed, so finished cells become missing: if that is meant, write the file anew"
    assert not told, "\n".join([f"{what} (the head of this file says how)", *told])
