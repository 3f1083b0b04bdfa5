"""Class activation maps: against the grad-cam package, where they are found, and what the finding leaves."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from timm.models.swin_transformer import SwinTransformer
from torch import nn
from vits import class_token_vit

from bench.networks.build import build
from bench.networks.names import PRESETS, parse
from bench.seeds import forked
from metadd import CAM, Unsuitable
from metadd.cam import Site
from metadd.features import normalised

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # OpenCV's and the package's own
    from pytorch_grad_cam import GradCAM, HiResCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

pytestmark = pytest.mark.usefixtures("one_thread")


def made(make, *args, **kwargs):
    with forked("networks"):
        return make(*args, **kwargs)


def batch(size=32, images=6, seed=0):
    """Smooth images, so that maps are more than noise, and labels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(images, 3, 5, 5, generator=generator)
    pictures = F.interpolate(coarse, (size, size), mode="bicubic")
    return pictures, torch.randint(10, (images,), generator=generator)


def small_swin():
    return SwinTransformer(
        img_size=32,
        patch_size=2,
        embed_dim=16,
        depths=(1, 2, 1),
        num_heads=(1, 2, 4),
        window_size=4,
        num_classes=10,
    )


def without_class_token(tokens):
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (8, 8))


def all_tokens(tokens):
    return tokens.transpose(1, 2).unflatten(2, (8, 8))


def channels_last(output):
    return output.permute(0, 3, 1, 2)


#: Name: the network, the package's form and layer, and how the layer's output becomes a map there.
#: Where theirs is Grad-CAM and ours CAM (``pooled``) the two differ by a factor, the number of positions,
#: that no normalisation lets through: the mean gradient of a pooled feature is W[y, k] over that number.
AGAINST = {
    "ConvNet": (lambda: build("convnet@w16", 10, 32), HiResCAM, lambda net: net.features, None),
    "ResNet": (lambda: build("resnet18@w8", 10, 32), GradCAM, lambda net: net.features, None),
    "ViT, mean": (lambda: build("vit_tiny@w64", 10, 32), GradCAM, lambda net: net.net.norm, all_tokens),
    # The package's example takes the norm in the last block; we take what goes into that block, shortcut
    # included, and so does this comparison.
    "ViT, class token": (class_token_vit, GradCAM, lambda net: net.blocks[-2], without_class_token),
    "Swin": (small_swin, GradCAM, lambda net: net.norm, channels_last),
}


def theirs(form, network, layer, reshape, images, labels):
    with form(model=network, target_layers=[layer], reshape_transform=reshape) as cam:
        return cam(images, [ClassifierOutputTarget(label) for label in labels.tolist()])


def correlations(found, expected):
    """Per image."""
    return [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(found, expected, strict=True)]


def compared(name, theirs_form=None):
    make, form, layer, reshape = AGAINST[name]
    network = made(make).eval()
    images, labels = batch()
    with torch.no_grad():
        labels = network(images).argmax(1)  # a class that speaks for the image: not all of the map is below 0
    expected = theirs(theirs_form or form, network, layer(network), reshape, images, labels)
    _, maps = CAM(network, 32)(images, labels)
    found = normalised(maps, 32).numpy()
    assert min(found.std((1, 2)).min(), expected.std((1, 2)).min()) > 0.05  # none is flat
    return correlations(found, expected)


@pytest.mark.parametrize("name", AGAINST)
def test_maps_are_those_of_the_grad_cam_package(name):
    """Ours with its normalisation: ReLU, min-max, bilinear resize to the image."""
    assert min(compared(name)) > 0.999


def test_of_a_flattened_map_grad_cam_is_another():
    """Grad-CAM would average the classifier's weights over the positions, which are not alike here."""
    assert np.mean(compared("ConvNet", GradCAM)) < 0.9


FEATURES = ("features", "channels first", 0)
#: Where each preset's map is read: module, layout, prefix tokens, side, form, classifier.
SITES = {
    ("convnet@w8", 32): ("pool", "channels first", 0, 4, "flattened", "classifier"),
    ("convnet@w8", 64): ("pool", "channels first", 0, 4, "flattened", "classifier"),
    ("convnet@w8@bn", 32): ("pool", "channels first", 0, 4, "flattened", "classifier"),
    ("convnet@w8@d4", 32): ("features.14", "channels first", 0, 4, "gradient", ""),  # the last is 2x2
    ("resnet18@w4", 32): (*FEATURES, 4, "pooled", "classifier"),
    ("resnet18@w4@bn", 32): (*FEATURES, 4, "pooled", "classifier"),
    ("resnet18@w4", 64): (*FEATURES, 8, "pooled", "classifier"),
    ("vgg11@w4", 32): ("features.20", "channels first", 0, 4, "gradient", ""),  # the last is 1x1
    ("vgg11@w4@bn", 32): ("features.20", "channels first", 0, 4, "gradient", ""),
    ("vgg11@w4", 64): ("features.27", "channels first", 0, 4, "gradient", ""),
    ("alexnet@w8", 32): ("pool", "channels first", 0, 4, "flattened", "classifier"),
    ("alexnet@w8@bn", 64): ("pool", "channels first", 0, 8, "flattened", "classifier"),
    ("googlenet", 32): ("net.inception5b", "channels first", 0, 4, "pooled", "classifier"),
    ("mobilenetv2@w8", 32): ("net.bn2", "channels first", 0, 4, "pooled", "net.classifier"),
    ("mobilenetv2@w8", 64): ("net.bn2", "channels first", 0, 8, "pooled", "net.classifier"),
    ("efficientnet_b0@w8", 32): ("net.bn2", "channels first", 0, 4, "pooled", "net.classifier"),
    ("vit_tiny@w16", 32): ("net.norm", "tokens", 0, 8, "pooled", "net.head"),
    ("vit_tiny@w16", 64): ("net.norm", "tokens", 0, 8, "pooled", "net.head"),
    ("vit_b_16", 32): ("net.blocks.10", "tokens", 1, 8, "gradient", ""),
    ("swin_t", 32): ("net.norm", "channels last", 0, 4, "pooled", "net.head.fc"),
}


@pytest.mark.parametrize(("name", "size"), SITES, ids=str)
def test_where_a_preset_s_map_is_read(name, size):
    module, layout, prefix, side, form, classifier = SITES[name, size]
    site = CAM(made(build, name, 10, size), size).site
    assert site == Site(module, 0, layout, prefix, (side, side), form, classifier)


def test_every_preset_is_looked_at():
    assert {parse(name).base for name, _ in SITES} == set(PRESETS)


SMALL = [name for name, size in SITES if size == 32 and name not in ("vit_b_16", "swin_t", "googlenet")]


@pytest.mark.parametrize("name", SMALL)
def test_one_forward_leaves_no_hooks_and_gives_the_network_s_logits(name):
    network = made(build, name, 10, 32)
    forwards = []
    network.register_forward_hook(lambda *_: forwards.append(1))
    cam = CAM(network, 32)
    assert len(forwards) == 1  # the site is found by one as well
    images, labels = batch()
    with torch.no_grad():
        expected = network(images)
    forwards.clear()
    logits, maps = cam(images, labels)
    assert len(forwards) == 1
    assert logits.shape == (6, 10)
    assert maps.shape == (6, *cam.site.shape)
    assert not logits.requires_grad
    assert not maps.requires_grad
    torch.testing.assert_close(logits, expected)
    leaf = images.clone().requires_grad_()
    logits_too, maps_too = cam(leaf, labels)
    assert len(forwards) == 2
    torch.testing.assert_close(maps, maps_too)
    torch.testing.assert_close(logits, logits_too)
    assert torch.autograd.grad(maps_too.square().sum() + logits_too.sum(), leaf)[0].abs().max() > 0
    assert sum(len(module._forward_hooks) for module in network.modules()) == 1
    assert not any(each.requires_grad or each.grad is not None for each in network.parameters())


def test_a_failed_forward_leaves_no_hooks():
    network = made(build, "vgg11@w4", 10, 32)
    cam = CAM(network, 32)
    with pytest.raises(RuntimeError):
        cam(torch.zeros(2, 5, 32, 32), torch.zeros(2, dtype=torch.int64))
    assert not any(module._forward_hooks for module in network.modules())


def test_in_evaluation_mode_for_good():
    cam = CAM(made(build, "resnet18@w4@bn", 10, 32), 32)
    nn.Sequential(cam).train()
    assert not any(module.training for module in cam.modules())


class Plain(nn.Module):
    """Somebody's own network: everything but the layers with parameters is a function."""

    def __init__(self, norm=False):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 12, 3, padding=1)
        self.norm = nn.LayerNorm(12) if norm else nn.Identity()
        self.head = nn.Linear(12, 10)

    def forward(self, images):
        maps = F.max_pool2d(F.relu(self.first(images)), 2)
        maps = F.relu(self.second(maps))
        return self.head(self.norm(maps.mean((2, 3))))


def by_hand(network, layer, images, labels):
    """Grad-CAM as its paper's equations 1 and 2 say, one image at a time, in loops."""
    kept = []
    handle = layer.register_forward_hook(lambda _, inputs, output: kept.append(output))
    maps = []
    for image, label in zip(images, labels, strict=True):
        kept.clear()
        with torch.enable_grad():
            logits = network(image[None].clone().requires_grad_())
            (slope,) = torch.autograd.grad(logits[0, label], kept[0])
        map_ = torch.zeros(slope.shape[2:])
        for k in range(slope.shape[1]):
            map_ += slope[0, k].mean() * kept[0][0, k].detach()
        maps.append(map_)
    handle.remove()
    return torch.stack(maps)


def test_a_user_s_own_network_gives_grad_cam_at_its_last_layer():
    network = made(Plain, norm=True)
    cam = CAM(network, 32)
    assert cam.site == Site("second", 0, "channels first", 0, (16, 16), "gradient", "")
    images, labels = batch()
    torch.testing.assert_close(cam(images, labels)[1], by_hand(network, network.second, images, labels))


class InPlace(nn.Module):
    """A ReLU in place, after the layer: what a hook keeps of the layer is the map behind the ReLU."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=4)
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        return self.head(self.body(images).relu_().mean((2, 3)))


def test_a_relu_in_place_belongs_to_the_map():
    network = made(InPlace)
    cam = CAM(network, 32)
    assert (cam.site.module, cam.site.form) == ("body", "pooled")
    images, labels = batch()
    maps = network.body(images).relu()
    expected = torch.einsum("nk,nkhw->nhw", network.head.weight[labels], maps)
    torch.testing.assert_close(cam(images, labels)[1], expected)


def test_without_a_linear_classifier_the_map_is_what_the_last_convolution_says():
    network = made(
        nn.Sequential, nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Conv2d(8, 10, 1), nn.AdaptiveAvgPool2d(1)
    )
    network.append(nn.Flatten())
    cam = CAM(network, 32)
    assert cam.site == Site("2", 0, "channels first", 0, (8, 8), "gradient", "")
    images, labels = batch()
    said = network[:3](images)[torch.arange(6), labels]
    torch.testing.assert_close(cam(images, labels)[1], said / 64)


class Shortcut(nn.Module):
    """A body that a shortcut leads round, from the stem or from the images themselves."""

    def __init__(self, start):
        super().__init__()
        self.start = start
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)
        self.aside = nn.Linear(8 if start == "stem" else 3, 10)

    def forward(self, images):
        stem = self.stem(images)
        aside = self.aside((stem if self.start == "stem" else images).mean((2, 3)))
        return self.head(self.body(stem).relu().mean((2, 3))) + aside


def test_a_map_that_a_shortcut_leads_round_is_passed_over():
    assert CAM(made(Shortcut, "stem"), 32).site.module == "stem"
    with pytest.raises(Unsuitable, match="no layer whose output"):
        CAM(made(Shortcut, "images"), 32)


class Twice(nn.Module):
    """One layer, used twice: the second call gives the map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4)
        self.layer = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        return self.head(self.layer(self.layer(self.stem(images)).relu()).mean((2, 3)))


def test_a_layer_used_twice():
    network = made(Twice)
    cam = CAM(network, 32)
    assert cam.site == Site("layer", 1, "channels first", 0, (8, 8), "pooled", "head")
    images, labels = batch()
    maps = network.layer(network.layer(network.stem(images)).relu())
    expected = torch.einsum("nk,nkhw->nhw", network.head.weight[labels], maps)
    torch.testing.assert_close(cam(images, labels)[1], expected)


@pytest.mark.parametrize(
    ("pool", "form"), [(nn.AdaptiveAvgPool2d, "pooled"), (nn.AdaptiveMaxPool2d, "gradient")]
)
def test_the_form_does_not_depend_on_the_scale_of_the_features(pool, form):
    network = made(nn.Sequential, nn.Conv2d(3, 8, 3, stride=4, bias=False), pool(1), nn.Flatten())
    network.append(made(nn.Linear, 8, 10))
    network[0].weight.data *= 1e-7
    assert CAM(network, 32).site.form == form


MLP = (nn.Flatten(), nn.Linear(3 * 32 * 32, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.mark.parametrize(
    "before", [[], [nn.Identity()], [nn.InstanceNorm2d(3)]], ids=["", "identity", "norm"]
)
def test_a_network_without_positions_is_refused(before):
    """Images that are only normalised before a network are no map of it."""
    with pytest.raises(Unsuitable) as refused:
        CAM(nn.Sequential(*before, *MLP), 32)
    assert str(refused.value) == (
        "Sequential has no class activation map for 32x32 images: no layer whose output has 4x4 positions or "
        "more and lies on every path from the image to the logits"
    )


class Pair(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)), images


@pytest.mark.parametrize(
    "network", [Pair(), nn.Conv2d(3, 10, 3), nn.Sequential(nn.Flatten(), nn.Threshold(1e9, 0.0))]
)
def test_what_gives_no_logits_is_refused(network):
    if isinstance(network, nn.Sequential):
        network.register_forward_hook(lambda _, inputs, output: output.detach())
    with pytest.raises(Unsuitable, match=r"does not give logits \[N, C\] that can be differentiated"):
        CAM(network, 32)


@pytest.mark.parametrize("gradient", ["through", "constant"])
def test_whether_grad_cam_s_weights_are_differentiated(gradient):
    """The gradient of a sum over the map, with the weights' own graph and without."""
    network = made(class_token_vit)
    cam = CAM(network, 32, gradient)
    images, labels = batch()
    images = images.requires_grad_()
    _, maps = cam(images, labels)
    (found,) = torch.autograd.grad(maps.square().sum(), images)

    seen = []
    handle = network.blocks[1].register_forward_hook(lambda _, inputs, output: seen.append(output))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        logits = network(images)
        handle.remove()
        score = logits[torch.arange(6), labels].sum()
        (slopes,) = torch.autograd.grad(score, seen[0], create_graph=gradient == "through", retain_graph=True)
    weights = slopes[:, 1:].mean(1, keepdim=True)
    by_hand = (weights * seen[0][:, 1:]).sum(2)
    torch.testing.assert_close(maps.flatten(1), by_hand)
    (expected,) = torch.autograd.grad(by_hand.square().sum(), images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    _, other = CAM(network, 32, "constant" if gradient == "through" else "through")(images, labels)
    (differing,) = torch.autograd.grad(other.square().sum(), images)
    assert (differing - found).norm() > 0.05 * found.norm()
