"""SRe2L, the recovery: images that a trained teacher recognises and that its batch norm finds ordinary.

Yin, Xing and Shen, "Squeeze, Recover and Relabel", NeurIPS 2023; reference implementation SRe2L,
recover_cifar.py and recover_tiny.py. Squeezing (the teacher's training) and relabelling are stages of their
own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim.lr_scheduler import CosineAnnealingLR

from baselines.adam import Adam
from baselines.base import Images, Method, Optimisers, Tools, Unsuitable
from baselines.crops import resized_crop, resized_crop_window
from baselines.defaults.sre2l import SRe2LSettings

#: torchvision's defaults, which recover_tiny.py leaves as they are.
_CROP_SCALE, _CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def bn_distance(maps: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
    """How far a batch is from what a batch-norm layer has seen in training.

    Args:
        maps: the input [N, K, h, w] of the layer.
        running_mean: its mean [K].
        running_var: its variance [K].

    Returns:
        A scalar >= 0: || mean(maps) - running_mean ||_2 + || var(maps) - running_var ||_2, over N, h and w.
        The norms are not squared and the variance is the biased one, as in the BNFeatureHook of utils.py.
    """
    mean, variance = _Statistics.apply(maps)
    norm = torch.linalg.vector_norm
    return cast("Tensor", norm(mean - running_mean) + norm(variance - running_var))


def bn_loss(distances: Mapping[int, Tensor], first_multiplier: float) -> Tensor:
    """The sum of the layers' :func:`bn_distance`, by place; the first counts ``first_multiplier`` times."""
    first, *others = (distances[place] for place in sorted(distances))
    return torch.stack([first * first_multiplier, *others]).sum()


class _Statistics(torch.autograd.Function):
    """Mean [K] and biased variance [K] of maps [N, K, h, w].

    By hand because ``var_mean`` reduces these dimensions one number at a time on a CPU, and its gradient
    takes several passes: with it an update took 1.35 times as long (CIFAR-10, resnet18@w16@bn, one thread).
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
        full = torch.promote_types(maps.dtype, torch.float32)  # autocast may have reduced them
        mean = maps.mean((0, 2, 3), dtype=full)
        variance = (maps - mean[:, None, None]).square_().mean((0, 2, 3))
        ctx.save_for_backward(maps, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_variance: Tensor) -> Tensor:
        """(of_mean + 2 of_variance (maps - mean)) / numbers per channel, in one pass."""
        maps, mean = ctx.saved_tensors
        numbers = maps.numel() // maps.shape[1]
        slope = of_variance * (2 / numbers)
        offset = of_mean / numbers - slope * mean
        return torch.addcmul(offset[:, None, None], maps, slope[:, None, None])


@contextmanager
def bn_distances(network: nn.Module) -> Iterator[Mapping[int, Tensor]]:
    """The :func:`bn_distance` of each batch-norm layer at the last forward inside the context.

    They stand under the layers' places among the network's modules. They are computed while the forward
    runs, so that no map outlives its use, and by hooks that are gone when the context closes.
    """
    distances: dict[int, Tensor] = {}

    def listen(place: int, layer: nn.BatchNorm2d) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            mean, var = layer.running_mean, layer.running_var
            assert mean is not None
            assert var is not None
            distances[place] = bn_distance(inputs[0], mean, var)

        hooks.callback(layer.register_forward_pre_hook(hook).remove)

    with ExitStack() as hooks:
        for place, layer in enumerate(_bn_layers(network)):
            listen(place, layer)
        yield distances


def _bn_layers(network: nn.Module) -> list[nn.BatchNorm2d]:
    """The layers that keep running statistics, in module order."""
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    return [layer for layer in layers if layer.running_mean is not None]


class SRe2L(Method[SRe2LSettings]):
    """One update an iteration, from a teacher in evaluation mode; batch norm is only listened to."""

    def begin(self, tools: Tools) -> None:
        """Keep the pixels' limits.

        Raises:
            Unsuitable: the teacher has no batch norm.
        """
        teacher = tools.artifacts["teacher"]
        if not _bn_layers(teacher):
            raise Unsuitable(
                f"SRe2L needs a teacher with batch norm, and {type(teacher).__name__} has none that keeps "
                "running statistics; name one in `teacher`, such as {network: resnet18@bn}"
            )
        self._limits = tools.limits

    def initial(self, tools: Tools) -> Tensor:
        """Gaussian noise, of mean 0 and variance 1 in the pixel space."""
        return self.noise(tools)

    def optimisers(self, params: Mapping[str, Tensor]) -> Optimisers:
        """Adam, its learning rate falling to 0 as a cosine over the iterations."""
        adam = Adam(params.values(), self.settings.lr, self.settings.betas)
        return Optimisers([adam], [CosineAnnealingLR(adam, self.settings.iterations)])

    def project(self, params: Mapping[str, Tensor], tools: Tools) -> None:
        """Clamp pixels to black and white; what a generator renders from is left alone."""
        if "pixels" in params:
            params["pixels"].clamp_(*self._limits)

    def iteration(self, k: int, images: Images, tools: Tools) -> Iterator[Tensor]:
        """Recover the classes forward by forward, each with statistics and an augmentation of its own."""
        teacher: nn.Module = tools.artifacts["teacher"]
        total = images.images.new_zeros(())
        classes_per_forward = max(1, self.settings.batch // images.ipc)
        for first in range(0, images.classes, classes_per_forward):
            rows = images.rows(first, min(first + classes_per_forward, images.classes))
            leaf = images.leaf(rows)
            with bn_distances(teacher) as distances:
                logits = teacher(self._augmented(leaf, first, tools))
            loss = F.cross_entropy(logits, images.labels[rows])
            loss = loss + self.settings.r_bn * bn_loss(distances, self.settings.first_bn_multiplier)
            images.add(rows, torch.autograd.grad(loss, leaf)[0])
            total += loss.detach()
        yield total

    def _augmented(self, images: Tensor, first: int, tools: Tools) -> Tensor:
        """All images under the same crop, coin and roll: those of the forward that begins with ``first``."""
        if self.settings.crop:
            window = resized_crop_window(tools.rng("crop", first), self.task.size, _CROP_SCALE, _CROP_RATIO)
            images = resized_crop(images, window, self.task.size)
            if tools.rng("flip", first).random() < 0.5:
                images = images.flip(-1)
        most = self.settings.jitter
        # recover_cifar.py rolls one way only, recover_tiny.py both ways.
        least = 0 if self.settings.roll == "positive" else -most
        shifts = tools.rng("roll", first).integers(least, most + 1, size=2).tolist()
        return images.roll(shifts, (2, 3))
