"""One DC or DSA iteration, ours against the reference implementation's, at the authors' setting on the CPU.

By hand: ``uv run python tests/benchmarks/dc_update.py --reference CHECKOUT [--method dsa] [--pairs 3]
[--ipc 1] [--outer 1 --inner 1]``, where CHECKOUT is a copy of github.com/VICO-UoE/DatasetCondensation. By
``--clock cpu`` times are the process's processor time: for one thread on a machine that does other work too.

The setting is that of ``dm_update.py`` (10 classes of 5,000 images of random bytes, 256 real images a class,
ConvNet of width 128). ``--outer`` and ``--inner`` are the authors' for the IPC where they are not given: at
IPC 10 that is minutes an iteration. Ours is ``bench.stages.distill.Distillation``; theirs the loop of their
``main.py``, written here as calls of their ``utils.py`` (``get_network``, ``DiffAugment``, ``match_loss``,
``epoch``). Both sides of a pair draw the same operation for each class in matching, and take turns in going
first. What is printed is the median of the paired ratios, ours / theirs: with the C library's allocator as it
is by default, and with both sides' freed memory kept (``bench.device.keep_freed_memory``), as every command
line run of ours has it. Before, how far loss and gradient of both are apart for equal weights and images.
"""

from __future__ import annotations

import argparse
import statistics
import types
import warnings
from pathlib import Path

import dm_update
import torch
from dm_update import BATCH, CLASSES, CLOCKS, FIXES, SIZE, STRATEGY
from torch.utils.data import DataLoader

from baselines import METHODS, Task
from baselines.defaults.dc import DCSettings
from bench import device as devices
from bench.cells import DatasetId, DistilCell
from bench.data.types import Dataset
from bench.stages.distill import Distillation

CPU = torch.device("cpu")
Operations = tuple[tuple[str, ...], ...]


class Ours:
    """Our iteration, through the real loop."""

    def __init__(self, dataset: Dataset, method: str, ipc: int, network: str, settings: DCSettings) -> None:
        name = DatasetId(dataset.spec, dataset.content, len(dataset.classes), dataset.size)
        values = {"version": settings.version, **settings.model_dump(mode="json")}
        cell = DistilCell(name, method, values, ipc, 0, network, {"name": "none"}, 0, {})
        self.job, self.settings = Distillation(cell, dataset, CPU), settings

    def operations(self) -> Operations:
        """The operation that each class gets in each outer step of the next iteration."""
        tools = self.job.tools.at(self.job.iterations_done)
        draws = [tools.rng("siamese", step) for step in range(self.settings.outer)]
        return tuple(tools.augment.draw_siamese(rng, CLASSES).ops for rng in draws)

    def update(self) -> float:
        """Run one iteration; gives the loss of its last update."""
        *_, (loss, _) = self.job.updates()
        self.job.iterations_done += 1
        return loss.item()


class Reference(dm_update.Reference):
    """The authors' iteration: the loop of main.py around the functions of their utils.py."""

    def __init__(self, checkout: Path, dataset: Dataset, ipc: int, settings: DCSettings) -> None:
        super().__init__(checkout, dataset, ipc)
        if settings.init == "noise":
            self.image_syn.data.normal_()
        self.settings = settings
        self.optimizer = torch.optim.SGD([self.image_syn], lr=settings.lr_img, momentum=settings.momentum)
        self.labels = torch.arange(CLASSES).repeat_interleave(ipc)
        self.criterion = torch.nn.CrossEntropyLoss()
        self.args = types.SimpleNamespace(device="cpu", dis_metric="ours", dsa_strategy=STRATEGY)
        self.args.dsa, self.args.dsa_param = settings.augment == "dsa", self.param

    def update(self, operations: Operations) -> float:
        """Run one iteration with these operations; gives the loss of its last update."""
        net = self.utils.get_network("ConvNet", 3, CLASSES, (SIZE, SIZE))
        net.train()
        optimizer_net = torch.optim.SGD(net.parameters(), lr=self.settings.lr_net)
        for step, of_classes in enumerate(operations, start=1):
            loss = torch.tensor(0.0)
            for c in range(CLASSES):
                loss += self.matched(net, c, self.get_images(c, BATCH), of_classes[c])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if step == len(operations):
                break
            images = self.utils.TensorDataset(self.image_syn.detach().clone(), self.labels.clone())
            loader = DataLoader(images, batch_size=self.settings.batch_train, shuffle=True)
            for _ in range(self.settings.inner):
                self.utils.epoch(
                    "train", loader, net, optimizer_net, self.criterion, self.args, aug=self.args.dsa
                )
        return loss.item()

    def matched(self, net: torch.nn.Module, c: int, real: torch.Tensor, operation: str) -> torch.Tensor:
        """The distance of one class, with its graph."""
        synthetic = self.image_syn[c * self.ipc : (c + 1) * self.ipc].reshape(self.ipc, 3, SIZE, SIZE)
        if self.args.dsa:
            how = {"seed": self.seeds[operation], "param": self.param}
            real, synthetic = (self.utils.DiffAugment(x, STRATEGY, **how) for x in (real, synthetic))
        parameters = list(net.parameters())
        loss_real = self.criterion(net(real), torch.full((len(real),), c))
        gw_real = [g.detach().clone() for g in torch.autograd.grad(loss_real, parameters)]
        loss_syn = self.criterion(net(synthetic), torch.full((self.ipc,), c))
        gw_syn = torch.autograd.grad(loss_syn, parameters, create_graph=True)
        return self.utils.match_loss(gw_syn, gw_real, self.args)


def agreement(dataset: Dataset, checkout: Path, ipc: int) -> tuple[float, float]:
    """Give the relative differences of loss and of gradient for equal weights and images, by DC."""
    settings = DCSettings(outer=1)
    ours, reference = (
        Ours(dataset, "dc", ipc, "convnet", settings),
        Reference(checkout, dataset, ipc, settings),
    )
    tools, x = ours.job.tools.at(0), ours.job.x
    theirs = reference.utils.get_network("ConvNet", 3, CLASSES, (SIZE, SIZE))
    for to, value in zip(theirs.parameters(), tools.network().parameters(), strict=True):
        to.data.copy_(value)
    reference.image_syn.data.copy_(x.images)
    losses = [reference.matched(theirs, c, tools.real(c, c + 1, BATCH, 0)[0], "") for c in range(CLASSES)]
    expected = torch.stack(losses).sum()
    (gradient,) = torch.autograd.grad(expected, reference.image_syn)
    loss = next(iter(ours.job.method.iteration(0, x, tools)))
    apart = (loss - expected.detach()).abs() / expected.detach()
    return apart.item(), ((x.gradient - gradient).norm() / gradient.norm()).item()


def main(arguments: list[str] | None = None) -> float:
    """Compare and print; gives the median ratio with the default allocator."""
    parser = argparse.ArgumentParser(description="One DC or DSA iteration, ours against the reference's.")
    parser.add_argument("--reference", type=Path, required=True, help="checkout of DatasetCondensation")
    parser.add_argument("--method", choices=("dc", "dsa"), default="dc")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--outer", type=int)
    parser.add_argument("--inner", type=int)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args(arguments)
    checkout, method, ipc = options.reference.resolve(), options.method, options.ipc
    chosen = {
        name: getattr(options, name) for name in ("outer", "inner") if getattr(options, name) is not None
    }
    settings = METHODS[method].settings.resolve(Task("cifar10", CLASSES, SIZE, ipc), chosen)
    assert isinstance(settings, DCSettings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.meshgrid|Default (grid_sample|affine_grid)")
        for number, fix in enumerate(FIXES, start=1):
            print(f"fix {number} of the reference: {fix}")
        print(
            f"{devices.describe(CPU)}, {torch.get_num_threads()} thread(s), torch {torch.__version__}; "
            f"{method}, IPC {ipc}, outer {settings.outer}, inner {settings.inner}; {options.clock} time"
        )
        with dm_update.random_dataset() as dataset:
            loss, gradient = agreement(dataset, checkout, ipc)
            print(
                f"for equal weights and images (DC) losses differ by {loss:.1e}, gradients by {gradient:.1e}"
            )
            ours = Ours(dataset, method, ipc, "convnet", settings)
            reference = Reference(checkout, dataset, ipc, settings)
            compare = dm_update.compare_in_one_process
            measured = compare(ours, reference, options.pairs, CLOCKS[options.clock])
            print(dm_update.shown("default allocator", measured), flush=True)
            devices.keep_freed_memory()
            kept = compare(ours, reference, options.pairs, CLOCKS[options.clock])
            print(dm_update.shown("freed memory kept", kept))
    return statistics.median(mine / theirs for mine, theirs in measured)


if __name__ == "__main__":
    main()
