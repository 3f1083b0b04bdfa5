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
        try:
            done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    if git("rev-parse", "--show-toplevel") != str(root):
        return {"commit": None, "dirty": None}
    code = ("bench", "baselines", "metadd", "tables.yaml", "pyproject.toml")
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *code))}
