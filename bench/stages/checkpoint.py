"""The checkpoint of an unfinished cell: one file, replaced at once. If it is damaged the cell starts anew."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import torch

_NAME = "checkpoint.pt"
_HOST = torch.device("cpu")


def save(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in ``folder`` by ``state`` (tensors and plain values)."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{_NAME}.{os.getpid()}"
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / _NAME)
    except BaseException:  # a full disk, say; half a file would keep it full
        temporary.unlink(missing_ok=True)
        raise


def load(folder: Path, device: torch.device = _HOST, *, told: bool = True) -> dict[str, Any] | None:
    """The last checkpoint, or None where there is none that can be read (then the cell starts anew).

    A damaged one is named on standard error, unless that is not to be ``told``.

    On the host, wherever it was made: who takes it up brings it where it belongs. What an optimiser counts
    its steps by is then where its own would be; on a GPU each step would wait for it.
    """
    path = folder / _NAME
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, RuntimeError, LookupError, ValueError, pickle.UnpicklingError):
        if told:
            print(f"{path}: cannot be read; the cell starts anew", file=sys.stderr)
        return None
    return state
