"""Class activation maps that can be differentiated, for any classifier of images.

The right form is found from the network itself, by looking at one forward:

* the map is read at the last place with at least 4x4 positions through which everything goes that the
  network says (a bottleneck: no shortcut leads round it), and whose positions count;
* where the classifier is linear and reads the mean over the map's positions (or tokens), the map is
  ``sum_k W[y, k] F_k``: CAM (Zhou et al., CVPR 2016, eq. 2);
* where it reads the flattened map, ``sum_k W[y, k, i, j] F_k[i, j]``: HiResCAM (Draelos and Carin, 2020);
* otherwise ``sum_k mean_ij(d logit_y / d F_k[i, j]) F_k``: Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1 and
  2). So it is for a transformer that reads a class token: the last tokens of its positions get no gradient,
  and the place found is the input of its last block.

None of them has its ReLU yet: that is in :func:`metadd.features.normalised`. Outputs [N, K, h, w],
[N, h, w, K] (both with h = w) and [N, prefix + h * w, K] count as maps; any other, such as positions
flattened behind the channels, does not, or is taken for what it looks like.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
        maps: Tensor = output[:, self.prefix :].transpose(1, 2).unflatten(2, self.shape)
        return maps


class CAM(nn.Module):
    """A classifier that gives its class activation maps beside its logits.

    The network is frozen and put into evaluation mode, here and for good: :meth:`train` does not change it.

    Args:
        network: logits [N, C] of images [N, 3, H, W].
        size: the side H = W of the images, in pixels.
        gradient: whether the weights of Grad-CAM are differentiated too (``through``) or held ``constant``;
            the other forms have no such weights.

    Attributes:
        site: where the map is read.

    Raises:
        Unsuitable: no place in the network gives a map, or it gives no logits [N, C].
    """

    def __init__(
        self, network: nn.Module, size: int, gradient: Literal["through", "constant"] = "through"
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.gradient = gradient
        self.site = find_site(self.network, size)

    def train(self, mode: bool = True) -> CAM:
        """Stay in evaluation mode, whatever ``mode`` says: this may be part of a module that is trained."""
        return super().train(False)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One forward of the network.

        Args:
            images: [N, 3, H, W] as the network was trained on them.
            labels: the classes that the maps are for, int64 [N].

        Returns:
            Logits [N, C] and maps [N, h, w], before their ReLU, with a graph where ``images`` have one.
        """
        if self.site.form == "gradient":
            return self._by_gradient(images, labels)
        with _output_of(self.network, self.site.module, self.site.call) as outputs:
            logits = self.network(images)
        (output,) = outputs
        maps = self.site.maps(output).to(logits.dtype)  # autocast may have reduced them
        classifier = cast(nn.Linear, self.network.get_submodule(self.site.classifier))
        weights = classifier.weight[labels]
        if self.site.form == "pooled":
            return logits, torch.einsum("nk,nkhw->nhw", weights, maps)
        return logits, (weights.reshape(maps.shape) * maps).sum(1)

    def _by_gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Grad-CAM. Where the images have no graph, only what comes after the map is differentiated."""
        graph = torch.is_grad_enabled() and images.requires_grad
        through = graph and self.gradient == "through"
        # Only the plain kernel of attention can be differentiated twice.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            with _output_of(self.network, self.site.module, self.site.call, _leaf_or_same) as outputs:
                logits = self.network(images if graph else images.detach())
            (output,) = outputs
            score = logits.gather(1, labels[:, None]).sum()
            (slopes,) = torch.autograd.grad(score, output, create_graph=through, retain_graph=graph)
        weights = self.site.maps(slopes).to(logits.dtype).mean((2, 3))
        cam = torch.einsum("nk,nkhw->nhw", weights, self.site.maps(output).to(logits.dtype))
        return (logits, cam) if graph else (logits.detach(), cam.detach())


def find_site(network: nn.Module, size: int) -> Site:
    """Where and how the network's map is read, from one forward; it must be frozen and in evaluation mode.

    Raises:
        Unsuitable: no place fits, with the reason.
    """
    images = _example(network, size)
    # With gradients, whatever the caller has set: paths from the images are followed by them.
    with torch.enable_grad(), _listening(network) as heard:
        logits = network(images)
        if not (isinstance(logits, Tensor) and logits.dim() == 2 and logits.requires_grad):
            raise Unsuitable(
                f"{type(network).__name__} has no class activation map: it does not give logits [N, C] that "
                "can be differentiated by the images"
            )
        for module, call, output in reversed(heard.outputs):
            site = _site_at(module, call, output)
            if (
                site is not None
                and _is_bottleneck(logits, output, images)
                and _positions_count(logits, output, site)
            ):
                form, classifier = _linear_form(site.maps(output), site.layout, logits, heard.linears)
                return replace(site, form=form, classifier=classifier)
    raise Unsuitable(
        f"{type(network).__name__} has no class activation map for {size}x{size} images: no layer whose "
        f"output has {SMALLEST}x{SMALLEST} positions or more and lies on every path from the image to the "
        "logits"
    )


def _example(network: nn.Module, size: int) -> Tensor:
    """Two images of noise that want a gradient, as the network would take them."""
    like = next(network.parameters(), torch.empty(0))
    noise = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return noise.to(like).requires_grad_()


def _site_at(module: str, call: int, output: Tensor) -> Site | None:
    """A site of Grad-CAM, if an output looks like a map."""

    def site(layout: Layout, prefix: int, side: int) -> Site:
        return Site(module, call, layout, prefix, (side, side), "gradient", "")

    if output.dim() == 4:
        _, a, b, c = output.shape
        if b == c >= SMALLEST:
            return site("channels first", 0, b)
        if a == b >= SMALLEST:
            return site("channels last", 0, a)
    elif output.dim() == 3:
        for prefix in range(_MOST_PREFIX_TOKENS + 1):
            positions = output.shape[1] - prefix
            side = math.isqrt(max(0, positions))
            if side >= SMALLEST and side * side == positions:
                return site("tokens", prefix, side)
    return None


def _is_bottleneck(logits: Tensor, output: Tensor, images: Tensor) -> bool:
    """Whether every path of the graph from the logits to the images goes through this output."""
    cut = output.grad_fn, output.output_nr
    seen: set[Any] = set()
    ahead: list[Any] = [(logits.grad_fn, logits.output_nr)]
    while ahead:
        edge = ahead.pop()
        node, _ = edge
        if node is None or edge == cut or edge in seen:
            continue
        if getattr(node, "variable", None) is images:
            return False
        seen.add(edge)
        ahead += node.next_functions
    return True


def _positions_count(logits: Tensor, output: Tensor, site: Site) -> bool:
    """Whether the features at the positions move the logits: a class token leaves the last ones idle."""
    if not output.requires_grad:
        return False
    (slopes,) = torch.autograd.grad(logits.square().sum(), output, retain_graph=True)
    return bool(site.maps(slopes).any())


def _linear_form(
    maps: Tensor, layout: Layout, logits: Tensor, linears: list[tuple[str, Tensor, Tensor]]
) -> tuple[Form, str]:
    """The form and the classifier's name, from what the linear layer that gives the logits reads."""
    for name, read, said in reversed(linears):
        if said.shape == logits.shape and torch.equal(said, logits):
            if _same(read, maps.mean((2, 3))):
                return "pooled", name
            if layout == "channels first" and _same(read, maps.flatten(1)):
                return "flattened", name
    return "gradient", ""


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree but for rounding, whatever their scale; zeros say nothing."""
    if one.shape != other.shape:
        return False
    scale = other.abs().max()
    return bool(scale > 0) and bool((one - other).abs().max() <= 1e-3 * scale)


def _leaf_or_same(output: Tensor) -> tuple[Tensor, Tensor]:
    """An output to differentiate by, and a copy for the network to go on with (it may work in place)."""
    kept = output if output.requires_grad else output.detach().requires_grad_()
    return kept, kept.clone()


@contextmanager
def _output_of(
    network: nn.Module,
    module: str,
    call: int,
    replaced: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Iterator[list[Tensor]]:
    """The output of a module's call in the one forward inside the context, in a list.

    ``replaced`` says what of the output is kept and what the network goes on with.
    """
    kept: list[Tensor] = []
    calls = 0

    def hook(_: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        nonlocal calls
        calls += 1
        if calls - 1 != call:
            return None
        if replaced is None:
            kept.append(output)
            return None
        keep, go_on = replaced(output)
        kept.append(keep)
        return go_on

    handle = network.get_submodule(module).register_forward_hook(hook)
    try:
        yield kept
    finally:
        handle.remove()


@dataclass
class _Heard:
    """What the modules said in a forward, in the order in which they ended.

    Attributes:
        outputs: name, number of the call, and output of each call, from the first module with parameters on:
            before it, there are only the images.
        linears: name, input and output of the linear layers.
    """

    outputs: list[tuple[str, int, Tensor]] = field(default_factory=list)
    linears: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)


@contextmanager
def _listening(network: nn.Module) -> Iterator[_Heard]:
    """Listen to all modules while the context is open."""
    heard = _Heard()
    counts: dict[str, int] = {}

    def listen(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            call = counts[name] = counts.get(name, -1) + 1
            learnt = heard.outputs or any(True for _ in module.parameters())
            if learnt and isinstance(output, Tensor):
                heard.outputs.append((name, call, output))
                if isinstance(module, nn.Linear):
                    heard.linears.append((name, inputs[0], output))

        return hook

    handles = [module.register_forward_hook(listen(name)) for name, module in network.named_modules()]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
