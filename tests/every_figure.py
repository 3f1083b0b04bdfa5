"""Draws each kind of figure in each format; also as a program, to compare processes by bytes."""

import sys
from pathlib import Path

import numpy as np

from bench.plotting.accuracy import DRAW
from bench.plotting.images import Panel, distilled
from bench.spec import FigureSpec
from bench.tabulating.accuracy import frame


def row(method, ipc, network, seed, accuracy, **tags):
    """A published row of an evaluation."""
    plain = {"dataset": "pets", "protocol": "common", "recipe": "short", "plugin": "none"}
    plain |= {
        "evaluation_seed": 0,
        "distilled_on": "convnet",
        "seen": network == "convnet" and method != "Random",
    }
    return {
        "key": f"{method} {ipc} {network} {seed}",
        "current": True,
        "cell": {"kind": "evaluate"},
        "result": {"accuracy": accuracy, "test_images": 100},
        "tags": {**plain, "method": method, "ipc": ipc, "network": network, "seed": seed, **tags},
    }


def every_figure(folder):
    """``KIND.FORMAT`` for each; what is made of pictures has two panels, with and without heads."""
    few = frame([row(name, ipc, "convnet", s, 9.0 + s) for name in "ab" for ipc in (1, 9) for s in (0, 1)])
    pixels = np.random.default_rng(0).integers(0, 255, (2, 2, 8, 8, 3), dtype=np.uint8)
    panels = {
        "images": [Panel(("DM", "IPC 2"), pixels, ("cat", "dog"))],
        "cams": [Panel(("DM",), pixels, ("cat", "dog"), ("image", "meta"))],
    }
    for suffix in ("png", "svg", "pdf"):
        for kind, draw in DRAW.items():
            draw(FigureSpec(title="A title", kind=kind), few, "A note.", folder / f"{kind}.{suffix}")
        for kind, shown in panels.items():
            distilled(FigureSpec(title="A title", kind=kind), shown, "A note.", folder / f"{kind}.{suffix}")


if __name__ == "__main__":
    every_figure(Path(sys.argv[1]))
    assert "torch" not in sys.modules
