"""The networks: counts, shapes, widths, norms, sizes."""

from itertools import pairwise

import pytest
import torch
from fresh_networks import LARGE, OURS, SMALL, fresh, images
from torch import Tensor, nn

from bench.errors import CellFailure, UserError
from bench.networks.base import norm_layers
from bench.networks.build import Network, build, parameters_count
from bench.networks.names import PRESETS, NetworkSpec

pytestmark = pytest.mark.usefixtures("one_thread")

# Counts.


@pytest.mark.parametrize(
    ("name", "classes", "size", "count"),
    [
        ("convnet", 10, 32, 320_010),
        ("convnet", 100, 32, 504_420),
        ("convnet", 200, 64, 857_160),
        ("convnet@d3", 200, 64, 1_938_120),
        ("convnet", 10, 128, 615_690),
        ("convnet@bn", 10, 32, 320_010),
    ],
)
def test_convnet_counts_of_the_methods_notes(name, classes, size, count):
    assert parameters_count(name, classes, size) == count


def conv(inward: int, outward: int, kernel: int, *, bias: bool = True) -> int:
    return inward * outward * kernel**2 + bias * outward


def norm(channels: int) -> int:
    return 2 * channels


def count_resnet18(classes: int) -> int:
    total = conv(3, 64, 3, bias=False) + norm(64)
    for inward, outward in [(64, 64), (64, 128), (128, 256), (256, 512)]:
        total += conv(inward, outward, 3, bias=False) + 3 * conv(outward, outward, 3, bias=False)
        total += 4 * norm(outward)
        if inward != outward:
            total += conv(inward, outward, 1, bias=False) + norm(outward)
    return total + 513 * classes


def count_vgg11(classes: int, size: int) -> int:
    channels = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    return (
        sum(conv(a, b, 3) + norm(b) for a, b in pairwise(channels)) + (512 * (size // 32) ** 2 + 1) * classes
    )


def count_alexnet(classes: int, size: int, *, batch_norm: bool) -> int:
    layers = [(3, 128, 5), (128, 192, 5), (192, 256, 3), (256, 192, 3), (192, 192, 3)]
    convolutions = sum(conv(*layer) + batch_norm * norm(layer[1]) for layer in layers)
    return convolutions + (192 * (size // 8) ** 2 + 1) * classes


@pytest.mark.parametrize(("classes", "size"), [(10, 32), (200, 64)])
def test_counts_from_the_layer_lists(classes, size):
    for suffix in ("", "@bn"):
        assert parameters_count(f"resnet18{suffix}", classes, size) == count_resnet18(classes)
        assert parameters_count(f"vgg11{suffix}", classes, size) == count_vgg11(classes, size)
        expected = count_alexnet(classes, size, batch_norm=bool(suffix))
        assert parameters_count(f"alexnet{suffix}", classes, size) == expected


@pytest.mark.parametrize(
    ("name", "theirs"), [("mobilenetv2", "mobilenetv2_100"), ("efficientnet_b0", "efficientnet_b0")]
)
def test_changed_strides_keep_the_counts_of_timm(name, theirs):
    import timm

    with torch.device("meta"):
        original = timm.create_model(theirs, num_classes=10)
    assert parameters_count(name, 10, 32) == sum(p.numel() for p in original.parameters())


def test_counting_draws_nothing():
    before = torch.get_rng_state()
    parameters_count("resnet18", 10, 32)
    assert torch.equal(before, torch.get_rng_state())


# Shapes.

EMBEDDING = {
    "convnet": (2048, 2048),
    "resnet18": (512, 512),
    "vgg11": (512, 2048),
    "alexnet": (3072, 12288),
    "googlenet": (1024, 1024),
    "mobilenetv2": (1280, 1280),
    "efficientnet_b0": (1280, 1280),
    "vit_tiny": (192, 192),
    "vit_b_16": (768, 768),
    "swin_t": (768, 768),
}


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", PRESETS)
def test_shapes_and_the_classifier_reads_the_embedding(name, size):
    shapes_only = name in LARGE or (size == 64 and name not in OURS)
    device = "meta" if shapes_only else "cpu"
    with torch.device(device):
        net = fresh(name, 7, size).eval()
    x = images(2, size).to(device)
    with torch.no_grad():
        logits, features = net(x), net.embed(x)
        again = net.classifier(features)
    assert logits.shape == again.shape == (2, 7)
    assert features.shape == (2, EMBEDDING[name][size == 64])
    if not shapes_only:
        torch.testing.assert_close(logits, again)
        assert logits.isfinite().all()


def last_map(net: Network, x: Tensor) -> tuple[int, ...]:
    """Shape of the last map or tokens before the pooling, by a hook for torchvision's network."""
    if isinstance(getattr(net, "features", None), nn.Module):
        return tuple(net.features(x).shape[1:])
    if hasattr(net.net, "forward_features"):
        return tuple(net.net.forward_features(x).shape[1:])
    shapes = []
    hook = net.net.inception5b.register_forward_hook(lambda *call: shapes.append(tuple(call[-1].shape[1:])))
    net(x)
    hook.remove()
    return shapes[0]


@pytest.mark.parametrize(
    ("name", "at_32", "at_64"),
    [
        ("convnet", (128, 4, 4), (128, 4, 4)),
        ("convnet@d3", (128, 4, 4), (128, 8, 8)),
        ("resnet18", (512, 4, 4), (512, 8, 8)),
        ("vgg11", (512, 1, 1), (512, 2, 2)),
        ("alexnet", (192, 4, 4), (192, 8, 8)),
        ("googlenet", (1024, 4, 4), (1024, 8, 8)),
        ("mobilenetv2", (1280, 4, 4), (1280, 8, 8)),
        ("efficientnet_b0", (1280, 4, 4), (1280, 8, 8)),
        ("vit_tiny", (64, 192), (64, 192)),
        ("vit_b_16", (65, 768), (65, 768)),
        ("swin_t", (4, 4, 768), (4, 4, 768)),
    ],
)
def test_last_map(name, at_32, at_64):
    for size, shape in ((32, at_32), (64, at_64)):
        with torch.device("meta"):
            net = build(name, 10, size).eval()
            assert last_map(net, torch.empty(2, 3, size, size)) == shape


def test_the_last_map_of_vgg11_with_4x4_positions_is_that_of_its_fourth_stage():
    net, maps = fresh("vgg11@w8"), []
    for layer in net.features:
        layer.register_forward_hook(lambda *call: maps.append(call[-1].shape[-1]))
    net(images(1, 32))
    assert [side for side in maps if side >= 4][-1] == 4
    assert maps[-1] == 1


@pytest.mark.parametrize("size", [16, 24, 40, 48])
@pytest.mark.parametrize("name", [*SMALL, "convnet@w8@d2", "vit_tiny@w32", "mobilenetv2@w8"])
def test_other_multiples_of_8(name, size):
    if name.startswith("vgg11") and size < 32:
        with pytest.raises(CellFailure, match=f"vgg11 halves its images .* side of 32 or more, not {size}"):
            build(name, 10, size)
        return
    with torch.no_grad():
        assert fresh(name, 5, size)(images(2, size)).shape == (2, 5)


def test_depth_follows_the_image_size():
    depths = {
        size: sum(isinstance(layer, nn.Conv2d) for layer in fresh("convnet@w4", 10, size).features)
        for size in (16, 24, 32, 40, 64, 96, 128)
    }
    assert depths == {16: 2, 24: 2, 32: 3, 40: 3, 64: 4, 96: 4, 128: 5}


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("convnet", 28, "convnet takes images whose side is a multiple of 8, 16 or more, not 28"),
        ("resnet18", 8, "multiple of 8, 16 or more, not 8"),
        ("convnet@d6", 32, "a ConvNet of depth 6 needs images of side 64 or more, not 32"),
        ("darknet53", 8, "darknet53 takes images whose side"),
        ("test_vit", 40, "test_vit cannot take 40x40 images: Input height .* divisible by patch size"),
        ("vgg11_bn", 16, r"vgg11_bn cannot take 16x16 images: Given input size"),
    ],
)
def test_sizes_that_a_network_refuses(name, size, message):
    with torch.device("meta"), pytest.raises(CellFailure, match=message):
        build(name, 10, size)


def test_any_timm_name():
    net = fresh("resnet10t", 6, 64)
    assert net.training
    assert not net.redrawable
    net.eval()
    assert net(images(2, 64)).shape == (2, 6)
    assert net.embed(images(2, 64)).shape == (2, 512)
    with pytest.raises(UserError, match="unknown network"):
        build("resnet10tt", 6, 64)


def test_a_spec_builds_what_its_name_builds():
    spec = NetworkSpec("convnet", width=8, norm="batch")
    assert str(fresh("convnet@w8@bn")) == str(fresh(spec))


# Widths and norms.


@pytest.mark.parametrize(
    ("name", "first", "embedding"),
    [
        ("convnet@w32", 32, 512),
        ("resnet18@w16", 16, 128),
        ("vgg11@w16", 16, 128),
        ("alexnet@w32", 32, 48 * 16),
        ("mobilenetv2@w16", 16, 1280),
        ("efficientnet_b0@w16", 16, 640),
        ("vit_tiny@w64", 64, 64),
    ],
)
def test_width_scales_the_whole_network(name, first, embedding):
    with torch.device("meta"):
        net = build(name, 10, 32).eval()
        stem = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
        assert stem.out_channels == first
        assert net.embed(torch.empty(2, 3, 32, 32)).shape == (2, embedding)
    base = name.split("@")[0]
    assert parameters_count(name, 10, 32) < parameters_count(base, 10, 32)


def test_vit_tiny_has_a_head_per_64_channels_and_a_norm_per_token():
    for name, heads in (("vit_tiny@w32", 1), ("vit_tiny@w128", 2), ("vit_tiny", 3)):
        with torch.device("meta"):
            net = build(name, 10, 32).net
        assert net.blocks[0].attn.num_heads == heads
        assert isinstance(net.norm, nn.LayerNorm)
        assert isinstance(net.fc_norm, nn.Identity)
        assert net.cls_token is None
        assert len(net.blocks) == 12


@pytest.mark.parametrize("base", OURS)
def test_norm_variants(base):
    def norms(name: str) -> set[type]:
        with torch.device("meta"):
            kinds = {type(layer) for layer in build(name, 10, 32).modules()}
        return kinds & {nn.GroupNorm, nn.BatchNorm2d}

    assert norms(f"{base}@bn") == {nn.BatchNorm2d}
    assert norms(base) == (set() if base == "alexnet" else {nn.GroupNorm})


def test_instance_norm_is_the_formula():
    (layer,) = norm_layers("instance", 6)
    layer = layer.double()
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, 6))
        layer.bias.copy_(torch.linspace(-1, 1, 6))
    x = images(4, 8, torch.float64).reshape(2, 6, 8, 8) * 3 + 1
    expected = torch.empty_like(x)
    for n in range(2):
        for c in range(6):
            values = x[n, c].flatten().tolist()
            mean = sum(values) / 64
            variance = sum((v - mean) ** 2 for v in values) / 64
            scaled = torch.tensor([(v - mean) / (variance + 1e-5) ** 0.5 for v in values])
            expected[n, c] = (scaled * layer.weight[c] + layer.bias[c]).reshape(8, 8)
    torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-6)


def test_instance_norm_equals_torchs_with_gradients():
    (ours,) = norm_layers("instance", 6)
    ours = ours.double()
    theirs = nn.InstanceNorm2d(6, affine=True).double()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    x = images(4, 8, torch.float64).reshape(2, 6, 8, 8).requires_grad_()
    weights = images(4, 8, torch.float64, seed=2).reshape(2, 6, 8, 8)
    results = []
    for layer in (ours, theirs):
        y = layer(x)
        (slope,) = torch.autograd.grad((y**2 * weights).sum(), x, create_graph=True)
        results.append((y, slope, *torch.autograd.grad((slope**3).sum(), (x, layer.weight))))
    for mine, torchs in zip(*results, strict=True):
        torch.testing.assert_close(mine, torchs)
