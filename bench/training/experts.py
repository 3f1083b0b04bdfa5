"""Experts on disk: the parameters of networks in training on the real data, at first and after each epoch.

Ours are one safetensors file each, with one tensor ``parameters`` [epochs + 1, P], float32. Those of the
authors of MTT (mtt-distillation/buffer.py) are ``replay_buffer_<k>.pt`` files of several experts each. Both
satisfy :class:`baselines.base.Experts`, and read no more of a file than the epoch asked for.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bench.errors import UserError
from bench.memory import real_tensors
from bench.real import place


def write(path: Path, parameters: Tensor, about: Mapping[str, Any]) -> None:
    """Write one expert: its parameters [epochs + 1, P], and what is to be known of it as JSON."""
    kept = parameters.detach().to("cpu", torch.float32).contiguous()
    save_file({"parameters": kept}, path, metadata={"metadd": json.dumps(about, sort_keys=True)})


class StoredExperts:
    """Experts that :func:`write` wrote, one file each; their parameters come on the device.

    Under ``FakeTensorMode`` they come as fake tensors.
    """

    def __init__(self, paths: Sequence[Path], device: torch.device) -> None:
        self._paths, self._device = list(paths), device

    def __len__(self) -> int:
        return len(self._paths)

    def parameters(self, expert: int, epoch: int) -> Tensor:
        """All parameters [P] of an expert after so many epochs."""
        # As NumPy's: a tensor would share the storage of all epochs, and their bytes would count as alive.
        with safe_open(self._paths[expert], framework="numpy") as file:
            row: np.ndarray = file.get_slice("parameters")[epoch]
        return place(torch.from_numpy(row), self._device)


class ReplayBuffers:
    """The experts of a folder of ``replay_buffer_0.pt``, ``replay_buffer_1.pt`` and so on.

    Each file is a list of experts, an expert a list of snapshots (at the start and after each epoch), a
    snapshot a list of tensors in the order of ``network.parameters()``. They stay on disk, mapped into
    memory. Parameters come on the device, as fake tensors under ``FakeTensorMode``.

    Args:
        folder: where the files are; none may be missing between the first and the last.
        shapes: of the parameters of the network that the experts are for.
        device: where parameters are wanted.
        epochs: the epochs that will be asked for, from 0 to this one.

    Raises:
        UserError: there are no such files, or one is damaged, of another network, or too short; or its
            snapshots are all the same (buffer.py on a machine without a GPU stores the last one many times).
    """

    def __init__(
        self, folder: Path, shapes: Sequence[Sequence[int]], device: torch.device, epochs: int = 0
    ) -> None:
        self._device = device
        self._experts: list[list[list[np.ndarray]]] = []
        with real_tensors():
            for file in _numbered(folder):
                for i, expert in enumerate(_read(file)):
                    _check(f"{file}: expert {i}", expert, [tuple(shape) for shape in shapes], epochs)
                    snapshots = [[tensor.detach().numpy() for tensor in snapshot] for snapshot in expert]
                    self._experts.append(snapshots)

    def __len__(self) -> int:
        return len(self._experts)

    def parameters(self, expert: int, epoch: int) -> Tensor:
        """All parameters [P] of an expert after so many epochs."""
        flat = np.concatenate([array.reshape(-1) for array in self._experts[expert][epoch]])
        return place(torch.from_numpy(flat), self._device)


def _numbered(folder: Path) -> list[Path]:
    """The files of a folder in the order of their numbers, as buffer.py numbers them."""
    files = [folder / f"replay_buffer_{k}.pt" for k in range(len(list(folder.glob("replay_buffer_*.pt"))))]
    if not files:
        raise UserError(f"{folder}: no replay_buffer_0.pt; a folder that buffer.py of MTT filled is expected")
    for file in files:
        if not file.exists():
            raise UserError(f"{file}: missing, though there are files with higher numbers; add it")
    return files


def _read(file: Path) -> list[Any]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError) as error:
        line = str(error).strip().partition("\n")[0][:160]
        raise UserError(f"{file}: damaged, or no file of buffer.py of MTT ({line})") from None
    if not isinstance(found, list) or not found:
        raise UserError(f"{file}: holds a {type(found).__name__}; a list of experts is expected")
    return found


def _check(where: str, expert: Any, shapes: list[tuple[int, ...]], epochs: int) -> None:
    snapshots = expert if isinstance(expert, list) else []
    if not snapshots or not all(_is_snapshot(each) for each in snapshots):
        raise UserError(f"{where}: a list of lists of float32 tensors is expected")
    if len(snapshots) <= epochs:
        raise UserError(
            f"{where}: has {len(snapshots) - 1} epochs and {epochs} are needed; "
            "lower max_start_epoch or expert_epochs, or train longer"
        )
    for snapshot in snapshots:
        found = [tuple(tensor.shape) for tensor in snapshot]
        if found != shapes:
            raise UserError(
                f"{where}: {_total(found)} parameters in {len(found)} tensors; the network has "
                f"{_total(shapes)} in {len(shapes)}: give the experts of this network and dataset"
            )
    if len(snapshots) > 1 and all(map(torch.equal, snapshots[0], snapshots[-1])):
        raise UserError(
            f"{where}: its first and last snapshots are the same; buffer.py stores the last one every time "
            "where there is no GPU: append p.detach().cpu().clone() there, and run it again"
        )


def _is_snapshot(value: Any) -> bool:
    tensors = value if isinstance(value, list | tuple) else []
    return bool(tensors) and all(isinstance(t, Tensor) and t.dtype == torch.float32 for t in tensors)


def _total(shapes: Sequence[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)
