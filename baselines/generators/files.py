"""A generator in one file: its weights in safetensors, what builds it as JSON in their metadata."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from baselines.generators.base import Generator

#: Where the class of each kind of generator is.
KINDS = {
    "compact": ("baselines.generators.compact", "CompactGenerator"),
    "stylegan-xl": ("baselines.generators.stylegan_xl", "StyleGANXL"),
}


def save(generator: Generator, path: Path) -> None:
    """Write a generator, as :func:`load` reads it."""
    about = {"kind": generator.kind, "architecture": generator.architecture}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in generator.state_dict().items()}
    save_file(tensors, path, metadata={"generator": json.dumps(about, sort_keys=True)})


def load(path: Path) -> Generator:
    """The generator in a file, on the CPU.

    Raises:
        ValueError: the file holds none, or not all of its weights.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["generator"])
        module, name = KINDS[about["kind"]]
        with torch.device("meta"):  # nothing is drawn; all weights come from the file
            generator: Generator = getattr(import_module(module), name)(**about["architecture"])
        generator.load_state_dict(load_file(path), assign=True)
    except (SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: no generator that this suite can read ({error})") from error
    return generator
