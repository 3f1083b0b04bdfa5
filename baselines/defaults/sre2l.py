"""Settings of SRe2L's recovery, with the authors' values (SRe2L, recover_cifar.sh and recover_tiny.sh).

============= ========== ==== ==== ====== ======== =============
dataset       iterations lr   r_bn jitter roll     crop and flip
============= ========== ==== ==== ====== ======== =============
CIFAR-100     1,000      0.25 0.01 4      positive no
CIFAR-10      1,000      0.25 0.01 4      positive no
Tiny-ImageNet 4,000      0.1  1    4      both     yes
others        CIFAR-100's up to 32 pixels a side, Tiny-ImageNet's above
============= ========== ==== ==== ====== ======== =============

CIFAR-10 is DD-Ranking's choice, the last row is ours. Everywhere: betas 0.5 and 0.9, the first batch-norm
layer counts 10 times, 100 targets a forward. Nothing depends on IPC, because image ids are optimised apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from baselines.base import MethodSettings, Need, Task

_Beta = Annotated[float, Field(ge=0, lt=1)]
#: The datasets that the table names; any other goes by the size of its images.
_LIKE_TINY = {"cifar10": False, "cifar100": False, "tiny-imagenet": True}


class SRe2LSettings(MethodSettings):
    """Recovery of images from a trained teacher (Yin, Xing and Shen, NeurIPS 2023)."""

    label: ClassVar[str] = "SRe2L"
    recipe: ClassVar[str] = "sre2l"

    iterations: int = Field(1000, ge=1)
    pixels: Literal["normalised"] = Field("normalised", description="pixel space: the teacher's own")
    lr: float = Field(0.25, gt=0, description="learning rate of the images at the start; falls as a cosine")
    # Not strict, for JSON and YAML have lists and no tuples.
    betas: tuple[_Beta, _Beta] = Field((0.5, 0.9), strict=False, description="Adam's decay rates")
    r_bn: float = Field(0.01, ge=0, description="weight of the batch-norm term beside the cross-entropy")
    first_bn_multiplier: float = Field(10.0, ge=0, description="weight of the first layer in that term")
    jitter: int = Field(4, ge=0, description="the most pixels by which images are rolled")
    roll: Literal["positive", "both"] = Field(
        "positive", description="roll down and right only, or up and left as well"
    )
    crop: bool = Field(False, description="random resized crop and mirroring, one draw for all in a forward")
    batch: int = Field(100, ge=1, description="images per forward, which share their statistics")
    teacher: dict[str, Any] = Field({}, description="what the teacher's training does otherwise")

    @classmethod
    def defaults(cls, task: Task) -> dict[str, Any]:
        """The authors' values for Tiny-ImageNet, there and for images above CIFAR's size."""
        if not _LIKE_TINY.get(task.base, task.size > 32):
            return {}
        return {"iterations": 4000, "lr": 0.1, "r_bn": 1.0, "roll": "both", "crop": True}

    def parts(self, ipc: int) -> Sequence[int]:
        """One part per image id: each is optimised alone, so IPC 1, 10 and 50 share their first ones."""
        return [1] * ipc

    def distils_with(self, network: str) -> tuple[str, ...]:
        """None by name: its teacher is what it distils with."""
        return ()

    def needs(self, network: str) -> Mapping[str, Need]:
        """The teacher: the suite's, but for what ``teacher`` says."""
        return {"teacher": Need("classifier", self.teacher)}
