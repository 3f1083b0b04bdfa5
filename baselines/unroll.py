"""Gradients through a student's training: by one graph of all its steps, or exactly by one step at a time.

A student starts at the flat parameters theta_0 and takes N plain SGD steps of size a, each on a batch x_i
of the images x::

    theta_(i+1) = theta_i - a g_i,    g_i = d loss_i(theta_i, x_i) / d theta_i

What it shall reach gives L (:func:`matching_loss`). Both functions here give the derivative of L with
respect to the images and to the step size:

* :func:`unrolled` builds the graph of all N steps and differentiates it, as MTT's distill.py does: memory
  grows with N.
* :func:`adjoint` keeps theta_0 ... theta_N and goes back over the steps, with v_N = d L / d theta_N::

      d L / d x_i += -a d<g_i, v_(i+1)> / d x_i        d L / d a += -<g_i, v_(i+1)>
      v_i = v_(i+1) - a d<g_i, v_(i+1)> / d theta_i

  One step's graph is alive at a time, or that of a chunk of its batch. The result is that of
  :func:`unrolled` up to rounding. TESLA (Cui et al., ICML 2023) needs as little memory, but leaves out the
  last term (v_i = v_N) and so gives another gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: ``loss(theta, batch, i, part)``: what the images at the positions ``part`` of step i's batch add to that
#: step's loss. ``batch`` holds these images alone; the parts of a batch add up to its loss.
StepLoss = Callable[[Tensor, Tensor, int, slice], Tensor]


class Matched(NamedTuple):
    """The loss [scalar], and its gradients at the images [n, ...] and at the step size [scalar]."""

    loss: Tensor
    images: Tensor
    step_size: Tensor


def matching_loss(end: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """How far from its target a student ends, in units of how far it started from it, both squared.

    The ``param_loss`` of MTT's distill.py, where the number of parameters cancels.

    Args:
        end: the student's parameters [P] after its steps.
        start: the expert's parameters [P] that the student started from.
        target: the expert's parameters [P] some epochs later.

    Returns:
        A scalar >= 0: 1 for a student that does not move, 0 for one that arrives.
    """
    return (end - target).square().sum() / (start - target).square().sum()


def unrolled(
    loss: StepLoss,
    images: Tensor,
    batches: Sequence[Tensor],
    start: Tensor,
    target: Tensor,
    step_size: Tensor,
) -> Matched:
    """The loss and its gradients, by one graph of all steps.

    Args:
        loss: the loss of each step.
        images: all synthetic images [n, ...].
        batches: for each step the rows of ``images`` in its batch, int64, none twice.
        start: the parameters [P] to start from.
        target: the parameters [P] to reach.
        step_size: a scalar.
    """
    images, step_size = images.detach().requires_grad_(), step_size.detach().requires_grad_()
    theta = start.detach().requires_grad_()
    for i, rows in enumerate(batches):
        value = loss(theta, images[rows], i, slice(0, len(rows)))
        (gradient,) = torch.autograd.grad(value, theta, create_graph=True)
        theta = theta - step_size * gradient
    distance = matching_loss(theta, start, target)
    wanted = torch.autograd.grad(distance, [images, step_size], materialize_grads=True)
    return Matched(distance.detach(), *wanted)


def adjoint(
    loss: StepLoss,
    images: Tensor,
    batches: Sequence[Tensor],
    start: Tensor,
    target: Tensor,
    step_size: Tensor,
    chunk: int | None = None,
) -> Matched:
    """The same with one graph alive at a time: that of a step, or of ``chunk`` images of its batch."""
    images, step_size = images.detach(), step_size.detach()
    path = [start.detach()]
    for i, rows in enumerate(batches):
        theta = path[-1].detach().requires_grad_()
        step = torch.zeros_like(start)
        for part in _parts(len(rows), chunk):
            step += torch.autograd.grad(loss(theta, images[rows[part]], i, part), theta)[0]
        path.append(step.mul_(-step_size).add_(path[-1]))
    distance = matching_loss(path[-1], start, target)
    back = (path.pop() - target) * (2 / (start - target).square().sum())
    of_images, of_step_size = torch.zeros_like(images), torch.zeros_like(step_size)
    for i in reversed(range(len(batches))):
        theta, moved = path.pop(), back.clone()
        for part in _parts(len(batches[i]), chunk):
            rows = batches[i][part]
            along, found_images, found_theta = _second(loss, theta, images[rows], i, part, back)
            of_step_size -= along
            of_images.index_add_(0, rows, -step_size * found_images)
            moved -= step_size * found_theta
        back = moved
    return Matched(distance, of_images, of_step_size)


def _parts(n: int, chunk: int | None) -> list[slice]:
    """The positions of each chunk of a batch of ``n``."""
    size = chunk or n
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]


def _second(
    loss: StepLoss, theta: Tensor, batch: Tensor, i: int, part: slice, along: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """<g, along> for the gradient g at ``theta``, and its derivatives at ``batch`` and at ``theta``.

    A function of its own, so that no graph outlives it.
    """
    theta, batch = theta.detach().requires_grad_(), batch.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(theta, batch, i, part), theta, create_graph=True)
    of_batch, of_theta = torch.autograd.grad(gradient, [batch, theta], along)
    return torch.dot(gradient.detach(), along), of_batch, of_theta
