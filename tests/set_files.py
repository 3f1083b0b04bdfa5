"""A dataset and files of sets for it, and what reading one must give, for tests of sets from elsewhere."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bench import sets
from bench.data import Identity
from bench.errors import UserError
from bench.pixels import PixelSpace

CLASSES = ("cat", "dog", "owl")
DATA = Identity("pets", "0" * 64, CLASSES, 8, (9, 9, 9), (9, 9, 9))
NORMALISED = PixelSpace("normalised", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def raw(*lead):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (*(lead or (6,)), 3, 8, 8), generator=generator, dtype=torch.uint8)


BYTES = raw()
UNIT = BYTES.float() / 255
NORMAL = NORMALISED.encode(UNIT)
RECORD = {
    "space": NORMALISED.to_json(),
    "labels": "hard",
    "cell": {"dataset": {"name": "pets", "classes": 3}, "seed": 4},
}


def npz(file, **arrays):
    np.savez(file, **{name: np.asarray(array) for name, array in arrays.items()})
    return file


def read(file, pixels=None, data=DATA):
    return sets.read(file, data, NORMALISED, pixels)


def refused(file, pixels=None, data=DATA):
    """The one line that refuses a file."""
    with pytest.raises(UserError) as caught:
        read(file, pixels, data)
    text = str(caught.value)
    assert "\n" not in text
    assert str(file.parent) in text
    return text.removeprefix(f"{file}: ")


def only(found):
    (one,) = found
    assert (one.images.dtype, one.images.shape) == (torch.float32, (6, 3, 8, 8))
    assert one.images.is_contiguous()
    assert one.labels.is_contiguous()
    assert not one.images.requires_grad
    return one


def ours(file, record=RECORD, images=NORMAL):
    text = record if isinstance(record, str) else json.dumps(record)
    save_file({"images": images, "labels": LABELS}, file, metadata={"metadd": text})
    return file
