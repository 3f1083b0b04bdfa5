"""Bring an official StyleGAN-XL file into the form that this suite reads.

``python -m baselines.generators.convert imagenet128.pkl imagenet128.safetensors``

The official files are pickles, which as a rule run code as they are opened, some of it from the file itself.
Here nothing of that is run: tensors, arrays and plain containers are read, and every other object is kept as
an inert record of its attributes.
"""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from baselines.generators import files
from baselines.generators.stylegan_xl import StyleGANXL

#: Classes and functions that make plain data.
_PLAIN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): lambda data, requires_grad, hooks: data,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    for _name in ("_reconstruct", "scalar"):
        _PLAIN[_module, _name] = getattr(np._core.multiarray, _name)  # type: ignore[attr-defined]


class Record(dict[Any, Any]):
    """An object of a class that is not opened: its attributes, and its items where it is a mapping."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class _Reader(pickle.Unpickler):
    """Opens a pickle without running anything that it names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda data: torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if (module, name) == ("torch_utils.persistence", "_reconstruct_persistent_obj"):
            return _persistent
        return _PLAIN.get((module, name), type(name, (Record,), {}))


def _persistent(meta: Mapping[str, Any]) -> Record:
    """An object of a class whose source the file carries: its attributes alone."""
    record = Record()
    record.__setstate__(meta["state"])
    return record


def read(path: Path) -> Record:
    """The averaged generator (``G_ema``) of an official file, as a record.

    Raises:
        ValueError: the file is no pickle, or holds no such generator.
    """
    try:
        with path.open("rb") as file:
            content = _Reader(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: no pickle that can be read ({error})") from error
    found = content.get("G_ema") if isinstance(content, dict) else None
    if not isinstance(found, Record):
        raise ValueError(f"{path}: it has no generator called G_ema")
    return found


def convert(official: Record) -> StyleGANXL:
    """The generator in our form, with the official one's weights.

    Raises:
        ValueError: it is none of StyleGAN-XL's, or of a configuration that is not supported.
    """
    try:
        mapping, synthesis = _child(official, "mapping"), _child(official, "synthesis")
        if not official.c_dim:
            raise ValueError("it knows no classes")
        embed, first = _child(mapping, "embed"), _child(synthesis, "input")
        layers = [_child(synthesis, name) for name in synthesis.layer_names]
        if not torch.equal(_tensor(first, "transform"), torch.eye(3)):
            raise ValueError("its input is transformed")
        generator = StyleGANXL(
            classes=int(official.c_dim),
            size=int(official.img_resolution),
            latent=int(official.z_dim),
            dim=int(official.w_dim),
            mapping_layers=int(mapping.num_layers),
            embeddings=list(_tensor(embed, "weight").shape),
            output_scale=float(synthesis.output_scale),
            first=_input_arguments(first),
            chain=[_layer_arguments(layer) for layer in layers],
        )
        state = {"embed.weight": _tensor(embed, "weight")}
        state |= _linear("project", _child(mapping, "embed_proj"))
        for i in range(len(generator.map)):
            state |= _linear(f"map.{i}", _child(mapping, f"fc{i}"))
        state |= _linear("input.style", _child(first, "affine"))
        state |= {"input.weight": _tensor(first, "weight"), "input.places": generator.input.places}
        state |= {"input.frequencies": _tensor(first, "freqs"), "input.phases": _tensor(first, "phases")}
        for i, layer in enumerate(layers):
            state |= _linear(f"chain.{i}.style", _child(layer, "affine"))
            names = {"weight": "weight", "bias": "bias", "magnitude": "magnitude_ema"}
            names |= {"up_filter": "up_filter", "down_filter": "down_filter"}
            found = {f"chain.{i}.{ours}": _tensor(layer, theirs, None) for ours, theirs in names.items()}
            state |= {name: tensor for name, tensor in found.items() if tensor is not None}
    except (AttributeError, KeyError) as error:
        raise ValueError(f"no generator of StyleGAN-XL: {error} is missing") from error
    generator.load_state_dict(state)
    return generator.eval().requires_grad_(False)


def _input_arguments(first: Record) -> dict[str, Any]:
    return {
        "channels": int(first.channels),
        "size": _square(first.size),
        "rate": float(first.sampling_rate),
        "bandwidth": float(first.bandwidth),
    }


def _layer_arguments(layer: Record) -> dict[str, Any]:
    filters = [_tensor(layer, name, None) for name in ("up_filter", "down_filter")]
    if any(each is not None and each.ndim > 1 for each in filters):
        raise ValueError("radial filters (cfg stylegan3-r) are not supported")
    before_x, after_x, before_y, after_y = (int(n) for n in layer.padding)
    if (before_x, after_x) != (before_y, after_y):
        raise ValueError("its maps are not square")
    taps = [0 if each is None else len(each) for each in filters]
    return {
        "inputs": int(layer.in_channels),
        "outputs": int(layer.out_channels),
        "kernel": int(layer.conv_kernel),
        "rgb": bool(layer.is_torgb),
        "up": int(layer.up_factor),
        "down": int(layer.down_factor),
        "up_taps": taps[0],
        "down_taps": taps[1],
        "padding": [before_x, after_x],
        "clamp": None if layer.conv_clamp is None else float(layer.conv_clamp),
    }


def _child(record: Record, name: str) -> Record:
    found: Record = record._modules[name]
    return found


_MISSING = object()


def _tensor(record: Record, name: str, default: Any = _MISSING) -> Any:
    """A parameter or a buffer of a module, in float32."""
    found: Tensor | None = record._parameters.get(name, record._buffers.get(name))
    if found is None:
        if default is _MISSING:
            raise KeyError(name)
        return default
    return found.detach().float()


def _linear(name: str, record: Record) -> dict[str, Tensor]:
    return {f"{name}.weight": _tensor(record, "weight"), f"{name}.bias": _tensor(record, "bias")}


def _square(size: Any) -> int:
    width, height = (int(n) for n in np.broadcast_to(np.asarray(size), 2))
    if width != height:
        raise ValueError("its maps are not square")
    return width


def main(arguments: list[str] | None = None) -> int:
    """Convert one file; 0, or 2 with a line on standard error where it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m baselines.generators.convert", description=__doc__)
    parser.add_argument("pickle", type=Path, help="an official StyleGAN-XL file, such as imagenet128.pkl")
    parser.add_argument(
        "file", type=Path, help="the file to write; `generator: file:PATH` names it in a suite"
    )
    given = parser.parse_args(arguments)
    try:
        files.save(convert(read(given.pickle)), given.file)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
