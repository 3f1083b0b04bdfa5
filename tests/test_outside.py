"""`evaluate FILE`, on real digits: the same numbers as the suite's own, and lines that say of what."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

import bench
from bench import data, outside
from bench.cli import app
from bench.outside import Score
from bench.stats import summarise

DATASET, NETWORK = "digits[3]", "convnet@w8"
TABLES = """
suites:
  tiny:
    title: tiny
    protocol: common
    dataset: digits[3]
    network: convnet@w8
    ipc: 1
    seeds: [0, 3]
    evaluate: {networks: [convnet@w8], recipe: {name: short, epochs: 2}, seeds: 2, test_per_class: 10}
    grid:
      - method: random
      - method: dm
        seeds: [3]
        settings: {iterations: 1, batch_real: 4}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the digits' cache, and a finished tiny suite."""
    folder = tmp_path_factory.mktemp("outside")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METADD_CACHE", str(folder / "cache"))
        patch.setenv("METADD_DATA", str(folder / "data"))
        (folder / "tables.yaml").write_text(TABLES)
        suite = bench.open_suite(
            "tiny",
            store=folder / "store",
            results=folder / "results",
            tables=folder / "tables.yaml",
        )
        report = bench.run(suite, device="cpu")
        assert (report.made, report.failed) == (3 + 6, {})
        yield folder, suite


@pytest.fixture(scope="module")
def real(place):
    """Two real images of each class: bytes [6, 3, H, W] and their labels."""
    first = data.load(DATASET).train.first(2)
    return first.images, first.labels


def evaluate(file, pixels=None, seeds=1, networks=(NETWORK,), **options):
    return list(
        outside.evaluate(
            file,
            DATASET,
            networks,
            recipe="short",
            overrides={"epochs": 2},
            pixels=pixels,
            seeds=seeds,
            test_per_class=10,
            device="cpu",
            **options,
        )
    )


def test_a_set_of_ours_gives_the_numbers_of_its_suite(place):
    _, suite = place
    rows = suite.results.rows.values()
    made = [row for row in rows if row["cell"]["kind"] == "distil"]
    assert {row["tags"]["seed"] for row in made} == {0, 3}
    for distil in made:
        file = suite.results.artifact(distil["key"], "images.safetensors")
        expected = [
            row["result"]["accuracy"]
            for row in rows
            if row["cell"]["kind"] == "evaluate" and row["cell"]["images"] == [distil["key"]]
        ]
        (score,) = evaluate(file, seeds=2)
        assert score.summary == summarise(expected)


def test_one_set_in_every_kind_of_file_gives_one_number(place, real, tmp_path):
    images, labels = real
    unit = images.astype(np.float32) / 255
    about = data.load(DATASET)
    mean, std = (np.array(value, np.float32)[:, None, None] for value in (about.mean, about.std))
    normalised = (unit - mean) / std
    np.savez(tmp_path / "unit.npz", images=unit, labels=labels)
    np.savez(tmp_path / "bytes.npz", images=images, labels=labels)
    np.savez(tmp_path / "normalised.npz", images=normalised, labels=labels)
    pair = [torch.from_numpy(normalised), torch.from_numpy(labels)]
    torch.save({"data": [pair], "accs_all_exps": {"ConvNet": [np.float64(0.5)]}}, tmp_path / "res.pt")
    torch.save(pair[0], tmp_path / "images.pt")
    found = [
        evaluate(tmp_path / name, pixels)[0].summary.mean
        for name, pixels in (
            ("unit.npz", "unit"),
            ("bytes.npz", None),
            ("normalised.npz", "normalised"),
            ("res.pt", "normalised"),
            ("images.pt", "normalised"),
        )
    ]
    assert found == pytest.approx([found[0]] * 5, abs=100 / 30 + 1e-9)  # rounding may turn one of 30 images
    assert evaluate(tmp_path / "unit.npz", "unit")[0].summary.mean == found[0]


def test_the_step_size_in_a_file_of_ours_is_what_mtt_s_recipe_trains_with(place, real, tmp_path):
    """The file of a set of ours, with a step size that trains nothing, and with one that does."""
    _, suite = place
    row = next(row for row in suite.results.rows.values() if row["cell"]["kind"] == "distil")
    file = suite.results.artifact(row["key"], "images.safetensors")
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = opened.metadata()
    found = []
    for step_size in (1e-12, 0.01, None):
        learnt = {} if step_size is None else {"step_size": torch.tensor(step_size)}
        save_file(tensors | learnt, tmp_path / "set.safetensors", metadata)
        (score,) = outside.evaluate(
            *(tmp_path / "set.safetensors", DATASET, [NETWORK]),
            recipe="mtt",
            overrides={"epochs": 20, "augment": "none"},
            seeds=1,
            device="cpu",
        )
        found.append(score.summary.mean)
    assert found[0] < found[1] == found[2]  # 0.01 is also the recipe's own


def test_several_sets_are_the_sample(place, real, tmp_path):
    images, labels = real
    np.savez(tmp_path / "both.npz", images=np.stack([images, images[..., ::-1]]), labels=labels)
    np.savez(tmp_path / "first.npz", images=images, labels=labels)
    (both,) = evaluate(tmp_path / "both.npz", seeds=2)
    (first,) = evaluate(tmp_path / "first.npz", seeds=2)
    assert (both.of, both.summary.n, both.per_set) == ("sets", 2, 2)
    assert (first.of, first.summary.n, first.per_set) == ("evaluation networks", 2, 2)
    assert both.test_images == 30


def test_each_set_is_first_averaged_over_its_networks():
    score = outside._score("convnet", [[10.0, 30.0], [50.0, 60.0]], 10.0, 100)
    assert score.summary == summarise([20.0, 55.0])
    assert outside._score("convnet", [[10.0, 30.0]], 10.0, 100).summary == summarise([10.0, 30.0])


@pytest.mark.parametrize(
    ("mean", "tested", "chance", "warned"),
    [
        (10.0, 10000, 10.0, True),
        (10.8, 10000, 10.0, True),  # three standard errors of guessing: 0.9
        (11.0, 10000, 10.0, False),
        (2.0, 10000, 10.0, True),
        (15.0, 100, 10.0, True),
        (1.4, 10**6, 1.0, True),  # never nearer than half a point
        (1.6, 10**6, 1.0, False),
    ],
)
def test_chance(mean, tested, chance, warned):
    score = Score("convnet", summarise([mean]), "evaluation networks", 1, chance, tested)
    assert score.at_chance is warned


def command(file, *options):
    basic = [str(file), "--dataset", DATASET, "--network", NETWORK, "--recipe", "short"]
    cost = ["--epochs", "2", "--test-per-class", "10", "--device", "cpu"]
    return CliRunner().invoke(app, ["evaluate", *basic, *cost, *options])


def test_the_printed_lines(place, real, tmp_path):
    images, labels = real
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    found = command(tmp_path / "set.npz", "--seeds", "2", "--network", "vgg11@w8")
    assert found.exit_code == 0
    first, second = found.stdout.splitlines()
    summary = evaluate(tmp_path / "set.npz", seeds=2)[0].summary
    assert first.startswith(f"{NETWORK}: {summary.mean:.2f} ± {summary.std:.2f} (n = 2 evaluation networks")
    assert "evaluation noise only; 30 test images" in first
    assert second.startswith("vgg11@w8: ")


def test_a_set_at_chance_is_warned_of(place, real, tmp_path):
    images, labels = real
    np.savez(tmp_path / "wrong.npz", images=images, labels=(labels + 1) % 3)
    found = command(tmp_path / "wrong.npz", "--seeds", "1", "--epochs", "20")
    assert found.exit_code == 0
    assert "warning: convnet@w8 is no better than chance (33.3%)" in found.stderr
    assert "class order" in found.stderr


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"recipe": "shorter"}, "did you mean 'short'"),
        ({"overrides": {"epochs": 0}}, "recipe short: epochs"),
        ({"overrides": {"epoch": 3}}, "unknown key; did you mean 'epochs'"),
        ({"overrides": {"warmup_epochs": 3}}, "recipe short: warmup_epochs: unknown key"),
        ({"recipe": "glad", "overrides": {"ema": 1.0}}, "recipe glad: ema"),
        ({"recipe": "sre2l"}, "its labels are a teacher's"),
        ({"seeds": 0}, "--seeds 0: at least 1"),
        ({"networks": ["convmet"]}, "did you mean 'convnet'"),
        ({"test_per_class": 10**6}, "--test-per-class 1000000: 1 to"),
        ({"file": "none.npz"}, "none.npz: no such file"),
        ({"dataset": "digit"}, "digits"),
    ],
)
def test_mistakes_are_refused_before_any_work(place, options, line, tmp_path):
    basic = {"file": "none.npz", "dataset": DATASET, "networks": [NETWORK], "recipe": "short"}
    asked = basic | options
    asked["file"] = tmp_path / asked["file"]
    with pytest.raises(bench.UserError) as caught:
        list(outside.evaluate(**asked))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
