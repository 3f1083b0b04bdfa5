"""The one place that knows the device."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench import memory
from bench.arithmetic import REFERENCE, Arithmetic
from bench.errors import UserError

#: The share of a GPU's memory that stored images may take; more stay with the host, read as they are drawn.
SHARE_FOR_IMAGES = 0.25
#: What cuBLAS needs to know before it starts to give the same bits every time.
_CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
#: How PyTorch's warnings begin of an operator that may give other bits the next time.
_WARNED = re.compile(
    r"\s*(?P<name>.+?)\s+(?:does not have a deterministic implementation|defaults to a non-deterministic)"
)


def choose(name: str) -> torch.device:
    """The device called ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.

    Raises:
        UserError: ``cuda`` is asked for and there is none.
    """
    if name != "cpu":
        os.environ.setdefault(*_CUBLAS)  # before anything starts on a GPU, and for processes to come
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


def has_graphs(device: torch.device) -> bool:
    """Whether work can be taken down once and started as a whole (:mod:`bench.training.graphs`)."""
    return device.type == "cuda"


def reset_peak(device: torch.device) -> None:
    """Let the next :func:`peak` begin at what is allocated now; nothing on a CPU."""
    if device.type == "cuda":
        memory.reset_peak(device)


def peak(device: torch.device) -> dict[str, int]:
    """A GPU's peak since :func:`reset_peak`, in bytes, as a row's cost names it; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    return {f"peak_{what}_bytes": number for what, number in memory.device_peak(device).items()}


def release(device: torch.device) -> None:
    """Give a GPU's memory that nothing holds back to the driver: after a cell that ran out of it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def holds(device: torch.device, size: int) -> bool:
    """Whether stored images of ``size`` bytes are kept on the device; a CPU reads them from the disk."""
    whole = memory_of(device)
    return device.type != "cpu" and (whole is None or size <= SHARE_FOR_IMAGES * whole)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device. A GPU is not waited for: the copy is made from pinned memory."""
    if device.type == "cpu":
        return tensor.to(device)
    if device.type == "cuda" and not isinstance(tensor, FakeTensor):
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@dataclass
class Computing:
    """What is in force while a cell is made: its arithmetic on its device, and what turned out.

    Attributes:
        not_deterministic: the operators that PyTorch said may give other bits the next time, by its names.

    """

    device: torch.device
    arithmetic: Arithmetic
    not_deterministic: set[str] = field(default_factory=set)

    @property
    def record(self) -> dict[str, Any]:
        """What a row's provenance says; a CPU gives equal bits for equal threads without being told."""
        record = self.arithmetic.described
        if self.device.type == "cuda":
            record |= {"deterministic": True, "not_deterministic": sorted(self.not_deterministic)}
        return record


#: What is in force; :func:`computing` changes it.
_now = Computing(torch.device("cpu"), REFERENCE)


@contextmanager
def computing(device: torch.device, arithmetic: Arithmetic = REFERENCE) -> Iterator[Computing]:
    """Compute so inside; what was set before is put back, and the same inside of itself changes nothing.

    Not for two threads at once.

    On a GPU ``fp32`` is what it says: PyTorch's own default lets cuDNN's convolutions round to TF32. And
    operators that have a deterministic form take it; the others are taken down.

    Raises:
        UserError: the device cannot.
    """
    global _now
    check(device, arithmetic)
    before = _now
    if (before.device.type, before.arithmetic) == (device.type, arithmetic):
        yield before
        return
    found = Computing(device, arithmetic)
    with ExitStack() as undo:
        if device.type == "cuda":
            _set_precision("tf32" if arithmetic.precision == "tf32" else "ieee", undo)
            _set_deterministic(undo)
            undo.enter_context(_warnings_into(found.not_deterministic))
        _now = found
        try:
            yield found
        finally:
            _now = before


def recorded(device: torch.device) -> dict[str, Any]:
    """What is in force, for the provenance of what is being made on this device."""
    return _now.record if _now.device.type == device.type else Computing(device, REFERENCE).record


def check(device: torch.device, arithmetic: Arithmetic) -> None:
    """Refuse what the device cannot compute.

    Raises:
        UserError: TF32 is asked for on a CPU, or bfloat16 on a GPU that has none.
    """
    if arithmetic.precision == "tf32" and device.type == "cpu":
        raise UserError("precision: tf32 is for GPUs alone; on a CPU take fp32 or bf16, or run --device cuda")
    if arithmetic.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(f"precision: {describe(device)} has no bf16; take fp32")


def reduced(device_type: str) -> Any:
    """A context around a network's forward: autocast to bfloat16 where that is in force, else nothing."""
    if _now.arithmetic.precision != "bf16":
        return nullcontext()
    return torch.autocast(device_type, torch.bfloat16)


def laid_out(images: Tensor) -> Tensor:
    """Images [N, 3, H, W] as networks are given them: channels last where that is in force.

    Convolutions then hand the layout on. Parameters keep theirs, for others take them as one flat vector; a
    convolution brings its own into the images' layout.
    """
    if _now.arithmetic.channels_last and images.dim() == 4:
        return images.contiguous(memory_format=torch.channels_last)
    return images


def _set_precision(precision: str, undo: ExitStack) -> None:
    """That of matrix products, convolutions and recurrent layers in 32 bits (torch.backends, from 2.9 on)."""
    cudnn: Any = torch.backends.cudnn
    for place in (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn):
        undo.callback(setattr, place, "fp32_precision", place.fp32_precision)
        place.fp32_precision = precision


def _set_deterministic(undo: ExitStack) -> None:
    cudnn, deterministic = torch.backends.cudnn, torch.utils.deterministic
    for place, name, value in (
        (cudnn, "deterministic", True),
        (cudnn, "benchmark", False),
        # Or every new tensor is filled with NaN first.
        (deterministic, "fill_uninitialized_memory", False),
    ):
        undo.callback(setattr, place, name, getattr(place, name))
        setattr(place, name, value)
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    undo.callback(
        torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled(), warn_only=warn
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Other kernels of attention keep their order of sums to themselves where only a warning was asked for.
    undo.enter_context(sdpa_kernel(SDPBackend.MATH))
    # Some operators would warn in the first cell of a process alone.
    undo.callback(torch.set_warn_always, torch.is_warn_always_enabled())
    torch.set_warn_always(True)


@contextmanager
def _warnings_into(found: set[str]) -> Iterator[None]:
    """Take PyTorch's warnings of operators that are not deterministic down, by name; others go on."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, *rest: Any, **named: Any) -> None:
            said = _WARNED.match(str(message))
            if said is not None:
                found.add(said["name"].strip("`'\""))
            elif "not deterministic because it uses CuBLAS" in str(message):
                found.add("cuBLAS")
            else:
                others(message, *rest, **named)

        for text in (_WARNED.pattern, "(?s).*not deterministic because it uses CuBLAS"):
            warnings.filterwarnings("always", message=text)
        warnings.showwarning = show
        yield
