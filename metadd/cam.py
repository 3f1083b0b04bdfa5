"""Class activation maps that can be differentiated, for any classifier of images.

The right form is found from the network itself, by looking at one forward:

* the map is read at the last place with at least 4x4 positions through which everything goes that the
  network says (a bottleneck: no shortcut leads round it), and whose positions count;
* where the classifier is linear and reads the mean over the map's positions (or tokens), the map is
  ``sum_k W[y, k] F_k``: CAM (Zhou et al., CVPR 2016, eq. 2);
* where it reads the flattened map, ``sum_k W[y, k, i, j] F_k[i, j]``: HiResCAM (Draelos and Carin, 2020);
* otherwise Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1 and 2, without its ReLU):
  ``sum_k mean_ij(d logit_y / d F_k[i, j]) F_k``. So it is for a transformer that reads a class token: its
  last tokens get no gradient, and the place found is the input of its last block.

None of them has its ReLU yet: that is in :func:`metadd.features.normalised`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from metadd.base import Unsuitable

#: Positions along a side of a map, at least: a map of fewer says nothing about where.
SMALLEST = 4
#: Tokens that may stand before those of the positions: class, distillation, registers.
_MOST_PREFIX_TOKENS = 8

Form = Literal["pooled", "flattened", "gradient"]
Layout = Literal["channels first", "channels last", "tokens"]


@dataclass(frozen=True)
class Site:
    """Where in a network its map is read, and how.

    Attributes:
        module: the name of the module whose output is the map.
        call: which of its calls in a forward, from 0.
        layout: how the output is laid out: [N, K, h, w], [N, h, w, K] or [N, prefix + h * w, K].
        prefix: tokens before those of the positions.
        shape: the map's h and w.
        form: how a map is made of the output (the module docstring).
        classifier: the name of the linear layer; empty where the form is ``gradient``.
    """

    module: str
    call: int
    layout: Layout
    prefix: int
    shape: tuple[int, int]
    form: Form
    classifier: str

    def maps(self, output: Tensor) -> Tensor:
        """The module's output as [N, K, h, w]."""
        if self.layout == "channels first":
            return output
        if self.layout == "channels last":
            return output.permute(0, 3, 1, 2)
        return output[:, self.prefix :].transpose(1, 2).unflatten(2, self.shape)


class CAM(nn.Module):
    """A classifier that gives its class activation maps beside its logits.

    The network is frozen and put into evaluation mode, here and for good.

    Args:
        network: logits [N, C] of images [N, 3, H, W].
        size: the side H = W of the images, in pixels.
        gradient: whether the weights of Grad-CAM are differentiated too (``through``) or held ``constant``;
            the other forms have no such weights.

    Attributes:
        site: where the map is read.

    Raises:
        Unsuitable: no place in the network gives a map.
    """

    def __init__(
        self, network: nn.Module, size: int, gradient: Literal["through", "constant"] = "through"
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.gradient = gradient
        self.site = find_site(self.network, size)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One forward.

        Args:
            images: [N, 3, H, W] as the network was trained on them.
            labels: the classes that the maps are for, int64 [N].

        Returns:
            Logits [N, C] and maps [N, h, w], before their ReLU, with a graph where ``images`` have one.
        """
        if self.site.form == "gradient":
            return self._by_gradient(images, labels)
        with _output_of(self.network, self.site) as outputs:
            logits = self.network(images)
        (output,) = outputs
        maps = self.site.maps(output)
        classifier = cast(nn.Linear, self.network.get_submodule(self.site.classifier))
        weights = classifier.weight[labels]
        if self.site.form == "pooled":
            return logits, torch.einsum("nk,nkhw->nhw", weights, maps)
        return logits, (weights.reshape(maps.shape) * maps).sum(1)

    def _by_gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Grad-CAM; without a graph for the images, only what comes after the map is differentiated."""
        graph = torch.is_grad_enabled() and images.requires_grad
        through = graph and self.gradient == "through"
        # Only the plain kernel of attention can be differentiated twice.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            with _output_of(self.network, self.site, replaced=_leaf_or_same) as outputs:
                logits = self.network(images if graph else images.detach())
            (output,) = outputs
            score = logits.gather(1, labels[:, None]).sum()
            (slopes,) = torch.autograd.grad(score, output, create_graph=through, retain_graph=graph)
        weights = self.site.maps(slopes).mean((2, 3))
        cam = torch.einsum("nk,nkhw->nhw", weights, self.site.maps(output))
        return (logits, cam) if graph else (logits.detach(), cam.detach())


def find_site(network: nn.Module, size: int) -> Site:
    """Where and how the network's map is read; it must be frozen and in evaluation mode.

    Raises:
        Unsuitable: no place fits, with the reason.
    """
    images = _example(network, size)
    with _all_outputs(network) as calls:
        logits = network(images)
    for module, call, output in reversed(calls):
        for layout, prefix, shape in _layouts(output):
            if not _is_bottleneck(network, module, call, images):
                break
            site = Site(module, call, layout, prefix, shape, "gradient", "")
            if not _positions_count(logits, output, site):
                break
            form, classifier = _linear_form(network, images, site)
            return Site(module, call, layout, prefix, shape, form, classifier)
    raise Unsuitable(
        f"{type(network).__name__} has no class activation map for {size}x{size} images: no layer whose output "
        f"has {SMALLEST}x{SMALLEST} positions or more and lies on every path from the image to the logits"
    )


def _example(network: nn.Module, size: int) -> Tensor:
    """Two images of noise that want a gradient, as the network would take them."""
    like = next(network.parameters())
    noise = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return noise.to(like).requires_grad_()


def _layouts(output: Tensor) -> Iterator[tuple[Layout, int, tuple[int, int]]]:
    """How an output may be a map: its layout, prefix tokens, and shape."""
    if output.dim() == 4:
        _, a, b, c = output.shape
        if b == c >= SMALLEST:
            yield "channels first", 0, (b, c)
        elif a == b >= SMALLEST:
            yield "channels last", 0, (a, b)
    elif output.dim() == 3:
        tokens = output.shape[1]
        for prefix in range(_MOST_PREFIX_TOKENS + 1):
            side = round(max(0, tokens - prefix) ** 0.5)
            if side >= SMALLEST and side * side == tokens - prefix:
                yield "tokens", prefix, (side, side)
                return


def _is_bottleneck(network: nn.Module, module: str, call: int, images: Tensor) -> bool:
    """Whether the logits depend on the images through this output alone: cut it, and no graph is left."""

    def cut(output: Tensor) -> tuple[Tensor, Tensor]:
        return output, output.detach()

    site = Site(module, call, "channels first", 0, (0, 0), "gradient", "")
    with _output_of(network, site, replaced=cut):
        return not network(images).requires_grad


def _positions_count(logits: Tensor, output: Tensor, site: Site) -> bool:
    """Whether the features at the positions move the logits at all: a class token leaves the last ones idle."""
    if not output.requires_grad:
        return False
    (slopes,) = torch.autograd.grad(logits.square().sum(), output, retain_graph=True)
    return bool(site.maps(slopes).any())


def _linear_form(network: nn.Module, images: Tensor, site: Site) -> tuple[Form, str]:
    """The form and the classifier's name, from what a linear classifier reads of the map."""
    names = {module: name for name, module in network.named_modules()}
    linears: list[tuple[str, Tensor, Tensor]] = []

    def listen(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        linears.append((names[module], inputs[0], output))

    hooks = [m.register_forward_hook(listen) for m in names if isinstance(m, nn.Linear)]
    try:
        with torch.no_grad(), _output_of(network, site) as outputs:
            logits = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    maps = site.maps(outputs[0])
    for name, read, said in reversed(linears):
        if said.shape == logits.shape and torch.equal(said, logits):
            if _same(read, maps.mean((2, 3))):
                return "pooled", name
            if site.layout == "channels first" and _same(read, maps.flatten(1)):
                return "flattened", name
    return "gradient", ""


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-5)


def _leaf_or_same(output: Tensor) -> tuple[Tensor, Tensor]:
    """An output to differentiate by, and a copy for the network to go on with (it may work in place)."""
    kept = output if output.requires_grad else output.detach().requires_grad_()
    return kept, kept.clone()


@contextmanager
def _output_of(
    network: nn.Module, site: Site, replaced: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
) -> Iterator[list[Tensor]]:
    """The output at a site in each forward inside the context.

    ``replaced`` says what of an output is kept and what the network goes on with.
    """
    kept: list[Tensor] = []
    calls = 0

    def hook(_: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        nonlocal calls
        calls += 1
        if calls - 1 != site.call:
            return None
        if replaced is None:
            kept.append(output)
            return None
        keep, go_on = replaced(output)
        kept.append(keep)
        return go_on

    handle = network.get_submodule(site.module).register_forward_hook(hook)
    try:
        yield kept
    finally:
        handle.remove()


@contextmanager
def _all_outputs(network: nn.Module) -> Iterator[list[tuple[str, int, Tensor]]]:
    """Name, number of the call, and output of each module's calls, in the order in which they end."""
    found: list[tuple[str, int, Tensor]] = []
    counts: dict[str, int] = {}

    def listen(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            call = counts[name] = counts.get(name, -1) + 1
            if isinstance(output, Tensor):
                found.append((name, call, output))

        return hook

    handles = [module.register_forward_hook(listen(name)) for name, module in network.named_modules()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
