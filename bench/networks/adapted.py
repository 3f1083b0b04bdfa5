"""Networks of timm and torchvision, with the changes that small images ask for.

Parameters, initialisation, dropout and stochastic depth are the libraries' own unless a function says
otherwise. Strides are taken away at the front, where they cost the most detail, until the last map of a 32x32
image has 4x4 positions; the kernels keep their sizes, so the parameter counts stay the libraries'
(but for GoogLeNet's stem).
"""

from typing import cast

import timm
import torch

# timm's public functions take no width; these two, which they call, do.
from timm.models.efficientnet import _gen_efficientnet, _gen_mobilenet_v2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.models import GoogLeNet

from bench.errors import CellFailure
from bench.networks.base import Network
from bench.networks.names import vit_heads


class TimmNetwork(Network):
    """A timm network, as ``net``, behind the two methods that all networks here have."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @property
    def classifier(self) -> nn.Module:
        """The last linear layer."""
        return cast(nn.Module, self.net.get_classifier())  # type: ignore[operator]

    def embed(self, x: Tensor) -> Tensor:
        """Features [N, F] that feed the classifier, dropout included."""
        maps = self.net.forward_features(x)  # type: ignore[operator]
        return cast(Tensor, self.net.forward_head(maps, pre_logits=True))  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, C] of images [N, 3, H, W]."""
        return cast(Tensor, self.net(x))


class TorchvisionNetwork(Network):
    """A torchvision network whose last linear layer (``fc``) has moved to ``classifier``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        classifier = cast(nn.Linear, net.fc)
        net.fc = nn.Identity()
        self.net = net
        self.classifier = classifier

    def embed(self, x: Tensor) -> Tensor:
        """Features [N, F] that feed the classifier, dropout included."""
        return cast(Tensor, self.net(x))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, C] of images [N, 3, H, W]."""
        return cast(Tensor, self.classifier(self.embed(x)))


def googlenet(classes: int) -> Network:
    """Build torchvision's GoogLeNet, auxiliary heads off, its own truncated normal initialisation (std 0.01).

    The stem is a 3x3 convolution of stride 1 without max-pool, as in the CIFAR form of ResNet; the other
    three max-pools stay: last map [N, 1024, S/8, S/8].
    """
    net = GoogLeNet(num_classes=classes, aux_logits=False, init_weights=True)
    stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.trunc_normal_(stem.weight, mean=0.0, std=0.01, a=-2, b=2)
    net.conv1.conv = stem
    net.maxpool1 = nn.Identity()
    return TorchvisionNetwork(net)


def mobilenetv2(classes: int, width: int) -> Network:
    """Build timm's ``mobilenetv2_100``; strides of the stem and of the first strided stage are 1.

    Stem of ``width`` channels, the others by the same factor in multiples of 8, the last always 1280 (timm's
    and the paper's rule below width 32). Last map [N, 1280, S/8, S/8].
    """
    net = _gen_mobilenet_v2(  # type: ignore[no-untyped-call]
        "mobilenetv2_100", channel_multiplier=width / 32, num_classes=classes
    )
    return TimmNetwork(_without_first_strides(net))


def efficientnet_b0(classes: int, width: int) -> Network:
    """Build timm's ``efficientnet_b0``; strides of the stem and of the first strided stage are 1.

    Stem of ``width`` channels, all others by the same factor in multiples of 8. Last map
    [N, 1280 width / 32, S/8, S/8]. Dropout and stochastic depth are off, as timm has it (the paper drops
    0.2).
    """
    net = _gen_efficientnet(  # type: ignore[no-untyped-call]
        "efficientnet_b0", channel_multiplier=width / 32, num_classes=classes
    )
    return TimmNetwork(_without_first_strides(net))


def _without_first_strides(net: nn.Module) -> nn.Module:
    """Set the first two strides of 2 to 1; the padding stays, as it depends on the kernel alone."""
    strided = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    for convolution in strided[:2]:
        convolution.stride = (1, 1)
    return net


def vit_tiny(classes: int, size: int, width: int) -> Network:
    """Build a ViT-Ti of depth 12 on 8x8 patches (of side S/8), tokens pooled by mean, no class token.

    The final norm works per token, before the mean, so that each position has its own evidence for a class
    (design.md, section 5). Heads: one per 64 channels, at least one. Last tokens [N, 64, width].
    """
    net = VisionTransformer(
        img_size=size,
        patch_size=size // 8,
        num_classes=classes,
        embed_dim=width,
        depth=12,
        num_heads=vit_heads(width),
        class_token=False,
        global_pool="avg",
        fc_norm=False,
    )
    return TimmNetwork(net)


def vit_b_16(classes: int, size: int) -> Network:
    """Build timm's ``vit_base_patch16_224`` on 8x8 patches (of side S/8), pooled by class token.

    The patches are 4 wide at 32 and 8 at 64. The 16 of the name is the patch of its form at 224;
    here it would leave 2x2 patches of a 32x32 image. Last tokens [N, 1 + 64, 768].
    """
    return TimmNetwork(
        timm.create_model("vit_base_patch16_224", num_classes=classes, img_size=size, patch_size=size // 8)
    )


def swin_t(classes: int, size: int) -> Network:
    """Build timm's ``swin_tiny_patch4_window7_224`` with smaller patches and windows of 4.

    The patch is the largest power of two that leaves 32 or more positions along a side (1 at 32, 2 at 64).
    At 32 and 64 the maps are 32, 16, 8 and 4 positions wide: as many windows of 4 in each stage as the
    original has of 7. Last map [N, s, s, 768], channels last, s = S / patch / 8 (4 at 32 and at 64).
    """
    patch = 1 << max(0, (size // 32).bit_length() - 1)
    return TimmNetwork(
        timm.create_model(
            "swin_tiny_patch4_window7_224",
            num_classes=classes,
            img_size=size,
            patch_size=patch,
            window_size=4,
        )
    )


def any_timm(name: str, classes: int, size: int) -> Network:
    """Build the timm model ``name`` as it is, without weights; it is told the image size if it asks.

    Raises CellFailure where it cannot be built for, or run on, images of this size.
    """
    try:
        try:
            net = timm.create_model(name, num_classes=classes, img_size=size)
        except TypeError:  # most convolutional networks take no img_size
            net = timm.create_model(name, num_classes=classes)
        wrapped = TimmNetwork(net).eval()
        with torch.no_grad():
            wrapped(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CellFailure(f"{name} cannot take {size}x{size} images: {reason}") from error
    return wrapped.train()
