"""The report in a real browser, where one is installed: what a press of a number opens."""

import html
import json
import os
import re
import shutil
import subprocess

import pytest
from report_rows import publish

from bench.report import page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no browser is installed")

#: Presses a number, then a key, then what that cell was made from; goes back, closes; tells what it saw.
PRESSES = """
<script>
const seen = {errors: []};
addEventListener("error", (event) => seen.errors.push(event.message));
const view = document.getElementById("view"), press = (where) => document.querySelector(where).click();
const note = (name) => { seen[name] = view.innerText; };
const rows = [...document.querySelectorAll("#table-1 tbody tr")];
const row = rows.find((tr) => tr.innerText.includes("MetaDD − without"));
const number = row.querySelector("td button");
number.focus();
number.click();
seen.number = number.innerText;
note("list");
seen.keys = view.querySelectorAll("td button").length;
press("#view td button");
note("cell");
press("#view .links button");
note("set");
seen.picture = view.querySelectorAll("img.plate").length;
press("#back");
press("#back");
note("again");
press("#close");
seen.open = view.open;
press(".picture");
seen.figure = view.querySelectorAll("img").length;
press("#close");
for (const button of document.querySelectorAll("#environment button, #cells td button, #tables td button")) {
  button.click();
  if (!view.open) seen.errors.push(button.outerHTML);
  press("#close");
}
seen.wide = document.documentElement.scrollWidth - innerWidth;
const output = document.createElement("output");
document.body.append(Object.assign(output, {id: "seen", textContent: JSON.stringify(seen)}));
</script>
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    made = publish(folder, figures=["sets"])
    text = page(made.spec, "made-up", made.results).replace("</body>", f"{PRESSES}</body>")
    (folder / "page.html").write_text(text, encoding="utf-8")
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    options = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{each}" for each in quiet)]
    options += [f"--user-data-dir={folder}/profile", "--window-size=390,844", "--dump-dom"]
    command = [BROWSER, *options, (folder / "page.html").as_uri()]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    found = re.search(r'<output id="seen">(.*?)</output>', done.stdout, re.DOTALL)
    assert found, done.stderr
    return json.loads(html.unescape(found[1]))


def test_a_number_opens_the_cells_behind_it(seen):
    assert seen["errors"] == []
    assert seen["number"] in seen["list"]
    assert "mean difference" in seen["list"]
    assert "Accuracy by distillation seed" in seen["list"]
    assert "The 16 cells" in seen["list"]  # four seeds, two evaluations, with and without
    assert seen["keys"] == 16
    assert "DM + MetaDD" in seen["list"]


def test_a_key_opens_its_cell_and_that_the_set_it_was_made_from(seen):
    assert "evaluate DM" in seen["cell"]
    for words in (
        "accuracy",
        "recipe",
        "short",
        "a processor",
        "2026-11-21 11:41",
        "metadd-bench run made-up",
    ):
        assert words in seen["cell"], words
    assert "distil DM IPC 1 seed 0" in seen["set"]
    assert "peak live" in seen["set"]
    assert seen["picture"] == 1


def test_back_close_and_the_figure(seen):
    assert seen["again"] == seen["list"]
    assert seen["open"] is False
    assert seen["figure"] == 1


def test_a_phone_s_page_is_no_wider_than_the_phone(seen):
    assert seen["wide"] <= 0
