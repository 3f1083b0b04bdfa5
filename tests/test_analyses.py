"""Which analyses a suite plans."""

import pytest
from command_line import TINY, spec, suite

from bench.cells import DatasetId
from bench.errors import UserError
from bench.plan import Dataset, plan
from bench.planning.analyses import REAL
from bench.spec import Spec, Suite
from bench.validation import validated

ANALYSE = {"auxiliary": ["convnet@w8", "vgg11@w8"], "unseen": ["alexnet@w16", "mobilenetv2"]}
PLUGIN = {"name": "metadd", "networks": ["convnet@w8", "vgg11@w8"]}


def identify(name):
    return Dataset(DatasetId(name, "0" * 64, 3, 32), name, 100, 20)


def planned(**changes):
    asked = suite(analyse={**ANALYSE, **changes.pop("analyse", {})}, **changes)
    return plan("tiny", Suite.model_validate(asked), identify)


def of(found, kind):
    return [item for item in found if item.cell.kind == kind]


def test_each_set_of_each_seed_has_two_and_the_real_images_have_two():
    found = planned(
        ipc=[1, 2], seeds=3, grid=[{"method": "random"}, {**TINY["grid"][0], "plugin": ["none", PLUGIN]}]
    )
    analyses = of(found, "analyse")
    assert len(analyses) == 2 * (1 + 3 * 2 * 3)
    sets = {cell.images for cell in (item.cell for item in of(found, "evaluate"))}
    looked_at = [item.cell.images for item in analyses]
    assert {images for images in looked_at if images != ("test",)} == sets
    assert all(looked_at.count(images) == 2 for images in {*sets, ("test",)})
    for item in analyses:
        assert "recipe" not in item.tags
        assert item.tags["role"] in ("auxiliary", "unseen")
    with_plugin = next(item for item in analyses if item.tags["plugin"] == "metadd")
    assert (with_plugin.tags["method"], with_plugin.tags["without"]) == ("DM + MetaDD", "DM")
    assert with_plugin.words.endswith("through auxiliary networks")


def test_cells_come_after_what_they_need_and_share_the_plug_in_s_networks():
    training = {"all": {"epochs": 3}, "vgg11@w8": {"lr": 0.05}}
    block = {**TINY["grid"][0], "plugin": {**PLUGIN, "training": training}}
    found = planned(grid=[block], analyse={"training": training})
    seen = set()
    for key, item in found.planned.items():
        assert set(item.cell.needs) <= seen
        seen.add(key)
    networks = [item.cell.settings["network"] for item in of(found, "pretrain")]
    assert sorted(networks) == sorted([*ANALYSE["auxiliary"], *ANALYSE["unseen"]])
    vgg = next(i.cell.settings for i in of(found, "pretrain") if i.cell.settings["network"] == "vgg11@w8")
    assert (vgg["epochs"], vgg["lr"]) == (3, 0.05)


def test_one_set_under_two_recipes_or_protocols_is_looked_at_once():
    other = {"networks": ["convnet@w8"], "recipe": "dc"}
    found = planned(grid=[{"method": "random"}, {"method": "random", "evaluate": other}])
    assert len(of(found, "evaluate")) == 2
    assert len(of(found, "analyse")) == 4
    assert all(not item.also for item in of(found, "analyse"))
    again = planned(grid=[{"method": "random"}, {"method": "random", "protocol": "authors"}])
    assert len(of(again, "analyse")) == 4


def test_random_images_with_soft_labels_are_no_set_of_their_own():
    block = {"method": "sre2l", "evaluate": {"networks": ["convnet@w8"], "recipe": "sre2l"}}
    methods = [item.tags["method"] for item in of(planned(grid=[block]), "analyse")]
    assert methods == [REAL, REAL, "SRe2L", "SRe2L"]


def test_nothing_is_analysed_unless_it_is_asked_for():
    assert not of(plan("tiny", Suite.model_validate(suite()), identify), "analyse")


def test_the_key_knows_what_changes_the_result_and_nothing_else():
    def keys(**analyse):
        return [item.cell.key for item in of(planned(analyse=analyse), "analyse")]

    plain = keys()
    for change in (
        {"grid": 16},
        {"threshold": 0.4},
        {"temperature": 0.2},
        {"training": {"all": {"epochs": 1}}},
    ):
        assert not set(keys(**change)) & set(plain)
    fewer = keys(real_per_class=3)
    assert [a == b for a, b in zip(plain, fewer, strict=True)] == [False, False, True, True]
    swapped = keys(auxiliary=ANALYSE["unseen"], unseen=[*ANALYSE["auxiliary"][1:], "resnet18"])
    assert plain[1] == swapped[0]  # what the networks are to the methods changes no result
    assert keys(auxiliary=["vgg11@w8", "convnet@w8"])[0] != plain[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"auxiliary": ["convnet@w8", "googlenet@w8"]},
            r"analyse\.auxiliary\.network: .*does not support @w8",
        ),
        ({"auxiliary": ["convnet", "convnet@w128"]}, r"analyse\.auxiliary: .*a network stands twice"),
        ({"unseen": ["alexnet", "vgg11"]}, r"analyse\.unseen: vgg11 is the architecture of an auxiliary"),
        ({"training": {"vgg": {}}}, r"analyse\.training: vgg: no network of these; did you mean 'vgg11@w8'"),
        ({"training": {"all": {"epoch": 1}}}, r"analyse\.auxiliary: epoch: unknown key; did you mean"),
        ({"real_per_class": 21}, r"analyse\.real_per_class: 21 asked for, but the smallest test class"),
    ],
)
def test_mistakes_are_one_line(change, message):
    with pytest.raises(UserError, match=r"suites\.tiny\." + message) as caught:
        planned(analyse=change)
    assert "\n" not in str(caught.value)


def test_a_network_that_distils_is_not_unseen():
    with pytest.raises(UserError, match=r"analyse\.unseen: convnet: .* takes part in distilling DM$"):
        planned(analyse={"auxiliary": ["vgg11", "resnet18"], "unseen": ["alexnet", "convnet"]})


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        (
            "analyse",
            {**ANALYSE, "unseen": ["alexnet"]},
            r"analyse\.unseen: at least 2 items are expected",
        ),
        ("analyse", {"auxiliary": ANALYSE["auxiliary"]}, r"analyse\.unseen: is missing"),
        ("analyse", {**ANALYSE, "unsen": []}, r"analyse\.unsen: unknown key; did you mean .*'unseen'"),
        ("table", {"columns": "network"}, r"tables\.meta: .*columns: .* has its own"),
        ("table", {"rows": ["recipe"]}, r"tables\.meta: .*rows: .* no recipe"),
        ("figure", {"columns": 3}, r"figures\.cams: .*columns: a figure of kind `cams` takes none"),
        ("figure", {"kind": "images", "networks": "unseen"}, r"figures\.cams: .*networks: .*`images` takes"),
    ],
)
def test_mistakes_in_the_file_are_one_line(part, value, message):
    content = spec(tiny=suite(**({"analyse": value} if part == "analyse" else {})))
    table = {"title": "t", "kind": "meta-features", "rows": ["method"]}
    figure = {"title": "t", "kind": "cams"}
    content["tables"] = {"meta": {**table, **(value if part == "table" else {})}}
    content["figures"] = {"cams": {**figure, **(value if part == "figure" else {})}}
    with pytest.raises(UserError, match=message):
        validated(Spec, content, "here")
