"""The checkpoint of an unfinished cell: one file, replaced at once, ignored if it cannot be read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

_NAME = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in ``folder`` by ``state`` (tensors and plain values)."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{_NAME}.{os.getpid()}"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / _NAME)


def load(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The last checkpoint, or None where there is none that can be read (then the cell starts anew)."""
    try:
        state: dict[str, Any] = torch.load(folder / _NAME, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError):
        return None
    return state
