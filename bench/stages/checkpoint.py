"""The checkpoint of an unfinished cell: one file, replaced at once, ignored if it cannot be read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

_NAME = "checkpoint.pt"
_HOST = torch.device("cpu")


def save(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in ``folder`` by ``state`` (tensors and plain values)."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{_NAME}.{os.getpid()}"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / _NAME)


def load(folder: Path, device: torch.device = _HOST) -> dict[str, Any] | None:
    """The last checkpoint, or None where there is none that can be read (then the cell starts anew).

    On the host, wherever it was made: who takes it up brings it where it belongs. What an optimiser counts
    its steps by is then where its own would be; on a GPU each step would wait for it.
    """
    try:
        state: dict[str, Any] = torch.load(folder / _NAME, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError):
        return None
    return state
