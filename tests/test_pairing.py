"""What a plug-in's difference is taken between, and over which networks; that whole suites get verdicts."""

import pytest
from test_tables import METADD, SPEC, changes, made, row

from bench.cells import DatasetId
from bench.measuring import standins
from bench.plan import plan
from bench.planning.grid import Dataset
from bench.spec import find_suite, read
from bench.tabulating.accuracy import accuracy_table, frame

SEEDS = range(8)


def evaluations(values, seeds=SEEDS, **tags):
    return [row(v, seed=s, evaluation_seed=e, **tags) for s in seeds for e, v in enumerate(values)]


def test_a_network_that_one_side_lacks_is_no_difference():
    """The third network of each set is bad; without a pair it would make +6.7, by the same rows "better"."""
    whole = evaluations([30.0, 30.0, 10.0])
    table = made(whole + evaluations([30.0, 30.0], **METADD))
    (found,) = changes(table).values()
    assert found["convnet"].differences == (0.0,) * 8
    assert found["convnet"].networks == (2, 2)
    assert not found["mean"].bold
    assert len(found["convnet"].keys) == 8 * 2 * 2


def test_the_rows_themselves_keep_all_their_networks():
    table = made(evaluations([30.0, 30.0, 9.0]) + evaluations([30.0, 30.0], **METADD))
    assert [line.cells["convnet"].summary.mean for line in table.rows[:2]] == [23.0, 30.0]
    assert [line.cells["convnet"].networks for line in table.rows[:2]] == [(3, 3), (2, 2)]


def test_missing_networks_of_a_set_are_counted():
    rows = evaluations([30.0, 31.0]) + evaluations([32.0, 33.0], network="vgg11")
    assert not any("Incomplete" in note for note in made(rows).notes)
    (said,) = (note for note in made(rows[:5] + rows[7:-1]).notes if "Incomplete" in note)
    assert said.startswith("Incomplete: 3 result(s)")


@pytest.mark.parametrize(
    ("plain", "n"),
    [
        ({}, 8),
        ({"distilled_on": "vgg11"}, 8),
        ({"distilled_on": None}, 8),
        ({"distilled_on": "resnet18"}, None),
        ({"distilled_on": "convnet+resnet18"}, None),
    ],
)
def test_a_row_is_compared_with_one_whose_networks_it_has(plain, n):
    found = changes(made(evaluations([20.0], **plain) + evaluations([30.0], **METADD)))
    assert [cells["convnet"].summary.n for cells in found.values()] == ([n] if n else [])


def test_of_two_rows_the_one_that_fits_is_taken():
    rows = evaluations([20.0]) + evaluations([25.0], distilled_on="resnet18")
    (found,) = changes(made(rows + evaluations([30.0], **METADD))).values()
    assert found["convnet"].summary.mean == 10.0


def test_a_cell_of_two_rows_is_in_both():
    one = row(20.0)
    one["also"] = [{**one["tags"], "method": "DM again", "protocol": "common"}]
    table = made([one])
    assert [line.about[2] for line in table.rows] == ["DM", "DM again"]
    assert all(line.cells["convnet"].keys == (one["key"],) for line in table.rows)


def nets(value, names, **tags):
    return [each for name in names for each in evaluations([value], network=name, **tags)]


OWN = ("convnet", "vgg11", "resnet18")
TEACHER = "resnet18@bn"


def test_a_network_that_some_rows_have_besides_is_in_no_mean():
    soft = {"method": "SRe2L", "recipe": "sre2l"}
    plugged = {**METADD, "method": "SRe2L + MetaDD", "recipe": "sre2l"}
    rows = nets(20.0, OWN) + nets(24.0, OWN, **METADD)
    rows += nets(10.0, OWN, **soft) + nets(90.0, [TEACHER], **soft)
    rows += nets(12.0, OWN, **plugged) + nets(95.0, [TEACHER], **plugged, seen=True)
    table = accuracy_table("t", SPEC, frame(rows), panel=frozenset(OWN))
    means = {line.about[2]: line.cells["mean"].summary.mean for line in table.rows}
    assert means == {
        "DM": 20,
        "DM + MetaDD": 24,
        "DM: MetaDD − without": 4,
        "SRe2L": 10,
        "SRe2L + MetaDD": 12,
        "SRe2L: MetaDD − without": 2,
    }
    sre2l = next(line for line in table.rows if line.about[2] == "SRe2L")
    assert sre2l.cells[TEACHER].summary.mean == 90
    assert "“mean” is over the columns but resnet18@bn, which not all rows have, of" in table.notes[0]
    assert "seen: none; unseen: convnet, vgg11, resnet18." in table.notes[1]
    # Of all columns, the rows without the teacher have no mean.
    assert [
        line.about[2] for line in accuracy_table("t", SPEC, frame(rows)).rows if line.cells["mean"].summary
    ] == [
        "SRe2L",
        "SRe2L + MetaDD",
        "SRe2L: MetaDD − without",
    ]


def identify(name):
    found = standins.identify(name, None)
    return Dataset(DatasetId.of(found), found.spec, min(found.train), min(found.test))


@pytest.mark.parametrize("name", ["cifar10-cpu", "cifar10", "tiny-imagenet", "ablation-loss"])
def test_a_whole_suite_gets_a_verdict_on_each_primary_comparison(name):
    """With every planned evaluation there, and each plug-in 5 points better, nothing is "cannot tell"."""
    spec = read(None)
    suite = find_suite(spec, name)
    ipcs = {each.ipc for each in suite.primary or () if each.ipc} or {*suite.ipc}
    rows = [
        {
            "tags": dict(item.tags),
            "key": item.cell.key,
            "current": True,
            "cell": {"kind": "evaluate"},
            "result": {"accuracy": 50 + 5 * (item.tags["plugin"] != "none") + item.tags["seed"] / 100},
        }
        for item in plan(name, suite, identify)
        if item.cell.kind == "evaluate" and item.tags["ipc"] in ipcs
    ]
    asked = spec.tables["cross-architecture"].model_copy(update={"primary": suite.primary})
    table = accuracy_table("t", asked, frame(rows), panel=suite.panel)
    _, *found = table.verdicts
    assert len(found) == len(suite.primary or found) >= 1
    for said in found:
        assert "“mean” +5.0 [5.0, 5.0]" in said
        # cifar10-cpu has eight seeds or more of some methods only, as its note says.
        assert "better (8 pairs)" in said or "better (9 pairs)" in said or name == "cifar10-cpu"
