"""LaTeX and HTML: their structure, what they escape, and that their numbers are those of the Markdown."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from committed import FOLDERS, RESULTS

import bench
from bench.results import Results
from bench.spec import read
from bench.stats import summarise
from bench.tabulating.formats import FORMATS, to_html, to_latex, to_markdown
from bench.tabulating.table import Table, TableCell, TableRow
from bench.verbs.options import TableFormat

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
    """The texts of a line, those of numbers as Markdown says them."""
    cells = re.split(r"(?<!\\)&", line.removesuffix(r" \\").removeprefix("{}"))
    return [plain(name.strip()) for name in cells[:names]] + [said(cell.strip()) for cell in cells[names:]]


#: What stands before a number, the number, its spread, and the text behind it: its mark, and the rest.
CELL = re.compile(
    r"(?:\\bfseries )?(?:\{([^{}]+)\})?([+-]?[\d.]+)(?: \\pm ([\d.]+))?\{(\$\^\{\\dagger\}\$)?(.*)\}"
)


def said(cell):
    if (found := CELL.fullmatch(cell)) is None:
        return plain(cell)
    lead, number, spread, mark, text = (part or "" for part in found.groups())
    text = re.sub(r"\\hphantom\{(?:[^{}]|\{[^{}]*\})*\}", "", text)
    text = re.sub(r"\\num\{([^{}]*)\}", r"\1", text).replace("~", " ")
    spread = spread and f" ± {spread}"
    return f"{plain(lead)}{number.replace('-', '−')}{plain(mark)}{spread}{plain(text).replace('-', '−')}"


def plain(text):
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
    assert r"\bfseries" not in to_latex(made())
    table = made(bold=True)
    assert to_markdown(table).count("**") == 2
    assert "| **-1.50 [-7.85, 4.85] (2)** |" in to_markdown(table)
    assert Read(to_html(table)).bold == ["-1.50 [-7.85, 4.85] (2)"]
    bold = r"\bfseries -1.50{\hphantom{$^{\dagger}$}~[\num{-7.85}, \num{4.85}]~(2)}"
    assert (to_latex(table).count(r"\bfseries"), to_latex(table).count(bold)) == (1, 1)


def test_latex_has_a_table_of_booktabs_and_siunitx():
    text = to_latex(made())
    packages = r"\usepackage{booktabs}, \usepackage{graphicx} and \usepackage{siunitx} (version 3)"
    assert text.startswith(f"% Needs {packages}.\n\\begin{{table}}")
    begins, ends = (re.findall(rf"\\{word}\{{(\w+)\}}", text) for word in ("begin", "end"))
    assert begins == ["table", "tabular", "minipage"]
    assert ends == ["tabular", "minipage", "table"]
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert r"\caption{Accuracy (\%)}" in text
    assert r"\label{tab:a-table}" in text
    assert text.index("Header.") < text.index("One note.")
    assert text.index(r"\sisetup{") < text.index(r"\begin{tabular}")
    assert "Method & IPC & {convnet} & {vgg11} & {mean} " in text
    assert r"{}DM & 1 & 11.0 \pm 1.4{$^{\dagger}$~(2)} & 7.2{~(1)} & +0.5{, $-$1.0\%~(1)} \\" in text
    filled = r"\hphantom{$^{\dagger}$}"
    assert (
        rf" & 1 & -1.50{{{filled}~[\num{{-7.85}}, \num{{4.85}}]~(2)}} & {{not measured}} & {{---}} \\" in text
    )
    widths = {len(re.split(r"(?<!\\)&", line)) for line in text.splitlines() if line.endswith(r" \\")}
    assert widths == {2 + 3}


def formats(*columns):
    """The columns of a tabular, of cells without room for the text behind their numbers."""
    names = [str(i) for i in range(len(columns))]
    rows = [TableRow(("M",), dict(zip(names, cells, strict=True))) for cells in zip(*columns, strict=True)]
    text = to_latex(Table("t", "T", (), ("Method",), tuple(names), tuple(rows)))
    (tabular,) = re.findall(r"\\begin\{tabular\}\{l(.*)\}", text)
    return re.findall(r"c|S\[table-format=(?:[^\[\]])*\]", re.sub(r"\{\\hspace\{[\d.]+em\}\}", "", tabular))


def test_a_column_has_the_digits_that_its_cells_need():
    of = lambda *values, **more: TableCell(summarise(list(values)), **more)  # noqa: E731
    words = TableCell(missing="not measured")
    assert formats(
        [of(9.5, 10.5), of(100.25)],
        [of(50.0, 10.0), words],
        [of(0.5, 0.7, decimals=3), of(-12.5, 3.0, decimals=3, difference=True)],
        [of(3.0, text="3"), of(0.5, text="≈0.0578")],
        [words, TableCell()],
    ) == [
        "S[table-format=3.1(2)]",
        "S[table-format=2.1(3)]",
        "S[table-format=+1.3(4)]",
        r"S[table-format={$\approx$}1.4]",
        "c",
    ]


def test_what_follows_spreads_of_unlike_lengths_stands_below_each_other():
    wide = TableCell(summarise([10.0, 50.0]), seen=True)
    narrow = replace(wide, summary=summarise([10.0, 11.0]), seen=False)
    body = tuple(TableRow((name,), {"c": cell}) for name, cell in {"A": wide, "B": narrow}.items())
    text = to_latex(Table("t", "T", (), ("Method",), ("c",), body))
    assert r"{}A & 30.0 \pm 28.3{$^{\dagger}$~(2)} \\" in text
    assert r"{}B & 10.5 \pm 0.7{\hphantom{$^{\dagger}$0}~(2)} \\" in text


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
    packages = r"\usepackage{booktabs}, \usepackage{graphicx}, \usepackage{rotating} and \usepackage{siunitx}"
    assert text.startswith(f"% Needs {packages} (version 3).\n\\begin{{sidewaystable}}\n")
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


def has_tex():
    """Whether there is a TeX with siunitx."""
    if None in (shutil.which("pdflatex"), shutil.which("kpsewhich")):
        return False
    command = ["kpsewhich", "siunitx.sty"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_tex(), reason="pdflatex with siunitx is not installed")
def test_latex_compiles(tmp_path):
    """With every kind of cell; nothing is wider than the room that its column reserves."""
    words = Table("w", "Words", (), ("A",), ("b",), (TableRow(("x",), {}),))
    tables = [made(NASTY, bold=True), Table("x", "Nothing", (), notes=("Not yet.",)), large(), words]
    spec, folder = read(), RESULTS / "tiny-cpu"
    tables += bench.table(spec, folder.name, Results(folder), spec.suites[folder.name].tables)
    body = "\n".join(to_latex(table) for table in tables)
    packages = r"\usepackage{booktabs}\usepackage{graphicx}\usepackage{rotating}\usepackage{siunitx}"
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "t.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout
    log = (tmp_path / "t.log").read_text(errors="replace")
    assert "Package: siunitx" in log
    for word in ("Overfull", "Float too large", "siunitx Warning"):
        assert word not in log
    assert (tmp_path / "t.pdf").exists()
