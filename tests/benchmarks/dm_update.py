"""One DM update, ours against the reference implementation's, at the authors' CIFAR-10 setting on the CPU.

By hand: ``uv run python tests/benchmarks/dm_update.py --reference CHECKOUT [--pairs 5] [--ipc 1]``, where
CHECKOUT is a copy of github.com/VICO-UoE/DatasetCondensation. By ``--clock cpu`` times are the process's
processor time: for one thread on a machine that does other work as well.

10 classes of 5,000 images, 256 real images a class, ConvNet (width 128, depth 3, instance norm), DSA
``color_crop_cutout_flip_scale_rotate``. The pixels are random bytes: no time depends on their values. Ours
is the whole update of ``bench.stages.distill.Distillation``, with the drawing of the real images from a
memory-mapped file. Theirs is the loop of their ``main_DM.py``, written here as calls of their ``utils.py``
(``get_network``, ``DiffAugment``, ``ParamDiffAug``), on float images in memory as they hold them.

Both sides of a pair draw the same operation for each class. The sides take turns in going first. What is
printed is the median of the paired ratios, ours / theirs:

- ``one process``: both in this process, with the C library's allocator as it is by default;
- ``own processes``: each in a process with its own defaults. Ours asks glibc to keep freed memory
  (``bench.device.keep_freed_memory``), as every command line run does; theirs does not;
- ``one process, freed memory kept``: both have what only ours asks for.

The reference does not run on current PyTorch and SciPy as it is. ``FIXES`` says what is done about it, at
run time: the checkout stays as it is.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F  # noqa: N812
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from baselines import Task
from baselines.defaults.dm import DMSettings
from baselines.dm import dm_loss
from bench import device as devices
from bench.augment import OPS
from bench.cells import DatasetId, DistilCell
from bench.data.types import Dataset, Split, offsets_of
from bench.stages.distill import Distillation

FIXES = (
    "scipy.ndimage.interpolation is gone from SciPy: a module of that name with `rotate` stands in",
    "`theta[:] = theta[0]` (and the like) overlaps itself, which PyTorch refuses: `theta[0].clone()`",
    "torch.meshgrid without `indexing`, grid_sample without `align_corners`: their warnings are silenced",
)
STRATEGY = "_".join(OPS)
CLASSES, SIZE, PER_CLASS, BATCH = 10, 32, 5_000, 256
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


class Ours:
    """Our update, through the real loop."""

    def __init__(self, dataset: Dataset, ipc: int, network: str = "convnet", **settings: object) -> None:
        self.job = Distillation(dm_cell(dataset, ipc, network, **settings), dataset, torch.device("cpu"))

    def operations(self) -> tuple[str, ...]:
        """The operation that each class gets in the next update."""
        tools = self.job.tools.at(self.job.iterations_done)
        return tools.augment.draw_siamese(tools.rng("siamese"), CLASSES).ops

    def update(self) -> float:
        """Run one update; gives its loss."""
        ((loss, _),) = self.job.updates()
        self.job.iterations_done += 1
        return loss.item()


class Reference:
    """The authors' update: the loop of main_DM.py around the functions of their utils.py."""

    def __init__(self, checkout: Path, dataset: Dataset, ipc: int) -> None:
        self.utils, self.ipc = import_reference(checkout), ipc
        self.param = self.utils.ParamDiffAug()
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (MEAN, STD))
        images = np.empty(dataset.train.images.shape, np.float32)
        for start in range(0, len(images), PER_CLASS):
            block = np.asarray(dataset.train.images[start : start + PER_CLASS], np.float32)
            images[start : start + PER_CLASS] = (block / 255 - mean) / std
        self.images_all = torch.from_numpy(images)
        self.indices_class = [list(range(c * PER_CLASS, (c + 1) * PER_CLASS)) for c in range(CLASSES)]
        self.image_syn = torch.cat([self.get_images(c, ipc) for c in range(CLASSES)]).requires_grad_()
        self.optimizer = torch.optim.SGD([self.image_syn], lr=1.0, momentum=0.5)
        self.seeds = {op: seed for seed in reversed(range(200)) for op in [self._operation(seed)]}

    def _operation(self, seed: int) -> str:
        """The operation that DiffAugment draws from a seed."""
        torch.manual_seed(seed)
        return OPS[torch.randint(0, len(OPS), size=(1,)).item()]

    def get_images(self, label: int, n: int) -> torch.Tensor:
        """As in main_DM.py."""
        return self.images_all[np.random.permutation(self.indices_class[label])[:n]]  # noqa: NPY002

    def update(self, operations: tuple[str, ...]) -> float:
        """Run one update with these operations, one for each class; gives its loss."""
        net = self.utils.get_network("ConvNet", 3, CLASSES, (SIZE, SIZE))
        net.train()
        for parameter in net.parameters():
            parameter.requires_grad = False
        loss = torch.tensor(0.0)
        for c in range(CLASSES):
            real = self.get_images(c, BATCH)
            synthetic = self.image_syn[c * self.ipc : (c + 1) * self.ipc].reshape(self.ipc, 3, SIZE, SIZE)
            seed = self.seeds[operations[c]]
            real = self.utils.DiffAugment(real, STRATEGY, seed=seed, param=self.param)
            synthetic = self.utils.DiffAugment(synthetic, STRATEGY, seed=seed, param=self.param)
            of_real, of_synthetic = net.embed(real).detach(), net.embed(synthetic)
            loss += torch.sum((torch.mean(of_real, dim=0) - torch.mean(of_synthetic, dim=0)) ** 2)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def import_reference(checkout: Path) -> types.ModuleType:
    """Give the reference's ``utils`` module (with its ``networks``), mended as ``FIXES`` says."""
    stand_in = types.ModuleType("scipy.ndimage.interpolation")
    stand_in.rotate = scipy.ndimage.rotate  # type: ignore[attr-defined]
    before, sys.modules[stand_in.__name__] = sys.modules.get(stand_in.__name__), stand_in
    sys.path.insert(0, str(checkout))
    try:
        source = (checkout / "utils.py").read_text(encoding="utf-8")
        mended, places = re.subn(r"(\w+)\[:\] = \1\[0\]", r"\1[:] = \1[0].clone()", source)
        if not places:
            raise SystemExit(f"{checkout}/utils.py is not the reference implementation's: nothing to mend")
        utils = types.ModuleType("reference_utils")
        exec(compile(mended, str(checkout / "utils.py"), "exec"), vars(utils))
    finally:
        sys.path.remove(str(checkout))
        sys.modules.pop("networks", None)
        del sys.modules[stand_in.__name__]
        if before is not None:
            sys.modules[stand_in.__name__] = before
    return utils


@contextmanager
def random_dataset(per_class: int = PER_CLASS) -> Iterator[Dataset]:
    """Give a dataset of CIFAR-10's form, random bytes in a memory-mapped file."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, rng.integers(0, 256, (CLASSES * per_class, 3, SIZE, SIZE), np.uint8))
        images = np.load(path, mmap_mode="r")
        split = Split(images, offsets_of([per_class] * CLASSES))
        names = tuple(str(c) for c in range(CLASSES))
        yield Dataset("cifar10", "0" * 64, names, SIZE, MEAN, STD, split, split)


def dm_cell(dataset: Dataset, ipc: int, network: str = "convnet", **settings: object) -> DistilCell:
    """Give the distil cell of DM at the authors' setting, but for ``settings``."""
    name = DatasetId(dataset.spec, dataset.content, len(dataset.classes), dataset.size)
    resolved = DMSettings.resolve(Task(name.name, name.classes, name.size, ipc), settings)
    values = {"version": DMSettings.version, **resolved.model_dump(mode="json")}
    return DistilCell(name, "dm", values, ipc, 0, network, {"name": "none"}, 0, {})


def seconds(work: Callable[[], object], clock: Clock) -> float:
    """What one call takes."""
    before = clock()
    work()
    return clock() - before


def compare_in_one_process(
    ours: Ours, reference: Reference, pairs: int, clock: Clock
) -> list[tuple[float, float]]:
    """Give the seconds (ours, theirs) of interleaved pairs, after one warm-up each."""
    measured = []
    for pair in range(pairs + 1):
        operations = ours.operations()
        sides: list[Callable[[], object]] = [ours.update, lambda ops=operations: reference.update(ops)]
        order = (0, 1) if pair % 2 else (1, 0)
        took = {side: seconds(sides[side], clock) for side in order}
        measured.append((took[0], took[1]))
    return measured[1:]


def compare_in_own_processes(checkout: Path, ipc: int, pairs: int, clock: str) -> list[tuple[float, float]]:
    """As :func:`compare_in_one_process`, each side in a process of its own with its own defaults."""
    common = [sys.executable, __file__, "--reference", str(checkout), "--ipc", str(ipc), "--clock", clock]
    sides = [
        subprocess.Popen([*common, "--side", side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for side in ("ours", "reference")
    ]
    try:
        measured = []
        for pair in range(pairs + 1):
            answers: dict[int, Any] = {}
            operations = _ask(sides[0], "operations")
            for side in (0, 1) if pair % 2 else (1, 0):
                answers[side] = _ask(sides[side], operations)
            measured.append((answers[0], answers[1]))
        return measured[1:]
    finally:
        for process in sides:
            process.stdin.close()  # type: ignore[union-attr]
            process.wait()


def _ask(process: subprocess.Popen[str], question: object) -> Any:
    print(json.dumps(question), file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())  # type: ignore[union-attr]


def serve(side: str, checkout: Path, ipc: int, clock: Clock) -> None:
    """Be one side: each line of standard input is answered by the seconds that an update took."""
    if side == "ours":
        devices.keep_freed_memory()
    with random_dataset() as dataset:
        ours = Ours(dataset, ipc) if side == "ours" else None
        reference = Reference(checkout, dataset, ipc) if side == "reference" else None
        for line in sys.stdin:
            question = json.loads(line)
            if ours is not None:
                answer: object = (
                    ours.operations() if question == "operations" else seconds(ours.update, clock)
                )
            elif reference is not None:
                answer = seconds(lambda ops=tuple(question): reference.update(ops), clock)
            print(json.dumps(answer), flush=True)


def agreement(ours: Ours, reference: Reference) -> float:
    """Give the relative difference of both losses for equal weights and images, without augmentation."""
    tools = ours.job.tools.at(0)
    mine, theirs = tools.network(), reference.utils.get_network("ConvNet", 3, CLASSES, (SIZE, SIZE))
    for to, value in zip(theirs.parameters(), mine.parameters(), strict=True):
        to.data.copy_(value)
    real, synthetic = tools.real(0, 1, BATCH), ours.job.x.images[: ours.job.x.ipc].unsqueeze(0)
    with torch.no_grad():
        a = dm_loss(mine.embed(real[0]).unsqueeze(0), mine.embed(synthetic[0]).unsqueeze(0))
        b = ((theirs.embed(real[0]).mean(0) - theirs.embed(synthetic[0]).mean(0)) ** 2).sum()
    return float((a - b).abs() / b)


def describe_bound(ours: Ours, clock: Clock) -> str:
    """Say what our update spends its time on, against the fastest convolution and matrix product here."""
    with FlopCounterMode(display=False) as counter:
        ours.update()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        ours.update()
    spent: dict[str, float] = {}
    for event in profiled.key_averages(group_by_input_shape=True):
        if event.device_type == DeviceType.CPU:
            name = (
                "pooling (as a convolution)" if [2, 2] in [s[2:] for s in event.input_shapes] else event.key
            )
            spent[name] = spent.get(name, 0) + event.self_cpu_time_total / 1e6
    total = sum(spent.values())
    shares = ", ".join(
        f"{name.removeprefix('aten::')} {100 * share / total:.0f}%"
        for name, share in sorted(spent.items(), key=lambda item: -item[1])[:7]
    )
    forward = spent["aten::mkldnn_convolution"] / total * min(seconds(ours.update, clock) for _ in range(3))
    work = counter.get_total_flops() / 1e9
    a, image, weight = torch.rand(2048, 2048), torch.rand(64, 128, 32, 32), torch.rand(128, 128, 3, 3)
    with torch.no_grad():
        matmul = 2 * 2048**3 / min(seconds(lambda: a @ a, clock) for _ in range(5)) / 1e9
        best = min(seconds(lambda: F.conv2d(image, weight, padding=1), clock) for _ in range(5))
    peak = 2 * 64 * 128 * 128 * 9 * 32 * 32 / best / 1e9
    return (
        f"  {work:.0f} GFLOP an update, {work / forward:.0f} GFLOP/s in its convolutions; here a 2048 matrix "
        f"product reaches {matmul:.0f}, a 128-channel 3x3 convolution alone {peak:.0f} GFLOP/s\n  {shares}"
    )


def shown(name: str, measured: list[tuple[float, float]]) -> str:
    """One line of statistics."""
    ratios = sorted(mine / theirs for mine, theirs in measured)
    mine, theirs = (statistics.median(side) for side in zip(*measured, strict=True))
    return (
        f"{name}: ours / reference = {statistics.median(ratios):.3f} (median of {len(ratios)} pairs, "
        f"{ratios[0]:.3f} to {ratios[-1]:.3f}); ours {mine:.2f} s, reference {theirs:.2f} s an update"
    )


def main(arguments: list[str] | None = None) -> float:
    """Compare and print; gives the median ratio in one process."""
    parser = argparse.ArgumentParser(description="One DM update, ours against the reference's, on the CPU.")
    parser.add_argument("--reference", type=Path, required=True, help="checkout of DatasetCondensation")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--side", choices=("ours", "reference"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    checkout = options.reference.resolve()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.meshgrid|Default (grid_sample|affine_grid)")
        clock, pairs = CLOCKS[options.clock], options.pairs
        if options.side:
            serve(options.side, checkout, options.ipc, clock)
            return 0.0
        for number, fix in enumerate(FIXES, start=1):
            print(f"fix {number} of the reference: {fix}")
        print(
            f"{devices.describe(torch.device('cpu'))}, {torch.get_num_threads()} thread(s), torch "
            f"{torch.__version__}; IPC {options.ipc}, {BATCH} real images a class, {CLASSES} classes; "
            f"{options.clock} time"
        )
        with random_dataset() as dataset:
            ours, reference = Ours(dataset, options.ipc), Reference(checkout, dataset, options.ipc)
            print(f"losses of both for equal weights and images differ by {agreement(ours, reference):.1e}")
            together = compare_in_one_process(ours, reference, pairs, clock)
            print(shown("one process", together))
            apart = compare_in_own_processes(checkout, options.ipc, pairs, options.clock)
            print(shown("own processes", apart))
            devices.keep_freed_memory()
            kept = compare_in_one_process(ours, reference, pairs, clock)
            print(shown("one process, freed memory kept", kept))
            print("ours, freed memory kept:\n" + describe_bound(ours, clock))
    return statistics.median(mine / theirs for mine, theirs in together)


if __name__ == "__main__":
    main()
