"""From a suite to its cells."""

import copy
import json

import pytest
from command_line import TINY, spec, suite
from pydantic import ValidationError

from baselines import METHODS, Entry, MethodSettings
from bench.cells import WHOLE_TRAINING_SET, DatasetId
from bench.errors import UserError
from bench.plan import Dataset, plan
from bench.spec import Spec, Suite, default_file, find_suite, read
from bench.validation import validated


def identify(name):
    base = name.partition("[")[0]
    return Dataset(DatasetId(name, base.encode().hex().ljust(64, "0"), 3, 32), name, 100, 20)


def planned(**changes):
    return plan("tiny", Suite.model_validate(suite(**changes)), identify)


def kinds(found):
    return [item.cell.kind for item in found]


def tags(found, name):
    return [item.tags.get(name) for item in found]


def test_a_cell_comes_after_those_it_needs_and_the_grid_is_a_product():
    found = planned(
        ipc=[1, 2], seeds=2, evaluate={**TINY["evaluate"], "networks": ["convnet@w8", "vgg11@w8"], "seeds": 2}
    )
    assert kinds(found).count("distil") == 2 * 2
    assert kinds(found).count("evaluate") == 2 * 2 * 2 * 2
    seen = set()
    for key, item in found.planned.items():
        assert item.cell.key == key
        assert set(item.cell.needs) <= seen
        seen.add(key)


def test_tags_say_what_tables_call_a_cell():
    distilled, evaluated = planned(ipc=2, grid=[{"method": "dm", "label": "Mine"}])
    assert dict(distilled.tags) == {
        "dataset": "digits[3]",
        "protocol": "common",
        "recipe": "short",
        "method": "Mine",
        "plugin": "none",
        "ipc": 2,
        "distilled_on": "convnet@w8",
        "seed": 0,
    }
    more = {"network": "convnet@w8", "evaluation_seed": 0, "seen": True}
    assert dict(evaluated.tags) == {**distilled.tags, **more}


def test_seen_are_the_architectures_that_distilled_whatever_their_width_norm_or_depth():
    names = ["convnet@w8", "convnet@w16@bn@d2", "vgg11@w8"]
    networks = {**TINY["evaluate"], "networks": names}
    found = planned(evaluate=networks)
    assert tags(found, "seen") == [None, True, True, False]
    assert set(tags(found, "distilled_on")) == {"convnet@w8"}
    assert tags(planned(evaluate=networks, grid=[{"method": "random"}]), "seen") == [None, *[False] * 3]
    assert tags(planned(evaluate=networks, grid=[{"method": "full"}]), "seen") == [False] * 3


@pytest.mark.parametrize("method", ["sre2l", "glad(sre2l)"])
def test_a_teacher_s_architecture_is_seen_and_the_suite_s_is_not(method):
    networks = {"networks": ["convnet@w8", "resnet18@w8"], "recipe": "short"}
    block = {"method": method, "settings": {"teacher": {"network": "resnet18@w2@bn"}}}
    if method == "glad(sre2l)":
        block["settings"] = {"generator": "random", "inner": block["settings"]}
    found = planned(evaluate=networks, grid=[block])
    evaluated = {item.tags["network"]: item.tags for item in found if item.cell.kind == "evaluate"}
    assert {name: about["seen"] for name, about in evaluated.items()} == {
        "convnet@w8": False,
        "resnet18@w8": True,
    }
    assert evaluated["convnet@w8"]["distilled_on"] == "resnet18@w2@bn"
    (distilled,) = (item.cell for item in found if item.cell.kind == "distil")
    assert distilled.network is None


def dm_multi(*names, **changes):
    """A plan of DM over these networks, evaluated on four others."""
    networks = {"networks": ["resnet18@w8", "vgg11@w8", "convnet@w16", "alexnet@w32"], "recipe": "short"}
    block = {"method": "dm-multi", "settings": {"networks": list(names)}}
    return planned(**{"evaluate": networks, "grid": [block], **changes})


def test_dm_over_several_architectures_has_seen_them_all_and_the_suite_s_has_no_part():
    distilled, *evaluated = dm_multi("resnet18@w16@bn", "vgg11")
    assert distilled.cell.network is None
    assert distilled.tags["method"] == "DM over 2 architectures"
    assert distilled.tags["distilled_on"] == "resnet18@w16@bn+vgg11"
    assert [item.tags["seen"] for item in evaluated] == [True, True, False, False]
    distilled, *evaluated = dm_multi("vgg11", TINY["network"])
    assert distilled.cell.network is None
    assert [item.tags["seen"] for item in evaluated] == [False, True, True, False]


def test_the_networks_of_dm_over_several_are_canonical_in_the_cell_and_so_in_its_key():
    short, long = dm_multi("resnet18@w8", "vgg11"), dm_multi("resnet18@in@w8", "vgg11@w64")
    assert list(short.planned) == list(long.planned)
    assert next(iter(long)).cell.settings["networks"] == ["resnet18@w8", "vgg11"]
    assert next(iter(long)).tags["distilled_on"] == "resnet18@w8+vgg11"
    other = dm_multi("vgg11", "resnet18@w8")
    assert next(iter(other)).cell.key != next(iter(short)).cell.key


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (["vgg11", "convnt"], r"grid\.0\.settings: unknown network 'convnt': did you mean 'convnet'"),
        (["googlenet@w8"], r"grid\.0\.settings: .*googlenet does not support @w8"),
        ([], r"grid\.0\.settings: networks: at least 1 item is expected"),
        ([8], r"grid\.0\.settings: networks\.0: .*valid string, not 8"),
    ],
)
def test_mistaken_networks_of_dm_over_several_are_one_line(networks, message):
    with pytest.raises(UserError, match=message) as caught:
        dm_multi(*networks)
    assert "\n" not in str(caught.value)


def test_a_plug_in_alone_has_seen_no_network_of_its_own():
    distilled, evaluated = planned(grid=[{"method": "alone"}])
    assert distilled.cell.network is None
    assert (distilled.tags["method"], distilled.tags["distilled_on"]) == ("Real images", None)
    assert not evaluated.tags["seen"]


def test_a_block_takes_from_the_suite_what_it_leaves_out():
    block = {
        "method": "dm",
        "dataset": "cifar10",
        "ipc": 3,
        "network": "convnet@w16",
        "seeds": [4],
        "evaluate": {"networks": "vgg11@w8", "recipe": "dc"},
    }
    distilled, evaluated = planned(grid=[block])
    cell = distilled.cell
    assert (cell.dataset.name, cell.ipc, cell.network, cell.seed) == ("cifar10", 3, "convnet@w16", 4)
    assert (evaluated.cell.network, evaluated.cell.recipe["name"]) == ("vgg11@w8", "dc")


def test_what_two_blocks_share_is_one_cell():
    block = {"method": "random"}
    again = {"method": "random", "evaluate": {"networks": "vgg11@w8", "recipe": "short"}}
    assert kinds(planned(grid=[block, block])) == ["distil", "evaluate"]
    assert kinds(planned(grid=[block, again])) == ["distil", "evaluate", "evaluate"]


def test_spelling_and_defaults_do_not_change_a_key():
    def keys(**changes):
        return list(planned(**changes).planned)

    short = {"networks": ["convnet@w128"], "recipe": "short"}
    long = {"networks": "convnet@in", "recipe": {"epochs": 100, "name": "short"}}
    assert keys(evaluate=short, grid=[{"method": "random"}]) == keys(
        evaluate=long, grid=[{"method": "random", "settings": {"pixels": "normalised"}, "label": "Any"}]
    )
    assert keys(seeds=2) == keys(seeds=[0, 1])
    default = METHODS["dm"].settings.model_fields["lr_img"].default
    plain, said = ({"iterations": 3, **more} for more in ({}, {"lr_img": default}))
    assert keys(grid=[{"method": "dm", "settings": plain}]) == keys(grid=[{"method": "dm", "settings": said}])


def test_random_images_do_not_depend_on_the_network():
    here, there = (planned(grid=[{"method": "random"}], network=name) for name in ("convnet", "vgg11"))
    assert list(here.planned) == list(there.planned)
    assert next(iter(here)).cell.network is None


def test_the_whole_training_set_needs_no_images():
    found = planned(grid=[{"method": "full"}], seeds=2)
    assert kinds(found) == ["evaluate", "evaluate"]
    for item in found:
        assert item.cell.images == (WHOLE_TRAINING_SET,)
        assert item.cell.needs == ()
        assert item.tags["ipc"] is None
        assert item.tags["method"] == "Full data"


class Parted(MethodSettings):
    """As SRe2L will be: a part per image id."""

    label = "Parted"

    def parts(self, ipc):
        return [1] * ipc


def test_parts_are_cells_that_sets_of_other_sizes_share(monkeypatch):
    monkeypatch.setitem(METHODS, "parted", Entry(f"{__name__}:Parted", "nowhere:Nothing"))
    found = planned(grid=[{"method": "parted", "settings": {"iterations": 1}}], ipc=[1, 3])
    distilled = [item.cell for item in found if item.cell.kind == "distil"]
    assert [(cell.part, cell.ipc) for cell in distilled] == [(0, 1), (1, 1), (2, 1)]
    one, three = [item.cell for item in found if item.cell.kind == "evaluate"]
    assert one.images == (distilled[0].key,)
    assert three.images == tuple(cell.key for cell in distilled)


def test_a_subset_and_a_tuning_split_are_other_datasets_with_the_same_content():
    names = ("digits", "digits[3]", "digits[tuning]", "digits[3,tuning]")
    plans = [planned(dataset=name) for name in names]
    keys = [key for found in plans for key in found.planned]
    assert len(keys) == len(set(keys)) == 2 * len(names)
    assert len({item.cell.dataset.content for found in plans for item in found}) == 1


def test_only_keeps_what_is_asked_for_and_what_that_needs():
    found = planned(
        seeds=2,
        evaluate={**TINY["evaluate"], "networks": ["convnet@w8", "vgg11@w8"]},
        grid=[{"method": "dm"}, {"method": "random"}, {"method": "full"}],
    )
    one = found.only({"network": "vgg11@w8", "seed": "1", "method": "DM"})
    assert kinds(one) == ["distil", "evaluate"]
    assert set(tags(one, "seed")) == {1}
    assert len(found.only({"method": "Full data"})) == 4
    assert kinds(found.only({"seen": "True"})) == ["distil", "evaluate"] * 2
    order = list(found.planned)
    kept = list(found.only({"network": "convnet@w8"}).planned)
    assert kept == [key for key in order if key in kept]
    assert list(found.only({}).planned) == order
    assert one.sources == found.sources


def test_only_names_what_there_is():
    with pytest.raises(UserError, match="--only metod=DM: no such key; did you mean 'method'"):
        planned().only({"metod": "DM"})
    with pytest.raises(
        UserError, match=r"leaves no cell of suite 'tiny': seed is one of 0; method is one of DM"
    ):
        planned().only({"seed": "3", "method": "DM"})


def test_the_keys_of_a_plan_do_not_depend_on_the_order_of_its_file():
    def backwards(value):
        if isinstance(value, dict):
            return {key: backwards(value[key]) for key in reversed(value)}
        return value

    there = plan("tiny", Suite.model_validate(backwards(copy.deepcopy(TINY))), identify)
    assert list(there.planned) == list(planned().planned)


# The file.


def test_the_file_of_this_installation_is_sound():
    found = read()
    assert default_file().name == "tables.yaml"
    for name in found.suites:
        plan(name, find_suite(found, name), lambda dataset: identify(dataset))


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("1.5E+2", 150.0), (".5e1", 5.0), ("0.1", 0.1), ("1", 1.0)]
)
def test_numbers_are_numbers_however_they_are_written(tmp_path, text, value):
    """YAML 1.1, and so PyYAML, would read 1e-3 as text."""
    file = tmp_path / "tables.yaml"
    file.write_text(json.dumps(spec(tiny=suite(grid=[{"method": "dm", "settings": {"lr_img": "HERE"}}]))))
    file.write_text(file.read_text().replace('"HERE"', text))
    distilled, _ = plan("tiny", read(file).suites["tiny"], identify)
    assert distilled.cell.settings["lr_img"] == value
    assert isinstance(distilled.cell.settings["lr_img"], float)


def test_values_are_frozen():
    found = validated(Spec, spec(tiny=TINY), "here")
    with pytest.raises(ValidationError, match="frozen"):
        found.suites["tiny"].title = "other"


@pytest.mark.parametrize(
    ("place", "key", "near"),
    [
        ((), "suite", "suites"),
        (("suites", "tiny"), "networks", "network"),
        (("suites", "tiny", "evaluate"), "network", "networks"),
        (("suites", "tiny", "grid", 0), "methods", "method"),
        (("tables", "accuracy"), "row", "rows"),
        (("figures", "sets"), "column", "columns"),
    ],
)
def test_an_unknown_key_is_named_with_its_place_and_the_near_ones(place, key, near):
    content = copy.deepcopy(spec(tiny=TINY))
    inner = content
    for step in place:
        inner = inner[step]
    inner[key] = 1
    where = ".".join(map(str, (*place, key)))
    with pytest.raises(UserError, match=rf"^here: {where}: unknown key; did you mean .*'{near}'"):
        validated(Spec, content, "here")


def test_the_other_mistakes_are_counted():
    tiny = suite(titel="three digits", seeds=[])
    del tiny["title"]
    with pytest.raises(UserError, match=r"here: suites\.tiny\.titel: unknown key.*\(and 2 more\)"):
        validated(Spec, {"suites": {"tiny": tiny}}, "here")


def test_two_rows_may_not_go_by_one_name():
    short, long = (
        {"method": "dm", "settings": {"iterations": 1}},
        {"method": "dm", "settings": {"iterations": 2}},
    )
    with pytest.raises(UserError, match=r"grid\.1: DM stands in this suite with other settings.*label"):
        planned(grid=[short, long])
    assert len(planned(grid=[short, {**long, "label": "DM, longer"}])) == 4


def test_a_key_says_where_a_plug_in_sees_a_subset_only():
    """There `rho` once was a share of another norm: bench/plugins.py."""

    def of(ipc=4, method="dm", **settings):
        grid = [{"method": method, "plugin": {"name": "metadd", **settings}}]
        found = [item.cell for item in planned(ipc=ipc, grid=grid) if item.cell.kind == "distil"]
        return {cell.plugin.get("rho_is_of") for cell in found}

    assert of() == of(images_per_update=12) == of(images_per_update=11, weight=1.0) == {None}
    assert of(images_per_update=11) == of(ipc=67) == {"all images"}
    assert of(method="sre2l", ipc=67) == {None}  # a part has one image of each of three classes


@pytest.mark.parametrize(("method", "inner"), [("dm", False), ("glad", True)])
def test_a_version_may_be_that_of_some_settings_alone(method, inner):
    def version(chunk):
        settings = {"inner": {"chunk": chunk}} if inner else {"chunk": chunk}
        found = planned(grid=[{"method": method, "settings": settings}])
        return next(item.cell for item in found if item.cell.kind == "distil").settings["version"]

    assert version(2) == version(3) == version(1) + 1 == METHODS[method].settings.version + 1
