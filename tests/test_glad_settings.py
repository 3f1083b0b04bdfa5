"""Settings of GLaD: the authors' table, what goes to the inner method, what is refused, labels."""

import pytest
from pydantic import ValidationError

from baselines import METHODS, Task
from baselines.base import Need
from bench.validation import explain

CIFAR = Task("cifar10", 10, 32, 1)


def resolve(method="glad", task=CIFAR, **overrides):
    return METHODS[method].settings.resolve(task, overrides)


@pytest.mark.parametrize(
    ("method", "lr_f", "lr_w", "layer_of_stylegan_xl"),
    [
        ("glad", 10, 0.01, 20),
        ("glad(dc)", 1, 0.001, 16),
        ("glad(mtt)", 10_000, 10, 12),
        ("glad(sre2l)", 0.1, 0.01, 12),
    ],
)
def test_the_authors_table(method, lr_f, lr_w, layer_of_stylegan_xl):
    settings = resolve(method)
    assert (settings.iterations, settings.lr_f, settings.lr_w, settings.chunk) == (1000, lr_f, lr_w, 10)
    assert (settings.generator, settings.pixels) == ("trained", "normalised")
    assert settings.recipe == ("sre2l" if method == "glad(sre2l)" else "glad")
    at_128 = Task("imagefolder", 10, 128, 1)
    assert resolve(method, at_128, generator="file:/x.safetensors").layer == layer_of_stylegan_xl


def test_what_glad_sets_of_the_inner_methods():
    dm, dc, mtt = (
        resolve(method, task=Task("cifar10", 10, 32, 10)).inner
        for method in ("glad", "glad(dc)", "glad(mtt)")
    )
    assert (dm.batch_real, dm.augment) == (256, "dsa")
    assert (dc.batch_real, dc.augment, dc.outer, dc.inner, dc.lr_net) == (256, "dsa", 1, 1, 0.01)
    assert (mtt.syn_steps, mtt.expert_epochs, mtt.max_start_epoch) == (20, 3, 5)
    assert (mtt.lr_teacher, mtt.lr_lr, mtt.batch_syn, mtt.augment) == (0.01, 1e-6, None, "dsa")
    assert all(inner.momentum == 0.5 for inner in (dm, dc, mtt))


@pytest.mark.parametrize(("size", "layer"), [(16, 3), (32, 4), (64, 5), (128, 6)])
def test_the_compact_generator_is_cut_in_half(size, layer):
    assert resolve(task=Task("tiny-imagenet", 200, size, 1)).layer == layer
    assert resolve(layer=7).layer == 7


def test_a_smaller_stylegan_xl_is_cut_at_the_same_share_of_its_16_layers():
    cut = [resolve(method, generator="file:x").layer for method in ("glad", "glad(dc)", "glad(mtt)")]
    assert cut == [12, 10, 7]


def test_sre2l_runs_as_long_as_without_a_generator():
    tiny = Task("tiny-imagenet", 200, 64, 1)
    assert resolve("glad(sre2l)", tiny).iterations == 4000
    assert resolve("glad(sre2l)", tiny).inner.iterations == 4000
    assert resolve("glad(sre2l)", tiny, iterations=30).inner.iterations == 30
    assert resolve("glad(sre2l)").parts(3) == [1, 1, 1]
    assert resolve("glad").parts(3) == [3]


@pytest.mark.parametrize("method", ["glad", "glad(dc)", "glad(mtt)", "glad(sre2l)"])
def test_a_stored_cell_gives_the_same_settings(method):
    pixels = {"glad(mtt)": "zca", "glad(sre2l)": "normalised"}.get(method, "unit")
    settings = resolve(method, pixels=pixels, inner={}, iterations=7)
    assert settings.inner.pixels == settings.pixels
    assert settings.inner.iterations == 7
    assert METHODS[method].settings.model_validate(settings.model_dump(mode="json")) == settings


def test_what_is_needed():
    assert resolve(generator="random").needs("convnet") == {
        "generator": Need("generator", {"kind": "random"})
    }
    assert resolve(generator_settings={"width": 32}).needs("convnet") == {
        "generator": Need("generator", {"kind": "trained", "width": 32})
    }
    found = resolve("glad(mtt)", generator="file:a/b", inner={"experts": 3}).needs("convnet@w8")
    assert found["generator"] == Need("generator", file="file:a/b")
    assert (found["experts"].what, found["experts"].count) == ("expert", 3)
    assert set(resolve("glad(sre2l)").needs("convnet")) == {"generator", "teacher"}


@pytest.mark.parametrize(
    ("method", "generator", "label"),
    [
        ("glad", "random", "GLaD (DM), untrained generator"),
        ("glad", "trained", "GLaD (DM), trained generator"),
        ("glad(dc)", "trained", "GLaD (DC), trained generator"),
        ("glad(mtt)", "file:/somewhere/StyleGAN-XL.safetensors", "GLaD (MTT), StyleGAN-XL"),
        ("glad(sre2l)", "file:/somewhere/StyleGAN-XL", "GLaD (SRe2L), StyleGAN-XL"),
    ],
)
def test_the_label_of_a_row_names_the_prior(method, generator, label):
    assert resolve(method, generator=generator).row_label == label


@pytest.mark.parametrize(
    ("method", "ipc", "override", "message"),
    [
        ("glad", 1, {"lr_img": 3.0}, "suite: lr_img: unknown key"),
        ("glad", 1, {"inner": {"lr_img": 3.0}}, "suite: inner.lr_img: has no effect under GLaD; `lr_f`"),
        ("glad(sre2l)", 1, {"inner": {"lr": 3.0}}, "suite: inner.lr: has no effect"),
        ("glad(dc)", 1, {"inner": {"init": "real"}}, "suite: inner.init: has no effect under GLaD; the gen"),
        (
            "glad",
            1,
            {"inner": {"iterations": 3}},
            "suite: inner.iterations: has no effect under GLaD; set it",
        ),
        ("glad", 1, {"inner": {"pixels": "unit"}}, "suite: inner.pixels: has no effect under GLaD; set it"),
        (
            "glad",
            1,
            {"inner": {"batch_reel": 3}},
            "suite: inner.batch_reel: unknown key; did you mean 'batch_re",
        ),
        ("glad(sre2l)", 1, {"pixels": "unit"}, "suite: inner.pixels: input should be 'normalised'"),
        ("glad(mtt)", 1, {"inner": {"syn_steps": 0}}, "suite: inner.syn_steps: input should be greater"),
        ("glad", 1, {"inner": 3}, "suite: inner: input should be a valid dictionary"),
        ("glad", 1, {"iterations": 0}, "suite: iterations: input should be greater"),
        ("glad", 2, {"average_w": True}, "suite: average_w: all images of a class would start alike"),
        ("glad", 1, {"generator": "file:"}, "suite: generator: string should match"),
        ("glad", 1, {"generator": "biggan"}, "suite: generator: string should match"),
        (
            "glad",
            1,
            {"generator": "file:a", "generator_settings": {"width": 3}},
            "leave `generator_settings` out",
        ),
        ("glad", 1, {"generator_settings": {"kind": "random"}}, "say `generator: random`"),
        ("glad", 1, {"lr_w": 0.0}, "suite: lr_w: input should be greater"),
    ],
)
def test_what_is_impossible_is_refused_with_its_place(method, ipc, override, message):
    model = METHODS[method].settings
    with pytest.raises(ValidationError) as refused:
        model.resolve(Task("cifar10", 10, 32, ipc), override)
    assert message in explain(refused.value, model, "suite")


def test_a_cell_whose_inner_method_runs_otherwise_is_refused():
    values = resolve().model_dump(mode="json")
    values["inner"]["iterations"] = 3
    with pytest.raises(ValidationError, match=r"inner.iterations is 3"):
        METHODS["glad"].settings.model_validate(values)


def test_class_means_are_for_one_image_per_class():
    assert resolve(average_w=True).average_w
