"""StyleGAN-XL with the shapes of the authors' model for 128x128 ImageNet, untrained, for counting memory."""

import numpy as np
from torch import nn

from baselines.generators.base import Generator
from baselines.generators.stylegan_xl import StyleGANXL

#: Their training commands: a stem for 16 pixels of 10 layers, then three heads of 7, each doubling the size.
STEM_LAYERS, HEAD_LAYERS, STEPS = 10, 7, 3
CHANNEL_BASE, CHANNEL_MAX, CRITICAL, MARGIN, FILTER = 32768, 512, 2, 10, 6


def _specs(first_cutoff, first_stopband, size, layers):
    """Cutoffs, stopbands, sampling rates, sizes and channels of so many layers and of what makes RGB."""
    last = size / 2
    exponents = np.minimum(np.arange(layers + 1) / (layers - CRITICAL), 1)
    cutoffs = first_cutoff * (last / first_cutoff) ** exponents
    stopbands = first_stopband * (last * 2**0.3 / first_stopband) ** exponents
    rates = np.exp2(np.ceil(np.log2(np.minimum(stopbands * 2, size))))
    sizes = rates + 2 * MARGIN
    sizes[-2:] = size
    channels = np.rint(np.minimum(CHANNEL_BASE / 2 / cutoffs, CHANNEL_MAX))
    channels[-1] = 3
    return [list(map(float, each)) for each in (cutoffs, stopbands, rates, sizes, channels)]


def _layers(specs, before):
    """Arguments of the layers; ``before`` is what the first reads: its rate, size and channels."""
    _, _, rates, sizes, channels = specs
    found = []
    for i in range(len(rates)):
        (rate_in, size_in, inputs), (rate, size, outputs) = before, (rates[i], sizes[i], channels[i])
        rgb = i == len(rates) - 1
        inner = max(rate_in, rate) * (1 if rgb else 2)
        up, down, kernel = round(inner / rate_in), round(inner / rate), 1 if rgb else 3
        up_taps, down_taps = (FILTER * f if f > 1 and not rgb else 1 for f in (up, down))
        padding = (size - 1) * down + 1 - (size_in + kernel - 1) * up + up_taps + down_taps - 2
        low = int((padding + up) // 2)
        layer = {"inputs": int(inputs), "outputs": int(outputs), "kernel": kernel, "rgb": rgb, "up": up}
        taps = {"up_taps": up_taps if up_taps > 1 else 0, "down_taps": down_taps if down_taps > 1 else 0}
        found.append(layer | taps | {"down": down, "padding": [low, int(padding) - low], "clamp": 256.0})
        before = rate, size, outputs
    return found


def build(classes):
    """The generator, for so many classes."""
    size = 16
    specs = _specs(2.0, 2**2.1, size, STEM_LAYERS)
    start = specs[2][0], specs[3][0], specs[4][0]
    chain, kept = _layers(specs, start), [list(each) for each in specs]
    for _ in range(STEPS):
        size *= 2
        end = len(kept[0]) - CRITICAL - 1
        chain, kept = chain[: len(chain) - CRITICAL - 1], [each[:end] for each in kept]
        before = kept[2][-1], kept[3][-1], kept[4][-1]
        head = _specs(kept[0][-1], kept[1][-1], size, HEAD_LAYERS)
        head[2][0] = before[0]
        head[3][0] = before[0] + 2 * MARGIN
        head[4][0] = before[2]
        chain += _layers(head, before)
        kept = head
    first = {"channels": chain[0]["inputs"], "size": int(start[1]), "rate": start[0], "bandwidth": 2.0}
    return StyleGANXL(classes, size, 64, 512, 2, [1000, 320], 0.25, first, chain).eval().requires_grad_(False)


class Shrunk(Generator):
    """Its images averaged down: there is no such generator for 32 or 64 pixels."""

    def __init__(self, classes, size):
        super().__init__()
        self.inner = build(classes)
        self.pool = nn.AvgPool2d(self.inner.size // size)
        self.size, self.classes, self.latent, self.dim = size, classes, self.inner.latent, self.inner.dim
        self.num_ws, self.layers = self.inner.num_ws, self.inner.layers

    def mapping(self, z, labels):
        return self.inner.mapping(z, labels)

    def features(self, w, layer):
        return self.inner.features(w, layer)

    def images(self, f, w, layer):
        return self.pool(self.inner.images(f, w, layer))
