import hashlib
import json
import re
import subprocess
import sys
from math import fsum

import numpy as np
import pytest
from command_line import is_one_line, rekeyed, run_here
from committed import FOLDERS
from report_page import Page, expand
from report_rows import HOSTILE, publish
from report_rows import row as finished_row

from bench.files import write_json
from bench.report import page
from bench.reporting.records import Records, ranges
from bench.reporting.standing import standing
from bench.reporting.surroundings import duration, machines
from bench.results import Results
from bench.spec import read
from bench.stats import Summary
from bench.store import Store
from bench.tabulating.table import Table, TableCell, TableRow

REPORTS = [folder for folder in FOLDERS if (folder / "report.html").exists()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("made"), figures=["sets"])


@pytest.fixture(scope="module")
def text(made):
    return page(made.spec, "made-up", made.results)


@pytest.fixture(scope="module")
def parsed(text):
    return Page(text)


def test_it_is_one_whole_page_that_loads_nothing(text, parsed):
    ids = [each["about"]["id"] for each in parsed.elements if "id" in each["about"]]
    assert len(set(ids)) == len(ids)
    links = [each["about"]["href"] for each in parsed.all("a")]
    assert len(links) >= 8
    for name in ("aria-labelledby", "href"):
        named = [each["about"][name].removeprefix("#") for each in parsed.elements if name in each["about"]]
        assert named
        assert set(named) <= set(ids)
    sources = [each["about"]["src"] for each in parsed.elements if "src" in each["about"]]
    assert sources
    assert all(each.startswith("data:image/png;base64,") for each in sources)
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttp|innerHTML", text)
    assert not [name for each in parsed.elements for name in each["about"] if name.startswith("on")]
    (policy,) = parsed.all("meta", http_equiv="Content-Security-Policy")
    assert policy["about"]["content"].startswith("default-src 'none'; img-src data:;")
    assert len(text) < 5_000_000


def test_a_name_is_text_and_no_markup(parsed):
    assert [each["about"].get("id") for each in parsed.all("script")] == ["data", "pictures", None]
    assert not parsed.all("b", id="alert")
    assert any(each["text"] == HOSTILE for each in parsed.all("th"))
    assert any(HOSTILE in each["text"] for each in parsed.all("p"))
    assert any(HOSTILE in each["text"] for each in parsed.all("code"))
    groups = parsed.json("data")["groups"]
    assert HOSTILE in {group["tags"].get("method") for group in groups}


def test_records_say_all_that_rows_say(made):
    records = Records(made.rows.values())
    data = records.data
    for row, (key, group, own, finished, result, cost, needs) in zip(
        records.rows, data["records"], strict=True
    ):
        of = data["groups"][group]
        assert row["key"].startswith(key)
        assert len(key) == 16
        assert finished == "2026-11-21 11:41"
        assert dict(zip(of["own"], own, strict=True)).items() <= row["cell"].items()
        assert {"seed", "part", "number", "evaluation_seed"} & of["cell"].keys() == set()
        assert dict(zip(of["cost"], cost, strict=True)) == pytest.approx(row["cost"], rel=1e-5)
        scalars = {name: it for name, it in row["result"].items() if not isinstance(it, dict)}
        found = dict(zip(of["result"], result, strict=True))
        assert {name: found[name] for name in scalars} == pytest.approx(scalars, rel=1e-5)
        assert {**data["sources"][of["source"]], "finished": row["provenance"]["finished"]} == row[
            "provenance"
        ]
        needed = {records.rows[number]["key"] for number in expand(needs)} if needs else set()
        assert needed == {key for key in made.rows if key != row["key"] and key in json.dumps(row["cell"])}


def test_numbers_are_written_as_ranges():
    assert ranges([]) == ""
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


def test_a_suite_of_the_paper_s_size_fits(made):
    """Twenty thousand rows take at most 4 MB: the figures and tables need the rest of 5."""
    rows = [row for row in made.rows.values() if row["cell"]["kind"] == "evaluate"]
    digest = lambda number: hashlib.sha256(str(number).encode()).hexdigest()  # noqa: E731
    many = [{**rows[number % len(rows)], "key": digest(number)} for number in range(2000)]
    assert len(json.dumps(Records(many).data, separators=(",", ":"))) < 200 * 2000


def test_pictures_are_shown_while_there_is_room(made, parsed, monkeypatch):
    pictures = parsed.json("pictures")
    records = parsed.json("data")["records"]
    assert len(pictures) == 5
    for number, url in pictures.items():
        assert url.startswith("data:image/png;base64,")
        (key,) = [key for key in made.rows if key.startswith(records[int(number)][0])]
        assert made.results.artifact(key, "plate.png").exists()
    monkeypatch.setattr("bench.report._PICTURES", 2 * len(url) + 100)
    assert len(Page(page(made.spec, "made-up", made.results)).json("pictures")) == 2


def test_what_is_missing_failed_and_no_longer_planned_is_said(tmp_path):
    made = publish(tmp_path, left_out=lambda item: "CE only" in item.tags.get("method", ""))
    left_out = [item for item in made.plan if item.cell.key not in made.rows]
    assert len(left_out) > 20
    stale, *others = made.rows.values()
    unplanned = rekeyed(others[-1], seed=99)
    made.results.write([*(row for row in made.rows.values() if row is not stale), unplanned])
    store = Store(tmp_path / "store")
    failed = next(item for item in left_out if item.cell.kind == "distil")
    store.fail(failed.cell, f"the loss became NaN {HOSTILE}")
    found = standing(made.spec, "made-up", made.rows, store)
    assert (found.planned, found.missing, found.unplanned) == (len(made.plan), len(left_out) + 1, 1)
    assert found.failed == ((failed.words, f"the loss became NaN {HOSTILE}"),)
    count = found.rows["digits", "1", "DM + CE only"]["evaluate"]
    assert (count.planned, count.finished, count.missing) == (16, [], 16)
    assert found.rows["digits", "10", "Random"]["distil"].missing == 0
    assert sum(count.planned for count in found.beforehand.values()) == 4
    text = page(made.spec, "made-up", made.results, store)
    said = Page(text).all("section", id="cells")[0]["text"]
    for words in (
        f"{found.missing} are not made yet",
        "0 of 16",
        "NaN </script>",
        "1 rows are marked as current",
    ):
        assert words in said
    assert "1 further rows are not current" in said
    assert "failed" not in page(made.spec, "made-up", made.results).partition("<script")[0]


def test_a_plan_that_rows_cannot_tell_is_said_to_be_unknown(tmp_path):
    made = publish(tmp_path, grid=[{"method": "random"}, {"method": "random", "dataset": "cifar10"}])
    found = standing(made.spec, "made-up", made.rows, None)
    assert found.unknown == "no row says which data cifar10 is"
    assert "What is planned cannot be told" in page(made.spec, "made-up", made.results)


def test_measures_alone_make_a_report_too(tmp_path):
    made = publish(tmp_path, left_out=lambda item: True, tables=[])
    of = next(item for item in made.plan if item.cell.kind == "distil")
    result = {"how": "run", "peak_live_bytes": 2**21, "holders": {"images": 2**20}}
    measure = {**finished_row(of, np.random.default_rng(0)), "result": result}
    measure["cell"] = {"kind": "measure", "dataset": measure["cell"]["dataset"], "of": measure["cell"]}
    made.results.measures.write([rekeyed(measure)])
    parsed = Page(page(made.spec, "made-up", made.results))
    assert len(parsed.json("data")["records"]) == 1
    assert any(each["text"].startswith("Nothing of this suite was run") for each in parsed.all("p"))


def test_a_published_number_names_its_source_and_opens_nothing(made, monkeypatch):
    number = TableCell(Summary(26.0, 0.8, 0), details={"source": "arXiv 2110.04181"})
    key = next(iter(made.rows))
    ours = TableCell(Summary(25.0, 0.5, 3), keys=(key,))
    row = TableRow(("DM",), {"convnet": number, "vgg11": ours})
    table = Table("accuracy", "Accuracy", (), ("Method",), ("convnet", "vgg11"), (row,))
    monkeypatch.setattr("bench.tables.table", lambda *asked: [table])
    parsed = Page(page(made.spec, "made-up", made.results))
    (shown,) = parsed.all("span", title="arXiv 2110.04181")
    assert shown["text"] == "26.0 ± 0.8 (?)"
    about = "mean 25.00, standard deviation 0.50, 95% interval 23.76 to 26.24, n = 3"
    assert [each["text"] for each in parsed.all("button", data_about=about)] == ["25.0 ± 0.5 (3)"]


def test_verdicts_are_said_in_words(parsed):
    badges = [
        each["text"] for each in parsed.all("span") if each["about"].get("class", "").startswith("badge")
    ]
    assert badges == ["cannot tell", "cannot tell"]
    assert any("DM: MetaDD − without" in each["text"] for each in parsed.all("li"))


def test_a_comparison_without_a_number_has_its_verdict_too(made, monkeypatch):
    """As a suite says of a plug-in whose rows are not made yet."""
    told = "digits, 1, DM: MetaDD − without, short: “mean” cannot tell (0 pairs; 6 needed). Pairs needed: 6."
    table = Table("accuracy", "Accuracy", (), verdicts=("How it is tested.", told))
    monkeypatch.setattr("bench.tables.table", lambda *asked: [table])
    badges = Page(page(made.spec, "made-up", made.results)).all("span")
    assert [each["text"] for each in badges if each["about"].get("class", "").startswith("badge")] == [
        "cannot tell"
    ]


def test_machines_are_counted(made):
    (machine,) = machines(made.rows.values())
    assert machine.cells == len(made.rows)
    assert machine.seconds == pytest.approx(fsum(row["cost"]["seconds"] for row in made.rows.values()))
    assert (machine.first, machine.last, machine.dirty) == ("2026-11-21", "2026-11-21", 0)
    assert [duration(each) for each in (3.14, 200, 7200)] == ["3.1 s", "3 min", "2.0 h"]


def test_the_verb_writes_the_same_bytes_in_another_process_without_torch(made, text, tmp_path):
    root = made.results.folder.parent
    code = (
        "import sys; from bench import cli; sys.argv = ['metadd-bench', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "finally: print([name for name in ('torch', 'sklearn', 'timm') if name in sys.modules])"
    )
    arguments = ["report", "made-up", "--results", str(root), "--tables", str(root.parent / "tables.yaml")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stdout == f"{made.results.folder / 'report.html'}\n[]\n", done.stderr
    assert (made.results.folder / "report.html").read_text(encoding="utf-8") == text


def test_mistakes_are_one_line(made, tmp_path, monkeypatch, capfd):
    root = made.results.folder.parent
    places = ["--results", root, "--tables", root.parent / "tables.yaml"]
    run = lambda *arguments: run_here(monkeypatch, capfd, "report", *arguments)  # noqa: E731
    is_one_line(run("made-upp", *places), "no suite 'made-upp'", "made-up")
    is_one_line(run("made-up", *places, "--to", tmp_path), "--to", "cannot be written")
    is_one_line(run("made-up", *places, "--store", root.parent / "tables.yaml"), "--store", "in the way")
    (tmp_path / "empty").mkdir()
    is_one_line(run("made-up", *places[2:], "--results", tmp_path / "empty"), "no results yet", "run made-up")
    write_json(tmp_path / "empty/made-up/rows.jsonl", {"key": "no row"})
    is_one_line(run("made-up", *places[2:], "--results", tmp_path / "empty"), "line 1: not a row")


@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_committed_reports_are_those_of_their_results(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text == page(read(), folder.name, Results(folder))
    assert len(text) < 5_000_000
