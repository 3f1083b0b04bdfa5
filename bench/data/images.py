"""Image files to pixels: one decoder for every dataset that comes as image files."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.data.types import Part, Pixels, offsets_of
from bench.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp")
_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP")
_BLOCK = 512  # images per task; several tasks are under way at once, so memory stays at some tens of MB

# What Pillow raises on damaged files, besides its own errors (which are OSErrors).
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def decode(data: bytes, where: str, size: int) -> Pixels:
    """One image file as uint8 [3, size, size]; greyscale and palettes become RGB, transparency is dropped.

    Raises UserError, naming ``where``, for a damaged file, another size, or more than 8 bits a channel.
    """
    with _opened(data, where) as image:
        if image.size != (size, size):
            width, height = image.size
            raise UserError(f"{where} is {width}x{height}; all images here must be {size}x{size}: resize it")
        if image.mode.startswith(("I", "F")):
            # Pillow would clip these at 255 in silence.
            raise UserError(f"{where} has more than 8 bits a channel; save it with 8")
        try:
            if "transparency" in image.info:
                image = image.convert("RGBA")
            pixels = np.asarray(image.convert("RGB"))
        except _DAMAGE as error:
            raise _damaged(where, error) from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def side(data: bytes, where: str) -> int:
    """Return the side of a square image, a multiple of 8; UserError, naming ``where``, for any other."""
    with _opened(data, where) as image:
        width, height = image.size
    if width != height or width % 8:
        right = max(8, round(min(width, height) / 8) * 8)
        raise UserError(
            f"{where} is {width}x{height}; images must be square, all of one size, and that size a multiple "
            f"of 8: for instance {right}x{right}"
        )
    return width


def part(
    groups: Sequence[Sequence[str]], read: Callable[[str], bytes], where: Callable[[str], str], size: int
) -> Part:
    """Return the split made of ``groups`` of file names, one group per class, each already in its order."""
    names = [name for group in groups for name in group]

    def task(start: int) -> Pixels:
        block = names[start : start + _BLOCK]
        return np.stack([decode(read(name), where(name), size) for name in block])

    def blocks() -> Iterator[Pixels]:
        workers = min(8, os.cpu_count() or 1)
        with ThreadPoolExecutor(workers) as pool:
            # A window at a time: map() starts everything at once and would hold the whole dataset.
            window = _BLOCK * workers * 2
            for start in range(0, len(names), window):
                yield from pool.map(task, range(start, min(start + window, len(names)), _BLOCK))

    return Part(offsets_of(len(group) for group in groups), blocks)


def _opened(data: bytes, where: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise _damaged(where, error) from error


def _damaged(where: str, error: Exception) -> UserError:
    # Pillow's text for an unknown file shows the address of an object in memory: no use to anyone.
    reason = str(error) if not isinstance(error, UnidentifiedImageError) else ""
    said = f" ({reason})" if reason else ""
    return UserError(
        f"{where} is damaged or not an image{said}; put a whole one in its place, or take it away"
    )
