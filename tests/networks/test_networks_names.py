"""The grammar of network names: what is valid, what is canonical, what the errors say."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UserError
from bench.networks.names import PRESETS, NetworkSpec, parse


def test_presets_are_the_ten_of_the_design():
    assert set(PRESETS) == {
        "convnet",
        "resnet18",
        "vgg11",
        "alexnet",
        "googlenet",
        "mobilenetv2",
        "efficientnet_b0",
        "vit_tiny",
        "vit_b_16",
        "swin_t",
    }
    for name in PRESETS:
        assert parse(name) == NetworkSpec(name)
        assert str(parse(name)) == name


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("convnet@w32", "convnet@w32"),
        ("convnet@w128", "convnet"),
        ("convnet@w128@in", "convnet"),
        ("convnet@bn@w032", "convnet@w32@bn"),
        ("convnet@d4@bn@w16", "convnet@w16@bn@d4"),
        ("convnet@d3", "convnet@d3"),
        ("resnet18@in@w64", "resnet18"),
        ("resnet18@w16@bn", "resnet18@w16@bn"),
        ("vgg11@bn", "vgg11@bn"),
        ("alexnet@w128@bn", "alexnet@bn"),
        ("mobilenetv2@w32", "mobilenetv2"),
        ("efficientnet_b0@w16", "efficientnet_b0@w16"),
        ("vit_tiny@w192", "vit_tiny"),
        ("vit_tiny@w96", "vit_tiny@w96"),
    ],
)
def test_canonical_name(written, canonical):
    spec = parse(written)
    assert str(spec) == canonical
    assert parse(canonical) == spec


def test_effective_settings():
    assert parse("convnet").effective_width == 128
    assert parse("convnet@w8").effective_width == 8
    assert parse("convnet").effective_norm == "instance"
    assert parse("convnet@bn").effective_norm == "batch"
    assert parse("alexnet").effective_norm is None
    assert parse("swin_t").effective_norm is None
    with pytest.raises(ValueError, match="swin_t has no width"):
        _ = parse("swin_t").effective_width


@given(
    st.sampled_from(["convnet", "resnet18", "vgg11"]),
    st.none() | st.integers(1, 512),
    st.sampled_from([None, "instance", "batch"]),
)
def test_str_and_parse_are_inverse(base, width, norm):
    spec = NetworkSpec(base, width, norm)
    assert parse(str(spec)) == spec
    assert hash(parse(str(spec))) == hash(spec)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnett", r"unknown network 'convnett': did you mean 'convnet'.*known: convnet, resnet18"),
        ("resnet34dd", r"unknown network 'resnet34dd'.*near in timm: .*resnet34d"),
        ("", "unknown network ''.*or any timm name"),
        ("convnet@", "'' is no modifier; known: wN"),
        ("convnet@x3", r"network 'convnet@x3': 'x3' is no modifier; known: wN \(width\), in, bn"),
        ("convnet@w-3", "'w-3' is no modifier"),
        ("convnet@w3@w4", "@w4 sets again"),
        ("convnet@in@bn", "@bn sets again"),
        ("convnet@d3@d3", "@d3 sets again"),
        ("convnet@w0", "the width of convnet must be at least 1, not 0"),
        ("convnet@d0", "the depth must be at least 1"),
        ("resnet18@d4", r"resnet18 does not support @d4; it supports @wN \(width, 64 .*@bn \(batch norm\)"),
        ("alexnet@in", r"alexnet does not support @in; it supports @wN .*, @bn \(batch norm\)$"),
        ("alexnet@w33", "the width of alexnet must be even, not 33"),
        ("googlenet@w8", "googlenet does not support @w8; it supports no modifiers"),
        ("swin_t@bn", "swin_t does not support @bn; it supports no modifiers"),
        ("mobilenetv2@w12", "the width of mobilenetv2 must be a multiple of 8, not 12"),
        ("mobilenetv2@bn", "mobilenetv2 does not support @bn; it supports @wN"),
        ("vit_tiny@w200", "the width of vit_tiny must be a multiple of 8 and of its heads"),
        ("resnet10t@w8", "resnet10t does not support @w8; it supports no modifiers"),
    ],
)
def test_errors_are_one_line_and_say_what_is_right(name, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(name)
    assert "\n" not in str(caught.value)


def test_timm_names_are_accepted_as_they_are():
    assert str(parse("resnet10t")) == "resnet10t"
    assert str(parse("resnet18.a1_in1k")) == "resnet18.a1_in1k"


def test_names_cost_no_torch():
    code = (
        "import sys; from bench.networks.names import PRESETS, parse; [parse(n) for n in PRESETS];"
        "parse('convnet@w8@bn@d2'); bad = {'torch', 'timm', 'torchvision'} & set(sys.modules);"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
