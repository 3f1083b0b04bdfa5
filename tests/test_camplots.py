"""The figure of class activation maps."""

import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_plots import drawn, overlaps

from bench.plotting.cams import NOTE, first_seeds, panels
from bench.plotting.images import _WIDEST, Panel
from bench.results import CAMS, Results
from bench.spec import FigureSpec

__all__ = ["drawn"]  # the fixture

SPEC = FigureSpec(title="Maps", kind="cams")
NETWORKS = ("convnet@w16", "efficientnet_b0")
TAGS = {
    "dataset": "digits",
    "protocol": "common",
    "method": "DM",
    "plugin": "none",
    "ipc": 3,
    "distilled_on": "convnet",
    "seed": 0,
    "role": "auxiliary",
}


def tiles(seed, classes=3):
    return np.random.default_rng(seed).integers(0, 255, (classes, 5, 8, 8, 3), dtype=np.uint8)


def analysed(folder, shown, **tags):
    """A row of an analysis, with its picture in the results folder as the stage leaves it."""
    key = f"key{len(list(folder.glob('sets/*')))}"
    about = {"classes": list("abc"[: len(shown)]), "columns": 5, "networks": list(NETWORKS)}
    text = PngInfo()
    text.add_text("metadd", json.dumps(about))
    path = Results(folder).artifact(key, CAMS)
    path.parent.mkdir(parents=True)
    Image.fromarray(shown.swapaxes(1, 2).reshape(len(shown) * 8, 40, 3)).save(path, pnginfo=text)
    return {"key": key, "current": True, "cell": {"kind": "analyse"}, "tags": {**TAGS, **tags}}


def test_panels_are_the_first_seeds_seen_through_the_networks_asked_for(tmp_path):
    sets = [tiles(n) for n in range(5)]
    rows = [
        analysed(tmp_path, sets[0], method="Real test images", ipc=None),
        analysed(tmp_path, sets[1]),
        analysed(tmp_path, sets[2], role="unseen"),
        analysed(tmp_path, sets[3], seed=1),
        analysed(tmp_path, sets[4], method="DM + MetaDD", plugin="metadd"),
    ]
    assert [row["key"] for row in first_seeds(rows)] == ["key0", "key1", "key2", "key4"]
    found = panels(SPEC, rows, Results(tmp_path))
    assert [each.title for each in found] == [
        ("Real test images",),
        ("DM", "IPC 3"),
        ("DM + MetaDD", "IPC 3"),
    ]
    for each, expected in zip(found, (sets[0], sets[1], sets[4]), strict=True):
        assert np.array_equal(each.images[:, 0], expected[:, 0])
        assert each.images.shape == expected.shape
        assert each.heads == ("image", *NETWORKS, "meta", "heterogeneous")
    (unseen,) = panels(SPEC.model_copy(update={"networks": "unseen"}), rows, Results(tmp_path))
    assert np.array_equal(unseen.images[:, 0], sets[2][:, 0])
    assert [each.beside for each in found] == [False, False, True]


def test_other_rows_and_missing_pictures_give_no_panel(tmp_path):
    row = analysed(tmp_path, tiles(0))
    rows = [{**row, "current": False}, {**row, "cell": {"kind": "distil"}}, {**row, "key": "elsewhere"}]
    assert panels(SPEC, rows, Results(tmp_path)) == []


def test_several_datasets_are_named_and_classes_limited(tmp_path):
    rows = [analysed(tmp_path, tiles(0)), analysed(tmp_path, tiles(1), dataset="cifar10")]
    found = panels(SPEC.model_copy(update={"classes": 2}), rows, Results(tmp_path))
    assert [each.title[-1] for each in found] == ["digits", "cifar10"]
    assert all(each.classes == ("a", "b") and len(each.images) == 2 for each in found)


def test_maps_are_brighter_where_they_are_higher_and_never_white(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(1, 4, 8, 8)[..., None].repeat(3, axis=-1)
    rows = [analysed(tmp_path, np.concatenate([tiles(0, classes=1)[:, :1], grey], axis=1))]
    (found,) = panels(SPEC, rows, Results(tmp_path))
    colours = found.images[0, 1:].reshape(256, 3).astype(float)
    assert (np.diff(colours @ [0.2126, 0.7152, 0.0722]) > -0.5).all()
    assert colours[0].tolist() == [68, 1, 84]
    assert colours[255].max() < 255


@pytest.mark.parametrize(("columns", "rows"), [(5, [5]), (7, [2, 3]), (12, [2, 2, 1]), (20, [1] * 5)])
def test_with_and_without_a_plug_in_stand_side_by_side_where_there_is_room(drawn, columns, rows):
    shown = [
        Panel((name,), np.zeros((2, columns, 32, 32, 3), np.uint8), ("a", "b"), beside="+" in name)
        for name in ("Real", "Random", "DM", "DM + MetaDD", "DC")
    ]
    figure, _ = drawn(shown)
    tops = [axes.get_window_extent().y1 for axes in figure.axes]
    assert [tops.count(top) for top in dict.fromkeys(tops)] == rows


@pytest.mark.parametrize("count", [1, 3, 8])
def test_heads_stand_above_their_columns_and_overlap_nothing(drawn, count):
    heads = ("image", *NETWORKS, "meta", "heterogeneous")
    shown = [Panel(("DM + MetaDD", f"IPC {n}"), tiles(n), ("a", "b", "c"), heads) for n in range(count)]
    figure, picture = drawn(shown, note=NOTE)
    assert overlaps(figure) == ([], [])
    assert picture.shape[1] <= _WIDEST
    texts = [text for text in figure.texts if text.get_rotation() == 90]
    assert [text.get_text() for text in texts] == [*heads] * count
    box = figure.axes[0].get_window_extent()
    width = figure.bbox.width
    centres = [width * text.get_position()[0] - box.x0 for text in texts[:5]]
    assert centres == pytest.approx([66 * column + 32 for column in range(5)], abs=1)
