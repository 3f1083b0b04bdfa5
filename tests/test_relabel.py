"""Soft labels: a teacher labels what students see, image by image; the loss; stopping and going on."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small import dataset
from torch import nn

from bench import artifacts, seeds
from bench.cells import DatasetId, EvaluateCell, RelabelCell
from bench.errors import CellFailure
from bench.networks.build import build
from bench.pixels import PixelSpace
from bench.sets import stored
from bench.stages import Context, OutOfTime, evaluate, relabel
from bench.training import recipes, softlabels
from bench.training.batches import Augmentation, SyntheticSet
from bench.training.loop import Training
from bench.training.recipes import Recipe, SoftRecipe
from bench.training.softlabels import SoftLabels, soft_loss
from bench.zca import fit, keep_beside

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SHORT = {"epochs": 3, "batch": 4, "mix": "mixup", "augment": "crop_flip"}


class Place:
    """A set of ten images, a teacher, and the cells that label the one by the other and train on it."""

    def __init__(self, folder, classes=3, size=16, space=None, recipe=SHORT, network="convnet@w8@d1@bn"):
        self.folder, self.network = folder, network
        self.data = dataset(classes=3, size=size)
        self.space = space or PixelSpace("normalised", self.data.mean, self.data.std)
        self.recipe = recipes.resolve("sre2l", recipe, size)
        at = DatasetId(self.data.spec, self.data.content, classes, size)
        self.relabel = RelabelCell(at, ("set",), "teacher", self.recipe.draws, 5)
        how = self.recipe.values
        self.evaluate = EvaluateCell(at, ("set",), self.relabel.key, network, how, None, 5, 0)
        folder.mkdir()
        self.images = torch.rand(10, 3, size, size, generator=torch.Generator().manual_seed(0))
        self.labels = torch.arange(10) % 3
        about = json.dumps({"space": self.space.to_json()})
        tensors = {"images": self.space.encode(self.images), "labels": self.labels}
        save_file(tensors, folder / "images.safetensors", {"metadd": about})
        keep_beside(self.space, folder)
        with seeds.forked("teacher"):
            teacher = build(network, classes, size)
        artifacts.save_classifier(teacher, network, at, folder / "network.safetensors")
        self.files = {name: {p.name: p for p in folder.iterdir()} for name in ("set", "teacher")}

    def context(self, name, **how):
        (self.folder / name).mkdir(exist_ok=True)
        files = self.files | {self.relabel.key: {p.name: p for p in (self.folder / "labels").glob("*")}}
        return Context(self.data, CPU, files, self.folder / name, self.folder / f"{name}.partial", **how)

    def labelled(self):
        return relabel.run(self.relabel, self.context("labels"))

    @property
    def logits(self):
        return load_file(self.folder / "labels" / "labels.safetensors")["logits"]


class Pixels(nn.Module):
    """A teacher that says what it sees."""

    def forward(self, x):
        assert not torch.is_grad_enabled()
        return x.flatten(1)


class Looks(nn.Module):
    """A student that keeps what it sees; batch norm on one position, which cannot train on one image."""

    def __init__(self, classes):
        super().__init__()
        self.norm, self.shift = nn.BatchNorm1d(classes), nn.Parameter(torch.zeros(classes))
        self.seen = []

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            self.seen.append(x.detach())
        return self.norm(x.flatten(1)) + self.shift


HOW = [
    {"mix": "mixup", "augment": "crop_flip"},
    {"mix": "cutmix", "augment": "resized_crop_flip"},
    {"mix": "none", "augment": "dsa"},
    {"mix": "none", "augment": "none"},
    {"mix": "mixup", "augment": "crop_flip", "batch": 3},  # the last image joins the batch before
]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("space", ["unit", "normalised", "zca"])
def test_students_see_what_the_teacher_labelled(tmp_path, monkeypatch, how, space):
    """A teacher that says the pixels: its labels are the student's images, one by one."""
    data = dataset()
    own = PixelSpace("normalised", data.mean, data.std)
    of = fit(data.train.images) if space == "zca" else {"unit": PixelSpace("unit"), "normalised": own}[space]
    place = Place(tmp_path / "place", 3 * 16 * 16, space=of, recipe=SHORT | how)
    monkeypatch.setattr(relabel.artifacts, "classifier", lambda *about: Pixels())
    place.labelled()
    students = []

    def student(name, classes, size):
        students.append(Looks(classes))
        return students[-1]

    monkeypatch.setattr(evaluate, "build", student)
    monkeypatch.setattr(evaluate, "_count_live_bytes", lambda training: 0)
    evaluate.run(place.evaluate, place.context("evaluated"))
    seen = torch.cat(students[-1].seen)
    trained_in = own if space == "unit" else of
    shown = own.encode(trained_in.decode(seen)).flatten(1)
    labels = place.logits.flatten(0, 1).float()
    assert shown.shape == labels.shape == (30, 768)
    torch.testing.assert_close(shown, labels, rtol=2e-3, atol=2e-3)  # labels are float16
    epochs = labels.view(3, 10, 768)
    assert not torch.allclose(epochs[0], epochs[1], atol=0.1)  # each epoch has draws of its own
    assert [len(each) for each in students[-1].seen[:3]] == ([3, 3, 4] if "batch" in how else [4, 4, 2])


def test_labels_are_the_teacher_s_in_evaluation_mode(tmp_path):
    """Without augmentation and mixing: of each image, at the place that the permutation gives it."""
    place = Place(tmp_path / "place", recipe=SHORT | {"augment": "none", "mix": "none"})
    result = place.labelled().result
    teacher = build(place.network, 3, 16).double().eval()
    teacher.load_state_dict(load_file(place.folder / "network.safetensors"))
    with torch.no_grad():
        expected = teacher(place.space.encode(place.images.double()))
    assert place.logits.dtype == torch.float16
    for epoch, logits in enumerate(place.logits):
        order = seeds.rng("relabel", 5, epoch).permutation(10)
        torch.testing.assert_close(logits.double(), expected[order], rtol=2e-3, atol=2e-3)
    assert result["agreement"] == 100 * (expected.argmax(1) == place.labels).double().mean().item()
    p = expected.softmax(1)
    assert result["entropy"] == pytest.approx(-(p * p.log()).sum(1).mean().item(), rel=1e-3)
    assert result["bytes"] == (place.folder / "labels" / "labels.safetensors").stat().st_size


def test_the_file_says_how_its_labels_were_made(tmp_path):
    place = Place(tmp_path / "place")
    place.labelled()
    with safe_open(place.folder / "labels" / "labels.safetensors", "pt") as file:
        about = json.loads(file.metadata()["metadd"])
        assert file.get_slice("logits").get_shape() == [3, 10, 3]
    assert about == {"draws": dict(place.recipe.draws), "seed": 5, "teacher": "teacher"}
    labels = SoftLabels(place.folder / "labels" / "labels.safetensors", CPU)
    for epoch, logits in enumerate(place.logits):
        assert torch.equal(labels.epoch(epoch), logits.float())
    assert len({logits.numpy().tobytes() for logits in place.logits}) == 3


def test_glad_s_recipe_tests_the_average_of_the_weights(tmp_path, monkeypatch):
    place, made, tested = Place(tmp_path / "place"), [], []

    class Kept(Training):
        def __init__(self, *about):
            super().__init__(*about)
            made.append(self)

    monkeypatch.setattr(evaluate, "Training", Kept)
    monkeypatch.setattr(evaluate, "correct", lambda network, real: tested.append(network) or 0)
    values = recipes.resolve("glad", {"epochs": 2, "lr": 0.1}, 16).values
    evaluate.run(replace(place.evaluate, labels=None, recipe=values), place.context("glad"))
    assert tested == [made[-1].tested]
    assert tested[0] is not made[-1].network


def test_labels_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    place = Place(tmp_path / "place")

    class Loud(nn.Module):
        def forward(self, x):
            return x.new_full((len(x), 3), 1e5)  # more than float16 holds

    monkeypatch.setattr(relabel.artifacts, "classifier", lambda *about: Loud())
    with pytest.raises(CellFailure, match="epoch 0 are not finite"):
        place.labelled()


# Stopping and going on.


def with_interruptions(run, cell, place, name):
    """Run a stage that is out of time after every epoch."""
    for stops in range(5):
        context = place.context(name, deadline=time.monotonic())
        try:
            return run(cell, context), stops
        except OutOfTime:
            pass
    raise AssertionError("no end")


def test_resumed_labels_and_students_are_bit_for_bit_uninterrupted(tmp_path):
    place = Place(tmp_path / "place")
    whole = place.labelled()
    again, stops = with_interruptions(relabel.run, place.relabel, place, "again")
    assert stops == 2
    assert again.result == whole.result
    files = [place.folder / name / "labels.safetensors" for name in ("labels", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    student = evaluate.run(place.evaluate, place.context("student"))
    again, stops = with_interruptions(evaluate.run, place.evaluate, place, "resumed")
    assert stops == 2
    assert again.result == student.result
    assert student.cost["updates"] == 9


def test_a_checkpoint_holds_the_epochs_done_and_is_no_copy(tmp_path):
    place = Place(tmp_path / "place")
    context = place.context("labels")
    teacher = artifacts.classifier(context.artifacts["teacher"]["network.safetensors"], 3, 16, CPU)
    images = stored([context.artifacts["set"]["images.safetensors"]])
    job = relabel.Relabelling(place.relabel, images, teacher, place.data, CPU)
    job.epoch()
    logits = job.state()["logits"]
    assert logits.shape == (1, 10, 3)
    assert logits.data_ptr() == job.logits.data_ptr()
    assert logits.untyped_storage().nbytes() == 2 * logits.numel()  # what torch.save writes of it


def test_same_cell_same_bits_other_seed_other_labels(tmp_path):
    one, two, other = (Place(tmp_path / name) for name in ("one", "two", "other"))
    other.relabel = RelabelCell(*list(vars(other.relabel).values())[:4], seed=6)
    for place in (one, two, other):
        place.labelled()
    assert torch.equal(one.logits, two.logits)
    assert not torch.equal(one.logits, other.logits)


def test_random_images_with_a_trained_teacher_s_labels_teach(tmp_path):
    """Real images, a teacher that knows them: the student, on soft labels alone, is far above chance."""
    place = Place(tmp_path / "place", recipe={**SHORT, "epochs": 40, "mix": "none", "lr": 0.01})
    images = place.data.train.images[[*range(4), *range(12, 15), *range(24, 27)]]
    space = PixelSpace("normalised", place.data.mean, place.data.std)
    x = space.encode(torch.from_numpy(images.copy()).float() / 255)
    place.labels = torch.tensor([0] * 4 + [1] * 3 + [2] * 3)
    about = json.dumps({"space": space.to_json()})
    save_file({"images": x, "labels": place.labels}, place.folder / "images.safetensors", {"metadd": about})
    with seeds.forked("teacher"):
        teacher = build(place.network, 3, 16)
    data, augmentation = SyntheticSet(x, place.labels), Augmentation.of(place.data, space, CPU)
    lesson = Training(teacher, data, Recipe(name="test", epochs=30, batch=10), 0.05, augmentation, (0,))
    for _ in range(30):
        lesson.epoch()
    artifacts.save_classifier(
        teacher, place.network, place.relabel.dataset, place.folder / "network.safetensors"
    )
    assert place.labelled().result["agreement"] == 100.0
    assert evaluate.run(place.evaluate, place.context("student")).result["accuracy"] > 60


# The loss.


@pytest.mark.parametrize(("temperature", "times_squared"), [(1.0, False), (30.0, False), (20.0, True)])
def test_the_loss_written_out(temperature, times_squared):
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(size=(5, 4)) * 6 for _ in range(2))
    total = 0.0
    for z_s, z_t in zip(student, teacher, strict=True):
        q, p = (np.exp(z / temperature) / np.exp(z / temperature).sum() for z in (z_s, z_t))
        total += (p * np.log(p / q)).sum()
    expected = total / 5 * (temperature**2 if times_squared else 1)
    found = soft_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature, times_squared)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_the_loss_of_equal_logits_is_nothing_and_of_sure_ones_finite():
    sure = torch.tensor([[200.0, 0.0, 0.0]])
    assert float(soft_loss(sure, sure, 1.0, False)) == 0.0
    assert float(soft_loss(-sure, sure, 1.0, False)) == pytest.approx(200.0 + np.log(2), rel=1e-6)


def test_a_student_s_step_follows_the_loss_written_out(tmp_path):
    """One step of SGD on one batch, in float64, by the loss's gradient (q - p) / (n T) at the logits."""
    recipe = SoftRecipe(name="test", epochs=1, batch=10, momentum=0.0, weight_decay=0.0, temperature=4.0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(10, 3, 2, 2, dtype=torch.float64, generator=generator)
    logits = torch.randn(1, 10, 3, generator=generator).half()
    softlabels.save(tmp_path / "labels.safetensors", logits, recipe.draws, 7, "teacher")
    with seeds.forked("test network"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    before = net[1].weight.detach().clone()
    data = SyntheticSet(images, torch.arange(10) % 3)
    augmentation = Augmentation.of(dataset(size=8), PixelSpace("unit"), CPU)
    labels = SoftLabels(tmp_path / "labels.safetensors", CPU)
    shown = images[seeds.rng("relabel", 7, 0).permutation(10)]
    q, p = (net(shown).detach() / 4).softmax(1), (logits[0].double() / 4).softmax(1)
    Training(net, data, recipe, 0.5, augmentation, (0,), labels).epoch()
    step = ((q - p) / 40).T @ shown.flatten(1)
    torch.testing.assert_close(net[1].weight.detach(), before - 0.5 * step, rtol=1e-5, atol=1e-8)


def test_labels_must_fit(tmp_path):
    recipe = SoftRecipe(name="test", epochs=1, batch=4)
    softlabels.save(tmp_path / "labels", torch.zeros(1, 10, 3).half(), recipe.draws, 0, "teacher")
    labels = SoftLabels(tmp_path / "labels", CPU)
    augmentation = Augmentation.of(dataset(size=8), PixelSpace("unit"), CPU)

    def train(how, given, n=10):
        data = SyntheticSet(torch.zeros(n, 3, 8, 8), torch.zeros(n, dtype=torch.int64))
        Training(nn.Linear(1, 1, device="meta"), data, how, 0.1, augmentation, (0,), given)

    train(recipe, labels)
    for how, given, n, message in (
        (recipe.model_copy(update={"batch": 5}), labels, 10, "are to be trained on"),
        (recipe.model_copy(update={"mix": "mixup"}), labels, 10, "are to be trained on"),
        (recipe, labels, 11, "labels of 10 images"),
        (recipe, None, 10, "there are none"),
        (Recipe(name="hard", epochs=1), labels, 10, "own labels"),
    ):
        with pytest.raises(ValueError, match=message):
            train(how, given, n)
