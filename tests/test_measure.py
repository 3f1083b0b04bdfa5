"""Measuring: what a cell takes in a fresh process, what is stored and published of it, what is refused."""

import json
import os

import pytest
import torch
import yaml
from command_line import TINY, is_one_line, run_here, suite, write_tables
from every_method import MTT, TEACHER

import bench.stages.measure as stage
from bench.data.types import Identity
from bench.measuring import standins
from bench.measuring.estimate import Estimator, without_data
from bench.measuring.measures import Measures, name_of
from bench.results import Results
from bench.spec import Spec
from bench.stages.measure import RESULT, Job, updates_of
from bench.stages.relabel import Relabelling
from bench.validation import validated

pytestmark = pytest.mark.usefixtures("one_thread", "quick_collections")

EXPERTS = {"experts": 3, "expert": {"epochs": 2, "batch": 64}}
METADD = {"name": "metadd", "networks": ["convnet@w8", "vgg11@w2"], "training": {"all": {"epochs": 2}}}
#: A method with experts, one with a generator, one in parts with a teacher and its labels.
GRID = [
    {"method": "dm", "settings": {"iterations": 9, "batch_real": 4}, "plugin": ["none", METADD]},
    {
        "method": "mtt",
        "settings": {"iterations": 4, **MTT, "pixels": "normalised", **EXPERTS},
    },
    {
        "method": "glad",
        "settings": {
            "iterations": 4,
            "generator": "trained",
            "generator_settings": {
                "width": 8,
                "latent": 8,
                "dim": 8,
                "steps": 9,
                "batch": 6,
                "judge": TEACHER,
            },
            "inner": {"batch_real": 4},
        },
    },
    {
        "method": "sre2l",
        "ipc": [1, 2],
        "settings": {"iterations": 5},
        "evaluate": {"networks": ["convnet@w8"], "recipe": {"name": "sre2l", "epochs": 3}},
    },
]
WHOLE = suite(grid=GRID, seeds=2, teacher=TEACHER)


def measures(spec=WHOLE, how="run", updates=2, warmup=1):
    """The measures of a suite, its plan, and what its datasets are."""
    found = validated(Spec, {"suites": {"tiny": spec}}, "test").suites["tiny"]
    plan, identities = without_data("tiny", found)
    return Measures(plan, {}, how, "cpu", updates, warmup), plan, identities


@pytest.fixture(scope="module")
def rows():
    """The row of each measure of the suite by what it is of, measured in this process."""
    wanted, plan, identities = measures()
    found = {}
    for each in wanted:
        identity = identities[each.cell.dataset]
        tags = each.planned.tags
        row = stage.run(Job(each.cell, each.target, plan, identity, "test"))
        name = tags["method"] or tags["what"]
        found[each.cell.what, name, tags["ipc"] if tags["method"] else tags["network"]] = each, row
    return found


def test_each_kind_of_thing_is_measured_once(rows):
    network = TEACHER["network"]
    assert set(rows) == {
        ("distil", "DM", 1),
        ("distil", "DM + MetaDD", 1),
        ("distil", "MTT", 1),
        ("distil", "GLaD (DM), trained generator", 1),
        ("distil", "SRe2L", 1),  # IPC 2 has two such parts
        ("pretrain", "classifier", "convnet@w8"),
        ("pretrain", "classifier", "vgg11@w2"),
        ("pretrain", "classifier", network),
        ("pretrain", "expert", "convnet@w8"),
        ("pretrain", "generator", None),
        ("relabel", "SRe2L", 1),
        ("relabel", "SRe2L", 2),
    }


def test_a_row_has_what_was_measured_and_null_for_the_rest(rows):
    for (what, *_), (_, row) in rows.items():
        result = row["result"]
        assert set(result) == {"how", "device", *RESULT}
        assert (result["how"], result["device"], result["trouble"]) == ("run", "cpu", None)
        assert [result[name] for name in RESULT[4:7]] == [None] * 3  # of a GPU
        times = result["seconds_per_update"]
        assert 0 < times["q1"] <= times["median"] <= times["q3"]
        assert times["n"] == min(2, row["cost"]["whole"]["updates"])
        assert row["cost"]["whole"]["extrapolated"] is (row["cost"]["whole"]["updates"] > times["n"])
        assert (result["holders"] is None) == (what != "distil")
        assert result["peak_rss_bytes"] > result["peak_live_bytes"] > 0
        assert json.loads(json.dumps(row)) == row


def test_the_executed_count_is_the_estimate(rows):
    """To the byte, with random weights and images in place of fakes."""
    wanted, plan, identities = measures(how="estimate")
    datasets = {name: standins.dataset(identity) for name, identity in identities.items()}
    estimator = Estimator(plan, datasets, "cpu")
    executed = {
        name_of(each.cell.of): row["result"]["holders"]
        for each, row in rows.values()
        if each.cell.what == "distil"
    }
    assert {name_of(each.cell.of): estimator.holders(each.target) for each in wanted} == executed


def test_the_updates_of_a_whole_cell(rows):
    counts = {key: row["cost"]["whole"]["updates"] for key, (_, row) in rows.items()}
    assert counts["distil", "DM", 1] == 9
    assert counts["pretrain", "generator", None] == 9
    (identity,) = measures()[2].values()
    assert counts["pretrain", "expert", "convnet@w8"] == 2 * -(-sum(identity.train) // 64)
    assert counts["relabel", "SRe2L", 2] == 3  # the images are one batch
    assert updates_of({"iterations": 10, "outer": 5}) == 50
    assert updates_of({"iterations": 10, "inner": {"outer": 5}}) == 50
    assert updates_of({"iterations": 10, "inner": 3}) == 10  # DC's inner epochs


def test_a_set_s_tags_say_what_else_it_takes():
    whitened = {**GRID[1], "settings": {**GRID[1]["settings"], "pixels": "zca"}}
    wanted, _, _ = measures({**WHOLE, "grid": [*GRID[:1], whitened, *GRID[2:]]})
    names = {name_of(each.cell.of): each for each in wanted}
    stages = {
        (tags["method"], tags["ipc"]): {
            (names[name].cell.what, names[name].cell.of.get("what")): count
            for name, count in tags["stages"].items()
        }
        for each in wanted
        if each.cell.what == "distil"
        for tags in each.planned.all_tags
    }
    assert stages["DM", 1] == {}

    assert stages["MTT", 1] == {("pretrain", "expert"): 3, ("pretrain", "zca"): 1}
    judged = {("pretrain", "generator"): 1, ("pretrain", "classifier"): 1}
    assert stages["GLaD (DM), trained generator", 1] == judged
    labels = {("pretrain", "classifier"): 1, ("relabel", None): 1}
    assert stages["SRe2L", 1] == stages["SRe2L", 2] == labels


def test_each_row_s_labels_are_measured():
    """Rows may have the same set and other labels, and one row labels for each of two networks."""

    def labelled(epochs, network="convnet@w8", **block):
        recipe = {"name": "sre2l", "epochs": epochs, "batch": 2}
        return {**GRID[3], "ipc": 2, "evaluate": {"networks": [network], "recipe": recipe}, **block}

    grid = [labelled(3), labelled(4, label="Again"), labelled(5, protocol="authors"), labelled(6, "vgg11@w2")]
    wanted, _, _ = measures({**WHOLE, "grid": grid})
    epochs = {
        name_of(each.cell.of): each.cell.of["draws"]["epochs"]
        for each in wanted
        if each.cell.what == "relabel"
    }
    (set_,) = (each for each in wanted if each.cell.what == "distil")
    found = {
        (tags["method"], tags["protocol"]): [epochs[name] for name in tags["stages"] if name in epochs]
        for tags in set_.planned.all_tags
    }
    assert found == {("SRe2L", "common"): [3, 6], ("Again", "common"): [4], ("SRe2L", "authors"): [5]}


def test_a_measure_knows_neither_seeds_nor_keys_but_what_it_depends_on():
    cells = {each.cell.key for each in measures()[0]}
    assert {each.cell.key for each in measures({**WHOLE, "seeds": [7]})[0]} == cells
    other = {**WHOLE, "teacher": {**TEACHER, "network": "resnet18@w4@bn"}}
    changed = {each.planned.tags["method"] for each in measures(other)[0] if each.cell.key not in cells}
    assert changed == {None, "SRe2L"}  # GLaD's judge has no part in its updates
    assert not cells & {each.cell.key for each in measures(updates=3)[0]}


def test_random_bytes_stand_in_for_images_without_taking_memory():
    identity = Identity("cifar10", "0" * 64, tuple("0123456789"), 32, (5000,) * 10, (1000,) * 10)
    images = standins.dataset(identity, noise=True).train.images
    assert images.shape == (50_000, 3, 32, 32)
    assert images.strides == (1, 32 * 32, 32, 1)  # each begins a byte after the one before it
    assert 120 < images[::500].mean() < 135
    assert images[::500].std() == pytest.approx(73.9, abs=1)
    assert (images[0] != images[40_000]).mean() > 0.9


def test_running_out_of_memory_is_trouble_and_no_crash(monkeypatch):
    wanted, plan, identities = measures(suite())
    (each,) = wanted

    def fails(*_):
        raise MemoryError

    monkeypatch.setattr(stage, "Distillation", fails)
    row = stage.run(Job(each.cell, each.target, plan, identities[each.cell.dataset], "test"))
    assert row["result"]["trouble"] == "out of memory on the CPU"
    assert row["result"]["seconds_per_update"] is None
    assert row["result"]["peak_live_bytes"] is None


class Deadly(Job):
    """A job that ends the process which takes it up."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_process_that_is_killed_is_trouble(monkeypatch):
    wanted, plan, identities = measures(suite())
    (each,) = wanted
    monkeypatch.setattr(stage, "run", print)  # so that PyTorch need not be imported for it
    row = stage.run_apart(Deadly(each.cell, each.target, plan, identities[each.cell.dataset], "test"))
    assert "was killed" in row["result"]["trouble"]


# The command.


@pytest.fixture
def measure(monkeypatch, capfd, tmp_path):
    """``metadd-bench measure`` on a suite ``tiny``, of DM by default."""
    monkeypatch.chdir(tmp_path)
    table = {"title": "Memory", "kind": "memory", "rows": ["method"]}

    def run(*arguments, **changes):
        file = write_tables(tmp_path / "tables.yaml", tiny={**TINY, "tables": ["memory", "time"], **changes})
        text = yaml.safe_load(file.read_text())
        text["tables"] |= {"memory": table, "time": {**table, "title": "Time", "kind": "time"}}
        file.write_text(yaml.safe_dump(text))
        return run_here(
            monkeypatch, capfd, "measure", "tiny", "--tables", file, "--device", "cpu", *arguments
        )

    return run


def published(folder):
    return list(Results(folder / "results/tiny").measures.rows.values())


def test_a_measure_is_made_once_in_a_fresh_process_and_published(measure, tmp_path):
    done = measure("--updates", "2", "--warmup", "1", seeds=3)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[0].startswith("distil digits[3], DM, IPC 1: ")
    assert "| DM" in done.out
    assert done.out.count("not measured") > 10  # the columns of a GPU, of MetaDD and of GLaD
    (row,) = published(tmp_path)
    assert row["current"]
    names = ("dataset", "ipc", "method", "plugin", "distilled_on", "protocol", "seed", "stages")
    values = ("digits[3]", 1, "DM", "none", "convnet@w8", "common", 0, {})
    assert row["tags"] == dict(zip(names, values, strict=True))
    assert "seed" not in row["cell"]["of"]
    assert row["result"]["seconds_per_update"]["n"] == 2
    assert row["provenance"]["command"] == "metadd-bench measure tiny --device cpu"
    again = measure("--updates", "2", "--warmup", "1", seeds=3)
    assert "[found]" in again.out
    assert published(tmp_path) == [row]


def test_estimates_are_kept_where_it_is_asked_for(measure, tmp_path, monkeypatch):
    assert measure("--estimate").status == 0
    assert published(tmp_path) == []
    grid = [{"method": "dm", "settings": {"iterations": 3, "batch_real": 4}}, {"method": "sre2l"}]
    wrong = {"network": "convnet@w8", "epochs": 1}  # without batch norm
    done = measure("--estimate", "--save", grid=grid, teacher=wrong)
    dm, sre2l = published(tmp_path)
    assert dm["result"]["peak_live_bytes"] == sum(dm["result"]["holders"].values()) > 0
    assert dm["result"]["how"] == "estimate"
    assert dm["result"]["seconds_per_update"] is None
    assert "batch" in sre2l["result"]["trouble"]
    assert sre2l["result"]["holders"] is None
    assert "IPC 1 could not be estimated: " in done.out
    monkeypatch.setattr("bench.measuring.estimate.count_by_holder", None)  # what is there is not made again
    assert f"{dm['result']['peak_live_bytes'] / 2**20:.1f}" in measure("--estimate", "--save").out


def test_what_was_measured_stays_and_what_is_newer_counts(measure, tmp_path):
    measure("--estimate", "--save")
    measure("--estimate", "--save", ipc=2)
    old, new = sorted(published(tmp_path), key=lambda row: row["current"])
    assert (old["current"], new["current"]) == (False, True)
    assert (old["tags"]["ipc"], new["tags"]["ipc"]) == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--save",), ["--save", "--estimate"]),
        (("--memory", "1GiB"), ["--memory", "--estimate"]),
        (("--only", "ipc=7"), ["--only", "ipc is one of 1"]),
        (("--updates", "0"), ["--updates"]),
    ],
)
def test_mistakes_are_one_line(measure, arguments, words):
    is_one_line(measure(*arguments), *words)


def test_labels_come_batch_by_batch_as_whole_epochs_do():
    """The pieces that are timed are what relabelling does."""
    wanted, plan, identities = measures(WHOLE)
    (each,) = [each for each in wanted if each.cell.what == "relabel" and each.cell.of["images"] == 6]
    identity = identities[each.cell.dataset]
    teacher = standins.StandIns(plan).one("teacher", (each.target.teacher,), each.target, torch.device("cpu"))
    noise = standins.dataset(identity, noise=True)
    shown = stage.DistilledSet(
        torch.from_numpy(noise.train.images[:6].copy()).float() / 255,
        torch.arange(6) % 3,
        stage.space("unit", noise.mean, noise.std, None),
    )
    job = Relabelling(each.target, shown, teacher, noise, torch.device("cpu"))
    steps = torch.cat(list(job.steps()))
    job.epoch()
    assert torch.equal(job.logits[0], steps.half())
