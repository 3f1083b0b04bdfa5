"""Class activation maps: against the grad-cam package, where they are found, and what the finding leaves."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from bench.networks.build import build
from bench.networks.names import PRESETS, parse
from bench.seeds import forked
from metadd import CAM
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


def class_token_vit():
    return VisionTransformer(
        img_size=32, patch_size=4, embed_dim=48, depth=3, num_heads=3, num_classes=10, weight_init="moco"
    )


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
    assert not (logits.requires_grad or maps.requires_grad)
    torch.testing.assert_close(logits, expected)
    leaf = images.clone().requires_grad_()
    logits_too, maps_too = cam(leaf, labels)
    assert len(forwards) == 2
    assert torch.equal(maps, maps_too)
    assert torch.equal(logits, logits_too)
    assert torch.autograd.grad(maps_too.square().sum() + logits_too.sum(), leaf)[0].abs().max() > 0
    assert sum(len(module._forward_hooks) for module in network.modules()) == 1
    assert not any(
        parameter.requires_grad or parameter.grad is not None for parameter in network.parameters()
    )


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
