import json
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bench.plotting import images as plots
from bench.plotting.images import Panel, distilled, panels
from bench.results import PLATE, Results
from bench.spec import FigureSpec

SPEC = FigureSpec(title="Distilled images", kind="images")
CLASSES = tuple(f"class {c}" for c in range(4))


def images(classes=4, columns=3, side=8, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (classes, columns, side, side, 3), dtype=np.uint8)


def panel(*title, classes=CLASSES, columns=3, side=8, seed=0):
    return Panel(title or ("DM", "IPC 1"), images(len(classes), columns, side, seed), classes)


def stored(folder, shown, classes=CLASSES, **tags):
    """A row of a distil cell, with its plate in the results folder as distill.py leaves it."""
    part = tags.pop("part", 0)
    key = f"key{len(list(folder.glob('sets/*')))}"
    text = PngInfo()
    text.add_text("metadd", json.dumps({"classes": classes, "columns": shown.shape[1]}))
    path = Results(folder).artifact(key, PLATE)
    path.parent.mkdir(parents=True)
    height, width = shown.shape[0] * shown.shape[2], shown.shape[1] * shown.shape[2]
    Image.fromarray(shown.swapaxes(1, 2).reshape(height, width, 3)).save(path, pnginfo=text)
    named = {
        "method": "DM",
        "ipc": 3,
        "dataset": "digits",
        "distilled_on": "convnet",
        "seed": 0,
        "plugin": "none",
    }
    return {
        "key": key,
        "current": True,
        "cell": {"kind": "distil", "part": part},
        "tags": named | tags,
    }


def overlaps(figure):
    """Pairs of texts that touch, and texts that leave the figure."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in figure.texts]
    boxes += [("images", axes.get_window_extent(renderer)) for axes in figure.axes]
    touching = [
        (a, b)
        for i, (a, box) in enumerate(boxes)
        for b, other in boxes[i + 1 :]
        if box.x0 < other.x1 and other.x0 < box.x1 and box.y0 < other.y1 and other.y0 < box.y1
    ]
    whole = figure.bbox
    outside = [
        name
        for name, box in boxes
        if box.x0 < 0 or box.y0 < 0 or box.x1 > whole.x1 + 1 or box.y1 > whole.y1 + 1
    ]
    return touching, outside


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draw panels to a PNG; gives (figure, picture)."""

    def draw(shown, title="Distilled images", note="Suite smoke. First seed of each set."):
        figures = []
        save = Figure.savefig
        with monkeypatch.context() as patch:
            patch.setattr(
                Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
            )
            distilled(FigureSpec(title=title, kind="images"), shown, note, tmp_path / "figure.png")
        with Image.open(tmp_path / "figure.png") as image:
            return figures[0], np.asarray(image.convert("RGB"))

    return draw


def test_panels_are_one_per_kind_of_set_with_its_first_seed(tmp_path):
    sets = [images(seed=n) for n in range(4)]
    rows = [
        stored(tmp_path, sets[0], seed=3),
        stored(tmp_path, sets[1], seed=4),
        stored(tmp_path, sets[2], method="DM + MetaDD", seed=3),
        stored(tmp_path, sets[3], ipc=10),
    ]
    found = panels(SPEC, rows, Results(tmp_path))
    assert [p.title for p in found] == [("DM", "IPC 3"), ("DM + MetaDD", "IPC 3"), ("DM", "IPC 10")]
    for shown, expected in zip(found, (sets[0], sets[2], sets[3]), strict=True):
        assert np.array_equal(shown.images, expected)
        assert shown.classes == CLASSES


def test_parts_of_a_set_are_one_panel(tmp_path):
    sets = [images(columns=1, seed=n) for n in range(3)]
    rows = [stored(tmp_path, each, part=part) for part, each in enumerate(sets)]
    (found,) = panels(SPEC, rows, Results(tmp_path))
    assert np.array_equal(found.images, np.concatenate(sets, axis=1))


def test_titles_say_dataset_and_network_where_they_differ(tmp_path):
    rows = [
        stored(tmp_path, images()),
        stored(tmp_path, images(), distilled_on="vgg11"),
        stored(tmp_path, images(), dataset="cifar10", method="Random", distilled_on=None),
    ]
    assert [p.title for p in panels(SPEC, rows, Results(tmp_path))] == [
        ("DM", "IPC 3", "digits", "on convnet"),
        ("DM", "IPC 3", "digits", "on vgg11"),
        ("Random", "IPC 3", "cifar10"),
    ]


def test_other_rows_and_missing_plates_give_no_panel(tmp_path):
    row = stored(tmp_path, images())
    rows = [{**row, "current": False}, {**row, "cell": {"kind": "evaluate"}}, {**row, "key": "elsewhere"}]
    assert panels(SPEC, rows, Results(tmp_path)) == []


def test_the_spec_limits_classes_and_columns(tmp_path):
    many = tuple(f"n{c}" for c in range(200))
    rows = [stored(tmp_path, images(200, 10), classes=many)]
    spec = SPEC.model_copy(update={"classes": 7, "columns": 4})
    (found,) = panels(spec, rows, Results(tmp_path))
    assert found.images.shape == (7, 4, 8, 8, 3)
    assert found.classes == many[:7]


@pytest.mark.parametrize("side", [8, 32, 64])
def test_each_image_is_shown_whole_in_squares_of_one_size(drawn, side):
    shown = panel(side=side)
    figure, picture = drawn([shown])
    box = figure.axes[0].get_window_extent()
    left, top = round(box.x0), picture.shape[0] - round(box.y1)
    times = 64 // side
    for c in range(4):
        for k in range(3):
            y, x = top + 66 * c, left + 66 * k
            part = picture[y : y + 64, x : x + 64]
            of_pixels = part.reshape(side, times, side, times, 3)
            assert (of_pixels == of_pixels[:, :1, :, :1]).all()
            # One of 256 colours: of random ones, the worst that a PNG must hold, it is this near.
            apart = of_pixels[:, 0, :, 0].astype(int) - shown.images[c, k]
            assert np.sqrt((apart**2).mean()) < 14


def png(pixels):
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_png_of_greys_is_exact_and_has_a_palette(drawn, monkeypatch):
    shown = panel(side=32)
    shown.images[...] = shown.images[..., :1]
    before, fewer = [], plots._fewer_colours
    monkeypatch.setattr(plots, "_fewer_colours", lambda png: before.append(png) or fewer(png))
    _, picture = drawn([shown])
    with Image.open(BytesIO(before[0])) as image:
        assert np.array_equal(picture, np.asarray(image.convert("RGB")))
    with Image.open(BytesIO(fewer(before[0]))) as image:
        assert image.mode == "P"
        assert image.info["dpi"] == pytest.approx((160, 160), abs=0.1)


def test_a_png_of_smooth_colours_looks_the_same_in_half_the_bytes():
    """Colours along a plane, each with its neighbours: no pixel is far from what it was."""
    y, x = np.mgrid[:256, :256]
    rough = np.random.default_rng(0).integers(0, 16, (256, 256, 3))
    pixels = np.clip(np.stack([x, y, 255 - x], 2) + rough, 0, 255).astype(np.uint8)
    pixels[:4], pixels[-4:] = 255, 0
    whole = png(pixels)
    fewer = plots._fewer_colours(whole)
    assert len(fewer) < 0.5 * len(whole)
    with Image.open(BytesIO(fewer)) as image:
        apart = np.asarray(image.convert("RGB")).astype(int) - pixels
    assert not apart[:4].any()
    assert not apart[-4:].any()
    assert np.sqrt((apart**2).mean()) < 6
    assert abs(apart.mean((0, 1))).max() < 0.5


def test_every_pixel_takes_the_nearest_colour_of_the_palette():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with Image.open(BytesIO(plots._fewer_colours(png(pixels)))) as image:
        palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
        shown = np.asarray(image.convert("RGB")).astype(int)
    apart = np.linalg.norm(pixels[:, :, None].astype(int) - palette, axis=3).min(2)
    assert np.allclose(np.linalg.norm(shown - pixels, axis=2), apart)


def test_a_png_that_a_palette_would_make_larger_stays_as_it_is():
    small = png(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    assert plots._fewer_colours(small) is small


@pytest.mark.parametrize(
    "shown",
    [
        [panel()],
        [panel("Random", "IPC 1", columns=1), panel("DM", "IPC 1", columns=1)],
        [panel("Random", "IPC 1", columns=1), panel("DM", "IPC 10", columns=10)] * 3,
        [panel("Distribution matching with MetaDD (cross-entropy only), a control", "IPC 1", columns=1)] * 5,
        [panel(), panel("DM", "IPC 1", classes=tuple("abcdefg"))],
        [panel("DM", classes=("a name as long as a whole sentence that says what it is", "b"))] * 2,
        [panel("DM", classes=("$a$", "b_{2}", "$"))],
    ],
    ids=["one", "narrow", "many", "long titles", "other classes", "long names", "dollars"],
)
def test_nothing_overlaps_and_nothing_is_cut_off(drawn, shown):
    note = "Suite with-a-name. First seed of each set; values clamped to [0, 1] for display."
    figure, picture = drawn(shown, "A title of a figure that has quite some things to say", note)
    assert overlaps(figure) == ([], [])
    assert picture.shape[1] <= plots._WIDEST
    written = " ".join(text.get_text() for text in figure.texts)
    assert note in written
    words = written.split()
    assert all(word in words for p in shown for line in p.title for word in line.split())


def test_names_are_written_once_where_panels_share_them(drawn):
    figure, _ = drawn([panel(), panel("Random"), panel("other", classes=("x", "y"))])
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("class 0") == 1
    assert texts.count("x") == 1


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_equal_sets_give_equal_bytes(tmp_path, suffix, monkeypatch):
    files = [tmp_path / f"{n}.{suffix}" for n in range(2)]
    for n, file in enumerate(files):
        # What matplotlib would take the date from: it must not matter.
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(10**9 * n))
        distilled(SPEC, [panel()], "note", file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_no_torch(tmp_path):
    stored(tmp_path, images())
    code = (
        "import sys, pathlib, json; from bench.plotting import images as plots;"
        "from bench.results import Results; from bench.spec import FigureSpec;"
        "folder = pathlib.Path(sys.argv[1]);"
        "spec = FigureSpec(title='t', kind='images');"
        "row = {'key': 'key0', 'current': True, 'cell': {'kind': 'distil', 'part': 0}, 'tags': "
        "{'method': 'DM', 'ipc': 1, 'dataset': 'd', 'distilled_on': None, 'plugin': 'none', 'seed': 0}};"
        "plots.distilled(spec, plots.panels(spec, [row], Results(folder)), 'n', folder / 'f.png');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
    assert (tmp_path / "f.png").exists()


def test_ids_of_wordnet_are_shown_as_words(drawn):
    figure, _ = drawn([panel(classes=("n01443537", "n99999999"))])
    texts = [text.get_text() for text in figure.texts]
    assert "goldfish" in texts
    assert "n99999999" in texts
    assert "n01443537" not in texts
