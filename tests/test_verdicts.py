"""What tables say of their primary comparisons, and how often they say it where there is nothing."""

import itertools

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import beta
from test_tables import METADD, SPEC, changes, lines, made, row

from bench.errors import UserError
from bench.spec import TableSpec
from bench.tabulating.formats import to_csv, to_markdown
from bench.tabulating.verdicts import verdicts
from bench.validation import validated

BASE = [30.0, 31.0, 29.0, 30.5, 28.5, 32.0, 27.0, 30.2]


def pair(added, method="DM", n=None, label="MetaDD", **tags):
    """Rows without and with a plug-in, of which the latter is ``added`` better, by seed."""
    plugged = {**METADD, "method": f"{method} + {label}", **tags}
    rows = [row(value, seed=s, method=method, **tags) for s, value in enumerate(BASE[:n])]
    return rows + [row(BASE[s] + more, seed=s, **plugged) for s, more in enumerate(added[:n])]


def spec(*primary, **more):
    return TableSpec.model_validate({**SPEC.model_dump(), "primary": list(primary), **more})


def notes(table):
    """The notes on verdicts."""
    return [note for note in table.notes if "needed" in note]


UP = [1.0, 2.0, 1.5, 3.0, 0.5, 2.0, 1.0, 1.0]
MIXED = [1.0, -2.0, 1.5, -1.0, 0.5, -0.2, 1.0, -0.7]


def test_six_pairs_that_agree_are_a_verdict_on_one_comparison():
    table = made(pair(UP, n=6))
    method, note = notes(table)
    assert "one primary comparison, on “mean”, and where that shows one on “unseen”" in method
    assert "6 pairs are needed; so many find an effect of 1.8 standard deviations" in method
    low, high = table.rows[2].cells["mean"].summary.interval
    assert note == (
        f"cifar10, 1, DM: MetaDD − without, dsa: “mean” +1.7 [{low:.1f}, {high:.1f}], p = 0.031, adjusted "
        f"0.031: better (6 pairs); “unseen” +1.7 [{low:.1f}, {high:.1f}], p = 0.031, adjusted 0.031: better "
        "(6 pairs). Pairs needed: 6."
    )
    assert table.notes.index(method) == 2  # after what is shown, before any warning


def test_less_is_worse():
    (_, note) = notes(made(pair([-each for each in UP], n=6)))
    assert note.count("worse (6 pairs)") == 2


def test_differences_both_ways_are_no_verdict():
    table = made(pair(MIXED))
    assert notes(table)[1].count("no difference shown (8 pairs)") == 2
    assert "**" not in to_markdown(table)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_too_few_pairs_can_tell_nothing_whatever_they_say(n):
    table = made(pair([50.0] * 8, n=n))
    pairs = "1 pair" if n == 1 else f"{n} pairs"
    assert notes(table)[1].count(f"cannot tell ({pairs}; 6 needed)") == 2
    assert f"p = {2 / 2**n:.3f}" in notes(table)[1]
    assert "**" not in to_markdown(table)


def test_no_pair_in_every_network_is_said():
    rows = [*pair(UP, n=6), row(1.0, seed=9, network="vgg11"), row(2.0, seed=9, network="vgg11", **METADD)]
    (_, note) = notes(made(rows))
    assert "“mean” cannot tell (0 pairs; 6 needed)" in note
    assert "“unseen” cannot tell" not in note  # of networks that no seed has all of, it has nothing to say


def test_only_what_has_a_verdict_is_bold():
    table = made([*pair(UP), *pair(MIXED, method="DC")])
    bold = {(line.about[2], name) for line in table.rows for name, cell in line.cells.items() if cell.bold}
    assert bold == {("DM: MetaDD − without", "mean"), ("DM: MetaDD − without", "unseen")}
    (line,) = [line for line in lines(table) if "**" in line]
    assert line.count("**") == 4
    assert "DM: MetaDD" in line
    assert "*" not in to_csv(table)


def test_a_small_p_of_too_few_pairs_is_not_bold():
    """Holm would let it pass, when the other comparison is through."""
    table = made([*pair(UP), *pair(UP, method="DC", n=6)])
    assert "p = 0.031, adjusted 0.031: cannot tell (6 pairs; 7 needed)" in notes(table)[2]
    assert not any(cell.bold for cell in table.rows[-1].cells.values())
    assert table.rows[2].cells["mean"].bold


def test_unseen_waits_for_the_mean():
    """Seen networks lose what unseen ones gain, so that the mean says nothing."""
    rows = pair(UP)
    for seed, more in enumerate(UP):
        rows.append(row(50.0, seed=seed, network="vgg11"))
        lost = more + (0.5 if seed % 2 else -0.5)
        rows.append(row(50.0 - lost, seed=seed, network="vgg11", seen=True, **METADD))
    (_, note) = notes(made(rows))
    mean, unseen = note.split("; “unseen”")
    assert "no difference shown (8 pairs)" in mean
    assert "p = 0.008" in unseen
    assert "no difference shown (8 pairs)" in unseen


def five():
    return [each for i in range(5) for each in pair(UP, method=f"M{i}")]


def test_five_comparisons_need_eight_pairs():
    table = made(five())
    assert "the 5 primary comparisons" in notes(table)[0]
    assert "8 pairs are needed" in notes(table)[0]
    assert len(notes(table)) == 6
    assert all("p = 0.008, adjusted 0.039: better (8 pairs)" in note for note in notes(table)[1:])
    few = made([each for each in five() if each["tags"]["seed"] < 7])
    assert all("cannot tell (7 pairs; 8 needed)" in note for note in notes(few)[1:])


def test_more_than_five_are_not_tested_unless_some_are_declared():
    rows = [*five(), *pair(UP, method="M5")]
    table = made(rows)
    assert notes(table) == []
    assert table.notes[-1] == (
        "No verdicts: 6 differences would be primary comparisons, and at most 5 may be (`primary` in the "
        "tables file)."
    )
    declared = made(rows, spec("M5 + MetaDD"))
    assert [note.partition(": “")[0] for note in notes(declared)[1:]] == [
        "cifar10, 1, M5: MetaDD − without, dsa"
    ]
    assert "6 pairs are needed" in notes(declared)[0]


def test_by_default_controls_are_not_primary():
    rows = [*pair(UP), *pair(UP, label="CE only")]
    rows = [each for i, each in enumerate(rows) if not 16 <= i < 24]  # the same rows without, once
    table = made(rows)
    assert len(changes(table)) == 2
    assert len(notes(table)) == 2
    assert len(notes(made(rows, spec("DM + CE only", "DM + MetaDD")))) == 3


def test_one_of_several_rows_of_a_name_can_be_declared():
    rows = [*pair(UP), *pair(UP, ipc=10)]
    assert len(notes(made(rows, spec("DM + MetaDD")))) == 3
    table = made(rows, spec({"method": "DM + MetaDD", "ipc": 10, "recipe": "dsa"}))
    assert notes(table)[1].startswith("cifar10, 10, DM: MetaDD − without")
    assert len(notes(table)) == 2


def test_what_is_declared_counts_before_it_is_there():
    table = made(pair(UP, n=6), spec("DM + MetaDD", {"method": "DC + MetaDD", "ipc": 10}))
    assert "cannot tell (6 pairs; 7 needed)" in notes(table)[1]
    assert notes(table)[2] == "DC + MetaDD, 10: cannot tell (no result yet; 7 pairs needed)."


def test_nothing_declared_is_nothing_tested():
    table = made(pair(UP), spec())
    assert notes(table) == []
    assert "**" not in to_markdown(table)


def test_without_a_difference_nothing_is_said():
    rows = [row(10.0), row(20.0, network="vgg11")]
    assert to_markdown(made(rows, spec("DM + MetaDD"))) == to_markdown(made(rows))
    assert len(made(rows).notes) == 1


def test_columns_that_are_no_networks_are_tested_on_their_mean():
    rows = [*pair(UP), *pair(UP, ipc=10)]
    table = made(rows, spec("DM + MetaDD", rows=["method"], columns="ipc"))
    assert table.columns == ("1", "10", "mean")
    assert "one primary comparison, on “mean”: exact" in notes(table)[0]
    assert "p = 0.008, adjusted 0.008: better (8 pairs). Pairs needed: 6." in notes(table)[1]


def test_columns_that_are_no_networks_have_a_mean_only_where_one_is_tested():
    declared = {"rows": ["method"], "columns": "ipc"}
    rows = [*pair([1.0] * 6), *pair([1.0] * 6, ipc=10)]
    (tested, untested) = made(rows, spec("DM + MetaDD", **declared)), made(rows, spec(**declared))
    assert tested.columns == ("1", "10", "mean")
    assert untested.columns == ("1", "10")
    assert "“mean”" in notes(tested)[0]
    assert not any("“mean”" in note for note in untested.notes)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"primary": ["a", "b", "c", "d", "e", "f"]}, "primary: at most 5 items are expected, not 6"),
        ({"primary": [{"method": "a", "ipcs": 1}]}, "primary.0.ipcs: unknown key; did you mean 'ipc'"),
        ({"primary": [{"ipc": 1}]}, "primary.0.method: is missing"),
        ({"kind": "memory", "primary": ["a"]}, "primary: differences in a table of kind `memory` are not"),
        ({"columns": "ipc", "primary": [{"method": "a", "ipc": 1}]}, "over all columns, so it names no ipc"),
    ],
)
def test_a_mistake_is_one_line(value, message):
    with pytest.raises(UserError, match=r"^here: ") as caught:
        validated(TableSpec, {"title": "t", "kind": "accuracy", "rows": ["method"], **value}, "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_s_declaration_survives_being_written_down():
    found = spec("DM + MetaDD", {"method": "DC + MetaDD", "ipc": 10})
    assert TableSpec.model_validate(found.model_dump()) == found
    with pytest.raises(ValidationError):
        spec(3)


def drawn(kind, rng, shape):
    """Differences in two columns that have something in common, before it is tossed which has the plug-in."""
    draw = rng.normal if kind == "normal" else lambda *about: rng.gamma(0.5, 2, about[-1]) - 0.5
    first, other = draw(0, 1, shape), draw(0, 1, shape)
    return first, (first + other) / 2


def tossed(kind, rng, tables, comparisons, n):
    """Differences of no effect in two columns, (tables, comparisons, n) each.

    Which of a seed's two results has the plug-in is the toss of a coin, which turns all columns at once.
    """
    means, unseen = drawn(kind, rng, (tables, comparisons, n))
    signs = rng.choice([-1, 1], means.shape)
    return signs * means, signs * unseen


def bounds(count, tables):
    """Clopper and Pearson's 95% interval of a share."""
    return beta.ppf(0.025, count, tables - count + 1), beta.ppf(0.975, count + 1, tables - count)


def said(verdict):
    return str(verdict).startswith(("better", "worse"))


@pytest.mark.parametrize("comparisons", [1, 5])
@pytest.mark.parametrize("n", [6, 8])
@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_where_there_is_no_effect_hardly_any_table_says_better_or_worse(kind, n, comparisons):
    tables = 5000
    means, unseen = tossed(kind, np.random.default_rng([n, comparisons]), tables, comparisons, n)
    count = 0
    for i in range(tables):
        found = verdicts([[means[i, c].tolist(), unseen[i, c].tolist()] for c in range(comparisons)])
        count += any(said(each) for of_row in found for each in of_row)
    low, high = bounds(count, tables)
    assert high <= 0.06
    assert not low > 0.05  # what chance leaves of "at most 5%", which the next test counts
    enough = n >= {1: 6, 5: 8}[comparisons]
    assert (count / tables > 0.025) if enough else (count == 0)  # nor is it silent where it could speak


@pytest.mark.parametrize(("n", "often"), [(6, 2), (8, 12)])
@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_of_all_tosses_of_a_table_at_most_a_twentieth_says_better_or_worse(kind, n, often):
    """Counted, not simulated: 2 of 64 and 12 of 256, whatever the sizes of the differences."""
    rng = np.random.default_rng(n)
    for _ in range(5):
        mean, unseen = drawn(kind, rng, n)
        count = 0
        for signs in itertools.product((-1, 1), repeat=n):
            (found,) = verdicts([[(mean * signs).tolist(), (unseen * signs).tolist()]])
            count += any(said(each) for each in found)
        assert count == often <= 0.05 * 2**n


def test_a_true_effect_does_not_make_the_others_be_believed():
    """Of two comparisons the first has one on the mean, and none on unseen networks; the second has none."""
    tables, n = 5000, 8
    means, unseen = tossed("normal", np.random.default_rng(0), tables, 2, n)
    count = 0
    for i in range(tables):
        first, second = verdicts(
            [[[9.0] * n, unseen[i, 0].tolist()], [means[i, 1].tolist(), unseen[i, 1].tolist()]]
        )
        assert said(first[0])
        count += said(first[1]) or said(second[0]) or said(second[1])
    low, high = bounds(count, tables)
    assert high <= 0.06
    assert low <= 0.05
    assert count / tables > 0.04
