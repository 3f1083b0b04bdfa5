"""GLaD: another method's objective, with the latents of a frozen generator in place of pixels.

Cazenavette et al., "Generalizing Dataset Distillation via Deep Generative Prior", CVPR 2023, section 3;
reference implementation glad, glad_utils.py and distill_*.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from baselines import METHODS
from baselines.adam import Adam
from baselines.base import (
    Images,
    Method,
    MethodSettings,
    Optimisers,
    Parametrization,
    Task,
    Tools,
    Unsuitable,
)
from baselines.defaults.glad import GLaDSettings
from baselines.defaults.sre2l import SRe2LSettings
from baselines.generators.base import Generator

#: glad_utils.py, prepare_latents: latents whose styles are averaged, and the features' limits.
AVERAGED = 1000
INFINITE, LIMIT = 5.0, 10.0


class Latents:
    """Styles ("latents") and the features after ``layer`` layers of a generator, for each image.

    Args:
        generator: frozen, on the device.
        layer: where it is cut.
        chunk: images rendered at once.
        latents: [N, num_ws, dim]; the styles up to the cut are not read.
        features: [N, C, h, w].
    """

    def __init__(
        self, generator: Generator, layer: int, chunk: int, latents: Tensor, features: Tensor
    ) -> None:
        self.params: Mapping[str, Tensor] = {"latents": latents, "features": features}
        self.chunk = chunk
        self._generator, self._layer = generator, layer

    def render(self, params: Mapping[str, Tensor]) -> Tensor:
        """Images [n, 3, H, W] in [0, 1] units (not clamped) of n rows of ``params``."""
        return self._generator.images(params["features"], params["latents"], self._layer)


def tame(features: Tensor) -> Tensor:
    """Features as they may start: NaN is 0, what is infinite is 5 or -5, all within -10 and 10."""
    return features.nan_to_num(0.0, INFINITE, -INFINITE).clamp(-LIMIT, LIMIT)


def noise_like(features: Tensor, noise: Tensor) -> Tensor:
    """Standard normal ``noise`` [N, C, h, w] with the mean and the deviation of each of the ``features``."""
    over = (1, 2, 3)
    return noise * features.std(over, keepdim=True) + features.mean(over, keepdim=True)


class GLaD(Method[GLaDSettings[Any]]):
    """The inner method's iterations, on images that a generator renders from latents of their own."""

    def __init__(self, settings: GLaDSettings[Any], task: Task) -> None:
        super().__init__(settings, task)
        inner: MethodSettings = settings.inner
        self.inner: Method[Any] = METHODS[settings.inner_name].method(inner, task)

    def begin(self, tools: Tools) -> None:
        """Begin the inner method."""
        self.inner.begin(tools)

    @torch.no_grad()
    def parametrization(self, tools: Tools) -> Parametrization:
        """Styles of random latents and the class, and the features that the generator makes of them.

        Raises:
            Unsuitable: the generator does not fit the dataset or the settings.
        """
        s, generator = self.settings, tools.artifacts["generator"]
        classes = self._classes(generator)
        draw = self._average_styles if s.average_w else self._random_styles
        latents = draw(generator, classes, tools)
        pieces = [generator.features(w, s.layer) for w in latents.split(s.chunk)]
        features = tame(torch.cat(pieces))
        del pieces
        if s.random_features:
            noise = tools.rng("initial features").standard_normal(features.shape, np.float32)
            features = noise_like(features, tools.tensor(noise))
        return Latents(generator, s.layer, s.chunk, latents, features)

    def extras(self) -> dict[str, Tensor]:
        """Those of the inner method."""
        return self.inner.extras()

    @property
    def fallback(self) -> str | None:
        """That of the inner method."""
        return self.inner.fallback

    def trouble(self, extras: Mapping[str, float]) -> str | None:
        """What the inner method finds wrong with its extras."""
        return self.inner.trouble(extras)

    def optimisers(self, params: Mapping[str, Tensor]) -> Optimisers:
        """The inner method's kind of optimiser, with a learning rate each for styles and features.

        Its optimisers of extras stay as they are.
        """
        s = self.settings
        groups = [
            {"params": [params["latents"]], "lr": s.lr_w},
            {"params": [params["features"]], "lr": s.lr_f},
        ]
        others = [
            each for each in self.inner.optimisers(params).optimisers if not _moves(each, params["features"])
        ]
        if isinstance(s.inner, SRe2LSettings):
            adam = Adam(groups, s.lr_f, s.inner.betas)
            return Optimisers([adam, *others], [CosineAnnealingLR(adam, s.iterations)])
        return Optimisers([torch.optim.SGD(groups, momentum=s.inner.momentum), *others])

    def iteration(self, k: int, images: Images, tools: Tools) -> Iterator[Tensor]:
        """One iteration of the inner method."""
        yield from self.inner.iteration(k, images, tools)

    def _classes(self, generator: Generator) -> np.ndarray:
        """The generator's class for each image, int64 [N]."""
        s, task = self.settings, self.task
        classes = s.generator_classes or list(range(task.classes))
        if generator.size != task.size:
            raise Unsuitable(f"the generator makes images of {generator.size} pixels, not of {task.size}")
        same = s.generator_classes or generator.classes == task.classes
        if not same or len(classes) != task.classes or not set(classes) <= set(range(generator.classes)):
            raise Unsuitable(
                f"the generator knows {generator.classes} classes and {task.dataset} has {task.classes}; say "
                "in `generator_classes` which they are"
            )
        if s.layer > generator.layers:
            raise Unsuitable(f"`layer` is {s.layer}, but the generator has only {generator.layers} layers")
        return np.repeat(np.array(classes, np.int64), task.ipc)

    def _random_styles(self, generator: Generator, classes: np.ndarray, tools: Tools) -> Tensor:
        z = tools.rng("initial latents").standard_normal((len(classes), generator.latent), np.float32)
        return generator.mapping(tools.tensor(z), tools.tensor(classes)).contiguous()

    def _average_styles(self, generator: Generator, classes: np.ndarray, tools: Tools) -> Tensor:
        means = []
        for number, label in enumerate(classes):
            rng = tools.rng("averaged latents", number)
            z = tools.tensor(rng.standard_normal((AVERAGED, generator.latent), np.float32))
            means.append(generator.mapping(z, tools.tensor(np.full(AVERAGED, label))).mean(0))
        return torch.stack(means)


def _moves(optimiser: torch.optim.Optimizer, param: Tensor) -> bool:
    return any(each is param for group in optimiser.param_groups for each in group["params"])
