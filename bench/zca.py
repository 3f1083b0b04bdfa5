"""ZCA whitening, a pixel space that is fitted on the real training images (MTT).

As the MTT code has it from kornia (``ZCAWhitening(eps=0.1)``, kornia/enhance/zca.py), on images in [0, 1]
without mean and standard deviation: with the images centred and flat, X [n, D],

    Sigma = X^T X / (n - 1) = U diag(L) U^T,    W = U diag((L + 0.1)^(-1/2)) U^T,    x' = (x - mean) W.

The way back is the exact inverse, U diag((L + 0.1)^(1/2)) U^T. Test images go through the same map, and so
does whatever is evaluated with a set that was made in it: the matrices lie beside the set's images.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.data.types import Channels, Stored
from bench.errors import CellFailure, UserError
from bench.memory import real_tensors
from bench.pixels import PixelSpace, Space, check_zca
from bench.real import place

#: The name of the matrices' file, in the cell that fitted them and beside a set.
FILE = "zca.safetensors"

#: What is added to each eigenvalue: MTT's.
EPSILON = 0.1

#: Images whose products are summed at once: 50 MB of CIFAR's.
_CHUNK = 2048

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ZCA:
    """The whitened space of a dataset: float32 ``mean`` [3, H, W], ``whiten`` and ``unwhiten`` [D, D].

    The tensors stay on the CPU. Where images are, the matrix they need is brought once and kept: on one
    device, or as fakes of one mode.
    """

    mean: Tensor
    whiten: Tensor
    unwhiten: Tensor
    #: Where they were read from, for :func:`keep_beside`.
    file: Path | None = None
    _there: dict[str, tuple[Any, Tensor]] = field(default_factory=dict, init=False, repr=False)

    kind: ClassVar[Literal["zca"]] = "zca"

    @property
    def channels(self) -> tuple[Channels, Channels]:
        """There are none.

        Raises:
            CellFailure: always.
        """
        raise CellFailure(
            "the zca space has no mean and deviation per channel: black and white differ there from pixel "
            "to pixel; take pixels: normalised or unit"
        )

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the three tensors' bytes, in hex."""
        digest = hashlib.sha256()
        for tensor in (self.mean, self.whiten, self.unwhiten):
            digest.update(np.ascontiguousarray(tensor.numpy(), "<f4").data)
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, ZCA) and self.sha256 == other.sha256)

    def __hash__(self) -> int:
        return hash(self.sha256)

    def encode(self, unit: Tensor) -> Tensor:
        """Images [..., 3, H, W] in [0, 1] to this space; differentiable."""
        return self._times("whiten", unit - self._like("mean", unit))

    def encode_uint8(self, raw: Tensor, dtype: Any) -> Tensor:
        """Stored bytes [..., 3, H, W] to this space."""
        images = raw.to(dtype).div_(255)
        return self._times("whiten", images.sub_(self._like("mean", images)))

    def decode(self, images: Tensor) -> Tensor:
        """Images [..., 3, H, W] of this space to [0, 1] units (not clamped); differentiable."""
        return self._times("unwhiten", images) + self._like("mean", images)

    def to_json(self) -> dict[str, Any]:
        """What a set's record says; the matrices themselves lie beside it."""
        return {"kind": self.kind, "sha256": self.sha256}

    def save(self, path: Path) -> None:
        """Write the matrices as :meth:`load` reads them."""
        save_file({"mean": self.mean, "whiten": self.whiten, "unwhiten": self.unwhiten}, path)

    @classmethod
    def load(cls, path: Path) -> ZCA:
        """Read what :meth:`save` wrote; under a fake mode too.

        Raises:
            UserError: the file is missing, damaged, or something else.
        """
        try:
            with real_tensors():
                found = load_file(path)
            mean, whiten, unwhiten = (found[name] for name in ("mean", "whiten", "unwhiten"))
            side = mean.numel()
            whole = mean.ndim == 3 and whiten.shape == unwhiten.shape == (side, side)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (OSError, SafetensorError, KeyError):
            whole = False
        if not whole or any(tensor.dtype != torch.float32 for tensor in found.values()):
            raise UserError(f"{path}: damaged, or no file of ZCA matrices")
        return cls(mean, whiten, unwhiten, path)

    def _times(self, matrix: str, images: Tensor) -> Tensor:
        return (images.flatten(-3) @ self._like(matrix, images)).reshape(images.shape)

    def _like(self, name: str, images: Tensor) -> Tensor:
        """One of the tensors, where ``images`` are and of their type."""
        where = (images.device, images.dtype, getattr(images, "fake_mode", None))
        if name not in self._there or self._there[name][0] != where:
            own: Tensor = getattr(self, name)
            self._there[name] = where, place(own, images.device).to(images.dtype)
        return self._there[name][1]


def fit(images: Stored, epsilon: float = EPSILON) -> ZCA:
    """The whitened space of images [N, 3, H, W] (memory-mapped: read in chunks), N at least 2.

    Raises:
        UserError: the images are too large (:func:`bench.pixels.check_zca`).
    """
    check_zca(images.shape[-1])
    mean, covariance = moments(images)
    tensors = (torch.from_numpy(each.astype(np.float32)) for each in (mean, *matrices(covariance, epsilon)))
    centre, whiten, unwhiten = tensors
    return ZCA(centre.reshape(images.shape[1:]), whiten, unwhiten)


def moments(images: Stored) -> tuple[Matrix, Matrix]:
    """Mean [D] and covariance [D, D] (over n - 1) of images [N, 3, H, W] in [0, 1].

    Bytes are summed as whole numbers, which float64 holds exactly up to 370,000 images: the same bits
    whatever the chunks, threads or linear algebra library.
    """
    n, width = len(images), int(np.prod(images.shape[1:]))
    total, products = np.zeros(width), np.zeros((width, width))
    for first in range(0, n, _CHUNK):
        flat = images[first : first + _CHUNK].reshape(-1, width).astype(np.float64)
        total += flat.sum(0)
        products += flat.T @ flat
    products *= n
    products -= np.outer(total, total)
    products /= 255**2 * n * (n - 1)
    return total / (255 * n), products


def matrices(covariance: Matrix, epsilon: float) -> tuple[Matrix, Matrix]:
    """The symmetric matrices [D, D] into the whitened space and back, of a covariance [D, D]."""
    values, vectors = np.linalg.eigh(covariance)
    scale = np.sqrt(values + epsilon)
    whiten, unwhiten = ((vectors * each) @ vectors.T for each in (1 / scale, scale))
    return (whiten + whiten.T) / 2, (unwhiten + unwhiten.T) / 2


def described(about: Mapping[str, Any], images: Path) -> Space:
    """The space that the record of a set describes; ``images`` is the set's file, ZCA's lies beside it.

    Raises:
        KeyError, TypeError, ValueError: it is no description of a space.
        UserError: the matrices are missing, or not those that the set was made with.
    """
    if about["kind"] != "zca":
        return PixelSpace.from_json(dict(about))
    wanted, path = str(about["sha256"]), images.with_name(FILE)
    if not path.exists():
        raise UserError(f"{images}: made in the zca space, but the {FILE} that came with it is not beside it")
    found = ZCA.load(path)
    if found.sha256 != wanted:
        raise UserError(
            f"{path}: not the matrices that {images.name} was made with "
            f"(SHA-256 {found.sha256[:12]}…, its record says {wanted[:12]}…)"
        )
    return found


def keep_beside(space: Space, folder: Path) -> None:
    """Put the matrices of a set made in ``space`` into its folder, if it has any: linked where possible."""
    if not isinstance(space, ZCA):
        return
    if space.file is None:
        space.save(folder / FILE)
        return
    try:
        os.link(space.file.resolve(), folder / FILE)
    except OSError:  # another file system, or one without links
        shutil.copyfile(space.file, folder / FILE)
