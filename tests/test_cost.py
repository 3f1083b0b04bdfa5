"""What a suite will take: sums of its cells, from measures where there are some, and what a budget buys."""

import csv
import json
import math
import zlib

import pytest
from command_line import TINY, is_one_line, rekeyed, run_here, spec, write_tables

from bench.cells import canonical
from bench.errors import UserError
from bench.measuring import cost, measures
from bench.measuring.operations import Work
from bench.plan import plan
from bench.spec import Spec
from bench.unions import with_unions
from bench.validation import validated

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = [
    {"method": "dm", "settings": {"iterations": 3, "batch_real": 4}, "plugin": "none"},
    {"method": "full"},
]
EVALUATE = {"networks": ["convnet@w8"], "recipe": {"name": "short", "epochs": 5, "batch": 2}, "seeds": 2}
SUITE = {
    **TINY,
    "ipc": 3,
    "seeds": 2,
    "grid": GRID,
    "evaluate": EVALUATE,
    "first": [{"method": "DM", "seed": 1}],
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("cost") / "tables.yaml", tiny=SUITE)


@pytest.fixture(scope="module")
def found(tables, cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METADD_CACHE", str(cache))
        return cost.costs("tiny", tables=tables, rate=1e9, results=tables.parent / "none")


def of(found, kind, **tags):
    """The cells of a kind with these tags."""
    return [
        item
        for item in found.plan
        if item.cell.kind == kind and all(item.tags[t] == v for t, v in tags.items())
    ]


def test_an_evaluation_is_its_steps_and_its_test(found):
    item, *_ = of(found, "evaluate", method="DM")
    network, about = item.cell.network, item.cell.dataset
    step, forward = found._operations.training(network, cost.recipes.load(item.cell.recipe), about)
    tests = len(found._datasets[about].test.images)

    def seconds(work):
        return max(work.operations / 1e9, work.operators * 10e-6)

    steps = 5 * math.ceil(9 / 2)
    expected = steps * seconds(Work(step.operations * 9 / 5, step.operators))
    expected += seconds(
        Work(forward.operations * tests, forward.operators)
    )  # all in one batch of at most 500
    assert tests < 500
    assert found.of(item).seconds == pytest.approx(expected, rel=1e-12)


def test_so_many_images_take_so_long(found):
    """Real images instead of nine, twenty steps each instead of one: the rate decides."""
    whole, *_ = of(found, "evaluate", method="Full data")
    few, *_ = of(found, "evaluate", method="DM")
    assert found._images(whole.cell) == len(found._datasets[whole.cell.dataset].train.images)
    assert found._images(few.cell) == 9
    assert found.of(whole).seconds > found.of(few).seconds


def test_a_distillation_is_its_iterations(found):
    item, *_ = of(found, "distil")
    work = found._operations.iteration(item.cell)
    assert found.of(item) == cost.Cost(3 * max(work.operations / 1e9, work.operators * 10e-6))


class Hashed:
    """In place of operations: as many as a hash of what they depend on says."""

    def __init__(self, *_):
        pass

    def iteration(self, cell):
        return self._of(cell.network, cell.settings)

    def training(self, network, recipe, about):
        return self._of(network, recipe.model_dump()), self._of(network)

    def _of(self, *values):
        return Work(1e4 * zlib.crc32(canonical(values).encode()), 1)


def test_only_cells_that_cost_the_same_share_a_price(tmp_path, cache, monkeypatch):
    """Cells of one method and network that differ in settings, protocol, pixels or distilling network."""
    monkeypatch.setenv("METADD_CACHE", str(cache))
    monkeypatch.setattr(cost, "Operations", Hashed)
    labels = {"networks": ["convnet@w8"], "recipe": {"name": "sre2l", "epochs": 4}}
    experts = {"experts": 2, "syn_steps": 1, "iterations": 2, "max_start_epoch": 1, "expert_epochs": 1}
    expert, teacher = {"epochs": 2, "batch": 64}, {"network": "convnet@w8@bn", "epochs": 2}
    grid = [
        {"method": "dm", "settings": {"iterations": 3, "batch_real": 4}},
        {"method": "dm", "settings": {"iterations": 30, "batch_real": 4}, "protocol": "authors"},
        {"method": "dm", "settings": {"iterations": 3, "batch_real": 4}, "network": "alexnet@w4"},
        {"method": "mtt", "settings": {**experts, "pixels": "normalised", "expert": expert}},
        {"method": "mtt", "label": "b", "settings": {**experts, "pixels": "zca", "expert": {"epochs": 9}}},
        {"method": "random", "evaluate": labels, "teacher": teacher},
        {"method": "random", "evaluate": labels, "teacher": {**teacher, "epochs": 9}, "protocol": "authors"},
    ]
    tables = write_tables(tmp_path / "tables.yaml", tiny={**TINY, "ipc": 2, "seeds": 3, "grid": grid})
    found = cost.costs("tiny", tables=tables, results=tmp_path, rate=1e9)
    prices = [(found.of(item), found._cost(item.cell)) for item in found.plan]
    assert [shared for shared, _ in prices] == [alone for _, alone in prices]
    groups = {found.group(item): set() for item in found.plan}
    for item, (price, _) in zip(found.plan, prices, strict=True):
        groups[found.group(item)].add(price.seconds)
    assert {(group[1], group[2]) for group, seconds in groups.items() if len(seconds) > 1} >= {
        ("pretrain", "expert"),
        ("distil", "DM"),
    }
    assert len(found._costs) <= len(found.plan) / 2


def test_a_measured_relabelling_is_its_batches(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("METADD_CACHE", str(cache))
    recipe = {"name": "sre2l", "epochs": 5, "batch": 4}
    block = {"method": "random", "evaluate": {"networks": ["convnet@w8"], "recipe": recipe}}
    block |= {"teacher": {"network": "convnet@w8@bn", "epochs": 1}}
    tables = write_tables(tmp_path / "tables.yaml", tiny={**TINY, "ipc": 3, "grid": [block]})
    found = cost.costs("tiny", tables=tables, results=tmp_path)
    (item,) = of(found, "relabel")
    about = {"of": measures.value_of(item.cell, found.plan), "how": "run", "device": "cuda"}
    row = {"cell": about, "result": {"seconds_per_update": {"median": 7.0}}}
    measured = cost.Costs(found.plan, found._datasets, found._operations, [row])
    assert measured.of(item).seconds == 5 * 3 * 7.0  # nine images in batches of four


def test_groups_have_every_cell_once(found):
    groups = found.groups()
    assert sum(sums.cells for sums in groups.values()) == len(found.plan)
    assert math.fsum(sums.seconds for sums in groups.values()) == pytest.approx(
        math.fsum(found.of(item).seconds for item in found.plan)
    )
    assert groups["digits[3]", "distil", "DM", 3, None, None].cells == 2


def test_a_budget_goes_as_far_as_the_order_of_a_run(found):
    first, rest = found.bought(0)
    assert (first.words, first.all.cells, first.reached) == ("method: DM; seed: 1", 3, 0)
    assert first.all.cells + rest.all.cells == len(found.plan)
    order = [found.of(item).seconds for item in found.plan.by_importance()]
    for cells in (1, 3, 5, len(order)):
        first, rest = found.bought(math.fsum(order[:cells]) * (1 + 1e-9))
        assert (first.reached, rest.reached) == (min(cells, 3), max(0, cells - 3))


def test_measures_come_before_counts(found, tables, tmp_path, cache):
    item, *_ = of(found, "distil")
    value = measures.value_of(item.cell, found.plan)
    rows = []
    for how, device, result in (
        ("run", "cuda", {"seconds_per_update": {"median": 7.0}, "peak_allocated_bytes": 3 * 2**20}),
        ("run", "cpu", {"seconds_per_update": {"median": 9.0}, "peak_allocated_bytes": None}),
        ("estimate", "cuda", {"seconds_per_update": None, "peak_live_bytes": 5}),
    ):
        about = {"of": value, "how": how, "device": device, "kind": "measure"}
        row = rekeyed({"current": True, "tags": {}, "cell": about, "result": result})
        rows.append(json.dumps({**row, "cost": {}, "provenance": {}, "artifacts": {}}))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/measures.jsonl").write_text("\n".join(rows) + "\n")

    def costs(device):
        return cost.costs("tiny", tables=tables, results=tmp_path, device=device).of(item)

    assert costs("cuda") == cost.Cost(3 * 7.0, measured=True, memory=3 * 2**20)
    assert costs("cpu") == cost.Cost(3 * 9.0, measured=True)


def test_the_command(tables, tmp_path, monkeypatch, capfd, found):
    monkeypatch.chdir(tmp_path)
    run = ("cost", "tiny", "--tables", tables, "--rate", "1GFLOPS")
    done = run_here(monkeypatch, capfd, *run, "--budget", "24h")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(
        "# What suite `tiny` takes: 0 GPU hours\n\n10 cells; not measured: counted operations"
    )
    assert "at an assumed 0.001 TFLOPS, or 10 µs per operator" in done.out
    assert "| method: DM; seed: 1 | 3 |" in done.out
    assert "| 3 cells |" in done.out
    plain = run_here(monkeypatch, capfd, *run).out
    assert plain.partition("\n## In the")[0] == done.out.partition("\n## In the")[0]
    header = "| First | cells | GPU hours | so far |\n| --- | --- | --- | --- |\n"
    assert f"{header}| method: DM; seed: 1 | 3 |" in plain
    lines = list(csv.DictReader(run_here(monkeypatch, capfd, *run, "--format", "csv").out.splitlines()))
    assert sum(int(line["cells"]) for line in lines) == 10
    seconds = {(line["kind"], line["what"]): float(line["hours of one"]) * 3600 for line in lines}
    item, *_ = of(found, "evaluate", method="Full data")
    assert seconds["evaluate", "Full data"] == pytest.approx(found.of(item).seconds, abs=4e-3)
    assert {line["basis"] for line in lines} == {"counted"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rate", "20"), ["--rate 20:", "20TFLOPS"]),
        (("--rate", "0TFLOPS"), ["--rate"]),
        (("--budget", "24 years"), ["--budget 24 years:", "24h"]),
        (("--only", "ipc=7"), ["--only"]),
    ],
)
def test_mistakes_are_one_line(tables, tmp_path, monkeypatch, capfd, arguments, words):
    monkeypatch.chdir(tmp_path)
    is_one_line(run_here(monkeypatch, capfd, "cost", "tiny", "--tables", tables, *arguments), *words)


def test_rates_and_times():
    assert cost.parse_rate("19.5 TFLOPS") == 19.5e12
    assert cost.parse_rate("2PFLOPS") == 2e15
    assert cost.parse_hours("2d") == 48
    assert cost.parse_hours("90m") == 1.5


# Suites made of others.


def read(**suites):
    return validated(Spec, with_unions(spec(**suites), "here"), "here")


def test_a_union_has_the_cells_of_its_suites():
    from test_plan import identify

    other = {**SUITE, "dataset": "cifar10", "ipc": 2, "seeds": [4], "first": []}
    both = {"title": "both", "union": ["one", "two"], "first": []}
    found = read(one=SUITE, both=both, two=other).suites
    one, two, union = (plan(name, found[name], identify) for name in ("one", "two", "both"))
    assert set(union.planned) == {*one.planned, *two.planned}
    assert (found["both"].title, found["both"].network) == ("both", SUITE["network"])


def test_the_paper_is_its_three_suites():
    from bench.cells import DatasetId
    from bench.measuring import standins
    from bench.plan import Dataset
    from bench.spec import read as of_installation

    def identify(name):
        seen = standins.identify(name)
        return Dataset(DatasetId.of(seen), seen.spec, min(seen.train), min(seen.test))

    suites = of_installation().suites
    parts = ("cifar10", "cifar100", "tiny-imagenet")
    keys = {key for name in parts for key in plan(name, suites[name], identify).planned}
    assert set(plan("paper", suites["paper"], identify).planned) == keys


@pytest.mark.parametrize(
    ("suite", "words"),
    [
        ({"union": ["onee"]}, r"suites\.both\.union: no suite 'onee' .*did you mean 'one'"),
        ({"union": ["both"]}, "no suite 'both' that is no union"),
        ({"union": []}, "a list of suites"),
        ({"union": "one"}, "a list of suites"),
        ({"union": ["one"], "grid": GRID}, "none of its own"),
    ],
)
def test_no_union(suite, words):
    with pytest.raises(UserError, match=words):
        read(one=SUITE, both=suite)
