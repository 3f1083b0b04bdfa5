"""The generator of StyleGAN-XL, which GLaD's authors distil into, in plain PyTorch.

Sauer, Schwarz and Geiger, "StyleGAN-XL: Scaling StyleGAN to Large Diverse Datasets" (SIGGRAPH 2022), on the
layers of Karras et al., "Alias-Free Generative Adversarial Networks" (StyleGAN3, NeurIPS 2021). Its weights
come from a file that :mod:`baselines.generators.convert` makes of an official one. All is in float32, where
the authors' code computes its largest layers in float16 on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from baselines.generators.base import Generator
from baselines.generators.layers import Linear, leaky_relu, modulated_conv, unit_moment

#: The mapping network learnt slower than the rest by this factor.
MAPPING_RATE = 0.01


def resample(x: Tensor, taps: Tensor | None, up: int, down: int, padding: tuple[int, int]) -> Tensor:
    """Change the sampling rate of features, along both sides alike, through a filter.

    Zeros (``up - 1``) after each value, padding, convolution, every ``down``-th value; times ``up`` for the
    zeros.

    Args:
        x: [n, C, H, W].
        taps: the filter [t], whose values add up to 1; None for none.
        up: factor to the rate at which the filter works.
        down: factor from there on.
        padding: zeros before and after, at the higher rate; negative ones are cut away instead.

    Returns:
        [n, C, H', W'] with H' = ceil((H up + sum(padding) - t + 1) / down).
    """
    for _ in range(2):  # along the last axis, which then changes places with the other
        if up > 1:
            x = F.pad(x[..., None], (0, up - 1)).flatten(-2)
        x = F.pad(x, padding)
        if taps is None:
            x = x[..., ::down]
        else:
            kernel = (taps.flip(0) * up)[None, None, None]
            n, channels = x.shape[:2]
            alone = x.flatten(0, 1)[:, None]  # each channel by itself
            x = F.conv2d(alone, kernel, stride=(1, down))[:, 0].unflatten(0, (n, channels))
        x = x.transpose(2, 3)
    return x


class FourierInput(nn.Module):
    """Learnt mixtures of waves, turned and moved as the first style says (StyleGAN3, appendix C.4).

    Args:
        dim: length of a style.
        channels: waves, and channels of the result.
        size: the result's side.
        rate: samples along the image's side, of which the margins have more on top.
        bandwidth: the frequency up to which waves are not dampened.
    """

    def __init__(self, dim: int, channels: int, size: int, rate: float, bandwidth: float) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.phases: Tensor
        self.places: Tensor
        self.rate, self.bandwidth, self.gain = rate, bandwidth, 1 / math.sqrt(channels)
        self.style = Linear(dim, 4)
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.register_buffer("frequencies", torch.randn(channels, 2))
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        self.register_buffer("places", (torch.arange(size) + 0.5 - size / 2) / rate)

    def forward(self, w: Tensor) -> Tensor:
        """[n, channels, size, size] of a style [n, dim]."""
        style = self.style(w)
        style = style / style[:, :2].norm(dim=1, keepdim=True)
        cosine, sine, right, down = style[..., None].unbind(1)  # [n, 1] each
        x, y = self.frequencies.unbind(1)
        x, y = x * cosine + y * sine, y * cosine - x * sine  # [n, channels]
        phases = self.phases - x * right - y * down
        beyond = torch.stack([x, y]).norm(dim=0) - self.bandwidth
        amplitudes = (1 - beyond / (self.rate / 2 - self.bandwidth)).clamp(0, 1)
        angles = x[:, :, None, None] * self.places + y[:, :, None, None] * self.places[:, None]
        waves = torch.sin(2 * math.pi * (angles + phases[:, :, None, None])) * amplitudes[:, :, None, None]
        return torch.einsum("oc,nchw->nohw", self.weight * self.gain, waves)


class AliasFreeLayer(nn.Module):
    """A modulated convolution, and a leaky ReLU at a higher sampling rate between two low-pass filters.

    ``rgb`` is the last layer: neither demodulated nor bent.

    Args:
        dim: length of a style.
        inputs, outputs: channels.
        kernel: side of the convolution.
        rgb: whether it is the last layer.
        up, down: the factors from the input's sampling rate to the leaky ReLU's, and on to the output's.
        up_taps, down_taps: the filters' lengths; 0 for none.
        padding: zeros before and after, at the higher rate.
        clamp: the largest magnitude after the leaky ReLU, or None.
    """

    def __init__(
        self,
        dim: int,
        inputs: int,
        outputs: int,
        kernel: int,
        rgb: bool,
        up: int,
        down: int,
        up_taps: int,
        down_taps: int,
        padding: Sequence[int],
        clamp: float | None,
    ) -> None:
        super().__init__()
        self.magnitude: Tensor
        self.up_filter: Tensor | None
        self.down_filter: Tensor | None
        self.rgb, self.up, self.down, self.clamp = rgb, up, down, clamp
        self.padding = (padding[0], padding[1])
        self.style = Linear(dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("magnitude", torch.ones(()))
        self.register_buffer("up_filter", torch.full((up_taps,), 1 / up_taps) if up_taps else None)
        self.register_buffer("down_filter", torch.full((down_taps,), 1 / down_taps) if down_taps else None)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """[n, outputs, H', W'] of [n, inputs, H, W] and a style [n, dim]."""
        x = self._convolved(x, self.style(w)) + self.bias[:, None, None]
        x = resample(x, self.up_filter, self.up, 1, self.padding)
        if not self.rgb:
            x = leaky_relu(x)
        if self.clamp is not None:
            x = x.clamp(-self.clamp, self.clamp)
        return resample(x, self.down_filter, 1, self.down, (0, 0))

    def _convolved(self, x: Tensor, styles: Tensor) -> Tensor:
        """With the input's expected magnitude divided out, as the authors' running average has it."""
        weight: Tensor = self.weight
        around = weight.shape[-1] - 1
        x = x * self.magnitude.rsqrt()
        if self.rgb:
            styles = styles / math.sqrt(weight[0].numel())
        else:
            # Their code takes the mean over the batch's styles; it cancels, but for the 1e-8 below a root.
            weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
            styles = styles * styles.square().mean(1, keepdim=True).rsqrt()
        return modulated_conv(x, weight, styles, demodulate=not self.rgb, padding=around)


class StyleGANXL(Generator):
    """StyleGAN-XL, class-conditional.

    Args:
        classes: classes that it was trained with.
        size: the images' side.
        latent: length of z.
        dim: length of a style.
        mapping_layers: linear layers from one to the other.
        embeddings: how many classes the pretrained embedding has, and its length.
        output_scale: what RGB is multiplied by.
        first: arguments of :class:`FourierInput`, but for ``dim``.
        chain: arguments of each :class:`AliasFreeLayer`, but for ``dim``.
    """

    kind = "stylegan-xl"

    def __init__(
        self,
        classes: int,
        size: int,
        latent: int,
        dim: int,
        mapping_layers: int,
        embeddings: Sequence[int],
        output_scale: float,
        first: Mapping[str, Any],
        chain: Sequence[Mapping[str, Any]],
    ) -> None:
        super().__init__()
        self.architecture = {
            "classes": classes,
            "size": size,
            "latent": latent,
            "dim": dim,
            "mapping_layers": mapping_layers,
            "embeddings": list(embeddings),
            "output_scale": output_scale,
            "first": dict(first),
            "chain": [dict(layer) for layer in chain],
        }
        self.classes, self.size, self.latent, self.dim = classes, size, latent, dim
        self.layers, self.num_ws = len(chain), len(chain) + 1
        self.embed = nn.Embedding(embeddings[0], embeddings[1])
        self.project = Linear(embeddings[1], latent)
        inputs = [2 * latent, *[dim] * (mapping_layers - 1)]
        self.map = nn.ModuleList(Linear(n, dim, rate=MAPPING_RATE) for n in inputs)
        self.input = FourierInput(dim, **first)
        self.chain = nn.ModuleList(AliasFreeLayer(dim, **layer) for layer in chain)
        self._output_scale = output_scale

    def mapping(self, z: Tensor, labels: Tensor) -> Tensor:
        """Styles [n, num_ws, dim] of latents and classes, the same at every place, without truncation."""
        of_class = leaky_relu(self.project(self.embed(labels)))
        w = torch.cat([unit_moment(z), unit_moment(of_class)], 1)
        for layer in self.map:
            w = leaky_relu(layer(w))
        return w[:, None].expand(-1, self.num_ws, -1)

    def features(self, w: Tensor, layer: int) -> Tensor:
        """What the first ``layer`` layers make of the waves; see :class:`Generator`."""
        return self._run(self.input(w[:, 0]), w, 0, layer)

    def images(self, f: Tensor, w: Tensor, layer: int) -> Tensor:
        """Images in [0, 1] units of features after ``layer`` layers; see :class:`Generator`."""
        return (self._run(f, w, layer, self.layers) * self._output_scale + 1) / 2

    def _run(self, x: Tensor, w: Tensor, first: int, last: int) -> Tensor:
        for i in range(first, last):
            x = self.chain[i](x, w[:, i + 1])
        return x
