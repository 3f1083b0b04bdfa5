"""Training of the compact generator: the non-saturating loss with a lazy gradient penalty.

Goodfellow et al., "Generative Adversarial Nets" (NeurIPS 2014), section 3; Mescheder et al., "Which Training
Methods for GANs do actually Converge?" (ICML 2018), equation 9 (R1); its use every few updates, the betas of
Adam and the averaged generator from Karras et al., StyleGAN2 (CVPR 2020), appendix B; augmentation of real
and generated images alike from Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training"
(NeurIPS 2020).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from baselines.base import Augment
from baselines.defaults.generator import GeneratorSettings
from baselines.generators.compact import CompactGenerator, Discriminator

#: The average forgets no slower than over this share of the images seen so far (StyleGAN2-ADA, ema_rampup).
EMA_RAMP = 0.05


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of ``-log sigmoid(real) - log(1 - sigmoid(fake))`` of scores [n]: a scalar."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Mean of ``-log sigmoid(fake)`` of scores [n] (the non-saturating form): a scalar."""
    return F.softplus(-fake).mean()


def gradient_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """R1: half the mean squared norm of each score's gradient at its image; a scalar with a graph.

    Args:
        scores: [n], each a function of its own image.
        images: [n, ...], requiring grad.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().sum() / (2 * len(images))


class GANTraining:
    """A generator, its running average ``ema`` (the one to keep), and a discriminator, in training.

    Args:
        generator: the generator to train, in place.
        discriminator: its opponent, likewise.
        settings: batch, learning rate and the like; ``steps`` is the caller's business.
        augment: what real and generated images go through before they are judged, where the settings say so.
    """

    def __init__(
        self,
        generator: CompactGenerator,
        discriminator: Discriminator,
        settings: GeneratorSettings,
        augment: Augment,
    ) -> None:
        self.generator, self.discriminator, self.settings = generator, discriminator, settings
        self.ema = copy.deepcopy(generator).requires_grad_(False).eval()
        self.steps_done = 0
        self._augment = augment if settings.augment == "dsa" else None
        self._adams = {
            "generator": torch.optim.Adam(generator.parameters(), settings.lr, betas=(0.0, 0.99)),
            "discriminator": _lazy_adam(discriminator, settings),
        }

    def step(self, real: Tensor, labels: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """One update of the discriminator, then one of the generator.

        Args:
            real: images [batch, 3, size, size] in [0, 1] units.
            labels: their classes, int64 [batch]; generated images get the same.
            rng: the generator of this step's latents and augmentations.

        Returns:
            The losses of both, detached scalars.
        """
        judged = self._judge(real, labels, self._generate(labels, rng, graph=False), rng)
        if self.settings.r1 and self.steps_done % self.settings.r1_every == 0:
            self._penalise(real, labels, rng)
        fooled = self._fool(labels, rng)
        self._average(len(real))
        self.steps_done += 1
        return {"discriminator": judged, "generator": fooled}

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs."""
        modules = {name: module.state_dict() for name, module in self._modules.items()}
        adams = {name: adam.state_dict() for name, adam in self._adams.items()}
        return {"steps_done": self.steps_done, "modules": modules, "adams": adams}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.steps_done = state["steps_done"]
        for name, module in self._modules.items():
            module.load_state_dict(state["modules"][name])
        for name, adam in self._adams.items():
            adam.load_state_dict(state["adams"][name])

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator, "ema": self.ema}

    def _judge(self, real: Tensor, labels: Tensor, fake: Tensor, rng: np.random.Generator) -> Tensor:
        both = self._seen(torch.cat([real, fake]), rng)
        scores = self.discriminator(both, labels.repeat(2))
        loss = discriminator_loss(*scores.chunk(2))
        self._update("discriminator", self.discriminator, loss)
        return loss.detach()

    def _penalise(self, real: Tensor, labels: Tensor, rng: np.random.Generator) -> None:
        images = real.detach().requires_grad_()
        scores = self.discriminator(self._seen(images, rng), labels)
        # Times the updates that it stands for.
        penalty = self.settings.r1 * self.settings.r1_every * gradient_penalty(scores, images)
        self._update("discriminator", self.discriminator, penalty)

    def _fool(self, labels: Tensor, rng: np.random.Generator) -> Tensor:
        self.discriminator.requires_grad_(False)
        fake = self._seen(self._generate(labels, rng, graph=True), rng)
        loss = generator_loss(self.discriminator(fake, labels))
        self._update("generator", self.generator, loss)
        self.discriminator.requires_grad_(True)
        return loss.detach()

    def _generate(self, labels: Tensor, rng: np.random.Generator, graph: bool) -> Tensor:
        z = rng.standard_normal((len(labels), self.generator.latent), dtype=np.float32)
        with torch.set_grad_enabled(graph):
            images: Tensor = self.generator(torch.from_numpy(z).to(labels.device), labels)
        return images

    def _seen(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """What the discriminator is shown: the augmentation fills with 0, which is grey here."""
        if self._augment is None:
            return images
        seen = self._augment.apply(images - 0.5, self._augment.draw_batch(rng, len(images)))
        return seen + 0.5

    def _update(self, name: str, module: nn.Module, loss: Tensor) -> None:
        # To None, so that Adam leaves alone what the loss does not depend on (the last bias, in the penalty).
        module.zero_grad(set_to_none=True)
        loss.backward()
        self._adams[name].step()

    @torch.no_grad()
    def _average(self, batch: int) -> None:
        seen = (self.steps_done + 1) * batch
        share = 1 - 0.5 ** (batch / min(self.settings.ema, EMA_RAMP * seen))
        for mean, current in zip(self.ema.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(current, share)


def _lazy_adam(discriminator: Discriminator, settings: GeneratorSettings) -> torch.optim.Adam:
    """Adam for the discriminator, slowed as StyleGAN2 does for the extra updates that the penalty takes."""
    ratio = settings.r1_every / (settings.r1_every + 1) if settings.r1 else 1.0
    return torch.optim.Adam(discriminator.parameters(), settings.lr * ratio, betas=(0.0, 0.99**ratio))
