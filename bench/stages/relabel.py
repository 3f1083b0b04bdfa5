"""Relabelling: a teacher says what it sees in the images of a set, as every epoch shows them to students."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone knows it by)
from torch import Tensor, nn

from bench import artifacts
from bench import device as devices
from bench.cells import RelabelCell
from bench.data import Dataset
from bench.errors import CellFailure
from bench.pixels import PixelSpace
from bench.sets import DistilledSet, stored
from bench.stages import Context, Outcome, checkpoint
from bench.training import softlabels
from bench.training.batches import Augmentation, SyntheticSet, batches, training_space
from bench.training.recipes import SoftRecipe


class Relabelling:
    """One set being labelled; :meth:`epoch` advances it, :meth:`state` and :meth:`take_up` resume it.

    Students are trained in the set's pixel space, so augmentation happens there; the teacher sees what comes
    of it in the space that it was trained in, the dataset's ``normalised``.

    Args:
        cell: what is drawn, and from which seed.
        images: the set.
        teacher: on the device, frozen and in evaluation mode; gives [n, classes].
        dataset, device: where the set belongs, and where the work is done.
    """

    def __init__(
        self,
        cell: RelabelCell,
        images: DistilledSet,
        teacher: nn.Module,
        dataset: Dataset,
        device: torch.device,
    ) -> None:
        self.recipe = SoftRecipe(name="labels", **cell.draws)
        self._seed, self._teacher = cell.seed, teacher
        self._space = training_space(images, dataset)
        self._seen = PixelSpace("normalised", dataset.mean, dataset.std)
        self._data = SyntheticSet(images.encoded(self._space).to(device), images.labels.to(device))
        self._augmentation = Augmentation.of(dataset, self._space, device)
        #: [epochs, N, classes], in the order in which a student sees the images.
        self.logits = torch.empty(
            (self.recipe.epochs, len(self._data), cell.dataset.classes), dtype=torch.float16
        )
        self.epochs_done = 0

    def epoch(self) -> None:
        """Label the images of the next epoch.

        Raises:
            CellFailure: a label is not finite.
        """
        self.logits[self.epochs_done] = torch.cat(list(self.steps()))
        if not self.logits[self.epochs_done].isfinite().all():
            raise CellFailure(f"the teacher's labels of epoch {self.epochs_done} are not finite")
        self.epochs_done += 1

    def steps(self) -> Iterator[Tensor]:
        """What the teacher says of the next epoch, logits [n, classes] batch by batch."""
        rng = softlabels.stream(self._seed, self.epochs_done)
        for images, _ in batches(self._data, self.recipe, self._augmentation, rng):
            yield self._said(images)

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs; it shares the memory of the labels."""
        # By way of NumPy, because torch.save writes all of the storage that a slice is of.
        return {"logits": torch.from_numpy(self.logits[: self.epochs_done].numpy())}

    def take_up(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.epochs_done = len(state["logits"])
        self.logits[: self.epochs_done] = state["logits"]

    def agreement(self) -> float:
        """In how many of the images, not augmented, the teacher sees the class they are of; in percent."""
        right = 0
        for start in range(0, len(self._data), self.recipe.batch):
            images, labels = self._data.batch(
                np.arange(start, min(start + self.recipe.batch, len(self._data)))
            )
            right += int((self._said(images).argmax(1) == labels).sum())
        return 100 * right / len(self._data)

    def entropy(self) -> float:
        """The mean entropy of the labels at temperature 1, in nats."""
        logs = (F.log_softmax(of_epoch.float(), 1) for of_epoch in self.logits)
        per_epoch = [-(each.exp() * each).sum(1).mean() for each in logs]
        return float(torch.stack(per_epoch).mean())

    @torch.no_grad()
    def _said(self, images: Tensor) -> Tensor:
        if self._space != self._seen:
            images = self._seen.encode(self._space.decode(images))
        logits: Tensor = self._teacher(images)
        return logits


def run(cell: RelabelCell, context: Context) -> Outcome:
    """Label a set. Leaves ``labels.safetensors`` (:func:`bench.training.softlabels.save`).

    Raises:
        CellFailure: a label is not finite.
        OutOfTime: the time limit was reached; a checkpoint is in ``context.partial``.
    """
    started = time.monotonic()
    dataset, device = context.dataset, context.device
    images = stored([context.artifacts[key]["images.safetensors"] for key in cell.images])
    path = context.artifacts[cell.teacher][artifacts.NAMES["classifier"]]
    teacher = artifacts.classifier(path, cell.dataset.classes, cell.dataset.size, device)
    devices.reset_peak(device)
    job = Relabelling(cell, images, teacher, dataset, device)
    if state := checkpoint.load(context.partial):
        job.take_up(state)
        del state
    while job.epochs_done < job.recipe.epochs:
        job.epoch()
        context.progress(job.epochs_done, job.recipe.epochs)
        if job.epochs_done < job.recipe.epochs:
            context.between_steps(job.state)
    file = context.workspace / softlabels.FILE
    softlabels.save(file, job.logits, cell.draws, cell.seed, cell.teacher)
    result = {"agreement": job.agreement(), "entropy": job.entropy(), "bytes": file.stat().st_size}
    return Outcome(result, {"seconds": time.monotonic() - started, **devices.peak(device)})
