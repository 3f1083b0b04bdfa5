"""Names of networks, without torch: ``BASE[@wN][@in|@bn][@dN]``.

``convnet@w32`` is a ConvNet 32 channels wide, ``resnet18@w16@bn`` a narrow ResNet-18 with batch norm,
``convnet@d4`` a ConvNet of four blocks whatever the image size. A base is one of `PRESETS` or any timm name;
timm (and with it torch) is imported only for a name that is no preset.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from bench.errors import UserError, near

Norm = Literal["instance", "batch"]


@dataclass(frozen=True)
class Base:
    """What a base can be modified in.

    ``width`` is its own width in channels (None: fixed). ``norms`` are the ones that it can have, its own
    first; an own norm of None means no norm layer at all; an empty tuple, that the norm is fixed.
    ``width_rule`` says in words what ``takes_width`` tests.
    """

    width: int | None = None
    norms: tuple[Norm | None, ...] = ()
    depth: bool = False
    takes_width: Callable[[int], bool] = lambda width: width >= 1
    width_rule: str = "at least 1"

    def modifiers(self) -> str:
        """Say in words which modifiers this base supports."""
        known = [f"@wN (width, {self.width} by default, {self.width_rule})"] if self.width else []
        known += [f"@{_NORM_MARK[norm]} ({norm} norm)" for norm in self.norms if norm]
        known += ["@dN (depth)"] if self.depth else []
        return ", ".join(known) or "no modifiers"


_NORM_MARK: dict[Norm, str] = {"instance": "in", "batch": "bn"}
_MARK_NORM = {mark: norm for norm, mark in _NORM_MARK.items()}


def vit_heads(width: int) -> int:
    """Attention heads of ``vit_tiny`` at an embedding of ``width``: one per 64 channels, at least one."""
    return max(1, width // 64)


def _multiple_of_8(width: int) -> bool:
    return width > 0 and width % 8 == 0


_BASES: dict[str, Base] = {
    "convnet": Base(width=128, norms=("instance", "batch"), depth=True),
    "resnet18": Base(width=64, norms=("instance", "batch")),
    "vgg11": Base(width=64, norms=("instance", "batch")),
    "alexnet": Base(
        width=128, norms=(None, "batch"), takes_width=lambda w: w > 0 and w % 2 == 0, width_rule="even"
    ),
    "googlenet": Base(),
    "mobilenetv2": Base(width=32, takes_width=_multiple_of_8, width_rule="a multiple of 8"),
    "efficientnet_b0": Base(width=32, takes_width=_multiple_of_8, width_rule="a multiple of 8"),
    "vit_tiny": Base(
        width=192,
        takes_width=lambda w: _multiple_of_8(w) and w % vit_heads(w) == 0,
        width_rule="a multiple of 8 and of its heads, one per 64 channels",
    ),
    "vit_b_16": Base(),
    "swin_t": Base(),
}

PRESETS: tuple[str, ...] = tuple(_BASES)
"""The networks that the suites use; any timm name is accepted besides."""


@dataclass(frozen=True)
class NetworkSpec:
    """A network by base and modifiers: valid by construction, and equal when the networks are.

    A modifier that says the base's default becomes None; ``depth`` of None means: by image size. `str` gives
    the canonical name. Raises UserError where the base does not exist or does not support a modifier.
    """

    base: str
    width: int | None = None
    norm: Norm | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        about = _BASES.get(self.base)
        if about is None:
            _must_be_timm(self.base)
            about = Base()
        if self.width is not None:
            if about.width is None:
                raise self._unsupported(about, f"@w{self.width}")
            if not about.takes_width(self.width):
                raise UserError(
                    f"network {self._written()!r}: the width of {self.base} must be {about.width_rule}, "
                    f"not {self.width}"
                )
        if self.norm is not None and self.norm not in about.norms:
            raise self._unsupported(about, f"@{_NORM_MARK.get(self.norm, self.norm)}")
        if self.depth is not None:
            if not about.depth:
                raise self._unsupported(about, f"@d{self.depth}")
            if self.depth < 1:
                raise UserError(f"network {self._written()!r}: the depth must be at least 1")
        if self.width == about.width:
            object.__setattr__(self, "width", None)
        if about.norms and self.norm == about.norms[0]:
            object.__setattr__(self, "norm", None)

    def __str__(self) -> str:
        """Write the canonical name: defaults dropped, modifiers in the order width, norm, depth."""
        return self._written()

    @property
    def effective_width(self) -> int:
        """The width in channels with the base's default filled in (ValueError where the base has none)."""
        width = self.width or _BASES.get(self.base, Base()).width
        if width is None:
            raise ValueError(f"{self.base} has no width")
        return width

    @property
    def effective_norm(self) -> Norm | None:
        """The norm with the base's default filled in (None: no norm layers, or a fixed norm)."""
        return self.norm or next(iter(_BASES.get(self.base, Base()).norms), None)

    def _written(self) -> str:
        width = f"@w{self.width}" if self.width is not None else ""
        norm = f"@{_NORM_MARK.get(self.norm, self.norm)}" if self.norm is not None else ""
        depth = f"@d{self.depth}" if self.depth is not None else ""
        return f"{self.base}{width}{norm}{depth}"

    def _unsupported(self, about: Base, modifier: str) -> UserError:
        return UserError(
            f"network {self._written()!r}: {self.base} does not support {modifier}; "
            f"it supports {about.modifiers()}"
        )


def parse(name: str) -> NetworkSpec:
    """Read ``BASE[@wN][@in|@bn][@dN]`` (modifiers in any order, each at most once).

    Raises UserError for an unknown base (with near names) and for a modifier that is none, is given twice, or
    that the base does not support.
    """
    base, *modifiers = name.split("@")
    width: int | None = None
    norm: Norm | None = None
    depth: int | None = None
    for modifier in modifiers:
        number = int(digits.group(1)) if (digits := re.fullmatch(r"[wd]([0-9]+)", modifier)) else None
        if modifier in _MARK_NORM:
            taken, norm = norm is not None, _MARK_NORM[modifier]
        elif number is not None and modifier.startswith("w"):
            taken, width = width is not None, number
        elif number is not None:
            taken, depth = depth is not None, number
        else:
            raise UserError(
                f"network {name!r}: {modifier!r} is no modifier; known: wN (width), in, bn (norm), dN (depth)"
            )
        if taken:
            raise UserError(f"network {name!r}: @{modifier} sets again what an earlier modifier set")
    return NetworkSpec(base, width, norm, depth)


def _must_be_timm(base: str) -> None:
    """Raise UserError unless timm knows ``base`` (a plain model name, or one with a tag)."""
    try:
        import timm
    except ImportError:
        raise UserError(f"unknown network {base!r}: {near(base, PRESETS)}; timm is not installed") from None
    if base and timm.is_model(base):
        return
    close = get_close_matches(base, timm.list_models(), n=3, cutoff=0.6)
    besides = f"; near in timm: {', '.join(close)}" if close else "; or any timm name"
    raise UserError(f"unknown network {base!r}: {near(base, PRESETS)}{besides}")
