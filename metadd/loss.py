"""The architecture-invariant loss: several frozen networks shall see the class, and see it at the same place.

MetaDD (arXiv 2410.05103); its public sources name a cross-entropy over the networks and a KL term that aligns
their maps. Ours (docs/metadd.md; not checked against the paper), over M networks f_m, maps A_m in [0, 1]::

    L = ce * mean_m CE(f_m(x), y) + align * mean_m D(A_m) - meta * mean(min_m s_m)

with D(A_m) = KL(p_m || p), p_m = softmax(A_m / temperature) over the positions and p = mean_m p_m; or, with
``alignment: variance``, the squared distance of A_m from the mean map; and the soft supports
s_m = sigmoid((A_m - threshold) / softness), whose least is the meta map ("exposure"). Each term is a mean
over images, and over positions but for the KL, which is a sum over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from torch import Tensor

from metadd.features import kl, log_distribution, log_mean, meta_map, soft_support


@dataclass(frozen=True)
class Weights:
    """The weights of the terms and what shapes them; the meaning of each is in :mod:`metadd.loss`.

    Raises:
        ValueError: a value is out of its range.
    """

    ce: float = 1.0
    align: float = 1.0
    meta: float = 0.0
    alignment: Literal["kl", "variance"] = "kl"
    temperature: float = 0.1
    threshold: float = 0.5
    softness: float = 0.1

    def __post_init__(self) -> None:
        for name in ("ce", "align", "meta"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: a weight of 0 or more is expected, not {getattr(self, name)}")
        for name in ("temperature", "softness"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: a number above 0 is expected, not {getattr(self, name)}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold: a number between 0 and 1 is expected, not {self.threshold}")

    @property
    def looks_at_maps(self) -> bool:
        """Whether the maps matter at all."""
        return self.align > 0 or self.meta > 0

    @property
    def adds_nothing(self) -> bool:
        """Whether no term has a weight."""
        return not (self.ce or self.align or self.meta)

    def times(self, factor: float) -> Weights:
        """The same with the three weights multiplied."""
        return replace(self, ce=factor * self.ce, align=factor * self.align, meta=factor * self.meta)

    def alone(self, term: str) -> Weights:
        """The same with this term's weight only."""
        others = {name: 0.0 for name in TERMS if name != term}
        return replace(self, **others)  # type: ignore[arg-type]


#: The terms that have weights.
TERMS = ("ce", "align", "meta")


def alignment(maps: Tensor, weights: Weights) -> Tensor:
    """How far M networks' maps [M, N, g, g] are from their mean: a scalar >= 0, in nats for the KL."""
    if weights.alignment == "variance":
        return (maps - maps.mean(0)).square().mean()
    log_p = log_distribution(maps, weights.temperature)
    return kl(log_p, log_mean(log_p)).mean()


def exposure(maps: Tensor, weights: Weights) -> Tensor:
    """How much all M networks see: the mean meta map of maps [M, N, g, g], a scalar in [0, 1]."""
    return meta_map(soft_support(maps, weights.threshold, weights.softness)).mean()


def joint_loss(
    logits: Sequence[Tensor], maps: Tensor, labels: Tensor, weights: Weights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of M networks' logits [N, C] and maps [M, N, g, g], and its unweighted terms.

    Args:
        logits: of each network.
        maps: normalised (:func:`metadd.features.normalised`).
        labels: int64 [N].
        weights: a term of weight 0 is not computed.
    """
    terms: dict[str, Tensor] = {}
    if weights.ce > 0:
        terms["ce"] = torch.stack([F.cross_entropy(each, labels) for each in logits]).mean()
    if weights.align > 0:
        terms["align"] = alignment(maps, weights)
    if weights.meta > 0:
        terms["meta"] = exposure(maps, weights)
    return total(terms, weights, like=logits[0]), terms


def total(terms: dict[str, Tensor], weights: Weights, like: Tensor) -> Tensor:
    """The loss of its terms: exposure is wanted, the others are not."""
    signs = {"ce": 1.0, "align": 1.0, "meta": -1.0}
    loss = like.new_zeros(())
    for name, term in terms.items():
        loss = loss + signs[name] * getattr(weights, name) * term
    return loss


@dataclass(frozen=True)
class Targets:
    """What a network's part of the loss needs to know of the others: their maps, condensed, held constant.

    Holding them constant is exact. The derivative of mean_m KL(p_m || p) by p is -sum(dp), and a
    distribution's sum does not change; that of the variance by the mean vanishes at the mean; and the
    minimum passes its gradient to those that are least, evenly.
    """

    #: Log of the mean distribution [N, P].
    log_mean: Tensor | None
    #: The mean map [N, g, g].
    mean: Tensor | None
    #: How much of each position each network answers for, [M, N, g, g]: 0, or 1 over how many are least.
    least: Tensor | None

    @classmethod
    def of(cls, maps: Tensor, weights: Weights) -> Targets:
        """Of the maps [M, N, g, g] of all networks; no graph."""
        log_p_mean = mean = least = None
        if weights.align > 0:
            if weights.alignment == "kl":
                log_p_mean = log_mean(log_distribution(maps, weights.temperature))
            else:
                mean = maps.mean(0)
        if weights.meta > 0:
            supports = soft_support(maps, weights.threshold, weights.softness)
            least = (supports == meta_map(supports)).to(maps.dtype)
            least /= least.sum(0)
        return cls(log_p_mean, mean, least)


def part_of_loss(
    logits: Tensor,
    maps: Tensor,
    labels: Tensor,
    place: tuple[int, slice],
    targets: Targets,
    weights: Weights,
    shares: tuple[int, int],
) -> dict[str, Tensor]:
    """What some images and one network add to the unweighted terms; the parts of all sum up to them.

    Args:
        logits: [n, C] of these images.
        maps: [n, g, g].
        labels: [n].
        place: which network this is, and which of all images.
        targets: of all images.
        weights: a term of weight 0 is not computed.
        shares: how many networks and how many images there are in all.
    """
    (network, rows), (networks, images) = place, shares
    terms: dict[str, Tensor] = {}
    if weights.ce > 0:
        terms["ce"] = F.cross_entropy(logits, labels, reduction="sum") / (networks * images)
    if targets.log_mean is not None:
        log_p = log_distribution(maps, weights.temperature)
        terms["align"] = kl(log_p, targets.log_mean[rows]).sum() / (networks * images)
    if targets.mean is not None:
        terms["align"] = (maps - targets.mean[rows]).square().mean((1, 2)).sum() / (networks * images)
    if targets.least is not None:
        supports = soft_support(maps, weights.threshold, weights.softness)
        terms["meta"] = (targets.least[network, rows] * supports).mean((1, 2)).sum() / images
    return terms
