"""The one place that knows the device."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path

import torch

from bench import memory
from bench.errors import UserError


def choose(name: str) -> torch.device:
    """The device called ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.

    Raises:
        UserError: ``cuda`` is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no GPU is visible to PyTorch; use --device cpu or auto")
    if name == "cpu":
        keep_freed_memory()
    return torch.device(name)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensor instead of giving it back to the system.

    By default every tensor over 32 MB is mapped anew and its pages are faulted in one by one, which took
    longer than the arithmetic: a ConvNet's forward on 256 CIFAR images ran 2.4 times as fast with this (one
    thread, median of 5). Results keep their bits. Other C libraries are left alone.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, -1)


def memory_of(device: torch.device) -> int | None:
    """The bytes of memory that a GPU has; None for a CPU."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None


def images_per_forward(device: torch.device, size: int) -> int:
    """The most images of ``size`` pixels a side that one forward without a graph is given.

    On a CPU 16 of CIFAR's size: their maps (8 MB at 128 channels) are below what glibc maps anew for each
    tensor. Where it is not told to keep freed memory, a forward of 256 images takes 2.3 times as long.
    """
    return max(1, 16 * 32**2 // size**2) if device.type == "cpu" else 4096


def images_with_graph(device: torch.device, size: int) -> int:
    """The images whose graph a plug-in keeps at once, unless it is told.

    On a CPU 8 of CIFAR's size: through the largest of MetaDD's default networks they take 50 MiB, less than
    the networks themselves. A GPU is given four times as many, or it idles.
    """
    return max(1, (8 if device.type == "cpu" else 32) * 32**2 // size**2)


def describe(device: torch.device) -> str:
    """The device's model name, as a row's provenance gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def reset_peak(device: torch.device) -> None:
    """Let the next :func:`peak` begin at what is allocated now; nothing on a CPU."""
    if device.type == "cuda":
        memory.reset_peak(device)


def peak(device: torch.device) -> dict[str, int]:
    """A GPU's peak since :func:`reset_peak`, in bytes, as a row's cost names it; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    return {f"peak_{what}_bytes": number for what, number in memory.device_peak(device).items()}
