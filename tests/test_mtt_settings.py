"""MTT's settings: the authors' values, which experts they need, and what is refused."""

import pytest
from pydantic import ValidationError

from baselines import Task
from baselines.base import Need
from baselines.defaults.mtt import MTTSettings

#: N, M, max_start_epoch, lr_img, lr_lr, lr_teacher, pixels, batch_syn, and the experts' epochs.
ROWS = {
    ("cifar10", 1): (50, 2, 2, 100, 1e-7, 0.01, "zca", None, 21),
    ("cifar10", 10): (30, 2, 20, 100, 1e-5, 0.001, "zca", None, 21),
    ("cifar10", 50): (30, 2, 40, 1000, 1e-5, 0.001, "normalised", None, 41),
    ("cifar100", 1): (20, 3, 20, 1000, 1e-5, 0.01, "zca", None, 41),
    ("cifar100", 10): (20, 2, 20, 1000, 1e-5, 0.01, "normalised", None, 21),
    ("cifar100", 50): (80, 2, 40, 1000, 1e-5, 0.01, "zca", 125, 41),
    ("tiny-imagenet", 1): (10, 2, 10, 10_000, 1e-4, 0.01, "normalised", None, 41),
    ("tiny-imagenet", 10): (20, 2, 40, 10_000, 1e-4, 0.01, "normalised", 200, 41),
    ("tiny-imagenet", 50): (20, 2, 40, 10_000, 1e-4, 0.01, "normalised", 300, 41),
}
NAMES = ("syn_steps", "expert_epochs", "max_start_epoch", "lr_img", "lr_lr", "lr_teacher", "pixels")


def resolved(name, ipc, **overrides):
    return MTTSettings.resolve(Task(name, 10, 32, ipc), overrides)


@pytest.mark.parametrize(("name", "ipc"), ROWS)
def test_the_authors_values(name, ipc):
    *values, epochs = ROWS[name, ipc]
    settings = resolved(name, ipc)
    assert settings.model_dump() == {
        **dict(zip([*NAMES, "batch_syn"], values, strict=True)),
        "iterations": 5000,
        "momentum": 0.5,
        "init": "real",
        "augment": "dsa",
        "gradient": "adjoint",
        "chunk": None,
        "experts": 100,
        "experts_from": None,
        "expert": {"epochs": epochs},
    }
    assert settings == MTTSettings.model_validate(settings.model_dump(mode="json"))
    assert resolved(f"{name}[5]", ipc) == settings


@pytest.mark.parametrize(
    ("ipc", "row"), [(1, 1), (2, 1), (3, 1), (4, 10), (20, 10), (22, 10), (23, 50), (100, 50)]
)
def test_any_other_ipc_takes_the_nearest_row(ipc, row):
    assert resolved("cifar10", ipc) == resolved("cifar10", row)


@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_any_other_dataset_takes_cifar10_s_rows_without_zca(ipc):
    expected = resolved("cifar10", ipc).model_dump() | {"pixels": "normalised", "expert": {"epochs": 41}}
    assert resolved("digits", ipc).model_dump() == expected


def test_experts_are_of_the_distilling_network_and_shared_by_ipcs_of_a_pixel_space():
    needs = [resolved("cifar10", ipc).needs("convnet@w32") for ipc in (1, 10)]
    training = {"network": "convnet@w32", "pixels": "zca", "epochs": 21}
    assert needs == [{"experts": Need("expert", training, count=100)}] * 2


@pytest.mark.parametrize(
    ("overrides", "training", "count"),
    [
        ({"pixels": "normalised"}, {"pixels": "normalised", "epochs": 41}, 100),
        ({"max_start_epoch": 30, "expert_epochs": 3}, {"epochs": 32}, 100),
        ({"max_start_epoch": 3, "expert": {"epochs": 4}, "experts": 5}, {"epochs": 4}, 5),
        ({"expert": {"network": "convnet@w8", "lr": 0.1}}, {"network": "convnet@w8", "lr": 0.1}, 100),
    ],
)
def test_what_is_overridden_is_needed(overrides, training, count):
    need = resolved("cifar10", 10, **overrides).needs("convnet")["experts"]
    assert need.settings == {"network": "convnet", "pixels": "zca", "epochs": 21, **training}
    assert (need.count, need.file) == (count, None)


def test_settings_that_were_not_resolved_need_what_they_read():
    settings = MTTSettings(iterations=1, max_start_epoch=5, expert_epochs=3)
    assert settings.needs("convnet")["experts"].settings["epochs"] == 7


def test_experts_from_elsewhere():
    need = resolved("cifar10", 1, experts_from="file:buffers/CIFAR10").needs("convnet")["experts"]
    assert need.file == "file:buffers/CIFAR10"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ({"expert": {"epochs": 20}}, "experts of 20 epochs are too short.*read up to epoch 21"),
        ({"experts_from": "file:x", "expert": {"lr": 0.1}}, "trained experts, so expert cannot set their lr"),
        ({"experts_from": "x"}, "should match pattern"),
        ({"pixels": "normalised", "expert": {"pixels": "zca"}}, "say `pixels` beside `expert`"),
        ({"gradient": "unrolled", "chunk": 5}, "chunk is for the adjoint gradient"),
        ({"syn_steps": 0}, "greater than or equal to 1"),
        ({"expert_epochs": 0}, "greater than or equal to 1"),
        ({"max_start_epoch": 0}, "greater than or equal to 1"),
        ({"batch_syn": 0}, "greater than or equal to 1"),
        ({"pixels": "unit"}, "'zca' or 'normalised'"),
        ({"syn_step": 3}, "Extra inputs are not permitted"),
        ({"lr_lr": -1.0}, "greater than or equal to 0"),
    ],
)
def test_what_is_impossible_is_refused(override, says):
    with pytest.raises(ValidationError, match=says):
        resolved("cifar10", 10, **override)
