"""The store and the results folder."""

import json
from dataclasses import replace

import pytest
from command_line import rekeyed, snapshot
from filelock import FileLock
from test_cells import DATASET, DISTIL, EVALUATE

from bench.errors import UserError
from bench.plan import Plan, Planned
from bench.results import SMALL_SET, Results
from bench.store import State, Store
from bench.walk import collect, to_make

ROW = {"cell": DISTIL.value, "result": {"accuracy": 1.0}, "cost": {}, "provenance": {}}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", Results(tmp_path / "results" / "tiny"))


def make(store, cell=DISTIL, content=b"images"):
    """File a cell with one artifact."""
    with store.claim(cell) as mine, store.workspace(cell) as workspace:
        assert mine
        (workspace / "images.safetensors").write_bytes(content)
        store.finish(cell, workspace, {**ROW, "cell": cell.value})


def test_missing_running_failed_finished(store, tmp_path):
    assert store.state(DISTIL) == State.MISSING
    assert (store.row(DISTIL), store.failure(DISTIL)) == (None, None)
    assert not tmp_path.joinpath("store").exists()  # looking writes nothing

    with store.claim(DISTIL) as mine:
        assert mine
        assert store.state(DISTIL) == State.RUNNING
        with store.claim(DISTIL) as again:
            assert not again
    assert store.state(DISTIL) == State.MISSING

    with store.claim(DISTIL):
        store.fail(DISTIL, "because")
    assert (store.state(DISTIL), store.failure(DISTIL)) == (State.FAILED, "because")
    assert store.row(DISTIL) is None

    make(store)
    assert (store.state(DISTIL), store.failure(DISTIL)) == (State.FINISHED, None)
    row = store.row(DISTIL)
    assert row["result"] == ROW["result"]
    assert row["key"] == DISTIL.key
    assert list(row["artifacts"]) == ["images.safetensors"]
    assert store.state(replace(DISTIL, seed=1)) == State.MISSING


def test_a_lock_file_that_nobody_holds_blocks_nobody(store):
    with store.claim(DISTIL):
        pass
    assert store._beside(DISTIL, ".lock").exists()
    with store.claim(DISTIL) as mine:
        assert mine


def test_a_lock_of_another_process_counts(store):
    with store.claim(DISTIL):
        pass
    with FileLock(store._beside(DISTIL, ".lock")):
        assert store.state(DISTIL) == State.RUNNING
        with store.claim(DISTIL) as mine:
            assert not mine


def test_what_breaks_off_leaves_nothing_and_what_was_killed_is_cleared(store, tmp_path):
    def break_off(workspace):
        (workspace / "images.safetensors").write_bytes(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), store.claim(DISTIL), store.workspace(DISTIL) as workspace:
        break_off(workspace)
    assert {path.suffix for path in tmp_path.glob("store/*/*/*")} == {".lock"}

    with store.claim(DISTIL):
        killed = store.workspace(DISTIL)  # entered and, as by a killed run, never left
        left = killed.__enter__()
        (left / "row.json").write_text("{}")
        assert store.state(replace(DISTIL)) != State.FINISHED
    make(store)
    assert not left.exists()
    assert store.row(DISTIL) is not None


def test_finishing_clears_the_checkpoint_and_the_failure(store):
    store.fail(DISTIL, "because")
    store.partial(DISTIL).mkdir()
    make(store)
    assert not store.partial(DISTIL).exists()
    assert store.failure(DISTIL) is None


def test_a_failure_clears_the_checkpoint_that_led_to_it(store):
    store.partial(DISTIL).mkdir(parents=True)
    store.fail(DISTIL, "because")
    assert not store.partial(DISTIL).exists()


def test_a_folder_without_its_row_is_no_finished_cell(store):
    make(store)
    (store._folder(DISTIL) / "row.json").unlink()
    assert store.state(DISTIL) == State.MISSING
    make(store)
    assert store.state(DISTIL) == State.FINISHED


def test_an_artifact_is_verified(store):
    make(store)
    path = store.artifact(DISTIL, "images.safetensors")
    assert path.read_bytes() == b"images"
    assert store.artifact(DISTIL, "other.png") is None
    path.write_bytes(b"imagez")
    with pytest.raises(UserError, match=r"images\.safetensors: damaged \(its checksum differs\)"):
        store.artifact(DISTIL, "images.safetensors")
    path.unlink()
    assert store.artifact(DISTIL, "images.safetensors") is None
    assert not store.has_artifacts(DISTIL)


def test_a_damaged_failure_is_named(store):
    store.fail(DISTIL, "because")
    store._beside(DISTIL, ".failed.json").write_text("{")
    with pytest.raises(UserError, match=r"failed\.json: damaged"):
        store.failure(DISTIL)


def published(store, *cells):
    """Write the rows of these cells to the results folder, with the artifacts."""
    rows = [store.row(cell) for cell in cells]
    for row in rows:
        folder = store.root / row["cell"]["kind"] / row["key"][:2] / row["key"]
        store._results.keep(row["key"], [folder / name for name in row["artifacts"]])
    store._results.write([{**row, "tags": {}} for row in rows])


def test_committed_results_are_finished_cells(store, tmp_path):
    make(store)
    published(store, DISTIL)
    elsewhere = Store(tmp_path / "other", Results(tmp_path / "results" / "tiny"))
    assert elsewhere.state(DISTIL) == State.FINISHED
    assert elsewhere.row(DISTIL)["result"] == ROW["result"]
    assert elsewhere.has_artifacts(DISTIL)
    path = elsewhere.artifact(DISTIL, "images.safetensors")
    assert path.is_relative_to(tmp_path / "results")
    path.write_bytes(b"other")
    with pytest.raises(UserError, match="damaged"):
        elsewhere.artifact(DISTIL, "images.safetensors")
    path.unlink()
    assert elsewhere.state(DISTIL) == State.FINISHED
    assert not elsewhere.has_artifacts(DISTIL)
    assert not (tmp_path / "other").exists()


def test_a_set_that_was_made_again_replaces_the_committed_one(store, tmp_path):
    """Another machine gives other bits; row and files must belong together."""
    make(store)
    published(store, DISTIL)
    elsewhere = Store(tmp_path / "other", Results(tmp_path / "results" / "tiny"))
    make(elsewhere, content=b"other bits")
    published(elsewhere, DISTIL)
    third = Store(tmp_path / "third", Results(tmp_path / "results" / "tiny"))
    assert third.artifact(DISTIL, "images.safetensors").read_bytes() == b"other bits"


def test_large_sets_stay_in_the_store_but_for_their_picture(tmp_path):
    results = Results(tmp_path / "results")
    large, plate = tmp_path / "images.safetensors", tmp_path / "plate.png"
    large.write_bytes(b"x" * SMALL_SET)
    plate.write_bytes(b"y")
    results.keep("k", [large, plate])
    assert [path.name for path in (tmp_path / "results/sets/k").iterdir()] == ["plate.png"]
    large.write_bytes(b"x" * (SMALL_SET - 1))
    results.keep("k", [large, plate])
    assert len(list((tmp_path / "results/sets/k").iterdir())) == 2


def row(name, **more):
    return rekeyed({**ROW, "tags": {}, "artifacts": {}, **more}, method=name)


def names(results):
    return [(row["cell"]["method"], row["current"]) for row in results.rows.values()]


def test_rows_stay_in_the_order_of_the_plan_and_the_others_behind_them(tmp_path):
    results = Results(tmp_path / "tiny")
    assert results.rows == {}
    assert results.write([row("b"), row("c"), row("a")])
    assert names(results) == [("b", True), ("c", True), ("a", True)]
    assert results.write([row("d"), row("b")])
    others = sorted("ac", key=lambda name: row(name)["key"])
    assert names(results) == [("d", True), ("b", True), *((name, False) for name in others)]
    before = snapshot(tmp_path)
    assert not Results(tmp_path / "tiny").write([row("d"), row("b")])
    assert snapshot(tmp_path) == before


def test_rows_that_another_run_published_meanwhile_stay(tmp_path):
    first, second = (Results(tmp_path / "tiny") for _ in range(2))
    assert first.rows == second.rows == {}
    first.write([row("a")])
    second.write([row("b")])
    assert {name for name, _ in names(Results(tmp_path / "tiny"))} == {"a", "b"}


def test_a_row_with_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        Results(tmp_path / "tiny").write([row("a", result={"loss": float("nan")})])
    assert not (tmp_path / "tiny").exists()


# What a run has to make.


def chain():
    """Experts, a set distilled from them, and its evaluation."""
    experts = replace(DISTIL, uses={}, part=7)
    images = replace(DISTIL, uses={"experts": (experts.key,)})
    return experts, images, replace(EVALUATE, images=(images.key,))


def plan_of(*cells):
    return Plan("tiny", {cell.key: Planned(cell, {"seed": 0}) for cell in cells}, {DATASET: "digits[3]"}, {})


def test_a_needed_cell_without_its_files_is_made_and_so_is_what_it_needs(store):
    cells = chain()
    plan = plan_of(*cells)
    assert [item.cell for item in to_make(plan, store)] == list(cells)
    for cell in cells:
        make(store, cell)
    assert to_make(plan, store) == []
    published(store, *cells)
    for cell in cells:
        (store._folder(cell) / "images.safetensors").unlink()
        store._results.artifact(cell.key, "images.safetensors").unlink()
    assert to_make(plan, store) == []  # rows are all that a finished suite needs
    (store._folder(cells[2]) / "row.json").unlink()
    store._results.write([{**store.row(cell), "tags": {}} for cell in cells[:2]])
    path = store._results.folder / "rows.jsonl"
    lines = [line for line in path.read_text().splitlines() if json.loads(line)["key"] != cells[2].key]
    path.write_text("\n".join(lines))
    fresh = Store(store.root, Results(store._results.folder))
    assert [item.cell for item in to_make(plan, fresh)] == list(cells)


def test_collected_rows_have_the_tags_of_the_plan(store):
    cells = chain()
    make(store, cells[1])
    (found,) = collect(plan_of(*cells), store)
    assert (found["key"], found["tags"]) == (cells[1].key, {"seed": 0})


def test_a_row_is_read_from_disk_once_until_the_cell_is_made_again(store):
    make(store)
    first = store.row(DISTIL)
    (store._folder(DISTIL) / "row.json").write_text("damaged")
    assert store.row(DISTIL) is first
    make(store, content=b"other images")
    assert store.row(DISTIL)["artifacts"] != first["artifacts"]
