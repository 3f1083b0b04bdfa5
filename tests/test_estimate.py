"""Memory estimated from shapes alone: to the byte what executed updates took, split by what holds it."""

import csv
import json

import pytest
import torch
from command_line import TINY, is_one_line, run_here, write_tables
from small import cell, dataset
from test_glad import compact
from test_plugged import METHODS, NETWORKS
from torch._subclasses.fake_tensor import FakeTensorMode

from bench import api, augment, plugins, synthetic
from bench.cells import AUXILIARY
from bench.measuring import standins
from bench.measuring.estimate import shortened
from bench.measuring.holders import Holder, count_by_holder
from bench.memory import LiveBytes, to_fake
from bench.networks.build import build, parameters_count
from bench.seeds import forked
from bench.stages import distill, tools
from bench.stages.distill import count_live_bytes
from bench.zca import ZCA
from metadd import CAM

pytestmark = pytest.mark.usefixtures("one_thread", "quick_collections")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def data():
    return dataset()


@pytest.fixture(scope="module")
def given(data):
    """What any method and the plug-in need."""
    shape = len(data.classes), data.size
    with forked("test estimate"):
        found = {AUXILIARY + name: CAM(build(name, *shape), data.size) for name in NETWORKS}
        teacher = build("convnet@w8@bn", *shape).eval().requires_grad_(False)
    experts = standins.Vectors(1, parameters_count("convnet@w8", *shape))
    return {**found, "generator": compact(*shape), "experts": experts, "teacher": teacher}


def used_by(made, given):
    """What of ``given`` a cell uses."""
    needs = {"glad": ["generator"], "mtt": ["experts"], "sre2l": ["teacher"]}
    names = [name for word, wanted in needs.items() if word in made.method for name in wanted]
    return {
        name: given[name]
        for name in given
        if name in names or (made.plugin["name"] != "none" and ":" in name)
    }


def on_fakes(made, data, given, device=CPU):
    """The estimate of a cell, by holder."""
    mode = FakeTensorMode()
    used = {
        name: to_fake(mode, one) if isinstance(one, torch.nn.Module) else one for name, one in given.items()
    }
    with mode:
        return count_by_holder(made, data, device, used)


@pytest.mark.parametrize("plugin", [None, {"networks": NETWORKS}], ids=["plain", "metadd"])
@pytest.mark.parametrize("method", ["dm", "dsa", "mtt", "sre2l", "glad"])
def test_the_parts_add_up_to_the_executed_peak_to_the_byte(data, given, method, plugin):
    made = cell(data, method, plugin=plugin, **METHODS[method])
    used = used_by(made, given)
    executed = count_live_bytes(made, data, CPU, used)
    real, fake = count_by_holder(made, data, CPU, used), on_fakes(made, data, used)
    assert sum(real.values()) == executed
    assert fake == real
    assert min(fake.values()) >= 0
    assert (fake[Holder.plugin] > 0) == (plugin is not None)
    assert (fake[Holder.generator] > 0) == ("glad" in method)


def held(module):
    """The bytes of a module's parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def test_each_holder_has_what_is_its_own(data, given):
    """Where the method's own step is the peak, the others hold what they hold all the time."""
    inner = {"batch_real": 12, "chunk": 3, "augment": "none"}
    how = {"network": "convnet@w64", "iterations": 3}
    plain = cell(data, "dm", plugin={"networks": NETWORKS}, **how, **inner)
    found = count_by_holder(plain, data, CPU, used_by(plain, given))
    pixels, images = 3 * data.size**2, 2 * len(data.classes)
    assert found[Holder.plugin] == sum(held(given[AUXILIARY + name]) for name in NETWORKS)
    assert found[Holder.images] == images * 3 * 4 * pixels + 8 * images  # pixels, gradient, momentum; classes
    assert found[Holder.generator] == found[Holder.other] == 0
    glad = cell(data, "glad", **how, inner=inner)
    under, generator = count_by_holder(glad, data, CPU, used_by(glad, given)), given["generator"]
    assert under[Holder.generator] == held(generator)
    assert under[Holder.method] == found[Holder.method]
    styles = torch.zeros(1, generator.num_ws, generator.dim)
    latents = styles.numel() + generator.features(styles, glad.settings["layer"]).numel()
    # Latents, their gradient and momentum; rendered images and their gradient; classes.
    assert under[Holder.images] == images * (3 * 4 * latents + 2 * 4 * pixels + 8)


@pytest.mark.parametrize("augmented", ["none", "dsa"])
def test_real_images_are_real_images_augmented_or_not(data, augmented):
    few, many = (
        count_by_holder(
            cell(data, "dsa", iterations=2, outer=1, batch_real=n, augment=augmented, seed=3), data, CPU, {}
        )
        for n in (6, 12)
    )
    batch = 4 * 6 * 3 * data.size**2
    assert few[Holder.real] == batch
    assert many[Holder.real] == 2 * batch


def test_the_matrices_of_zca_are_nobody_s_graph(data, given):
    side = 3 * data.size**2
    zca = ZCA(torch.zeros(3, data.size, data.size), torch.eye(side), torch.eye(side))
    made = cell(data, "dm", plugin={"networks": NETWORKS}, pixels="zca", **METHODS["dm"])
    used = {**used_by(made, given), "zca": zca}
    found = on_fakes(made, data, used)
    assert sum(found.values()) == count_live_bytes(made, data, CPU, used)
    assert 2 * 4 * side**2 < found[Holder.other] < 2.01 * 4 * side**2


def test_a_gpu_holds_the_training_images_and_is_given_larger_batches(data, given):
    settings = {"plugin": {"networks": NETWORKS}, "ipc": 12, "iterations": 2, "batch_real": 12}
    made = cell(data, "dm", **settings)
    cpu, cuda = (on_fakes(made, data, used_by(made, given), device) for device in (CPU, CUDA))
    assert cuda[Holder.real] - cpu[Holder.real] == data.train.images.nbytes
    networks = sum(held(given[AUXILIARY + name]) for name in NETWORKS)
    assert cpu[Holder.plugin] > networks
    assert cuda[Holder.plugin] - networks > 1.1 * (cpu[Holder.plugin] - networks)


def test_all_is_as_before_afterwards(data, given):
    def watched():
        owners = (distill, tools, plugins, synthetic.Rendered, synthetic.Synthetic, ZCA, augment.DSA)
        return [
            dict(vars(each)) for each in (*owners, plugins.Plugged, tools.HarnessTools, distill.Distillation)
        ]

    before = watched()
    count_by_holder(cell(data, "dm", **METHODS["dm"]), data, CPU, given)
    with pytest.raises(KeyError, match="teacher"):
        count_by_holder(cell(data, "sre2l", **METHODS["sre2l"]), data, CPU, {})
    assert watched() == before
    assert distill.LiveBytes is LiveBytes


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dc", {"batch_real": 4, "batch_train": 4}),
        ("dsa", {"batch_real": 4, "batch_train": 4}),
        ("dsa", {"batch_real": 1, "ipc": 12, "seed": 1}),  # here training is the peak
        ("dc", {"batch_real": 1, "ipc": 12, "network": "convnet@w8@bn"}),
        ("glad(dc)", {"inner": {"batch_real": 4, "inner": 7, "outer": 3}}),
    ],
)
def test_two_epochs_of_training_take_what_many_take(data, given, method, settings):
    loops = {} if "inner" in settings else {"inner": 7, "outer": 3}
    whole = cell(data, method, iterations=2, **loops, **settings)
    short = shortened(whole)
    assert short.settings != whole.settings
    used = used_by(whole, given)
    assert count_live_bytes(short, data, CPU, used) == count_live_bytes(whole, data, CPU, used)


def test_no_other_cell_is_shortened(data):
    for method in ("dm", "mtt", "sre2l", "glad", "glad(mtt)", "alone"):
        made = cell(data, method)
        assert shortened(made) is made
    assert shortened(one := cell(data, "dc", inner=0)) is one
    assert shortened(one := cell(data, "dc", inner=2)) is one


def test_it_is_what_runs_of_every_method_took(every_method):
    """With all that they need untrained: each row's executed count, to the byte."""
    rows = [json.loads(line) for line in (every_method / "results/tiny/rows.jsonl").read_text().splitlines()]
    took = {}
    for row in rows:
        if row["cell"]["kind"] == "distil" and row["cost"]["updates"]:
            for tags in (row["tags"], *row.get("also", ())):
                peaks = took.setdefault((tags["method"], tags["ipc"]), [])
                peaks.append(row["cost"]["peak_live_bytes"])
    found = api.estimate("tiny", tables=every_method / "tables.yaml", device="cpu")
    estimated = {(each.about["method"], each.about["ipc"]): each.peak for each in found.rows}
    assert estimated == {row: max(peaks) for row, peaks in took.items()}
    assert len(estimated) == 19


# The official datasets, whose files are not here.


def test_official_datasets_need_not_be_there():
    found = standins.identify("cifar100[7,tuning]")
    assert (found.spec, found.size, len(found.classes)) == ("cifar100[7,tuning]", 32, 7)
    assert (found.train, found.test) == ((400,) * 7, (100,) * 7)
    assert standins.identify("tiny-imagenet").train == (500,) * 200
    assert standins.identify("cifar10").test == (1000,) * 10
    whole = standins.dataset(standins.identify("tiny-imagenet"))
    assert whole.train.images.shape == (100_000, 3, 64, 64)
    assert whole.train.images.strides[0] == 0
    digits = standins.identify("digits[4,tuning]")
    assert standins.dataset(digits).train.counts == digits.train


# The command.


@pytest.fixture
def measure(monkeypatch, capfd, tmp_path):
    """``metadd-bench measure`` on a suite ``tiny`` with these changes."""

    def run(*arguments, **changes):
        file = write_tables(tmp_path / "tables.yaml", tiny={**TINY, **changes})
        return run_here(
            monkeypatch, capfd, "measure", "tiny", "--tables", file, "--device", "cpu", *arguments
        )

    return run


def test_one_line_per_row_whatever_the_seeds(measure):
    done = measure("--estimate", seeds=3, ipc=[1, 2], dataset="cifar10[3]")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("Suite `tiny`: estimated peak of live tensor bytes in MiB, as on a CPU.")
    assert lines[2].split(" | ")[:5] == ["| Dataset", "Method", "IPC", "Distilled on", "MiB"]
    assert [line.split(" | ")[:4] for line in lines[4:]] == [
        ["| cifar10[3]", "DM", ipc, "convnet@w8"] for ipc in "12"
    ]


def test_csv_is_exact_to_the_byte(measure):
    (row,) = csv.DictReader(measure("--estimate", "--format", "csv").out.splitlines())
    name = standins.identify("digits[3]")
    made = cell(standins.dataset(name), "dm", ipc=1, iterations=3, batch_real=4)
    expected = count_by_holder(made, standins.dataset(name), CPU, {})
    assert {holder: round(float(row[holder]) * 2**20) for holder in Holder} == expected
    assert round(float(row["MiB"]) * 2**20) == sum(expected.values())


def test_only_narrows_to_rows_and_not_to_cells(measure):
    grid = [{"method": "sre2l", "ipc": [1, 2]}, {"method": "dm", "ipc": [2]}]
    teacher = {"network": "convnet@w8@bn", "epochs": 1}
    done = measure("--estimate", "--format", "csv", "--only", "ipc=2", grid=grid, teacher=teacher)
    assert [line.split(",")[1:3] for line in done.out.splitlines()[1:]] == [["SRe2L", "2"], ["DM", "2"]]


def test_what_fits_and_what_would(measure):
    grid = [{"method": "dm", "settings": {"iterations": 2, "batch_real": 64, "chunk": 3, "augment": "none"}}]
    (row,) = csv.DictReader(measure("--estimate", "--format", "csv", grid=grid).out.splitlines())

    def asked(mib):
        done = measure("--estimate", "--memory", f"{mib}MiB", "--format", "csv", grid=grid)
        (found,) = csv.DictReader(done.out.splitlines())
        return found["fits"], found["would fit with"]

    whole = float(row["MiB"])
    assert asked(whole + 0.001) == ("yes", "")
    assert asked(0.9 * whole) == ("no", "chunk 1")
    assert asked(0.01) == ("no", "no one setting")


def test_what_cannot_be_estimated_says_why_and_the_others_go_on(measure):
    glad = {"generator": "random", "generator_settings": {"width": 4}, "layer": 99}
    done = measure(
        "--estimate", "--memory", "1GiB", grid=[{"method": "glad", "settings": glad}, {"method": "dm"}]
    )
    first, second = done.out.splitlines()[-2:]
    assert "cannot be estimated: `layer` is 99, but the generator has only" in first
    assert first.count("|") == second.count("|")
    assert second.endswith("| yes |  |")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--estimate", "--updates", "3"), ["--updates", "not with --estimate"]),
        (("--save",), ["--save", "only with --estimate"]),
        (("--estimate", "--memory", "24"), ["--memory 24:", "24GiB"]),
        (("--estimate", "--only", "ipc=7"), ["--only", "ipc is one of 1"]),
        (("--estimate", "--only", "seeds=1"), ["no such key", "seed"]),
    ],
)
def test_mistakes_are_one_line(measure, arguments, words):
    is_one_line(measure(*arguments), *words)


def test_an_unknown_suite_is_one_line(monkeypatch, capfd):
    is_one_line(run_here(monkeypatch, capfd, "measure", "smok", "--estimate"), "no suite 'smok'", "smoke")
