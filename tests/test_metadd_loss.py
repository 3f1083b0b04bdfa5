"""The architecture-invariant loss: against loops of numbers, and in parts against all at once."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_features import divergence

from metadd import Weights
from metadd.features import normalised
from metadd.loss import TERMS, Targets, joint_loss, part_of_loss, total

pytestmark = pytest.mark.usefixtures("one_thread")

M, N, C, G = 3, 5, 4, 6

EVERY = Weights(ce=0.7, align=1.3, meta=0.4, temperature=0.2, threshold=0.45, softness=0.15)
WEIGHTS = {
    "all": EVERY,
    "all, variance": replace(EVERY, alignment="variance"),
    **{name: EVERY.alone(name) for name in TERMS},
    "variance": replace(EVERY, alignment="variance").alone("align"),
}


def said(seed=0):
    """Logits [M, N, C], class activation maps [M, N, 4, 4] and labels, in double precision.

    Where a map is against the class (below 0) it is 0 when normalised, for several networks at once: ties.
    """
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, (M, N, C)))
    cams = torch.from_numpy(rng.normal(0, 1, (M, N, 4, 4)))
    cams[1, 0] = cams[2, 0]  # two networks that agree everywhere
    cams[:, 1] = -1.0  # an image in which nobody sees anything
    return logits, cams, torch.from_numpy(rng.integers(C, size=N))


def literal(logits, maps, labels, weights):
    """The loss of the module's docstring, term by term, in loops; and its terms."""
    ce = align = meta = 0.0
    for n in range(N):
        for m in range(M):
            row = logits[m, n].tolist()
            ce += math.log(sum(math.exp(value) for value in row)) - row[labels[n]]
        if weights.alignment == "kl":
            align += M * divergence(maps[:, n].numpy(), weights.temperature)
        for i, j in np.ndindex(G, G):
            values = maps[:, n, i, j].tolist()
            if weights.alignment == "variance":
                align += sum((value - sum(values) / M) ** 2 for value in values) / G**2
            supports = [1 / (1 + math.exp(-(v - weights.threshold) / weights.softness)) for v in values]
            meta += min(supports) / G**2
    terms = {"ce": ce / (M * N), "align": align / (M * N), "meta": meta / N}
    loss = weights.ce * terms["ce"] + weights.align * terms["align"] - weights.meta * terms["meta"]
    return loss, {name: value for name, value in terms.items() if getattr(weights, name)}


def on_grid(cams):
    return torch.stack([normalised(each, G) for each in cams])


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_loss_is_what_its_formula_says(name):
    logits, cams, labels = said()
    maps = on_grid(cams)
    loss, terms = joint_loss(list(logits), maps, labels, WEIGHTS[name])
    expected, expected_terms = literal(logits, maps, labels, WEIGHTS[name])
    assert loss.item() == pytest.approx(expected, abs=1e-10)
    assert {key: value.item() for key, value in terms.items()} == pytest.approx(expected_terms, abs=1e-10)


def streamed(logits, cams, labels, weights, chunk):
    """Gradients at logits and maps, and the terms, one network and chunk of images at a time."""
    targets = Targets.of(on_grid(cams), weights)
    gradients = torch.zeros_like(logits), torch.zeros_like(cams)
    sums = dict.fromkeys(TERMS, 0.0)
    for m in range(M):
        for first in range(0, N, chunk):
            rows = slice(first, min(first + chunk, N))
            leaves = [each[m, rows].clone().requires_grad_() for each in (logits, cams)]
            part = part_of_loss(
                leaves[0], normalised(leaves[1], G), labels[rows], (m, rows), targets, weights, (M, N)
            )
            loss = total(part, weights, like=logits)
            for whole, one in zip(
                gradients, torch.autograd.grad(loss, leaves, allow_unused=True), strict=True
            ):
                if one is not None:
                    whole[m, rows] = one
            for term, value in part.items():
                sums[term] += value.item()
    return gradients, {term: value for term, value in sums.items() if getattr(weights, term)}


@pytest.mark.parametrize("chunk", [1, 3, N])
@pytest.mark.parametrize("name", WEIGHTS)
def test_in_parts_it_has_the_same_terms_and_gradient(name, chunk):
    weights = WEIGHTS[name]
    logits, cams, labels = said()
    found, sums = streamed(logits, cams, labels, weights, chunk)
    leaves = [each.clone().requires_grad_() for each in (logits, cams)]
    loss, terms = joint_loss(list(leaves[0]), on_grid(leaves[1]), labels, weights)
    expected = torch.autograd.grad(loss, leaves, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        other = torch.zeros_like(one) if other is None else other
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert sums == pytest.approx({term: value.item() for term, value in terms.items()}, abs=1e-12)


def test_maps_tie_here():
    """What the test above needs: several networks are least at many positions, and not all of them."""
    maps = on_grid(said()[1])
    least = (maps == maps.amin(0)).sum(0)
    assert {1, 2, 3} <= set(least.flatten().tolist())


def test_equal_maps_have_nothing_to_align():
    _, cams, _ = said()
    maps = on_grid(cams[:1]).expand(M, -1, -1, -1).clone().requires_grad_()
    for alignment in ("kl", "variance"):
        weights = Weights(ce=0, alignment=alignment)
        loss, _ = joint_loss([torch.zeros(N, C)] * M, maps, torch.zeros(N, dtype=torch.int64), weights)
        assert loss.item() == pytest.approx(0, abs=1e-14)
        assert torch.autograd.grad(loss, maps)[0].abs().max() < 1e-14


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ce": -1.0}, "ce: a weight of 0 or more"),
        ({"align": math.nan}, "align: a weight of 0 or more"),
        ({"temperature": 0.0}, "temperature: a number above 0"),
        ({"softness": -0.1}, "softness: a number above 0"),
        ({"threshold": 1.0}, "threshold: a number between 0 and 1"),
    ],
)
def test_weights_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Weights(**wrong)
