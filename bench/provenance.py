"""Where a row comes from: commit, versions, device, command. No path and no host name is recorded."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("metadd-bench", "torch", "torchvision", "timm", "numpy", "scikit-learn", "pillow")


def provenance(device: Any, command: str) -> dict[str, Any]:
    """Commit and dirty flag, versions, device, driver, threads, the time, and the ``command`` that ran."""
    import torch

    from bench.device import describe

    return {
        **_checkout(),
        "versions": _versions(),
        "device": describe(device),
        "device_kind": device.type,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "driver": _driver() if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }


@cache
def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


@cache
def _checkout() -> dict[str, Any]:
    """The commit of the checkout that this code is in, and whether the code differs from it."""
    root = Path(__file__).resolve().parent.parent

    def git(*args: str) -> str | None:
        return _printed("git", "-C", str(root), *args)

    if git("rev-parse", "--show-toplevel") != str(root):
        return {"commit": None, "dirty": None}
    code = ("bench", "baselines", "metadd", "tables.yaml", "pyproject.toml")
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *code))}


@cache
def _driver() -> str | None:
    """The version of the GPU's driver, or None where nothing says it."""
    found = _printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return found.splitlines()[0] if found else None


def _printed(*command: str) -> str | None:
    """What a command prints, or None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
