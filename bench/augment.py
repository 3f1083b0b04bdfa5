"""Differentiable Siamese augmentation (DSA): one random operation, given to real and synthetic images alike.

A draw says which operation each group of images gets, and with which parameters. It is made first, from
a NumPy generator, and is then applied to as many tensors as need it: in matching, a group is a class, and
the real and the synthetic images of the class get the same draw; in training, every image is its own group.

The operations and their ranges are those of DSA (Zhao and Bilen, 2021), strategy
``color_crop_cutout_flip_scale_rotate``, one operation per draw (mode S). They act on images as the network
sees them, so a hole or a border of zeros has the data set's mean colour. Positions between pixels follow
``align_corners=False``.

Nothing here reads torch's or NumPy's global generators, nor the values of a tensor, so all of it also runs
on fake tensors. The parameters reach the device as small tensors, and pixels are computed one by one or
inside one image: how the groups are split over calls does not change a bit of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.device import sent
from bench.errors import UserError, near

OPS = ("color", "crop", "cutout", "flip", "scale", "rotate")
"""All operations, in the order of the strategy's name."""

OPS_WITHOUT_FLIP = tuple(op for op in OPS if op != "flip")
"""For images that a mirror makes wrong, such as digits."""

_BRIGHTNESS, _SATURATION, _CONTRAST = 1.0, 2.0, 0.5
_CROP, _CUTOUT, _FLIP = 0.125, 0.5, 0.5
_SCALE, _DEGREES = 1.2, 15.0

_Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Draw:
    """Which operation each group of images gets (``ops``), and its parameters (``params``, read-only).

    A slice ``draw[i:j]`` is the draw of these groups alone. ``params`` is ``[groups, 3]``. What a row holds
    depends on the group's operation; what an operation does not need is 0:

    - color: what is added to all pixels, then the factors of saturation and of contrast
    - crop: the rows and the columns by which the window moves (down and right; whole numbers)
    - cutout: the row and the column of the hole's centre (whole numbers)
    - flip: 1 (mirrored) or 0
    - scale: the factors of the sampling grid's width and height (below 1 magnifies)
    - rotate: the grid's angle in radians
    """

    ops: tuple[str, ...]
    params: _Floats

    def __post_init__(self) -> None:
        if self.params.shape != (len(self.ops), 3):
            raise ValueError(f"{len(self.ops)} operations need params of shape [{len(self.ops)}, 3]")
        self.params.flags.writeable = False

    def __len__(self) -> int:
        return len(self.ops)

    def __getitem__(self, groups: slice) -> Draw:
        return Draw(self.ops[groups], self.params[groups])


@dataclass(frozen=True)
class DSA:
    """The augmentation of square images with ``size`` pixels a side, by one of ``ops`` per draw."""

    size: int
    ops: tuple[str, ...] = OPS

    def __post_init__(self) -> None:
        if not self.ops:
            raise UserError("augmentation: no operation given; leave the augmentation out instead")
        for op in self.ops:
            if op not in OPS:
                raise UserError(f"augmentation: unknown operation {op!r}; {near(op, OPS)}")
        if self.size < 1:
            raise UserError(f"augmentation: image size {self.size} must be at least 1")

    def draw_siamese(self, rng: np.random.Generator, groups: int) -> Draw:
        """Draw for matching: each group (a class) has its own operation, its images share the parameters.

        The generator advances by the same amount whatever is drawn.
        """
        chosen = rng.integers(len(self.ops), size=groups)
        return self._draw(tuple(self.ops[i] for i in chosen), rng.random((groups, 3)))

    def draw_batch(self, rng: np.random.Generator, n: int) -> Draw:
        """Draw for training and evaluation: one operation for all ``n`` images, parameters for each."""
        op = self.ops[int(rng.integers(len(self.ops)))]
        return self._draw((op,) * n, rng.random((n, 3)))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Augment ``images``, ``[G, K, C, size, size]`` or ``[G, C, size, size]`` (groups of one).

        The number K of images in a group need not be the one of another call with the same draw. The
        result can be differentiated twice with respect to the images. It may share their memory (where
        no image of the call is mirrored). ``ValueError`` if the shape does not fit the draw or the size.
        """
        if images.ndim not in (4, 5) or images.shape[0] != len(draw) or images.shape[-2:] != (self.size,) * 2:
            raise ValueError(
                f"images of shape {list(images.shape)} do not fit a draw of {len(draw)} groups of "
                f"{self.size}x{self.size} pixels"
            )
        return _apply(images, draw) if images.ndim == 5 else _apply(images.unsqueeze(1), draw).squeeze(1)

    def _draw(self, ops: tuple[str, ...], u: _Floats) -> Draw:
        """Turn uniform numbers of [0, 1), ``[groups, 3]``, into the parameters of each group's operation."""
        params = np.zeros_like(u)
        for op in dict.fromkeys(ops):
            rows = np.array([g for g, other in enumerate(ops) if other == op])
            params[rows] = self._parameters(op, u[rows])
        return Draw(ops, params)

    def _parameters(self, op: str, u: _Floats) -> _Floats:
        zero = np.zeros(len(u))
        if op == "color":
            return np.stack([(u[:, 0] - 0.5) * _BRIGHTNESS, u[:, 1] * _SATURATION, u[:, 2] + _CONTRAST], 1)
        if op == "crop":
            most = _share(self.size, _CROP)
            shift = np.floor(u * (2 * most + 1)) - most
            return np.stack([shift[:, 0], shift[:, 1], zero], 1)
        if op == "cutout":
            # The centre may lie one past the last pixel where the hole's side is even, as in DSA's utils.py.
            centre = np.floor(u * (self.size + 1 - _share(self.size, _CUTOUT) % 2))
            return np.stack([centre[:, 0], centre[:, 1], zero], 1)
        if op == "flip":
            return np.stack([(u[:, 0] < _FLIP).astype(np.float64), zero, zero], 1)
        if op == "scale":
            factor = 1 / _SCALE + u * (_SCALE - 1 / _SCALE)
            return np.stack([factor[:, 0], factor[:, 1], zero], 1)
        return np.stack([np.deg2rad((2 * u[:, 0] - 1) * _DEGREES), zero, zero], 1)


def _share(size: int, ratio: float) -> int:
    """Round a share of the image's side to whole pixels, half up."""
    return int(size * ratio + 0.5)


def _apply(images: Tensor, draw: Draw) -> Tensor:
    """Apply each operation once, to all its groups together; ``[G, K, C, H, W]``."""
    kinds = list(dict.fromkeys(draw.ops))
    if not kinds:
        return images
    if len(kinds) == 1:
        return _KERNELS[kinds[0]](images, draw.params)
    # unbind and stack copy once each way, in the backward too; each slice would cost a full-size gradient.
    groups = images.unbind(0)
    for kind in kinds:
        of_kind = [g for g, op in enumerate(draw.ops) if op == kind]
        done = _KERNELS[kind](torch.stack([groups[g] for g in of_kind]), draw.params[of_kind])
        results = dict(zip(of_kind, done.unbind(0), strict=True))
        groups = tuple(results.get(g, group) for g, group in enumerate(groups))
    return torch.stack(groups)


def _tensor(values: NDArray[Any], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    # First on the CPU, then moved: fake tensors of a device that is not there allow no other way.
    return sent(torch.tensor(values, dtype=dtype or like.dtype), like.device)


def _column(values: _Floats, like: Tensor) -> Tensor:
    """One number per group, shaped to meet ``[G, K, C, H, W]``."""
    return _tensor(values, like).view(-1, 1, 1, 1, 1)


def _color(images: Tensor, params: _Floats) -> Tensor:
    """Brightness, saturation, contrast in this order.

    With x' = x + b, y = (x' - grey') s + grey', z = (y - m') c + m', and m' the mean of x' and of y alike:
    z = c s x + c (1 - s) grey + (1 - c) m + b, where grey and m belong to x.
    """
    bright, saturation, contrast = params.T
    red, *others = images.unbind(2)
    grey = red
    for channel in others:
        grey = grey + channel
    grey = (grey / images.shape[2]).unsqueeze(2)
    # Row by row: a sum over all pixels of a lone image may be shared among threads, and then round otherwise.
    mean = grey.mean(-1, keepdim=True).mean(-2, keepdim=True)
    offset = mean * _column(1 - contrast, images) + _column(bright, images)
    offset = grey * _column(contrast * (1 - saturation), images) + offset
    # Not addcmul: whether it fuses the two roundings depends on where a pixel lies in memory.
    return images * _column(contrast * saturation, images) + offset


def _crop(images: Tensor, params: _Floats) -> Tensor:
    """Move the window by whole pixels: ``out[r, c] = in[r + rows, c + columns]``, zero outside."""
    height, width = images.shape[-2:]
    rows = np.arange(height) + params[:, :1].astype(np.int64)
    columns = np.arange(width) + params[:, 1:2].astype(np.int64)
    inside = _outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width), images)
    source = _tensor(rows.clip(0, height - 1) * width, images, torch.int64)[:, :, None]
    source = source + _tensor(columns.clip(0, width - 1), images, torch.int64)[:, None, :]
    flat = images.flatten(3).flatten(1, 2)
    taken = flat.gather(2, source.flatten(1)[:, None].expand_as(flat))
    return taken.view(images.shape) * inside


def _cutout(images: Tensor, params: _Floats) -> Tensor:
    """Zero a square of half the side around the centre; what falls off the image is lost."""
    side = _share(images.shape[-1], _CUTOUT)
    pixels = np.arange(images.shape[-1])
    rows, columns = (pixels - (params[:, i : i + 1] - side // 2) for i in (0, 1))
    hole = _outer((rows >= 0) & (rows < side), (columns >= 0) & (columns < side), images)
    return images * (1 - hole)


def _outer(rows: NDArray[np.bool_], columns: NDArray[np.bool_], like: Tensor) -> Tensor:
    """1 where both the row and the column are marked, else 0; ``[G, 1, 1, H, W]``."""
    return _tensor(rows, like)[:, None, None, :, None] * _tensor(columns, like)[:, None, None, None, :]


def _flip(images: Tensor, params: _Floats) -> Tensor:
    mirrored = params[:, 0] > 0
    if not mirrored.any():
        return images
    if mirrored.all():
        return images.flip(-1)
    return torch.where(_tensor(mirrored, images, torch.bool).view(-1, 1, 1, 1, 1), images.flip(-1), images)


def _scale(images: Tensor, params: _Floats) -> Tensor:
    zero = np.zeros(len(params))
    return _affine(images, (params[:, 0], zero, zero, params[:, 1]))


def _rotate(images: Tensor, params: _Floats) -> Tensor:
    sine, cosine = np.sin(params[:, 0]), np.cos(params[:, 0])
    return _affine(images, (cosine, -sine, sine, cosine))


def _affine(images: Tensor, matrix: tuple[_Floats, _Floats, _Floats, _Floats]) -> Tensor:
    """Sample each image at ``(x, y) -> (m0 x + m1 y, m2 x + m3 y)``, bilinearly, zero outside.

    x and y run over pixel centres, with the image's edges at -1 and 1.
    """
    groups, samples, _, height, width = images.shape
    x = _tensor((2 * np.arange(width) + 1) / width - 1, images)
    y = _tensor((2 * np.arange(height) + 1) / height - 1, images)[:, None]
    m0, m1, m2, m3 = (_tensor(m, images).view(-1, 1, 1) for m in matrix)
    # Not affine_grid: its matrix product may run in reduced precision on a GPU.
    grid = torch.stack([m0 * x + m1 * y, m2 * x + m3 * y], -1)
    grid = grid[:, None].expand(-1, samples, -1, -1, -1).reshape(groups * samples, height, width, 2)
    return _apply_function(_Sample, images.flatten(0, 1), grid).reshape(images.shape)


class _Sample(torch.autograd.Function):
    """``grid_sample`` (bilinear, zeros) of images at a fixed grid, differentiable any number of times.

    PyTorch's own has no second derivative. Sampling is linear in the images, so the derivative is the
    transposed map, whose derivative is sampling again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor, grid: Tensor) -> Tensor:
        return torch.grid_sampler_2d(images, grid, 0, 0, False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _apply_function(_Spread, gradient, *ctx.saved_tensors), None


class _Spread(torch.autograd.Function):
    """The transpose of :class:`_Sample`: each value goes to the pixels that it was sampled from."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, grid: Tensor) -> Tensor:
        if torch.are_deterministic_algorithms_enabled():
            return _spread_in_order(values, grid)
        # The second argument, the images, gives only the shape here: no gradient of the grid is asked for.
        backward = torch.ops.aten.grid_sampler_2d_backward.default
        spread: Tensor = backward(values, values, grid, 0, 0, False, [True, False])[0]
        return spread

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _apply_function(_Sample, gradient, *ctx.saved_tensors), None


def _spread_in_order(values: Tensor, grid: Tensor) -> Tensor:
    """What :class:`_Spread` gives, by sums whose order is fixed where PyTorch is told so.

    The GPU's own kernel adds in whatever order its threads come.
    """
    n, channels, height, width = values.shape
    x, y = (((grid[..., i] + 1) * side - 1) / 2 for i, side in enumerate((width, height)))
    left, top = x.floor(), y.floor()
    pixels = values.permute(0, 2, 3, 1)
    first = torch.arange(0, n * height * width, height * width, device=values.device)[:, None, None]
    spread = values.new_zeros(n * height * width, channels)
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        share = (1 - (x - column).abs()) * (1 - (y - row).abs()) * inside
        there = first + row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
        spread = spread.index_add(0, there.flatten(), (pixels * share[..., None]).flatten(0, 2))
    return spread.view(n, height, width, channels).permute(0, 3, 1, 2).contiguous()


def _apply_function(function: type[torch.autograd.Function], values: Tensor, grid: Tensor) -> Tensor:
    result: Tensor = function.apply(values, grid)
    return result


_KERNELS: dict[str, Callable[[Tensor, _Floats], Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}


#: Datasets whose images must not be mirrored: a mirrored digit is another sign or none (the authors leave
#: the flip out for MNIST and SVHN).
NOT_MIRRORED = ("digits",)


def for_dataset(name: str, size: int) -> DSA:
    """Give the augmentation of a dataset (its name, without a subset), its images ``size`` pixels a side."""
    return DSA(size, OPS_WITHOUT_FLIP if name in NOT_MIRRORED else OPS)
