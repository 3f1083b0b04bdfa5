"""DC and DSA: match the gradients that real and synthetic images give a network, class by class.

Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, eq. 9 and 10, algorithm 1;
Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021, eq. 4. Reference
implementation DatasetCondensation/main.py. Both methods are one class: DSA augments, DC does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from baselines.base import Images, Method, Optimisers, Tools
from baselines.classes import differentiable_gradients, gradients, refused
from baselines.defaults.dc import DCSettings

#: Added to products of norms: utils.py, distance_wb and match_loss.
EPSILON = 1e-6
#: Real images of each class that batch norm sees before an update: main.py, BNSizePC.
BATCH_NORM_IMAGES = 16

Gradients = Sequence[Tensor]


def distance(synthetic: Tensor, real: Tensor) -> Tensor:
    """The cosine distance of two gradients of one parameter tensor, summed over its rows.

    Args:
        synthetic: the gradient [rows, ...]: a convolution's weight has a row per output channel, a linear
            layer's one per output, a layer norm's [C, h, w] one per channel.
        real: another of the same shape.

    Returns:
        A scalar from 0 to 2 rows: sum_r (1 - <a_r, b_r> / (|a_r| |b_r| + 1e-6)); exactly 0, as in utils.py,
        for a tensor of one dimension (a bias, a norm's scale and shift).
    """
    if synthetic.ndim < 2:
        return synthetic.new_zeros(())
    a, b = synthetic.flatten(1), real.flatten(1)
    norms: Tensor = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (1 - (a * b).sum(1) / (norms + EPSILON)).sum()


def rows_distance(synthetic: Gradients, real: Gradients) -> Tensor:
    """The sum of :func:`distance` over all parameter tensors, without weights: DC's eq. 9 and 10."""
    return torch.stack([distance(a, b) for a, b in zip(synthetic, real, strict=True)]).sum()


def squared_distance(synthetic: Gradients, real: Gradients) -> Tensor:
    """The squared Euclidean distance over all parameters (``mse`` in utils.py, match_loss; it is no mean)."""
    return torch.stack([(a - b).square().sum() for a, b in zip(synthetic, real, strict=True)]).sum()


def cosine_distance(synthetic: Gradients, real: Gradients) -> Tensor:
    """One cosine distance, 0 to 2, over all parameters as one vector (``cos`` in utils.py, match_loss)."""
    a, b = (torch.cat([gradient.flatten() for gradient in side]) for side in (synthetic, real))
    norms: Tensor = torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)
    return 1 - (a * b).sum() / (norms + EPSILON)


DISTANCES: dict[str, Callable[[Gradients, Gradients], Tensor]] = {
    "rows": rows_distance,
    "mse": squared_distance,
    "cos": cosine_distance,
}


class DC(Method[DCSettings]):
    """Several updates an iteration, each against the network that the images so far have trained.

    The loss of an update is the sum over classes; the graph of ``chunk`` classes is alive at a time. All
    of a network but its batch norm is in evaluation mode, so dropout (none of the authors' networks has any)
    is off: the gradients of real and of synthetic images are those of one network.
    """

    #: Whether classes go one by one although ``chunk`` says otherwise, for their network allows no more.
    _one_by_one = False

    def begin(self, tools: Tools) -> None:
        """Try once whether several classes can be matched at once."""
        if self.settings.chunk > 1:
            network = tools.network().eval()
            self._one_by_one = refused(network, self.task.size)
            network.train()

    @property
    def fallback(self) -> str | None:
        """That classes go one by one."""
        text = "classes one by one: torch.func cannot take several through the network"
        return text if self._one_by_one else None

    def optimisers(self, params: Mapping[str, Tensor]) -> Optimisers:
        """SGD with momentum on whatever makes the images."""
        sgd = torch.optim.SGD(list(params.values()), lr=self.settings.lr_img, momentum=self.settings.momentum)
        return Optimisers([sgd])

    def iteration(self, k: int, images: Images, tools: Tools) -> Iterator[Tensor]:
        """Update the images and train the network in turns; nothing is trained after the last update."""
        network = tools.network().eval()
        for step in range(self.settings.outer):
            if step:
                self._train(network, images, step, tools)
            _fix_batch_norm(network, images.classes, step, tools)
            yield self._match(network, images, step, tools)
        network.train()

    def _match(self, network: nn.Module, images: Images, step: int, tools: Tools) -> Tensor:
        """Add the gradient of the distances of all classes; gives their sum."""
        augmented = self.settings.augment == "dsa"
        draw = tools.augment.draw_siamese(tools.rng("siamese", step), images.classes) if augmented else None
        total = images.images.new_zeros(())
        chunk = 1 if self._one_by_one else self.settings.chunk
        for first in range(0, images.classes, chunk):
            classes = range(first, min(first + chunk, images.classes))
            of_classes = None if draw is None else draw[classes.start : classes.stop]
            target = self._real_gradient(network, classes, step, of_classes, tools)
            total += self._match_classes(network, images, classes, target, of_classes, tools)
        return total

    def _match_classes(
        self, network: nn.Module, images: Images, classes: range, target: Gradients, draw: Any, tools: Tools
    ) -> Tensor:
        """Add the gradient of some classes' distances to ``target``; gives their sum."""
        rows = images.rows(classes.start, classes.stop)
        leaf = images.leaf(rows)
        measure = DISTANCES[self.settings.distance]
        if len(classes) == 1:
            seen = leaf if draw is None else tools.augment.apply(leaf[None], draw)[0]
            with sdpa_kernel(SDPBackend.MATH):  # no other kernel of attention can be differentiated twice
                loss = F.cross_entropy(network(seen), images.labels[rows])
            found = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
            apart = measure(found, target)
        else:
            shape = (len(classes), images.ipc)
            seen = leaf.unflatten(0, shape)
            seen = seen if draw is None else tools.augment.apply(seen, draw)
            labels = images.labels[rows].unflatten(0, shape)[:, 0]
            apart = vmap(measure)(differentiable_gradients(network, seen, labels), target).sum()
        images.add(rows, torch.autograd.grad(apart, leaf)[0])
        return apart.detach()

    def _real_gradient(
        self, network: nn.Module, classes: range, step: int, draw: Any, tools: Tools
    ) -> list[Tensor]:
        """The gradient of the parameters on fresh real images of each class, under its draw.

        Of one class a tensor like each parameter, of several [classes, ...].
        """
        if len(classes) == 1:
            return self._gradient_of_one(network, classes.start, step, draw, tools)
        if self.settings.batch_real < tools.per_forward:  # else more at once make nothing faster
            real = tools.real(classes.start, classes.stop, self.settings.batch_real, step)
            if real.shape[1] == self.settings.batch_real:
                real = real if draw is None else tools.augment.apply(real, draw)
                labels = torch.arange(classes.start, classes.stop, device=real.device)
                return gradients(network, real, labels, tools.per_forward)
            del real  # as many of each as the smallest class has; each shall have as many as it has alone
        draws = [None if draw is None else draw[i : i + 1] for i in range(len(classes))]
        each = [
            self._gradient_of_one(network, label, step, of_class, tools)
            for label, of_class in zip(classes, draws, strict=True)
        ]
        return [torch.stack(of_parameter) for of_parameter in zip(*each, strict=True)]

    def _gradient_of_one(
        self, network: nn.Module, label: int, step: int, draw: Any, tools: Tools
    ) -> list[Tensor]:
        real = tools.real(label, label + 1, self.settings.batch_real, step)
        if draw is not None:
            real = tools.augment.apply(real, draw)
        labels = torch.full((real.shape[1],), label, device=real.device)
        return mean_gradient(network, real[0], labels, tools.per_forward)

    def _train(self, network: nn.Module, images: Images, step: int, tools: Tools) -> None:
        """Train the network on the images for ``inner`` epochs (not steps) by plain SGD.

        Batch norm is in training mode here, because utils.py's epoch() puts it there.
        """
        norms = _batch_norms(network)
        for norm in norms:
            norm.train()
        parameters = list(network.parameters())
        sgd = torch.optim.SGD(parameters, lr=self.settings.lr_net)
        for epoch in range(self.settings.inner):
            rng = tools.rng("training", step, epoch)
            order = rng.permutation(len(images.images))
            for first in range(0, len(order), self.settings.batch_train):
                batch = tools.tensor(order[first : first + self.settings.batch_train])
                seen = images.images[batch]
                if self.settings.augment == "dsa":
                    seen = tools.augment.apply(seen, tools.augment.draw_batch(rng, len(seen)))
                at_once = len(seen) if norms else tools.per_forward
                found = mean_gradient(network, seen, images.labels[batch], at_once)
                for parameter, gradient in zip(parameters, found, strict=True):
                    parameter.grad = gradient
                sgd.step()
                sgd.zero_grad()


def mean_gradient(network: nn.Module, images: Tensor, labels: Tensor, at_once: int) -> list[Tensor]:
    """The gradient of the mean cross-entropy, detached, ``at_once`` images a forward.

    Args:
        network: where images of one forward influence each other, ``at_once`` must not split them.
        images: [N, 3, H, W].
        labels: int64 [N].
        at_once: how many images have a graph at a time.

    Returns:
        A tensor for each parameter of the network, in their order.
    """
    parameters = list(network.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for some, classes in zip(images.split(at_once), labels.split(at_once), strict=True):
        loss = F.cross_entropy(network(some), classes, reduction="sum") / len(images)
        for held, found in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            held += found
    return total


def _fix_batch_norm(network: nn.Module, classes: int, step: int, tools: Tools) -> None:
    """Show batch norm some real images of all classes, then keep its running statistics: main.py, BN_flag.

    What it keeps is a moving average from (0, 1) on: after one forward it has moved by a tenth (PyTorch's
    momentum 0.1). So do the authors.
    """
    norms = _batch_norms(network)
    if not norms:
        return
    for norm in norms:
        norm.train()
    with torch.no_grad():
        network(tools.real(0, classes, BATCH_NORM_IMAGES, step, 1).flatten(0, 1))
    for norm in norms:
        norm.eval()


def _batch_norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
