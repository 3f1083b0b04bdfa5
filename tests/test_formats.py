"""LaTeX and HTML: their structure, what they escape, and that their numbers are those of the Markdown."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from committed import FOLDERS

import bench
from bench.formats import FORMATS, to_html, to_latex, to_markdown
from bench.options import TableFormat
from bench.results import Results
from bench.spec import read
from bench.stats import summarise
from bench.tables import Table, TableCell, TableRow

NASTY = r'A & B_[5] <x> 100% $#{} ~^ \ "q" `--a_b`'


def made(name="DM", note="One note.", bold=False, **more):
    """A row with every kind of number, and one with a difference and with nothing."""
    values = {
        "convnet": TableCell(summarise([10.0, 12.0]), (1, 1), seen=True),
        "vgg11": TableCell(summarise([7.25])),
        "mean": TableCell(summarise([0.5]), text="+0.5, -1.0%"),
    }
    change = {
        "convnet": TableCell(summarise([-1.0, -2.0]), difference=True, bold=bold, decimals=2),
        "vgg11": TableCell(missing="not measured"),
    }
    rows = (TableRow((name, "1"), values), TableRow((f"{name}: MetaDD − without", "1"), change))
    columns = ("convnet", "vgg11", "mean")
    return Table("a_table", "Accuracy (%)", ("Header.",), ("Method", "IPC"), columns, rows, (note,), **more)


class Read(HTMLParser):
    """A table's texts, by row; its caption; its notes; the tags that are open, which must close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.caption, self.notes, self.bold, self.links = [], [], "", [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "class")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "p":
            self.notes.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "p" in self.open:
            self.notes[-1] += data
        elif "caption" in self.open:
            self.caption += data
        elif {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
            if "strong" in self.open:
                self.bold.append(data)
        else:
            assert not data.strip()


def markdown_rows(table):
    """The rows as Markdown shows them, without the rule, the bold and the padding."""
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    cells = [[text.strip() for text in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    del cells[1]
    return [[text.strip("*").replace("\\|", "|") for text in line] for line in cells]


def latex_rows(table):
    """The rows with their head, put together again from all tabulars; the escapes undone.

    Columns that are parted come one group after the other, each with all rows.
    """
    names, groups = len(table.row_names), {}
    for tabular in to_latex(table).split(r"\begin{tabular}")[1:]:
        head, *rows = [line for line in tabular.splitlines() if line.endswith(r" \\")]
        groups.setdefault(head, []).extend(rows)
    wide = [[latex_row(line, names) for line in (head, *rows)] for head, rows in groups.items()]
    assert len({len(rows) for rows in wide}) <= 1
    found = wide[0]
    for rows in wide[1:]:
        assert [row[:names] for row in rows] == [row[:names] for row in found]
        found = [[*row, *more[names:]] for row, more in zip(found, rows, strict=True)]
    return found


def latex_row(line, names):
    """The texts of a line, with the two halves of a number put together."""
    parts = re.split(r"(?<!\\)&", line.removesuffix(r" \\").removeprefix("{}"))
    cells, rest = [plain(name) for name in parts[:names]], parts[names:]
    while rest:
        first = rest.pop(0)
        spans = r"\multicolumn{2}{c}" in first
        cells.append(plain(first) if spans else f"{plain(first)} {plain(rest.pop(0))}")
    return cells


def plain(text):
    text = re.sub(r"\\multicolumn\{2\}\{c\}", "", text.strip().removeprefix("~"))
    text = text.replace("-{}-", "--").replace(r"\textbackslash{}", "\0")
    for mark, each in {
        r"$\pm$": "±",
        "$-$": "−",
        r"$\approx$": "≈",
        r"$^{\dagger}$": "†",
        "---": "—",
        r"\textless{}": "<",
        r"\textgreater{}": ">",
        r"\textbar{}": "|",
        r"\textasciitilde{}": "~",
        r"\textasciicircum{}": "^",
    }.items():
        text = text.replace(mark, each)
    text = re.sub(r"\\text(bf|tt)\{([^{}]*)\}", r"\2", text)
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    return re.sub(r"\\([{}$&#%_])", r"\1", text).replace("\0", "\\")


def signs(rows):
    """A minus sign where Markdown has a hyphen before a number."""
    return [[re.sub(r"(?<![\w-])-(?=\d)", "−", text) for text in line] for line in rows]


def test_every_format_of_the_command_line_is_there():
    assert {each.value for each in TableFormat} == set(FORMATS)


@pytest.mark.parametrize("bold", [False, True])
def test_the_numbers_are_those_of_the_markdown(bold):
    table = made(bold=bold)
    rows = markdown_rows(table)
    assert rows[1][2:] == ["11.0† ± 1.4 (2)", "7.2 (1)", "+0.5, -1.0% (1)"]
    assert rows[2][2:] == ["-1.50 [-7.85, 4.85] (2)", "not measured", "—"]
    assert Read(to_html(table)).rows[:-1] == rows
    assert latex_rows(table) == signs(rows)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_numbers_of_committed_suites_are_those_of_the_markdown(folder):
    spec = read()
    for table in bench.table(spec, folder.name, Results(folder), spec.suites[folder.name].tables):
        rows = markdown_rows(table) if table.rows else []
        shown = Read(to_html(table))
        assert shown.rows[: len(rows)] == rows
        assert shown.caption == table.title
        assert shown.notes == [note.replace("`", "") for note in (*table.header, *table.notes)]
        assert (latex_rows(table) if rows else []) == signs(rows)
        assert to_latex(table).isascii()  # what every TeX can print


def test_only_what_is_bold_is_bold():
    assert "**" not in to_markdown(made())
    assert "<td><strong>" not in to_html(made())
    assert r"\textbf" not in to_latex(made())
    table = made(bold=True)
    assert to_markdown(table).count("**") == 2
    assert "| **-1.50 [-7.85, 4.85] (2)** |" in to_markdown(table)
    assert Read(to_html(table)).bold == ["-1.50 [-7.85, 4.85] (2)"]
    assert re.findall(r"\\textbf\{([^{}]*)\}", to_latex(table)) == ["$-$1.50", "[$-$7.85, 4.85] (2)"]


def test_latex_has_a_table_of_booktabs_and_aligns_at_the_spread():
    text = to_latex(made())
    assert text.startswith("% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.\n\\begin{table}")
    begins, ends = (re.findall(rf"\\{word}\{{(\w+)\}}", text) for word in ("begin", "end"))
    assert begins == ["table", "tabular", "minipage"]
    assert ends == ["tabular", "minipage", "table"]
    assert r"\begin{tabular}{llr@{}lr@{}lr@{}l}" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert r"\caption{Accuracy (\%)}" in text
    assert r"\label{tab:a-table}" in text
    assert text.index("Header.") < text.index("One note.")
    assert r"11.0$^{\dagger}$ & ~$\pm$ 1.4 (2) & 7.2 & ~(1)" in text
    widths = {len(re.split(r"(?<!\\)&", line)) for line in text.splitlines() if line.startswith("{}DM")}
    spans = [line.count(r"\multicolumn{2}") for line in text.splitlines() if line.startswith("{}DM")]
    assert (widths, spans) == ({2 + 6, 2 + 6 - 2}, [0, 2])


def large(rows=60, columns=14):
    """A table that neither a line nor a page holds, with a difference below each method."""
    names = [f"network{i}" for i in range(columns)]
    value = TableCell(summarise([10.0, 12.0, 14.5]))
    body = [TableRow((f"M{i}", "1"), dict.fromkeys(names, value)) for i in range(rows // 2)]
    below = [TableRow((f"{row.about[0]}: MetaDD − without", "1"), row.cells) for row in body]
    every = tuple(row for pair in zip(body, below, strict=True) for row in pair)
    return Table("large", "Large", ("Header.",), ("Method", "IPC"), tuple(names), every, ("Note. " * 900,))


def test_what_a_page_cannot_hold_is_set_sideways_and_parted():
    table = large()
    text = to_latex(table)
    assert latex_rows(table) == signs(markdown_rows(table))
    packages = r"\usepackage{booktabs}, \usepackage{graphicx} and \usepackage{rotating}."
    assert text.startswith(f"% Needs {packages}\n\\begin{{sidewaystable}}\n")
    tabulars = text.split(r"\begin{tabular}")[1:]
    assert len(tabulars) == text.count(r"\begin{sidewaystable}") == 6
    assert [text.count(each) for each in (r"\label{tab:large}", r"\ref{tab:large}")] == [1, 1]
    assert text.count("Large (continued)") == text.count(r"\addtocounter{table}{-1}") == 5
    assert text.rindex(r"\end{sidewaystable}") < text.index("Header.")
    for each in tabulars:  # a difference stands on the page of its method
        first = each.partition("\\midrule\n")[2]
        assert re.match(r"\{\}M\d+ &", first), first[:40]


def test_a_table_is_parted_only_where_it_has_to_be():
    begins = lambda text: re.findall(r"\\begin\{(\w+)\}", text)  # noqa: E731
    assert begins(to_latex(large(rows=10, columns=2))) == ["table", "tabular"]  # long notes stand behind it
    short = replace(large(rows=10, columns=2), notes=("One.",))
    assert begins(to_latex(short)) == ["table", "tabular", "minipage"]
    wide = replace(large(rows=10, columns=8), notes=("One.",))
    assert begins(to_latex(wide)) == ["sidewaystable", "tabular"]


def test_what_is_special_is_escaped():
    text = to_latex(made(NASTY, note=f"{NASTY} | -1.5, ImageNet-1k, “quoted” — ≥ 3, ≈ 4"))
    escaped = (
        r"A \& B\_[5] \textless{}x\textgreater{} 100\% \$\#\{\} \textasciitilde{}\textasciicircum{} "
        r"\textbackslash{} ''q'' \texttt{-{}-a\_b}"
    )
    assert text.count(escaped) == 3
    assert rf"{escaped} \textbar{{}} $-$1.5, ImageNet-1k, ``quoted'' --- $\geq$ 3, $\approx$ 4\par" in text
    assert r"{}A \& B" in text  # a bracket at the start of a row would be an option of the line before it
    page = to_html(made(NASTY, note=f"<script>alert('{NASTY}')</script>"))
    assert "A &amp; B_[5] &lt;x&gt; 100% $#{} ~^ \\ &quot;q&quot; <code>--a_b</code>" in page
    assert "<script" not in page
    assert Read(page).notes[-1] == f"<script>alert('{NASTY}')</script>".replace("`", "")


def test_html_is_one_table_that_needs_nothing_else():
    page = to_html(made())
    assert page.startswith("<table>")
    assert page.endswith("</table>\n")
    shown = Read(page)
    assert (page.count("<table"), page.count("<caption"), shown.links) == (1, 1, [])
    assert shown.caption == "Accuracy (%)"
    assert shown.notes == ["Header.", "One note."]
    assert page.index("<caption>") < page.index("<thead>") < page.index("<tbody") < page.index("<tfoot>")
    assert page.count('scope="row"') == 4
    assert page.count('scope="col"') == len(shown.rows[0]) == 5
    assert 'colspan="5"' in page


def test_a_table_without_rows_is_its_title_and_notes():
    empty = Table("x", "Nothing", ("Header.",), notes=("No finished evaluation yet.",))
    text = to_latex(empty)
    assert "tabular" not in text
    assert text.index(r"\caption{Nothing}") < text.index("No finished evaluation yet.")
    shown = Read(to_html(empty))
    assert shown.rows == [[""]]
    assert shown.notes == ["Header.", "No finished evaluation yet."]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    tables = [made(NASTY, bold=True), Table("x", "Nothing", (), notes=("Not yet.",)), large()]
    body = "\n".join(to_latex(table) for table in tables)
    packages = r"\usepackage{booktabs}\usepackage{graphicx}\usepackage{rotating}"
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "t.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout
    assert "Float too large" not in done.stdout
    assert (tmp_path / "t.pdf").exists()
