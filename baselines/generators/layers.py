"""Layers of style-based generators, as pure functions and small modules.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (StyleGAN2), CVPR 2020.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

_EPS = 1e-8


def modulated_conv(
    x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool = True, padding: int | None = None
) -> Tensor:
    """A convolution whose weights are scaled, for each sample, by its styles (StyleGAN2, equations 1 and 3).

    Scaling the input and the output instead of the weights gives the same and needs no weights per sample.

    Args:
        x: features [n, in, H, W].
        weight: [out, in, k, k].
        styles: [n, in].
        demodulate: divide each output channel by the norm that its scaled weights have.
        padding: zeros around; None: k // 2, which keeps the size where k is odd.

    Returns:
        [n, out, H', W']: sum over i of ``w'[n, o, i] * x[n, i]`` with ``w' = s_i w``, divided by
        ``sqrt(sum w'^2 + 1e-8)`` where demodulated.
    """
    around = weight.shape[-1] // 2 if padding is None else padding
    y = F.conv2d(x * styles[:, :, None, None], weight, padding=around)
    if not demodulate:
        return y
    norm = (styles.square() @ weight.square().sum((2, 3)).t() + _EPS).rsqrt()
    return y * norm[:, :, None, None]


def upsample(x: Tensor) -> Tensor:
    """Features [n, C, H, W] at twice the side, bilinearly, as for ``align_corners=False``.

    Away from the border this is StyleGAN2's filter [1, 3, 3, 1]. PyTorch's own has no deterministic gradient
    on a GPU.
    """
    for axis in (2, 3):
        last = x.shape[axis] - 1
        before = torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, last)], axis)
        after = torch.cat([x.narrow(axis, 1, last), x.narrow(axis, last, 1)], axis)
        x = torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1).flatten(axis, axis + 1)
    return x


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2, times the square root of 2: what is standard normal keeps about its size."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def unit_moment(x: Tensor) -> Tensor:
    """Vectors [n, d] scaled to a mean square of 1."""
    return x * (x.square().mean(1, keepdim=True) + _EPS).rsqrt()


class Linear(nn.Module):
    """A linear layer with an equalised learning rate: standard normal weights, scaled as they are used.

    ``rate`` makes them learn slower (StyleGAN's ``lr_multiplier``).
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.gain, self.rate = rate / math.sqrt(inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        """[n, outputs] of [n, inputs]."""
        return F.linear(x, self.weight * self.gain, self.bias * self.rate)


class Conv(nn.Module):
    """A convolution with an equalised learning rate; zero padding keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.gain = 1 / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor) -> Tensor:
        """[n, outputs, H, W] of [n, inputs, H, W]."""
        return F.conv2d(x, self.weight * self.gain, self.bias, padding=self.weight.shape[-1] // 2)
