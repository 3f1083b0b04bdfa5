"""Settings of MTT, with the authors' values (as they gave them to DC-BENCH, methods/tm/readme.md).

N is ``syn_steps``, M ``expert_epochs``. The batch is the whole set but where a number is given.

============= === == == ============== ====== ===== ============ ========== =========
dataset       IPC N  M  max_start_epoch lr_img lr_lr lr_teacher   pixels     batch_syn
============= === == == ============== ====== ===== ============ ========== =========
CIFAR-10      1   50 2  2              100    1e-7  0.01         zca
CIFAR-10      10  30 2  20             100    1e-5  0.001        zca
CIFAR-10      50  30 2  40             1000   1e-5  0.001        normalised
CIFAR-100     1   20 3  20             1000   1e-5  0.01         zca
CIFAR-100     10  20 2  20             1000   1e-5  0.01         normalised
CIFAR-100     50  80 2  40             1000   1e-5  0.01         zca        125
Tiny-ImageNet 1   10 2  10             10,000 1e-4  0.01         normalised
Tiny-ImageNet 10  20 2  40             10,000 1e-4  0.01         normalised 200
Tiny-ImageNet 50  20 2  40             10,000 1e-4  0.01         normalised 300
============= === == == ============== ====== ===== ============ ========== =========

Ours: any other IPC takes the row that is nearest by ratio, any other dataset CIFAR-10's rows with
normalised pixels.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from baselines.base import MethodSettings, Need, Task


class _Row(NamedTuple):
    syn_steps: int
    expert_epochs: int
    max_start_epoch: int
    lr_img: float
    lr_lr: float
    lr_teacher: float
    pixels: Literal["zca", "normalised"]
    batch_syn: int | None = None

    @property
    def epochs(self) -> int:
        """Epochs that experts must have been trained for."""
        return self.max_start_epoch - 1 + self.expert_epochs


_TABLE = {
    "cifar10": {
        1: _Row(50, 2, 2, 100, 1e-7, 0.01, "zca"),
        10: _Row(30, 2, 20, 100, 1e-5, 0.001, "zca"),
        50: _Row(30, 2, 40, 1000, 1e-5, 0.001, "normalised"),
    },
    "cifar100": {
        1: _Row(20, 3, 20, 1000, 1e-5, 0.01, "zca"),
        10: _Row(20, 2, 20, 1000, 1e-5, 0.01, "normalised"),
        50: _Row(80, 2, 40, 1000, 1e-5, 0.01, "zca", 125),
    },
    "tiny-imagenet": {
        1: _Row(10, 2, 10, 10_000, 1e-4, 0.01, "normalised"),
        10: _Row(20, 2, 40, 10_000, 1e-4, 0.01, "normalised", 200),
        50: _Row(20, 2, 40, 10_000, 1e-4, 0.01, "normalised", 300),
    },
}


def _rows(task: Task) -> Mapping[int, _Row]:
    """The rows of a dataset by IPC."""
    if task.base in _TABLE:
        return _TABLE[task.base]
    return {ipc: row._replace(pixels="normalised") for ipc, row in _TABLE["cifar10"].items()}


class MTTSettings(MethodSettings):
    """Matching training trajectories (Cazenavette et al., CVPR 2022)."""

    label: ClassVar[str] = "MTT"
    recipe: ClassVar[str] = "mtt"

    iterations: int = Field(5000, ge=1)
    syn_steps: int = Field(30, ge=1, description="SGD steps of the student in an iteration")
    expert_epochs: int = Field(2, ge=1, description="epochs of the expert that these steps shall match")
    max_start_epoch: int = Field(40, ge=1, description="the student starts at an epoch below this one")
    lr_img: float = Field(1000.0, gt=0, description="learning rate of the images")
    lr_lr: float = Field(1e-5, ge=0, description="learning rate of the student's step size")
    lr_teacher: float = Field(0.001, gt=0, description="the student's step size at first")
    batch_syn: int | None = Field(None, ge=1, description="images in a step of the student; null: all")
    momentum: float = Field(0.5, ge=0, lt=1, description="of the images and of the step size alike")
    init: Literal["real", "noise"] = "real"
    augment: Literal["dsa", "none"] = "dsa"
    pixels: Literal["zca", "normalised"] = "normalised"
    gradient: Literal["adjoint", "unrolled"] = Field(
        "adjoint", description="step by step in little memory, or by one graph; equal up to rounding"
    )
    chunk: int | None = Field(
        None, ge=1, description="images of a step whose graph is alive at once (adjoint only); null: all"
    )
    experts: int = Field(100, ge=1, description="how many experts are trained")
    experts_from: str | None = Field(
        None,
        pattern="^file:.",
        description="file:FOLDER of the authors' replay_buffer_*.pt, instead; theirs "
        "of CIFAR-100 without ZCA were trained with CIFAR-10's normalisation and do not fit",
    )
    expert: dict[str, Any] = Field(
        default_factory=dict, description="how experts are trained, where not by the dataset's defaults"
    )

    @classmethod
    def defaults(cls, task: Task) -> dict[str, Any]:
        """The row of the table that is nearest by ratio of IPC."""
        rows = _rows(task)
        nearest = min(rows, key=lambda ipc: max(ipc / task.ipc, task.ipc / ipc))
        return rows[nearest]._asdict()

    @classmethod
    def resolve(cls, task: Task, overrides: Mapping[str, Any]) -> Self:
        """As for every method; then experts are trained long enough for the dataset's other IPCs too.

        Those of the same pixel space: they then share their experts.
        """
        settings = super().resolve(task, overrides)
        shared = [row.epochs for row in _rows(task).values() if row.pixels == settings.pixels]
        epochs = max([settings.last_epoch, *shared])
        return settings.model_copy(update={"expert": {"epochs": epochs, **settings.expert}})

    @property
    def last_epoch(self) -> int:
        """The last epoch of an expert that is read."""
        return self.max_start_epoch - 1 + self.expert_epochs

    def needs(self, network: str) -> Mapping[str, Need]:
        """The experts: on this network and in this pixel space, but for what ``expert`` says."""
        training = {"network": network, "pixels": self.pixels, "epochs": self.last_epoch, **self.expert}
        return {"experts": Need("expert", training, count=self.experts, file=self.experts_from)}

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if "pixels" in self.expert:
            raise ValueError("experts have the images' own pixel space; say `pixels` beside `expert`")
        epochs = self.expert.get("epochs")
        if isinstance(epochs, int) and epochs < self.last_epoch:
            raise ValueError(
                f"experts of {epochs} epochs are too short: max_start_epoch {self.max_start_epoch} and "
                f"expert_epochs {self.expert_epochs} read up to epoch {self.last_epoch}"
            )
        ignored = sorted(self.expert.keys() - {"epochs"})
        if self.experts_from is not None and ignored:
            raise ValueError(
                f"experts_from gives trained experts, so expert cannot set their {', '.join(ignored)}"
            )
        if self.gradient == "unrolled" and self.chunk is not None:
            raise ValueError("chunk is for the adjoint gradient; the unrolled one has one graph for all")
        return self
