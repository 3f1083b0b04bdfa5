"""Distilled sets for use elsewhere: of the committed results, and read again by four libraries."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from command_line import run_here
from committed import RESULTS
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from bench import sets
from bench.data import Identity
from bench.data.cifar10 import KIND, LAYOUT
from bench.errors import UserError
from bench.export import choose, export, folder_names
from bench.exporting import cards
from bench.pixels import PixelSpace
from bench.plotting.images import read_plates
from bench.results import Results
from bench.spec import read

CIFAR10 = Identity("cifar10", "0" * 64, LAYOUT.classes, 32, (5000,) * 10, (1000,) * 10)
NORMALISED = PixelSpace("normalised", KIND.mean, KIND.std)


def chosen(**only):
    return choose(RESULTS, "cifar10-cpu", None, {"seed": "0", "ipc": "1", **only})


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """MTT's first set, which has a step size of its own."""
    about = read().suites["cifar10-cpu"].note
    return export(chosen(method="MTT"), tmp_path_factory.mktemp("exported") / "mtt", about_suite=about)


def test_what_is_read_again_is_what_was_distilled(exported):
    (key,) = chosen(method="MTT").keys
    original = load_file(RESULTS / "cifar10-cpu/sets" / key / "images.safetensors")
    (found,) = sets.read(exported.folder / "set.safetensors", CIFAR10, NORMALISED, None)
    assert torch.equal(found.images, original["images"])
    assert torch.equal(found.labels, original["labels"])
    assert found.space == NORMALISED
    assert found.step_size == float(original["step_size"])
    assert found.number == 0


def test_the_pictures_are_those_of_the_plate(exported):
    """Decoded by NumPy here and by torch when the set was made: equal to the bit."""
    (key,) = chosen(method="MTT").keys
    classes, plate = read_plates([RESULTS / "cifar10-cpu/sets" / key / "plate.png"])
    for name, images in zip(classes, plate, strict=True):
        (path,) = (exported.folder / "images" / name).iterdir()
        assert path.name == "00000.png"
        with Image.open(path) as picture:
            assert np.array_equal(np.asarray(picture), images[0])


def test_clamped_values_are_counted(exported):
    (key,) = chosen(method="MTT").keys
    images = load_file(RESULTS / "cifar10-cpu/sets" / key / "images.safetensors")["images"]
    unit = NORMALISED.decode(images)
    assert exported.clamped == int(((unit < 0) | (unit > 1)).sum()) > 0
    assert exported.values == images.numel()
    assert f"{exported.clamped} of {exported.values} values" in (exported.folder / "README.md").read_text()


def test_the_folder_of_pictures_is_a_set_of_its_own_again(exported):
    (found,) = sets.read(exported.folder / "images", CIFAR10, NORMALISED, None)
    assert found.labels.tolist() == list(range(10))
    (whole,) = sets.read(exported.folder / "set.safetensors", CIFAR10, NORMALISED, None)
    assert (found.images - NORMALISED.decode(whole.images).clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6


def test_parts_are_exported_whole_and_in_the_order_of_the_suite(tmp_path):
    """SRe2L's parts are one image of each class; the first is the whole set at IPC 1."""
    picked = chosen(method="SRe2L", ipc="10")
    assert [row["cell"]["part"] for row in picked.parts] == list(range(10))
    assert chosen(method="SRe2L").keys == picked.keys[:1]
    done = export(picked, tmp_path / "ten")
    whole = sets.stored([picked.results.artifact(key, "images.safetensors") for key in picked.keys])
    (found,) = sets.read(done.folder / "set.safetensors", CIFAR10, NORMALISED, None)
    assert done.images == len(found.images) == 100
    assert torch.equal(found.images, whole.images)
    assert torch.equal(found.labels, whole.labels)
    bird = done.folder / "images/bird"
    assert sorted(path.name for path in bird.iterdir()) == [f"{n:05d}.png" for n in range(10)]
    plates = [picked.results.artifact(key, "plate.png") for key in picked.keys]
    for number, image in enumerate(read_plates(plates)[1][2]):
        with Image.open(bird / f"{number:05d}.png") as picture:
            assert np.array_equal(np.asarray(picture), image)


def test_a_whitened_set_brings_its_matrices(tmp_path):
    """Against :class:`bench.zca.ZCA`, which decodes by torch."""
    from bench.export import _Pixels
    from bench.zca import ZCA

    rng = np.random.default_rng(0)
    side = 3 * 4 * 4
    tensors = [
        torch.from_numpy(rng.normal(size=shape).astype("f4")) for shape in ((3, 4, 4), *((side, side),) * 2)
    ]
    zca = ZCA(*tensors)
    zca.save(tmp_path / "zca.safetensors")
    images = torch.from_numpy(rng.normal(size=(5, 3, 4, 4)).astype("f4"))
    labels = np.zeros(5, np.int64)
    found = _Pixels(images.numpy(), labels, zca.to_json(), ("a",), None, tmp_path / "zca.safetensors")
    assert torch.from_numpy(found.unit).numpy() == pytest.approx(
        zca.decode(images).numpy(), rel=1e-5, abs=1e-5
    )


def card(done):
    text = (done.folder / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_card_says_how_it_was_made_and_how_good_it_is(exported):
    header, body = card(exported)
    assert header["license"] == "unknown"
    assert header["task_categories"] == ["image-classification"]
    (row,) = chosen(method="MTT").parts
    for needed in (
        row["key"],
        row["provenance"]["commit"],
        "convnet@w32, accuracy",
        '"syn_steps": 20',
        "JPEG copy",
    ):
        assert needed in body
    for evaluation in chosen(method="MTT").evaluations:
        shown = f"{evaluation['result']['accuracy']:.1f} | 1 | {evaluation['result']['test_images']} |"
        assert re.search(
            rf"\| {evaluation['tags']['network']}( †)? \| mtt \| the set's \| {re.escape(shown)}", body
        )


def test_the_card_of_real_images_and_of_other_data(tmp_path):
    picked = choose(RESULTS, "tiny-cpu", None, {"method": "Random", "seed": "0"})
    header, body = card(export(picked, tmp_path / "set"))
    assert header["license_name"] == "imagenet-terms-of-access"
    assert "not distilled" in body
    assert "evaluates sets of its own datasets only" in body
    assert re.search(r"WordNet's ids: `n\d{8}` [a-z]", body)


def snippets(done):
    """The Python of a card, by the library that it begins with."""
    blocks = re.findall(r"```python\n(.*?)```", (done.folder / "README.md").read_text(), re.DOTALL)
    return {re.search(r"(?:from|import) (\w+)", block)[1]: block for block in blocks}


def run_snippet(done, library, monkeypatch, code=None):
    monkeypatch.chdir(done.folder)
    found = {}
    exec(code or snippets(done)[library], found)
    return found


def test_torchvision_loads_it(exported, monkeypatch):
    dataset = run_snippet(exported, "torchvision", monkeypatch)["dataset"]
    assert dataset.classes == list(LAYOUT.classes)
    (again,) = sets.read(exported.folder / "images", CIFAR10, NORMALISED, None)
    for (image, label), wanted, right in zip(dataset, again.images, again.labels, strict=True):
        assert label == right
        assert torch.equal(image, wanted)


def test_safetensors_loads_it(exported, monkeypatch):
    found = run_snippet(exported, "safetensors", monkeypatch)
    assert found["images"].shape == (10, 3, 32, 32)
    assert found["labels"].tolist() == list(range(10))


def test_hugging_face_datasets_loads_it(exported, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    datasets = pytest.importorskip("datasets")
    dataset = run_snippet(exported, "datasets", monkeypatch)["dataset"]
    whole = datasets.load_dataset(str(exported.folder), split="train")
    for found in (dataset, whole):
        assert found.features["label"].names == list(LAYOUT.classes)
        assert found["label"] == list(range(10))
        for label, image in enumerate(found["image"]):
            with Image.open(exported.folder / "images" / LAYOUT.classes[label] / "00000.png") as picture:
                assert np.array_equal(np.asarray(image), np.asarray(picture))


@pytest.mark.filterwarnings("ignore")
def test_ddranking_takes_it(exported, monkeypatch, tmp_path):
    """The card's own call; the set itself stands in for the real images, which it would fetch."""
    ddranking = pytest.importorskip("ddranking")
    from ddranking.metrics import hard_label

    given = load_file(exported.folder / "set.safetensors")
    real = hard_label.TensorDataset(given["images"], given["labels"])
    same = {c: c for c in range(10)}
    monkeypatch.setattr(
        hard_label, "get_dataset", lambda *_: (3, (32, 32), None, None, 10, real, real, real, same, same)
    )
    seen, train = [], hard_label.LabelRobustScoreHard._compute_hard_label_metrics

    def computed(self, *arguments, **named):
        seen.append(named)
        return train(self, *arguments, **named)

    monkeypatch.setattr(hard_label.LabelRobustScoreHard, "_compute_hard_label_metrics", computed)
    monkeypatch.setattr(
        hard_label.LabelRobustScoreHard,
        "_get_random_data_helper",
        lambda *_, **__: (None, given["images"], given["labels"]),
    )
    monkeypatch.setattr(
        hard_label.LabelRobustScoreHard, "_hyper_param_search_for_hard_label", lambda *_, **__: (0.0, 0.01)
    )
    small = 'device="cpu", num_eval=1, num_epochs=10, num_workers=0, data_aug_func=None,'
    code = snippets(exported)["ddranking"].replace("eval_full_data=True,", small)
    # Version 0.2.0 lists each score twice, and its own table then refuses the columns.
    monkeypatch.setattr(hard_label, "save_results", lambda *_: None)
    monkeypatch.setitem(hard_label.REAL_DATA_ACC_CACHE, "CIFAR10-ConvNet-3", 100.0)
    folder = shutil.copytree(exported.folder, tmp_path / "set")
    monkeypatch.chdir(folder)
    exec(code, {})
    assert ddranking.LabelRobustScoreHard is hard_label.LabelRobustScoreHard
    assert torch.equal(seen[0]["image_tensor"], given["images"])
    assert torch.equal(seen[0]["hard_labels"], given["labels"])
    assert seen[0]["lr"] == pytest.approx(float(given["step_size"]), rel=1e-4)


def test_the_card_brings_images_into_ddranking_s_space(exported):
    """CIFAR-100 in our mean and deviation, where ddranking takes CIFAR-10's."""
    (row,) = chosen(method="MTT").parts
    facts = cards.Facts(
        *("suite", "", {**chosen(method="MTT").tags, "dataset": "cifar100"}, (row, row), (), (), {}),
        *({"kind": "normalised", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}, None, LAYOUT.classes),
        *(10, 32, 0, 1),
    )
    code = re.findall(r"```python\n(.*?)```", cards.card(facts), re.DOTALL)[-1].partition("evaluator = ")[0]
    given = load_file(exported.folder / "set.safetensors")
    labels = given["labels"].flip(0)
    exec(re.sub("from ddranking.*|found = .*", "", code), found := {"found": {**given, "labels": labels}})
    unit = given["images"].flip(0) * torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    unit += torch.tensor([0.5, 0.4, 0.3])[:, None, None]
    wanted = (unit - torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None]) / torch.tensor(
        [0.2023, 0.1994, 0.2010]
    )[:, None, None]
    assert found["labels"].tolist() == list(range(10))
    assert torch.allclose(found["images"], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "method=DM"], "several sets fit"),
        (["--only", "method=DX"], "did you mean 'DM'"),
        (["--only", "colour=red"], "--only colour=red: no such key"),
        (["zzz"], "no distilled set whose key begins with zzz"),
        ([], "say which set"),
        (["--suite", "cifar11-cpu", "--only", "method=DM"], "no suite 'cifar11-cpu'"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capfd, tmp_path, arguments, words):
    done = run_here(
        monkeypatch,
        capfd,
        "export",
        *arguments,
        "--to",
        tmp_path / "set",
        "--results",
        RESULTS,
        "--store",
        tmp_path,
    )
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert words in done.err
    assert list(tmp_path.iterdir()) == []


def rows_alone(folder, keep=lambda row: True):
    """A results folder with some of the rows of ``cifar10-cpu``, and no sets."""
    made = folder / "cifar10-cpu/rows.jsonl"
    made.parent.mkdir()
    lines = (RESULTS / "cifar10-cpu/rows.jsonl").read_text().splitlines()
    made.write_text("".join(f"{line}\n" for line in lines if keep(json.loads(line))))
    return folder


def test_a_set_of_which_only_rows_are_here_is_refused(tmp_path):
    picked = choose(rows_alone(tmp_path), None, None, {"method": "DM", "seed": "0"})
    with pytest.raises(UserError, match=r"only its row is here, not its images\.safetensors; say by --store"):
        export(picked, tmp_path / "set", tmp_path / "store")


def test_a_set_with_missing_parts_is_refused(tmp_path):
    folder = rows_alone(tmp_path, lambda row: row["cell"].get("part", 0) != 3)
    with pytest.raises(UserError, match="only 9 of 10 images per class are finished"):
        choose(folder, None, None, {"method": "SRe2L", "ipc": "10"})


def test_a_damaged_set_is_refused(tmp_path):
    picked = choose(rows_alone(tmp_path), None, None, {"method": "DM", "seed": "0"})
    made = picked.results.artifact(picked.keys[0], "images.safetensors")
    made.parent.mkdir(parents=True)
    made.write_bytes(b"something else")
    with pytest.raises(UserError, match="damaged"):
        export(picked, tmp_path / "set", tmp_path / "store")
    assert not (tmp_path / "set").exists()


def test_a_cell_that_is_no_set_is_named(tmp_path):
    rows = Results(RESULTS / "tiny-cpu").rows
    key = next(key for key, row in rows.items() if row["cell"]["kind"] == "pretrain")
    with pytest.raises(UserError, match="a cell of kind pretrain, and only distil cells leave images"):
        choose(RESULTS, "tiny-cpu", key[:20])


def test_by_key_and_by_tags_are_the_same_set(monkeypatch, capfd, tmp_path):
    picked = chosen(method="DM")
    done = run_here(
        monkeypatch, capfd, "export", picked.keys[0][:10], "--to", tmp_path / "set", "--results", RESULTS
    )
    assert (done.status, done.err) == (0, "")
    assert "10 images" in done.out
    with safe_open(tmp_path / "set/set.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["metadd"])["cells"] == list(picked.keys)


def test_a_folder_in_use_is_refused_and_an_empty_one_is_taken(tmp_path, exported):
    (tmp_path / "used").mkdir()
    (tmp_path / "used/mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, words in (("used", "is not empty"), ("file", "is a file")):
        with pytest.raises(UserError, match=words):
            export(chosen(method="MTT"), tmp_path / name)
    (tmp_path / "empty").mkdir()
    export(chosen(method="MTT"), tmp_path / "empty", about_suite=read().suites["cifar10-cpu"].note)
    files = [path.relative_to(exported.folder) for path in exported.folder.rglob("*.*") if path.is_file()]
    assert all(
        (tmp_path / "empty" / file).read_bytes() == (exported.folder / file).read_bytes() for file in files
    )
    assert len(files) == 12


def test_what_goes_wrong_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("bench.exporting.cards.card", fail)
    with pytest.raises(OSError, match="disk full"):
        export(chosen(method="DM"), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_numbered_where_names_would_change_the_order():
    assert folder_names(("cat", "dog")) == ("cat", "dog")
    for names in (("dog", "cat"), ("cat", "cat"), (".cat", "dog"), ("a/b", "c"), ("", "a")):
        assert folder_names(names) == ("00000", "00001")


def test_no_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path; from bench.export import choose, export;"
        f"export(choose(Path({str(RESULTS)!r}), 'tiny-cpu', None, {{'method': 'DM', 'seed': '1'}}),"
        f"Path({str(tmp_path / 'set')!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
