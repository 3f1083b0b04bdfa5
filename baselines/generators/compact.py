"""A compact StyleGAN2 for small images, and the discriminator that it is trained against.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (CVPR 2020): modulated convolutions,
equalised learning rates, a residual discriminator. Ours: one chain of layers without skips (so that one
tensor holds the state between two layers, as GLaD needs), no noise inputs, as many channels at 4 pixels as at
16, and a projection discriminator (Miyato and Koyama, "cGANs with Projection Discriminator", ICLR 2018).

Building draws from the global generator: the caller forks and seeds it.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from baselines.defaults.generator import GeneratorSettings
from baselines.generators.base import Generator
from baselines.generators.layers import Conv, Linear, leaky_relu, modulated_conv, unit_moment, upsample

#: The side of the learnt input.
FIRST = 4
#: The mapping network learns slower than the rest by this factor (StyleGAN2).
MAPPING_RATE = 0.01


def channels(width: int, side: int) -> int:
    """Channels of maps with this side: ``width`` up to 16 pixels, then half as many at each doubling."""
    return max(width * 16 // max(side, 16), 1)


def sides(size: int) -> list[int]:
    """The sides of the maps, 4 to ``size``, doubling.

    Raises:
        ValueError: ``size`` is no power of two, or less than 8.
    """
    found = [FIRST << i for i in range(size.bit_length()) if FIRST << i <= size]
    if size < 2 * FIRST or found[-1] != size:
        raise ValueError(f"a compact generator makes images of 8, 16, 32, 64, … pixels a side, not {size}")
    return found


class StyledLayer(nn.Module):
    """One layer of the synthesis: a modulated 3x3 convolution, twice the side where ``up``, bias, leaky ReLU.

    StyleGAN2 convolves at the larger side; convolving at the smaller one costs a quarter.
    """

    def __init__(self, dim: int, inputs: int, outputs: int, up: bool) -> None:
        super().__init__()
        self.style = Linear(dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.up = up

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """[n, outputs, H', W'] of [n, inputs, H, W] and a style [n, dim]."""
        x = modulated_conv(x, self.weight, self.style(w))
        if self.up:
            x = upsample(x)
        return leaky_relu(x + self.bias[:, None, None])


class ToRGB(nn.Module):
    """The last layer: a modulated 1x1 convolution to three channels, not demodulated."""

    def __init__(self, dim: int, inputs: int) -> None:
        super().__init__()
        self.style = Linear(dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.gain = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """[n, 3, H, W] of [n, inputs, H, W] and a style [n, dim]."""
        x = modulated_conv(x, self.weight, self.style(w) * self.gain, demodulate=False)
        return x + self.bias[:, None, None]


class CompactGenerator(Generator):
    """Mapping network, a learnt 4x4 input, one layer at 4x4, two at each larger side, and RGB.

    Args:
        classes: classes to make images of.
        size: the images' side: a power of two, 8 at least.
        width: channels of maps of up to 16 pixels.
        latent: length of z, and of a class's embedding.
        dim: length of a style.
        mapping_layers: linear layers from one to the other.
    """

    kind = "compact"

    def __init__(
        self, classes: int, size: int, width: int, latent: int, dim: int, mapping_layers: int
    ) -> None:
        super().__init__()
        self.architecture = {"classes": classes, "size": size, "width": width, "latent": latent, "dim": dim}
        self.architecture["mapping_layers"] = mapping_layers
        self.latent, self.dim, self.size, self.classes = latent, dim, size, classes
        self.embed = nn.Embedding(classes, latent)
        inputs = [2 * latent, *[dim] * (mapping_layers - 1)]
        self.map = nn.ModuleList(Linear(n, dim, rate=MAPPING_RATE) for n in inputs)
        before = channels(width, FIRST)
        self.input = nn.Parameter(torch.randn(before, FIRST, FIRST))
        chain: list[nn.Module] = []
        for side in sides(size):
            now = channels(width, side)
            if side > FIRST:
                chain.append(StyledLayer(dim, before, now, up=True))
            chain.append(StyledLayer(dim, now, now, up=False))
            before = now
        self.chain = nn.ModuleList([*chain, ToRGB(dim, before)])
        self.layers = self.num_ws = len(self.chain)

    @classmethod
    def from_settings(cls, settings: GeneratorSettings, classes: int, size: int) -> CompactGenerator:
        """The generator that the settings describe."""
        s = settings
        return cls(classes, size, s.width, s.latent, s.dim, s.mapping_layers)

    def mapping(self, z: Tensor, labels: Tensor) -> Tensor:
        """Styles [n, num_ws, dim] of latents and classes, the same at every place."""
        w = torch.cat([unit_moment(z), unit_moment(self.embed(labels))], 1)
        for layer in self.map:
            w = leaky_relu(layer(w))
        return w[:, None].expand(-1, self.num_ws, -1)

    def features(self, w: Tensor, layer: int) -> Tensor:
        """What the first ``layer`` layers make of the learnt input; see :class:`Generator`."""
        return self._run(self.input.expand(len(w), -1, -1, -1), w, 0, layer)

    def images(self, f: Tensor, w: Tensor, layer: int) -> Tensor:
        """Images in [0, 1] units of features after ``layer`` layers; see :class:`Generator`."""
        return (self._run(f, w, layer, self.layers) + 1) / 2

    def _run(self, x: Tensor, w: Tensor, first: int, last: int) -> Tensor:
        for i in range(first, last):
            x = self.chain[i](x, w[:, i])
        return x


class _Down(nn.Module):
    """A residual block of the discriminator that halves the side (StyleGAN2, figure 7c)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = Conv(inputs, inputs, 3), Conv(inputs, outputs, 3)
        self.skip = Conv(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, outputs, H/2, W/2] of [n, inputs, H, W]."""
        main = leaky_relu(self.second(F.avg_pool2d(leaky_relu(self.first(x)), 2)))
        sum_of_both: Tensor = main + self.skip(F.avg_pool2d(x, 2))
        return sum_of_both / math.sqrt(2)


class Discriminator(nn.Module):
    """Tells real images from generated ones, given their class: higher is more real.

    The score is ``psi(h) + <e(y), h> / sqrt(F)`` of F features h and the class's embedding e(y).
    """

    def __init__(self, classes: int, size: int, width: int) -> None:
        super().__init__()
        maps = sides(size)[::-1]
        self.from_rgb = Conv(3, channels(width, size), 1)
        self.blocks = nn.ModuleList(_Down(channels(width, a), channels(width, b)) for a, b in pairwise(maps))
        last = channels(width, FIRST)
        self.conv = Conv(last, last, 3)
        self.linear = Linear(last * FIRST**2, last)
        self.score = Linear(last, 1)
        self.embed = nn.Embedding(classes, last)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Scores [n] of images [n, 3, size, size] in [0, 1] units and classes (int64 [n])."""
        x = leaky_relu(self.from_rgb(images * 2 - 1))
        for block in self.blocks:
            x = block(x)
        h = leaky_relu(self.linear(leaky_relu(self.conv(x)).flatten(1)))
        projection = (self.embed(labels) * h).sum(1) / math.sqrt(h.shape[1])
        score: Tensor = self.score(h).squeeze(1) + projection
        return score
