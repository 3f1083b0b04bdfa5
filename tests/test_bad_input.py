"""Users' mistakes: each is one line on standard error, exit status 2, and nothing written or printed."""

import json
import shutil

import pytest
import torch
import yaml
from command_line import (
    FIGURES,
    TABLES,
    TINY,
    finish,
    is_one_line,
    rows,
    run_apart,
    run_here,
    snapshot,
    spec,
    start,
    suite,
    write_tables,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """A store and a results folder with the tiny suite in it: what no mistake may change."""
    folder = tmp_path_factory.mktemp("finished")
    write_tables(folder / "tables.yaml", tiny=TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METADD_CACHE", str(cache))
        done = finish(start(folder, "run", "tiny", "--tables", "tables.yaml", "--device", "cpu"), folder)
    assert done.status == 0, done.err
    return folder


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A working folder with a copy of that store, results folder and tables file."""
    for name in ("store", "results"):
        shutil.copytree(finished / name, tmp_path / name)
    shutil.copy(finished / "tables.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(path, **changes):
    """Write a tables file whose suite ``tiny`` has these changes."""
    write_tables(path, tiny=suite(**changes))


def evaluation(**changes):
    return {"evaluate": {**TINY["evaluate"], **changes}}


def grid(**block):
    return {"grid": [block]}


#: What is wrong with the suite, and what the line must say.
SUITES = {
    "misspelt key": ({"datset": "digits"}, ["suites.tiny.datset", "did you mean 'dataset'"]),
    "misspelt key in a block": (grid(metod="dm"), ["grid.0", "metod", "did you mean 'method'"]),
    "misspelt setting": (
        grid(method="dm", settings={"iteration": 3}),
        ["grid.0.settings", "did you mean 'iterations'"],
    ),
    "misspelt recipe setting": (
        evaluation(recipe={"name": "short", "epoch": 1}),
        ["evaluate.recipe", "did you mean 'epochs'"],
    ),
    "missing key": ({"evaluate": {"networks": ["convnet"]}}, ["evaluate.recipe", "is missing"]),
    "wrong type": ({"ipc": "ten"}, ["suites.tiny.ipc:", "valid integer", "'ten'"]),
    "text for a number": (evaluation(test_per_class="10"), ["test_per_class", "valid integer", "'10'"]),
    "yes for a number": ({"ipc": True}, ["suites.tiny.ipc:", "valid integer", "True"]),
    "out of range": (grid(method="dm", settings={"lr_img": -1}), ["settings", "lr_img", "greater than 0"]),
    "not a finite number": (grid(method="dm", settings={"lr_img": float("nan")}), ["lr_img"]),
    "not finite": (grid(method="dm", settings={"lr_img": float("inf")}), ["lr_img", "finite number"]),
    "yes for a setting": (grid(method="dm", settings={"iterations": True}), ["iterations", "valid integer"]),
    "yes for a recipe setting": (evaluation(recipe={"name": "short", "epochs": True}), ["epochs", "True"]),
    "infinite learning rate": (evaluation(recipe={"name": "short", "lr": float("inf")}), ["lr", "finite"]),
    "negative learning rate of a network": (
        evaluation(recipe={"name": "short", "lr_by_network": {"vgg11": -1.0}}),
        ["lr_by_network.vgg11", "greater than 0"],
    ),
    "unknown protocol": ({"protocol": "paper"}, ["protocol", "'authors' or 'common'"]),
    "negative seed": ({"seeds": [-1]}, ["suites.tiny.seeds.0", "greater than or equal to 0"]),
    "one image of none": ({"ipc": 0}, ["suites.tiny.ipc: ", "greater than or equal to 1, not 0\n"]),
    "none among images": ({"ipc": [1, 0]}, ["suites.tiny.ipc.1: ", "greater than or equal to 1, not 0\n"]),
    "an ipc that stands twice": ({"ipc": [1, 3, 1]}, ["suites.tiny.ipc: 1 stands twice\n"]),
    "a seed that stands twice": ({"seeds": [2, 2]}, ["suites.tiny.seeds: 2 stands twice\n"]),
    "a plug-in that stands twice": ({"plugin": ["none", "none"]}, ["plugin: none stands twice\n"]),
    "negative number of seeds": ({"seeds": -3}, ["suites.tiny.seeds: a number", "is expected, not -3\n"]),
    "zero seeds": ({"seeds": 0}, ["suites.tiny.seeds: a number of seeds", "is expected, not 0\n"]),
    "no seeds": ({"seeds": []}, ["suites.tiny.seeds: at least 1 item is expected\n"]),
    "no networks": (evaluation(networks=[]), ["evaluate.networks: at least 1 item is expected\n"]),
    "empty grid": ({"grid": []}, ["suites.tiny.grid: at least 1 item is expected\n"]),
    "plug-in on random": (
        grid(method="random", plugin={"name": "stub"}),
        ["grid.0.plugin", "no plug-in 'stub'"],
    ),
    "settings for no plug-in": (grid(method="dm", plugin={"name": "none", "rho": 1}), ["takes no rho"]),
    "unknown plug-in": (
        grid(method="dm", plugin="metad"),
        ["grid.0.plugin", "no plug-in 'metad'", "none", "--method-path"],
    ),
    "full with ipc": (grid(method="full", ipc=1), ["grid.0.ipc", "`full`", "takes none"]),
    "full with settings": (grid(method="full", settings={"x": 1}), ["grid.0.settings", "`full`"]),
    "ipc above the class size": ({"ipc": 500}, ["grid.0.ipc", "500", "142"]),
    "test subset above the class size": (evaluation(test_per_class=999), ["test_per_class", "999", "35"]),
    "unknown method": (
        grid(method="dn"),
        ["grid.0.method", "did you mean 'dm'", "; a file of your own is named by --method-path\n"],
    ),
    "unknown dataset": ({"dataset": "digit"}, ["unknown dataset", "did you mean 'digits'"]),
    "unknown recipe": (evaluation(recipe="sort"), ["evaluate.recipe", "did you mean 'short'"]),
    "unknown network": ({"network": "convnetx"}, ["grid.0.network", "did you mean 'convnet'"]),
    "unknown evaluation network": (evaluation(networks=["vgg12"]), ["evaluate.networks", "vgg11"]),
    "width that a network cannot take": ({"network": "alexnet@w7"}, ["alexnet", "even", "7"]),
    "width where there is none": ({"network": "googlenet@w8"}, ["googlenet", "does not support @w8"]),
    "learning rate of no network": (
        evaluation(recipe={"name": "short", "lr_by_network": {"vgg12": 0.1}}),
        ["lr_by_network", "vgg11"],
    ),
    "class subset too large": ({"dataset": "digits[11]"}, ["digits[11]", "10 classes"]),
    "class subset of one": ({"dataset": "digits[1]"}, ["at least 2 classes"]),
    "missing data": ({"dataset": "cifar10"}, ["cifar10", "no-data", "metadd-bench data cifar10"]),
    "missing image folder": ({"dataset": "imagefolder:nowhere"}, ["there is no folder nowhere"]),
    "unknown table": ({"tables": ["accuracies"]}, ["suites.tiny", "did you mean 'accuracy'"]),
    "unknown figure": ({"figures": ["set"]}, ["suites.tiny", "did you mean 'sets'"]),
}


@pytest.mark.parametrize(("changes", "words"), SUITES.values(), ids=SUITES)
def test_a_mistake_in_the_suite(place, monkeypatch, capfd, changes, words):
    edit(place / "tables.yaml", **changes)
    before = snapshot(place)
    done = run_here(monkeypatch, capfd, "run", "tiny", "--tables", "tables.yaml")
    is_one_line(done, *words)
    assert snapshot(place) == before


#: The whole tables file, and what the line must say.
FILES = {
    "a list": ("- suites", ["tables.yaml", "a mapping", "not a list"]),
    "empty": ("", ["a mapping", "not a NoneType"]),
    "a syntax error": ("suites:\n  tiny: [1,\n", ["tables.yaml, line 3", "not YAML"]),
    "a key that stands twice": (
        "suites: {}\ntables: {}\nsuites: {}\n",
        ["tables.yaml, line 3", "'suites' stands twice"],
    ),
    "a tag that builds objects": ("!!python/object/apply:os.getcwd []", ["not YAML"]),
    "not text": (b"\xff\xfe\x00", ["not YAML"]),
    "suites is a list": ("suites: [1]", ["suites", "valid dictionary"]),
    "unknown top key": (yaml.safe_dump({**spec(tiny=TINY), "suite": {}}), ["did you mean 'suites'"]),
    "unknown kind of table": (
        yaml.safe_dump({**spec(tiny=TINY), "tables": {"a": {**TABLES["accuracy"], "kind": "loss"}}}),
        ["tables.a.kind", "'accuracy'"],
    ),
    "figure out of range": (
        yaml.safe_dump({**spec(tiny=TINY), "figures": {"a": {**FIGURES["sets"], "columns": 99}}}),
        ["figures.a.columns", "99"],
    ),
}


@pytest.mark.parametrize(("content", "words"), FILES.values(), ids=FILES)
@pytest.mark.parametrize(
    "verb", [("run", "tiny"), ("status", "tiny"), ("list",), ("table",), ("plot",)], ids=" ".join
)
def test_a_mistake_in_the_tables_file(place, monkeypatch, capfd, verb, content, words):
    (place / "tables.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    before = snapshot(place)
    is_one_line(run_here(monkeypatch, capfd, *verb, "--tables", "tables.yaml"), *words)
    assert snapshot(place) == before


#: Arguments, and what the line must say.
ARGUMENTS = {
    "unknown suite": ("run tinny", ["no suite 'tinny'", "did you mean 'tiny'"]),
    "unknown suite's status": ("status tinny", ["did you mean 'tiny'"]),
    "missing tables file": ("run tiny --tables nowhere.yaml", ["nowhere.yaml", "No such file"]),
    "tables file is a folder": ("run tiny --tables store", ["store", "Is a directory"]),
    "unknown --only key": (
        "run tiny --only metod=DM",
        ["--only metod=DM: no such key", "did you mean 'method'"],
    ),
    "--only without a value": ("run tiny --only method", ["KEY=VALUE"]),
    "--only leaves nothing": ("run tiny --only method=DC", ["leaves no cell", "method is one of DM"]),
    "--only in status": ("status tiny --only sed=1", ["did you mean 'seed'"]),
    "a file where the store should be": ("run tiny --store tables.yaml", ["--store tables.yaml", "folder"]),
    "a file above the store": ("run tiny --store tables.yaml/a/b", ["tables.yaml is in the way"]),
    "a file where the results should be": ("run tiny --results tables.yaml", ["--results", "folder"]),
    "a file above the results": ("run tiny --results tables.yaml/a", ["tables.yaml is in the way"]),
    "table of no results": ("table --results nowhere", ["nowhere", "no such folder"]),
    "table of empty results": ("table --results store", ["no results of any suite"]),
    "table of a file": ("table --suite tiny --results tables.yaml", ["no such folder"]),
    "unknown table": ("table accurcy", ["did you mean 'accuracy'"]),
    "unknown suite of a table": ("table --suite tinny", ["did you mean 'tiny'"]),
    "unknown figure": ("plot set", ["did you mean 'sets'"]),
    "unknown option": ("run tiny --stroe x", ["--stroe", "see `", "run --help`"]),
    "missing argument": ("run", ["SUITE", "run --help`"]),
    "missing option": ("evaluate x.npz", ["--dataset"]),
    "unknown verb": ("frobnicate", ["frobnicate", "--help`"]),
    "unknown device": ("run tiny --device tpu", ["--device", "'auto', 'cpu', 'cuda'"]),
    "text for seconds": ("run tiny --time-limit soon", ["--time-limit", "number"]),
    "negative seconds": ("run tiny --time-limit -1", ["--time-limit"]),
    "unknown format": ("table --format docx", ["--format", "'latex'"]),
    "unknown picture format": ("plot --format gif", ["--format", "svg"]),
    "unknown kind to list": ("list suits", ["suites"]),
    "unknown figure of a file without any": (
        "plot heatmap --tables bare.yaml",
        ["no figure", "`extends: installed`"],
    ),
    "unknown table of a file without any": (
        "table headline --tables bare.yaml",
        ["no table", "`extends: installed`"],
    ),
    "unknown method": ("table --method-path nowhere.py", ["nowhere.py: cannot be read", "Python file"]),
    "unknown method of a figure": ("plot --method-path nowhere.py", ["nowhere.py: cannot be read"]),
    "unknown method of a check": ("check tiny --method-path nowhere.py", ["nowhere.py: cannot be read"]),
    "a file where a pack's store should be": (
        "unpack x --store tables.yaml",
        ["--store tables.yaml", "folder"],
    ),
    "unknown data": ("data cifar11", ["did you mean 'cifar10"]),
}
NO_TABLES = ("data", "evaluate", "frobnicate", "unpack")


@pytest.mark.parametrize(("arguments", "words"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_a_mistake_in_the_arguments(place, monkeypatch, capfd, arguments, words):
    given = arguments.split()
    (place / "bare.yaml").write_text(yaml.safe_dump({"suites": {"tiny": TINY}}))
    if given[0] not in NO_TABLES and "--tables" not in given:
        given += ["--tables", "tables.yaml"]
    before = snapshot(place)
    is_one_line(run_here(monkeypatch, capfd, *given), *words)
    assert snapshot(place) == before


@pytest.mark.parametrize("arguments", ["run tinny", "run tiny --stroe x", "run tiny --tables nowhere.yaml"])
def test_the_same_from_a_process_of_its_own(place, arguments):
    before = snapshot(place)
    is_one_line(run_apart(*arguments.split(), cwd=place))
    assert snapshot(place) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(place, monkeypatch, capfd):
    edit(place / "tables.yaml", seeds=2)
    before = snapshot(place)
    done = run_here(monkeypatch, capfd, "run", "tiny", "--tables", "tables.yaml", "--device", "cuda")
    is_one_line(done, "no GPU", "--device cpu")
    assert snapshot(place) == before


def damage_rows(place, text):
    path = place / "results" / "tiny" / "rows.jsonl"
    path.write_bytes(path.read_bytes() + text)


def mix_up_rows(place):
    """What a merge may leave: a row with the key of another."""
    first, second = rows(place)
    damage_rows(place, json.dumps({**second, "key": first["key"]}).encode() + b"\n")


def edit_row(place, **fields):
    """What a hand may leave: the row of an evaluation with other fields."""
    first, second = rows(place)
    lines = [json.dumps(each) + "\n" for each in (first, {**second, **fields})]
    (place / "results/tiny/rows.jsonl").write_text("".join(lines))


def damage_row(place, change):
    (path,) = place.glob("store/distil/*/*/row.json")
    path.write_text(change(path.read_text()))


def damage_artifact(place):
    (path,) = place.glob("store/distil/*/*/images.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def without(field):
    return lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != field})


#: What happened to the store or the results, and what the line must say.
DAMAGE = {
    "half a published row": (lambda p: damage_rows(p, b'{"key": "abc'), ["rows.jsonl, line 3"]),
    "a published row without a key": (lambda p: damage_rows(p, b"{}\n"), ["rows.jsonl, line 3"]),
    "a published row that is a number": (lambda p: damage_rows(p, b"3\n"), ["rows.jsonl, line 3"]),
    "a published row that is no text": (lambda p: damage_rows(p, b"\xff\xfe\n"), ["rows.jsonl, line 3"]),
    "a conflict left in the rows": (lambda p: damage_rows(p, b"<<<<<<< HEAD\n"), ["rows.jsonl, line 3"]),
    "a published row of another cell": (
        mix_up_rows,
        ["rows.jsonl, line 3: key ", "is not that of the row's cell, which is "],
    ),
    "a published row without its accuracy": (
        lambda p: edit_row(p, result={"correct": 21}),
        ["rows.jsonl, line 2: not a row (its result has no accuracy that is a number)"],
    ),
    "a text for an accuracy": (
        lambda p: edit_row(p, result={"accuracy": "70", "test_images": 30}),
        ["line 2: not a row (its result has no accuracy that is a number)"],
    ),
    "a text for seconds": (
        lambda p: edit_row(p, cost={"seconds": "1"}),
        ["line 2: not a row (the seconds of its cost is no number)"],
    ),
    "a text for provenance": (
        lambda p: edit_row(p, provenance="mine"),
        ["line 2: not a row (its provenance is no JSON object)"],
    ),
    "half a stored row": (lambda p: damage_row(p, lambda text: text[:40]), ["row.json", "delete the folder"]),
    "an empty stored row": (lambda p: damage_row(p, lambda text: ""), ["row.json", "delete the folder"]),
    "a stored row that is a list": (lambda p: damage_row(p, lambda text: "[]"), ["row.json", "damaged"]),
    "a stored row without a result": (lambda p: damage_row(p, without("result")), ["row.json", "damaged"]),
    "a stored row of another cell": (
        lambda p: damage_row(p, lambda text: json.dumps({**json.loads(text), "key": "0" * 64})),
        ["row.json", "damaged"],
    ),
    "a stored set with another byte": (damage_artifact, ["images.safetensors", "checksum", "delete"]),
}


@pytest.mark.parametrize("again", ["all finished", "one missing"])
@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named_before_anything_is_made(place, monkeypatch, capfd, damage, words, again):
    damage(place)
    if again == "one missing":
        edit(place / "tables.yaml", **evaluation(seeds=2))
    before = snapshot(place)
    done = run_here(monkeypatch, capfd, "run", "tiny", "--tables", "tables.yaml", "--device", "cpu")
    is_one_line(done, *words)
    assert snapshot(place) == before


@pytest.mark.parametrize("damage", [name for name in DAMAGE if "published" in name or "text" in name])
@pytest.mark.parametrize("verb", ["table accuracy", "plot sets", "report tiny", "check tiny"])
def test_reading_verbs_name_a_damaged_row(place, monkeypatch, capfd, verb, damage):
    make, words = DAMAGE[damage]
    make(place)
    before = snapshot(place)
    is_one_line(run_here(monkeypatch, capfd, *verb.split(), "--tables", "tables.yaml"), *words)
    assert snapshot(place) == before


@pytest.mark.parametrize("file", ["train.npy", "test.npy", "meta.json"])
def test_a_damaged_cache(place, cache, monkeypatch, capfd, file):
    own = place / "cache"
    shutil.copytree(cache, own)
    monkeypatch.setenv("METADD_CACHE", str(own))
    edit(place / "tables.yaml", seeds=2)
    (path,) = own.glob(f"digits-*/{file}")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    before = snapshot(place / "store", place / "results")
    done = run_here(monkeypatch, capfd, "run", "tiny", "--tables", "tables.yaml", "--device", "cpu")
    is_one_line(done, "cache", "damaged", "delete it and run again")
    assert snapshot(place / "store", place / "results") == before


def test_help_no_arguments_and_the_end_by_hand(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for arguments in ((), ("--help",), ("run", "--help")):
        done = run_here(monkeypatch, capfd, *arguments)
        assert done.status == 0
        assert "Usage: metadd-bench" in done.out
        assert done.err == ""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.api.open_suite", interrupted)
    done = run_here(monkeypatch, capfd, "status", "smoke")
    assert (done.status, done.out, done.err) == (130, "", "metadd-bench: interrupted\n")
    done = run_here(monkeypatch, capfd, "run", "smoke")
    goes_on = "metadd-bench: interrupted; the same command goes on where it stopped\n"
    assert (done.status, done.out, done.err) == (130, "", goes_on)
    assert list(tmp_path.iterdir()) == []


def test_a_bug_keeps_its_traceback(monkeypatch, capfd):
    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("bench.api.open_suite", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_here(monkeypatch, capfd, "status", "smoke")
