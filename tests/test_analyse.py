"""What an analysis says, against a count position by position on the images and networks of the store."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
import yaml
from command_line import finish, rows, start, suite
from PIL import Image
from safetensors.torch import load_file

from bench import artifacts, data
from bench.api import open_suite
from bench.cells import TEST_IMAGES
from bench.errors import CellFailure
from bench.results import CAMS
from bench.sets import stored
from bench.stages import Context, analyse
from metadd import MetaDD, Unsuitable

RUN = ("run", "tiny", "--tables", "tables.yaml", "--device", "cpu")
NETWORKS = {"auxiliary": ["convnet@w8", "resnet18@w2@bn"], "unseen": ["vgg11@w8", "alexnet@w16"]}
TRAINING = {"all": {"epochs": 1, "batch": 64, "lr": 0.02, "augment": "none"}}
PLUGIN = {"name": "metadd", "networks": NETWORKS["auxiliary"], "training": TRAINING}
DM = {"method": "dm", "settings": {"iterations": 2, "batch_real": 4}}
SUITE = suite(
    analyse={**NETWORKS, "training": TRAINING, "real_per_class": 3, "threshold": 0.4, "temperature": 0.2},
    ipc=2,
    seeds=2,
    grid=[{"method": "random"}, {**DM, "plugin": ["none", PLUGIN], "seeds": 1}],
    tables=["meta"],
    figures=["cams"],
)
PRINTED = {
    "tables": {"meta": {"title": "Meta features", "kind": "meta-features", "rows": ["method"]}},
    "figures": {"cams": {"title": "Maps", "kind": "cams"}},
}
MEASURES = ("meta", "heterogeneous", "iou", "divergence", "cross_entropy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cache):
    """Where a run of ``SUITE`` went."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METADD_CACHE", str(cache))
        place = tmp_path_factory.mktemp("analysed")
        (place / "tables.yaml").write_text(yaml.safe_dump({"suites": {"tiny": SUITE}, **PRINTED}))
        done = finish(start(place, *RUN), place)
        assert (done.status, done.err) == (0, "")
        return place


@pytest.fixture
def found(folder):
    """The rows of the analyses."""
    return [row for row in rows(folder) if row["cell"]["kind"] == "analyse"]


def in_store(folder, kind, key, name):
    return folder / "store" / kind / key[:2] / key / name


def opened(folder, row, dataset):
    """The images of a row in [0, 1] units, their classes, and the networks that it looks through."""
    if row["cell"]["images"] == [TEST_IMAGES]:
        test = dataset.test.first(row["cell"]["per_class"])
        images, labels = torch.from_numpy(np.array(test.images)) / 255, torch.from_numpy(test.labels)
    else:
        (key,) = row["cell"]["images"]
        path = in_store(folder, "distil", key, "images.safetensors")
        kept = load_file(path)
        images, labels = stored([path]).space.decode(kept["images"]), kept["labels"]
    files = [in_store(folder, "pretrain", key, "network.safetensors") for key in row["cell"]["networks"]]
    cpu = torch.device("cpu")
    return images, labels, [artifacts.classifier(file, 3, dataset.size, cpu) for file in files]


def counted(maps, threshold, temperature):
    """The measures of maps [M, N, g, g], by sets of positions."""
    per_image = []
    for of_image in np.asarray(maps, np.float64).swapaxes(0, 1):
        seen = [{tuple(p) for p in np.argwhere(each >= threshold)} for each in of_image]
        share = of_image[0].size
        together, any_ = set.intersection(*seen), set.union(*seen)
        ious = [len(a & b) / max(1, len(a | b)) for a, b in itertools.combinations(seen, 2)]
        p = np.exp(of_image.reshape(len(seen), -1) / temperature)
        p /= p.sum(1, keepdims=True)
        kl = (p * np.log(p / p.mean(0))).sum(1).mean()
        per_image.append((len(together) / share, len(any_ - together) / share, np.mean(ious), kl))
    return np.mean(per_image, axis=0)


def test_every_set_and_the_real_images_are_looked_at_through_both_groups(found):
    methods = Counter(row["tags"]["method"] for row in found)
    assert methods == {"Real test images": 2, "Random": 4, "DM": 2, "DM + MetaDD": 2}
    for row in found:
        assert set(row["result"]["accuracies"]) == set(NETWORKS[row["tags"]["role"]])
        assert row["result"]["images"] == (9 if row["tags"]["ipc"] is None else 6)
        assert set(row["artifacts"]) == {CAMS}


def test_the_numbers_are_those_of_the_stored_images(folder, found):
    dataset = data.load("digits[3]", None)
    for row in found:
        if row["tags"]["seed"]:
            continue
        images, labels, networks = opened(folder, row, dataset)
        plugin = MetaDD(networks, size=dataset.size, mean=dataset.mean, std=dataset.std)
        expected = counted(plugin.maps(images, labels), threshold=0.4, temperature=0.2)
        said = row["result"]
        assert [said[name] for name in MEASURES[:4]] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        mean, std = (torch.tensor(values)[:, None, None] for values in (dataset.mean, dataset.std))
        with torch.no_grad():
            logits = [network((images - mean) / std) for network in networks]
        entropies = [float(F.cross_entropy(each, labels)) for each in logits]
        assert said["cross_entropy"] == pytest.approx(np.mean(entropies), rel=1e-4)
        right = [100 * float((each.argmax(1) == labels).float().mean()) for each in logits]
        names = NETWORKS[row["tags"]["role"]]
        assert [said["accuracies"][name] for name in names] == pytest.approx(right)
    assert len({row["result"]["divergence"] for row in found}) == len(found)


def test_the_picture_has_the_images_the_maps_and_what_they_share(folder, found):
    dataset = data.load("digits[3]", None)
    row = next(row for row in found if row["tags"]["method"] == "DM")
    images, labels, networks = opened(folder, row, dataset)
    with Image.open(folder / "results/tiny/sets" / row["key"] / CAMS) as image:
        about, picture = json.loads(image.info["metadd"]), np.asarray(image)
    assert about == {"classes": ["0", "1", "2"], "columns": 5, "networks": NETWORKS["auxiliary"]}
    side = dataset.size
    tiles = picture.reshape(3, side, 5, side, 3).swapaxes(1, 2)
    first = torch.tensor([0, 2, 4])  # two images a class
    assert labels[first].tolist() == [0, 1, 2]
    shown = (255 * images[first].clamp(0, 1)).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(tiles[:, 0] - shown).max() <= 1
    plugin = MetaDD(networks, size=side, mean=dataset.mean, std=dataset.std)
    maps = plugin.maps(images[first], labels[first]).numpy()
    seen = maps >= 0.4
    for column, each in enumerate((*maps, seen.all(0), seen.any(0) & ~seen.all(0)), start=1):
        blocks = (255 * each).round().repeat(side // 8, axis=1).repeat(side // 8, axis=2)
        assert np.abs(tiles[:, column] - blocks[..., None]).max() <= 1


def test_pictures_of_the_first_seed_are_published_and_drawn(folder, found):
    kept = {path.parent.name for path in folder.glob(f"results/tiny/sets/*/{CAMS}")}
    assert kept == {row["key"] for row in found if row["tags"]["seed"] == 0}
    with Image.open(folder / "results/tiny/figures/cams.png") as image:
        assert image.width > 500


def test_the_table_is_made_of_the_rows(folder, found):
    text = (folder / "results/tiny/tables/meta.md").read_text()
    seen = [row for row in found if (row["tags"]["method"], row["tags"]["role"]) == ("Random", "unseen")]
    mean = np.mean([row["result"]["divergence"] for row in seen])
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert f" {mean:.3f} ± " in lines["Random"]
    assert "DM: MetaDD − without" in lines
    assert f"auxiliary: {', '.join(NETWORKS['auxiliary'])}" in text


def test_the_plug_in_and_the_analyses_share_their_networks(folder, found):
    every = rows(folder)
    made = {row["key"]: row["cell"]["settings"]["network"] for row in every if row["tags"].get("what")}
    assert sorted(made.values()) == sorted([*NETWORKS["auxiliary"], *NETWORKS["unseen"]])
    distilled = next(row for row in every if row["tags"].get("plugin") == "metadd")
    of_plugin = {key for keys in distilled["cell"]["uses"].values() for key in keys}
    of_analyses = next(row["cell"]["networks"] for row in found if row["tags"]["role"] == "auxiliary")
    assert of_plugin == set(of_analyses)
    assert [made[key] for key in of_analyses] == NETWORKS["auxiliary"]


def test_a_network_without_a_map_is_a_failed_cell(folder, found, monkeypatch, tmp_path):
    def refuse(*_):
        raise Unsuitable("it has no class activation map")

    real = next(row for row in found if row["cell"]["images"] == [TEST_IMAGES])
    planned = open_suite("tiny", results=folder / "results", tables=folder / "tables.yaml").plan.planned
    cell = planned[real["key"]].cell
    name = artifacts.NAMES["classifier"]
    made = {key: {name: in_store(folder, "pretrain", key, name)} for key in cell.networks}
    context = Context(data.load("digits[3]", None), torch.device("cpu"), made, tmp_path, tmp_path)
    assert analyse.run(cell, context).result == real["result"]
    monkeypatch.setattr(artifacts, "CAM", refuse)
    with pytest.raises(CellFailure, match="it has no class activation map"):
        analyse.run(cell, context)
