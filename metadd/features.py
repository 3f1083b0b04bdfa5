"""Meta features and heterogeneous features: what the maps of several networks share, and what only some see.

Maps are class activation maps brought to one form (:func:`normalised`): [N, g, g] for one network, stacked
to [M, N, g, g] for M of them, each image's between 0 and 1. The split is MetaDD's (arXiv 2410.05103); its
abstract and the summaries that this was written from give no equations: it is our reading (docs/metadd.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from torch import Tensor

#: A map whose range is not above this share of its largest value is flat: the rest is rounding.
_FLAT = 1e-6


def normalised(cam: Tensor, grid: int) -> Tensor:
    """A network's class activation maps [N, h, w] as [N, grid, grid] in [0, 1]; differentiable.

    ReLU (evidence against a class is no evidence), bilinear resize (corners not aligned, no smoothing), then
    min-max per image: the map's own scale does not matter. A flat map points nowhere: it becomes zeros, and
    gives no gradient.
    """
    maps = F.interpolate(cam.relu()[:, None], (grid, grid), mode="bilinear", align_corners=False)[:, 0]
    least, most = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    extent = most - least
    return (maps - least) / extent.where(extent > _FLAT * most, math.inf)


def soft_support(maps: Tensor, threshold: float, softness: float) -> Tensor:
    """How much each position belongs to what a network sees: sigmoid((map - threshold) / softness)."""
    return torch.sigmoid((maps - threshold) / softness)


def hard_support(maps: Tensor, threshold: float) -> Tensor:
    """Where a map reaches the threshold: 0 or 1 in the maps' dtype. For reports; it has no gradient."""
    return (maps >= threshold).to(maps.dtype)


def meta_map(supports: Tensor) -> Tensor:
    """What all networks see, [N, g, g] of supports [M, N, g, g]: the least over the networks.

    Where several are least, ``amin`` shares the gradient among them evenly.
    """
    return supports.amin(0)


def heterogeneous_maps(supports: Tensor) -> Tensor:
    """What each network sees beyond what all do, [M, N, g, g] >= 0."""
    return supports - meta_map(supports)


def log_distribution(maps: Tensor, temperature: float) -> Tensor:
    """Maps [..., g, g] as log-probabilities over positions [..., g * g]: softmax(map / temperature)."""
    return (maps.flatten(-2) / temperature).log_softmax(-1)


def log_mean(log_p: Tensor) -> Tensor:
    """The log of the mean distribution [N, P] of log-probabilities [M, N, P]."""
    return log_p.logsumexp(0) - math.log(log_p.shape[0])


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last dimension, in nats."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@dataclass(frozen=True)
class Description:
    """What the maps of M networks say of each of N images; every field is a tensor [N].

    With hard supports: ``meta`` is the share of positions that all networks see, ``heterogeneous`` of those
    that some but not all see, ``iou`` the mean over pairs of networks of intersection over union (0 where
    neither sees anything). ``divergence`` is the mean of KL(p_m || mean p) in nats, 0 where all maps agree.
    """

    meta: Tensor
    heterogeneous: Tensor
    iou: Tensor
    divergence: Tensor


def describe(maps: Tensor, threshold: float = 0.5, temperature: float = 0.1) -> Description:
    """Describe maps [M, N, g, g] of M >= 2 networks.

    Raises:
        ValueError: there are fewer than two networks.
    """
    if len(maps) < 2:
        raise ValueError(f"what networks share needs two of them or more, not {len(maps)}")
    supports = hard_support(maps, threshold)
    meta = meta_map(supports).mean((1, 2))
    union = supports.amax(0).mean((1, 2))
    pairs = [_iou(supports[i], supports[j]) for i in range(len(maps)) for j in range(i)]
    log_p = log_distribution(maps, temperature)
    divergence = kl(log_p, log_mean(log_p)).mean(0)
    return Description(meta, union - meta, torch.stack(pairs).mean(0), divergence)


def _iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of two hard supports [N, g, g], per image."""
    intersection, union = (one * other).sum((1, 2)), torch.maximum(one, other).sum((1, 2))
    return intersection / union.clamp_min(1)
