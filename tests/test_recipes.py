"""What each recipe says, in numbers; what overrides may do; the learning rate that a set brings along."""

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from bench.data import Identity
from bench.pixels import PixelSpace
from bench.sets import DistilledSet, read, stored
from bench.stages.evaluate import learning_rate
from bench.training import recipes
from bench.training.recipes import RECIPES


def _of(**fields):
    return fields


SGD = {"optimiser": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch": 256}
WRITTEN = {
    ("dc", 32): dict(SGD, epochs=300, schedule="step", augment="none"),
    ("dsa", 32): dict(SGD, epochs=1000, schedule="step", augment="dsa"),
    ("mtt", 32): dict(SGD, epochs=1000, schedule="step", augment="dsa", learning_rate_of="set"),
    ("glad", 32): {
        **SGD,
        **_of(epochs=1000, augment="dsa", lr=1e-3, lr_by_network={"vgg11": 1e-4}, ema=0.995),
        **_of(schedule="cosine", warmup_epochs=500, warmup_from=0.0),
    },
    ("sre2l", 32): {
        **_of(optimiser="adamw", lr=1e-3, weight_decay=0.01, batch=128, epochs=400, schedule="cosine"),
        **_of(warmup_epochs=0, augment="crop_flip", mix="mixup", mix_alpha=0.8),
        **_of(temperature=30.0, times_squared_temperature=False),
    },
    ("sre2l", 64): {
        **_of(optimiser="sgd", lr=0.2, momentum=0.9, weight_decay=1e-4, batch=256, epochs=100),
        **_of(schedule="cosine", warmup_epochs=5, warmup_from=0.01, augment="resized_crop_flip"),
        **_of(mix="none", temperature=20.0, times_squared_temperature=True),
    },
    ("full", 32): dict(SGD, epochs=100, schedule="cosine", augment="dsa"),
    ("short", 32): dict(SGD, epochs=100, schedule="step", augment="none"),
}


def test_all_recipes_are_written_here():
    assert {name for name, _ in WRITTEN} == set(RECIPES)


@pytest.mark.parametrize(("name", "size"), WRITTEN)
def test_a_recipe_in_numbers(name, size):
    recipe = recipes.resolve(name, {}, size)
    assert recipe.name == name
    assert {field: getattr(recipe, field) for field in WRITTEN[name, size]} == WRITTEN[name, size]
    assert recipe.soft is (name == "sre2l")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_what_a_cell_holds(name):
    recipe = recipes.resolve(name, {"epochs": 7}, 32)
    again = recipes.load(json.loads(json.dumps(recipe.values)))
    assert again == recipe
    assert type(again) is type(recipe)


def test_only_digits_of_33_pixels_and_more_are_large():
    small, large = (recipes.resolve("sre2l", {}, size) for size in (32, 33))
    assert small == recipes.resolve("sre2l", {}, 8)
    assert large == recipes.resolve("sre2l", {}, 128)
    assert small != large


@pytest.mark.parametrize(
    ("name", "size", "overrides", "warmup"),
    [
        ("glad", 32, {"epochs": 100}, 50),
        ("glad", 32, {"epochs": 100, "warmup_epochs": 3}, 3),
        ("sre2l", 64, {"epochs": 40}, 2),
        ("sre2l", 64, {"lr": 0.1}, 5),
    ],
)
def test_a_shorter_recipe_keeps_its_share_of_warm_up(name, size, overrides, warmup):
    assert recipes.resolve(name, overrides, size).warmup_epochs == warmup


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("dsa", {"epochs": 0}),
        ("dsa", {"epochs": 1.5}),
        ("glad", {"epochs": "many"}),
        ("dsa", {"warmup_epochs": 5}),
        ("dsa", {"ema": 0.9}),
        ("dsa", {"optimiser": "adam"}),
        ("dsa", {"augment": "flip"}),
        ("glad", {"ema": 1.0}),
        ("sre2l", {"mix": "cut"}),
        ("sre2l", {"temperature": 0}),
        ("dsa", {"lr_by_network": {"vgg11": 0.0}}),
    ],
)
def test_what_no_recipe_has_is_refused(name, overrides):
    with pytest.raises(ValidationError):
        recipes.resolve(name, overrides, 32)


def test_what_labels_depend_on_is_not_the_optimiser_and_evaluations_do_not_name_the_teacher():
    one = recipes.resolve("sre2l", {"teacher": {"epochs": 3}}, 32)
    other = recipes.resolve("sre2l", {"lr": 0.5, "temperature": 2.0}, 32)
    assert one.draws == other.draws
    assert one.draws == {
        "epochs": 400,
        "batch": 128,
        "augment": "crop_flip",
        "mix": "mixup",
        "mix_alpha": 0.8,
    }
    assert "teacher" not in one.values
    assert one.values["temperature"] == 30.0


# The learning rate of a set.


def a_set(step_size):
    return DistilledSet(torch.zeros(3, 3, 8, 8), torch.arange(3), PixelSpace("unit"), step_size=step_size)


@pytest.mark.parametrize(
    ("name", "overrides", "step_size", "expected"),
    [
        ("mtt", {}, 0.03, 0.03),
        ("mtt", {}, None, 0.01),
        ("mtt", {"lr": 0.2}, 0.03, 0.03),
        ("mtt", {"lr": 0.2, "learning_rate_of": "recipe"}, 0.03, 0.2),
        ("mtt", {"lr_by_network": {"convnet": 0.5}}, 0.03, 0.5),
        ("mtt", {"lr_by_network": {"vgg11": 0.5}}, 0.03, 0.03),
        ("dsa", {}, 0.03, 0.01),
    ],
)
def test_the_learning_rate_of_a_set(name, overrides, step_size, expected):
    recipe = recipes.resolve(name, overrides, 32)
    assert learning_rate(recipe, "convnet", a_set(step_size)) == expected


def test_the_whole_training_set_has_none():
    assert learning_rate(recipes.resolve("mtt", {}, 32), "convnet", None) == 0.01


def test_a_set_s_step_size_lies_in_its_file(tmp_path):
    about = {
        "space": PixelSpace("unit").to_json(),
        "cell": {"dataset": {"name": "pets", "classes": 3}, "seed": 4},
    }
    metadata = {"metadd": json.dumps(about)}
    tensors = {"images": torch.rand(6, 3, 32, 32), "labels": torch.arange(3).repeat_interleave(2)}
    paths = [tmp_path / name for name in ("plain", "learnt", "other")]
    paths = [path.with_suffix(".safetensors") for path in paths]
    for path, step_size in zip(paths, (None, 0.25, 0.5), strict=True):
        learnt = {} if step_size is None else {"step_size": torch.tensor(step_size)}
        save_file(tensors | learnt, path, metadata)
    assert [stored([path]).step_size for path in paths] == [None, 0.25, 0.5]
    with pytest.raises(ValueError, match="different step sizes"):
        stored(paths[1:])
    data = Identity("pets", "0" * 64, ("cat", "dog", "owl"), 32, (9, 9, 9), (9, 9, 9))
    found = [read(path, data, PixelSpace("unit"), None)[0] for path in paths]
    assert [(each.step_size, each.number) for each in found] == [(None, 4), (0.25, 4), (0.5, 4)]


def test_a_warm_up_that_leaves_no_epoch_is_refused():
    with pytest.raises(ValidationError, match="a warm-up of 5 epochs leaves none of 5"):
        recipes.resolve("sre2l", {"epochs": 5, "warmup_epochs": 5}, 64)
    assert recipes.resolve("glad", {"epochs": 3}, 32).warmup_epochs == 2
