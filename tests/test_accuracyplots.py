"""Figures of accuracy, and what all figures have in common: one style, equal bytes for equal rows."""

import os
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from every_figure import every_figure, row
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydantic import ValidationError
from scipy import optimize, stats

from bench.plotting import style as figurestyle
from bench.plotting.accuracy import DRAW
from bench.plotting.style import COLOURS
from bench.spec import FigureSpec, read
from bench.tabulating.accuracy import frame

NETWORKS = ("convnet", "vgg11", "alexnet")


def accuracy(method, ipc, network, seed):
    """A number for each place, none like another."""
    return 10 + len(method) + ipc / 7 + NETWORKS.index(network) * 3.3 + seed**2 / 3


@cache
def data():
    """The frame of what most tests draw."""
    made = [
        row(method, ipc, network, seed, accuracy(method, ipc, network, seed), **tags)
        for method, ipcs, tags in (
            ("Random", (1, 10), {}),
            ("DM", (1, 10, 50), {}),
            ("DM + MetaDD", (1, 10, 50), {"plugin": "metadd", "distilled_on": "convnet+vgg11"}),
            ("MTT", (1,), {}),
        )
        for ipc in ipcs
        for network in NETWORKS
        for seed in range(3 if ipc < 50 else 1)
        if (method, network) != ("Random", "alexnet")
    ]
    made += [row("Full data", None, network, 0, 90.0, distilled_on=None, seen=False) for network in NETWORKS]
    return frame(made)


def spec(kind, **settings):
    return FigureSpec(title="A title", kind=kind, **settings)


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draw a figure; gives it as matplotlib has it, or None where there was nothing to draw."""

    def draw(asked, found=None):
        figures, save = [], Figure.savefig
        with monkeypatch.context() as patch:
            patch.setattr(
                Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
            )
            shown = data() if found is None else frame(found)
            done = DRAW[asked.kind](asked, shown, "Suite pets.", tmp_path / "figure.png")
        assert done == bool(figures) == (tmp_path / "figure.png").exists()
        return figures[0] if figures else None

    return draw


def panels(figure):
    return {axes.get_title(loc="left").partition(" (")[0]: axes for axes in figure.axes}


def named(axes):
    """The lines of a panel by the names that point at their ends."""
    ends = {tuple(line.get_xydata()[-1]): line for line in axes.get_lines()}
    found = {text.get_text(): (text, ends[tuple(map(float, text.xy))]) for text in axes.texts}
    for text, line in found.values():
        assert text.arrow_patch.get_edgecolor()[:3] == pytest.approx(line_colour(line))
    return {name: line for name, (_, line) in found.items()}


def line_colour(line):
    return tuple(int(line.get_color()[i : i + 2], 16) / 255 for i in (1, 3, 5))


def test_lines_are_means_over_seeds_with_student_s_intervals(drawn):
    found = panels(drawn(spec("accuracy-ipc")))
    assert list(found) == [f"pets, {network}" for network in NETWORKS]
    assert set(named(found["pets, alexnet"])) == {"DM", "DM + MetaDD"}
    axes = found["pets, vgg11"]
    assert set(named(axes)) == {"Random", "DM", "DM + MetaDD"}
    line = named(axes)["DM + MetaDD"]
    seeds = {ipc: range(3 if ipc < 50 else 1) for ipc in (1, 10, 50)}
    wanted = {ipc: [accuracy("DM + MetaDD", ipc, "vgg11", s) for s in seeds[ipc]] for ipc in seeds}
    assert line.get_ydata() == pytest.approx([np.mean(values) for values in wanted.values()])
    assert line.get_xdata() == pytest.approx([1, 10, 50], rel=0.07)
    # One bar for each point with several seeds: 2 of each line here.
    bars = [bar.get_segments()[0] for bar in axes.collections]
    assert len(bars) == 6
    for ipc in (1, 10):
        low, high = stats.t.interval(0.95, 2, np.mean(wanted[ipc]), stats.sem(wanted[ipc]))
        assert any(np.allclose(bar[:, 1], [low, high]) for bar in bars)


def test_a_method_has_one_colour_and_with_a_plug_in_it_is_dashed(drawn):
    lines = [named(axes) for axes in panels(drawn(spec("accuracy-ipc"))).values()]
    colours = {line_colour(of[name]) for of in lines for name in ("DM", "DM + MetaDD")}
    assert len(colours) == 1
    assert line_colour(lines[0]["Random"]) not in colours
    assert [lines[0][name].get_linestyle() for name in ("DM", "DM + MetaDD")] == ["-", "--"]


def test_panels_over_means_are_those_of_the_tables(drawn):
    found = panels(drawn(spec("accuracy-ipc", over="means")))
    assert list(found) == ["pets, mean", "pets, seen", "pets, unseen"]
    dm = named(found["pets, unseen"])["DM"]
    # Of a method with a plug-in, vgg11 and alexnet here are what no row has seen.
    wanted = [
        np.mean([accuracy("DM", 1, network, seed) for network in ("vgg11", "alexnet") for seed in range(3)])
    ]
    assert dm.get_ydata()[:1] == pytest.approx(wanted)


def test_names_at_the_ends_touch_nothing(drawn):
    made = [
        row(f"Method {n}", ipc, "convnet", seed, 20 + n / 100 + ipc / 10)
        for n in range(12)
        for ipc in (1, 10)
        for seed in range(2)
    ]
    figure = drawn(spec("accuracy-ipc"), made)
    renderer = FigureCanvasAgg(figure).get_renderer()
    (axes,) = figure.axes
    # An annotation's extent has its arrow in it, so that of the text alone is asked for.
    boxes = [type(text).__mro__[1].get_window_extent(text, renderer) for text in axes.texts]
    assert len(boxes) == 12
    tops = sorted(boxes, key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 0.5 for below, above in pairwise(tops))
    assert all(box.x1 <= figure.bbox.x1 and box.x0 >= axes.get_window_extent().x1 - 12 for box in boxes)
    inside = axes.get_window_extent()
    assert tops[0].y0 > inside.y0 - 8
    assert tops[-1].y1 < inside.y1 + 8


def test_names_move_no_more_than_they_must():
    rng = np.random.default_rng(0)
    for _ in range(50):
        wanted = sorted(rng.uniform(0, 60, 8))
        found = figurestyle._apart(wanted, 9.0, (-1e3, 1e3))
        steps = 9.0 * np.arange(8)
        assert found == pytest.approx(optimize.isotonic_regression(wanted - steps).x + steps)
        inside = figurestyle._apart(wanted, 9.0, (0, 65))
        assert min(inside) >= 0
        assert max(inside) <= 65
        assert np.diff(inside).min() >= 9 - 1e-9


def cells(axes):
    """The texts of a heat map by row and column."""
    columns = [label.get_text() for label in axes.get_xticklabels()]
    names = [label.get_text() for label in axes.get_yticklabels()]
    found = {}
    for text in axes.texts:
        x, y = text.get_position()
        if text.get_text() and 0 < x < len(columns) and 0 < y < len(names):
            found[names[int(y)], columns[int(x)]] = text
    return found


def test_a_heat_map_has_the_mean_of_each_method_and_network(drawn):
    figure = drawn(spec("heatmap"))
    assert [axes.texts[0].get_text() for axes in figure.axes] == [f"pets, IPC {n}" for n in (1, 10, 50)]
    one, ten, _ = map(cells, figure.axes)
    for (method, network), shown in ten.items():
        if network in NETWORKS and method in ("DM", "DM + MetaDD"):
            mean = np.mean([accuracy(method, 10, network, seed) for seed in range(3)])
            assert shown.get_text() == f"{mean:.1f}" + (" †" if network == "convnet" else "")
    assert {method for method, _ in one} == {"Random", "DM", "DM + MetaDD", "MTT", "Full data"}
    assert {method for method, _ in ten} == {"Random", "DM", "DM + MetaDD", "Full data"}
    assert {column for _, column in one} == {*NETWORKS, "mean", "seen", "unseen"}
    assert one["Random", "alexnet"].get_text() == "—"
    assert one["Full data", "vgg11"].get_text() == "90.0"


def test_numbers_can_be_read_on_their_colours(drawn):
    axes = drawn(spec("heatmap")).axes[0]
    fills = {tuple(patch.get_xy().min(0)): patch.get_facecolor() for patch in axes.patches}
    texts = cells(axes).values()
    assert len(fills) > 10
    for text in texts:
        x, y = text.get_position()
        if (fill := fills.get((x - 0.5, y - 0.5))) is not None:
            written = (1, 1, 1) if text.get_color() == "white" else (0, 0, 0)
            assert contrast(fill[:3], written) > 3.5


def contrast(first, second):
    """The contrast ratio of two colours (W3C, WCAG 2.1)."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_colours_stay_apart_for_colour_blind_readers():
    """Through the matrices of Viénot, Brettel and Mollon (1999) for protanopes and deuteranopes."""
    colours = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS]) ** 2.2
    for first, second in ((0.11238, 0.88762), (0.29275, 0.70725)):
        both = colours @ np.array([[first, first, 0], [second, second, 0], [0, 0, 1]])
        seen = both.clip(0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
        assert apart[~np.eye(len(seen), dtype=bool)].min() > 0.12


def test_nothing_to_draw_writes_nothing(drawn):
    one = [row("DM", 1, "convnet", seed, 20.0) for seed in range(2)]
    assert drawn(spec("accuracy-ipc"), one) is None
    assert drawn(spec("heatmap"), []) is None


@pytest.mark.parametrize(
    ("kind", "key"), [("heatmap", "over"), ("accuracy-ipc", "columns"), ("cams", "over")]
)
def test_a_figure_takes_only_what_its_kind_has(kind, key):
    with pytest.raises(ValidationError, match=f"{key}: a figure of kind `{kind}` takes none"):
        spec(kind, **{key: {"over": "means", "columns": 3}[key]})


def test_equal_rows_give_equal_bytes_in_any_process(tmp_path):
    """Here and apart: another hash seed, another date, another user's matplotlib settings; without torch."""
    every_figure(tmp_path / "here")
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nsvg.hashsalt: other\naxes.grid: True\n")
    apart = {"PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    apart |= {"SOURCE_DATE_EPOCH": "1000000000"}
    command = [sys.executable, str(Path(__file__).with_name("every_figure.py")), str(tmp_path / "apart")]
    subprocess.run(command, check=True, env={**os.environ, **apart})
    files = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert len(files) == 12
    for name in files:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "apart" / name).read_bytes(), name


def test_the_suites_of_the_paper_have_the_figures():
    suites = read().suites
    for name in ("cifar10", "cifar100", "tiny-imagenet", "cifar10-cpu"):
        assert {"accuracy-ipc", "heatmap"} <= set(suites[name].figures)
