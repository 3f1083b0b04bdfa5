"""DM: match mean embeddings of real and synthetic images under random networks.

Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, eq. 5; reference
implementation DatasetCondensation/main_DM.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from baselines.base import Images, Method, Optimisers, Tools
from baselines.defaults.dm import DMMultiSettings, DMSettings


def dm_loss(real: Tensor, synthetic: Tensor) -> Tensor:
    """The squared distance of mean embeddings, summed over features and classes.

    Args:
        real: embeddings [classes, n, features] of real images (no gradient is needed).
        synthetic: embeddings [classes, ipc, features].

    Returns:
        A scalar >= 0: sum_c || mean_n real[c] - mean_ipc synthetic[c] ||^2. Summed, not averaged, over the
        features, as main_DM.py does.
    """
    return (real.mean(1) - synthetic.mean(1)).square().sum()


class DM(Method[DMSettings]):
    """One update an iteration, each against a new random network in training mode."""

    def optimisers(self, params: Mapping[str, Tensor]) -> Optimisers:
        """SGD with momentum on whatever makes the images."""
        sgd = torch.optim.SGD(list(params.values()), lr=self.settings.lr_img, momentum=self.settings.momentum)
        return Optimisers([sgd])

    def iteration(self, k: int, images: Images, tools: Tools) -> Iterator[Tensor]:
        """Match the classes chunk by chunk: the loss is a sum over classes, so the gradient is the same."""
        network = self._network(k, tools).requires_grad_(False).train()
        embed = cast("Callable[[Tensor], Tensor]", network.embed)
        augmented = self.settings.augment == "dsa"
        draw = tools.augment.draw_siamese(tools.rng("siamese"), images.classes) if augmented else None
        total = images.images.new_zeros(())
        separable = not _couples_samples(network)
        chunk = self.settings.chunk if separable else images.classes
        for first in range(0, images.classes, chunk):
            last = min(first + chunk, images.classes)
            rows = images.rows(first, last)
            leaf = images.leaf(rows)
            synthetic = leaf.unflatten(0, (last - first, images.ipc))
            if draw is not None:
                synthetic = tools.augment.apply(synthetic, draw[first:last])
            target = self._target(embed, range(first, last), draw, tools, separable)
            loss = dm_loss(target, embed(synthetic.flatten(0, 1)).unflatten(0, synthetic.shape[:2]))
            images.add(rows, torch.autograd.grad(loss, leaf)[0])
            total += loss.detach()
        yield total

    @torch.no_grad()
    def _target(
        self, embed: Callable[[Tensor], Tensor], classes: range, draw: Any, tools: Tools, separable: bool
    ) -> Tensor:
        """Embeddings [classes, n, features] of real images.

        Or their means, n = 1, where some class has fewer than were asked for: of several classes as many are
        drawn as the smallest has, and each shall have as many as it has alone.
        """
        real = tools.real(classes.start, classes.stop, self.settings.batch_real)
        if separable and len(classes) > 1 and real.shape[1] < self.settings.batch_real:
            alone = (self._target(embed, range(c, c + 1), draw, tools, separable) for c in classes)
            return torch.cat([each.mean(1, keepdim=True) for each in alone])
        if draw is not None:
            real = tools.augment.apply(real, draw[classes.start : classes.stop])
        pieces = real.flatten(0, 1).split(tools.per_forward if separable else real.shape[:2].numel())
        found: Tensor = torch.cat([embed(piece) for piece in pieces]).unflatten(0, real.shape[:2])
        return found

    def _network(self, k: int, tools: Tools) -> nn.Module:
        return tools.network()


class DMMulti(DM):
    """DM that goes round several architectures: iteration k matches under ``networks[k % n]``.

    The control for a plug-in that knows several architectures: what these give without it. Ours.
    """

    settings: DMMultiSettings

    @property
    def kinds_of_updates(self) -> int:
        """As many as there are networks."""
        return len(self.settings.networks)

    def _network(self, k: int, tools: Tools) -> nn.Module:
        networks = self.settings.networks
        return tools.network(networks[k % len(networks)])


def _couples_samples(network: nn.Module) -> bool:
    """Whether images in one forward influence each other: then all classes go together, as in main_DM.py."""
    return any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
