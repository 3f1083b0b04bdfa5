"""MTT: train a student on the synthetic images so that it arrives where experts on real ones did.

Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022; reference
implementation mtt-distillation/distill.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from baselines.base import Experts, Images, Method, Optimisers, Task, Tools
from baselines.defaults.mtt import MTTSettings
from baselines.unroll import adjoint, unrolled


class Student:
    """A network as a function of its parameters, given as one flat vector [P].

    Batch norm normalises by the batch, as in the training mode of the authors' code: experts' parameters
    come without running statistics. All else is in evaluation mode: dropout would draw from torch's global
    generator, and otherwise in each of the adjoint's two passes. The network itself stays as it is.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network.requires_grad_(False).eval()
        norms = [
            module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        for norm in norms:
            norm.train()
        #: Whether images of one forward influence each other.
        self.couples_images = bool(norms)
        self._shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
        self._buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}

    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        """Logits [N, C] of images [N, 3, H, W] under the parameters ``theta``."""
        pieces = theta.split([shape.numel() for shape in self._shapes.values()])
        values = {
            name: piece.view(shape) for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }
        with sdpa_kernel(SDPBackend.MATH):  # attention's other kernels have no second derivative
            logits: Tensor = functional_call(self._network, values | self._buffers, (images,))
        return logits


def batches(rng: np.random.Generator, n: int, size: int | None, steps: int) -> list[np.ndarray]:
    """The images of each student step, int64 [<= size]: every image once before any comes again.

    A permutation of all ``n`` is cut into chunks of ``size`` (None: all), and a new one is drawn when it is
    used up. The chunk that may be smaller comes first, as distill.py takes them from the end of its list.
    """
    size = size or n
    found: list[np.ndarray] = []
    while len(found) < steps:
        order = rng.permutation(n)
        found += [order[first : first + size] for first in reversed(range(0, n, size))]
    return found[:steps]


class MTT(Method[MTTSettings]):
    """One update an iteration: one expert, one epoch to start from, one student."""

    def __init__(self, settings: MTTSettings, task: Task) -> None:
        super().__init__(settings, task)
        self._student: Student | None = None

    def begin(self, tools: Tools) -> None:
        """Make the step size, and name the order of the experts for all iterations."""
        self._step_size = tools.tensor(np.array(self.settings.lr_teacher, np.float32))
        self._order = int(tools.rng("expert order").integers(2**63))

    def extras(self) -> dict[str, Tensor]:
        """The student's step size, learnt with the images."""
        return {"step_size": self._step_size}

    def trouble(self, extras: Mapping[str, float]) -> str | None:
        """A step size that is not above 0, or not finite: also what a loss that is not finite leads to."""
        step_size = extras["step_size"]
        if math.isfinite(step_size) and step_size > 0:
            return None
        return f"the student's step size became {step_size:g}; a lower lr_img or lr_lr may help"

    def optimisers(self, params: Mapping[str, Tensor]) -> Optimisers:
        """SGD with momentum on whatever makes the images, and another on the step size."""
        s = self.settings
        of_images = [param for name, param in params.items() if name != "step_size"]
        return Optimisers(
            [
                torch.optim.SGD(of_images, lr=s.lr_img, momentum=s.momentum),
                torch.optim.SGD([params["step_size"]], lr=s.lr_lr, momentum=s.momentum),
            ]
        )

    def iteration(self, k: int, images: Images, tools: Tools) -> Iterator[Tensor]:
        """Match one expert from one of its epochs."""
        yield self._match(k, images, tools)

    def _match(self, k: int, images: Images, tools: Tools) -> Tensor:
        """The loss; its gradients go to the images and to the step size."""
        s = self.settings
        if self._student is None:
            self._student = Student(tools.network())  # its own weights are never read, so one will do
        student, labels = self._student, images.labels
        experts: Experts = tools.artifacts["experts"]
        expert = self.expert(k, len(experts))
        epoch = int(tools.rng("start epoch").integers(s.max_start_epoch))
        start, target = (experts.parameters(expert, e) for e in (epoch, epoch + s.expert_epochs))
        chosen = batches(tools.rng("student batches"), len(labels), s.batch_syn, s.syn_steps)
        rows = tools.tensor(np.concatenate(chosen)).split([len(batch) for batch in chosen])
        rng = tools.rng("student augmentation")
        augmented = s.augment == "dsa"
        draws = [tools.augment.draw_batch(rng, len(batch)) if augmented else None for batch in chosen]

        def loss(theta: Tensor, batch: Tensor, i: int, part: slice) -> Tensor:
            draw = draws[i]
            if draw is not None:
                batch = tools.augment.apply(batch, draw[part])
            logits = student.logits(theta, batch)
            return F.cross_entropy(logits, labels[rows[i][part]], reduction="sum") / len(rows[i])

        given = (loss, images.images, rows, start, target, self._step_size)
        if s.gradient == "unrolled":
            matched = unrolled(*given)
        else:
            matched = adjoint(*given, chunk=None if student.couples_images else s.chunk)
        images.add(slice(None), matched.images)
        self._step_size.grad = matched.step_size
        return matched.loss

    def expert(self, k: int, experts: int) -> int:
        """The expert of iteration ``k``: all of them once in a shuffled order, then all in another."""
        order = np.random.default_rng([self._order, k // experts]).permutation(experts)
        return int(order[k % experts])
