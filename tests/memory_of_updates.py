"""What each method takes on a small set, with all that it needs untrained; for tests and benchmarks."""

import torch
from small import cell
from test_plugged import METHODS, NETWORKS
from torch._subclasses.fake_tensor import FakeTensorMode

from baselines.generators.compact import CompactGenerator
from bench.cells import AUXILIARY
from bench.measuring import standins
from bench.memory import LiveBytes, to_fake
from bench.networks.build import build, parameters_count
from bench.seeds import forked
from bench.stages.distill import Distillation
from metadd import CAM

CPU = torch.device("cpu")


def made(data, method, plugin, **settings):
    """The cell of a method by its small settings, with or without MetaDD."""
    chosen = {"networks": NETWORKS} if plugin == "metadd" else None
    return cell(data, method, plugin=chosen, **{**METHODS[method], **settings})


def given(data, made, device=None):
    """What a cell uses; experts of zeros, or on a device of random numbers."""
    classes, size = len(data.classes), data.size
    found = {}
    with forked("memory of updates"):
        if made.plugin["name"] != "none":
            found = {AUXILIARY + name: CAM(build(name, classes, size), size) for name in NETWORKS}
        if "glad" in made.method:
            generator = CompactGenerator(classes, size, 8, latent=6, dim=10, mapping_layers=2)
            found["generator"] = generator.eval().requires_grad_(False)
        if "mtt" in made.method:
            found["experts"] = standins.Vectors(1, parameters_count("convnet@w8", classes, size), device)
        if "sre2l" in made.method:
            found["teacher"] = build("convnet@w8@bn", classes, size).eval().requires_grad_(False)
    return found


def updates(made, data, used):
    """A distillation that does not end, update by update; gives it each time."""
    job = Distillation(made, data, CPU, used)
    while True:
        for _ in job.updates():
            yield job
        job.iterations_done += 1


def peaks_and_rests(made, data, last):
    """The most live bytes up to each update, and what is left after it, on fake tensors."""
    mode, used = FakeTensorMode(), given(data, made)
    used = {
        name: to_fake(mode, one) if isinstance(one, torch.nn.Module) else one for name, one in used.items()
    }
    peaks, rests = [], []
    frozen = [one for one in used.values() if isinstance(one, torch.nn.Module)]
    with mode, LiveBytes(held=frozen) as live:
        for _, job in zip(range(last), updates(made, data, used), strict=False):
            live.watch([*job.params.values(), job.x.images, job.x.labels, job.x.gradient])
            peaks.append(live.peak)
            rests.append(live.current)
    return peaks, rests
