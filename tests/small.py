"""Small made-up datasets, and cells on them, for tests of distilling and training."""

import numpy as np

from baselines import METHODS, Task
from bench.cells import DatasetId, DistilCell
from bench.data.types import Dataset, Split, offsets_of
from metadd import PLUGINS


def dataset(classes=3, size=16, per_class=12, seed=0, spec="cifar10"):
    """Noise around a colour of its class's own, train and test alike in number; held in memory."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(60, 196, (classes, 1, 3, 1, 1))

    def split():
        noise = rng.integers(-60, 60, (classes, per_class, 3, size, size))
        images = (colours + noise).reshape(-1, 3, size, size).astype(np.uint8)
        images.flags.writeable = False
        return Split(images, offsets_of([per_class] * classes))

    names = tuple(str(label) for label in range(classes))
    return Dataset(spec, "0" * 64, names, size, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), split(), split())


def cell(data, method, network="convnet@w8", ipc=2, seed=0, uses=None, part=0, plugin=None, **settings):
    """The distil cell of a method on a dataset: the authors' settings but for these; MetaDD's likewise."""
    name = DatasetId(data.spec, data.content, len(data.classes), data.size)
    entry = METHODS[method].settings
    resolved = entry.resolve(Task(name.name, name.classes, name.size, ipc), settings)
    values = {"version": resolved.cell_version, **resolved.model_dump(mode="json")}
    images = resolved.parts(ipc)[part]
    plugged = {"name": "none"}
    if plugin is not None:
        model = PLUGINS["metadd"].settings
        plugged = {"name": "metadd", "version": model.version, **model(**plugin).model_dump(mode="json")}
    return DistilCell(name, method, values, images, part, network, plugged, seed, uses or {})


def dm_cell(data, **how):
    """The cell of DM on a dataset; see :func:`cell`."""
    return cell(data, "dm", **how)
