"""Settings of DM, with the authors' values (DatasetCondensation, README and main_DM.py).

========== ======= ========== ============ ==========
dataset    IPC     iterations lr_img       batch_real
========== ======= ========== ============ ==========
CIFAR-10   < 100   20,000     1            256
CIFAR-10   >= 100  20,000     10           256
others     any     20,000     1            256
========== ======= ========== ============ ==========

The authors run one more iteration than they name (``range(Iteration + 1)``); we run as many as we say.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from baselines.base import MethodSettings, Task


class DMSettings(MethodSettings):
    """Distribution matching (Zhao and Bilen, WACV 2023)."""

    label: ClassVar[str] = "DM"

    iterations: int = Field(20_000, ge=1)
    lr_img: float = Field(1.0, gt=0, description="learning rate of the images")
    momentum: float = Field(0.5, ge=0, lt=1)
    batch_real: int = Field(256, ge=1, description="real images per class and update")
    init: Literal["real", "noise"] = "real"
    augment: Literal["dsa", "none"] = "dsa"
    chunk: int = Field(
        1, ge=1, description="classes whose graph is alive at once; 0.1 GB each at CIFAR's size, batch 256"
    )

    @classmethod
    def defaults(cls, task: Task) -> dict[str, Any]:
        """A larger learning rate for many images per class, as the authors' README says."""
        return {"lr_img": 10.0} if task.base == "cifar10" and task.ipc >= 100 else {}

    @property
    def cell_version(self) -> int:
        """One more for several classes at once, which once had as many real images as the smallest."""
        return self.version + (self.chunk > 1)


class DMMultiSettings(DMSettings):
    """DM under several architectures in turn: an ensemble that knows no activation maps. Ours."""

    label: ClassVar[str] = "DM over several architectures"
    names_networks: ClassVar[bool] = True

    # Not strict, for JSON and YAML have lists and no tuples.
    networks: tuple[str, ...] = Field(
        ("convnet", "resnet18", "vgg11", "vit_tiny"),
        min_length=1,
        strict=False,
        description="matched under in turn, one an iteration",
    )

    @property
    def row_label(self) -> str:
        """The label with the number of architectures: networks that differ in width or norm alone are one."""
        n = len({name.partition("@")[0] for name in self.networks})
        return f"{DMSettings.label} over {n} architecture{'s' if n > 1 else ''}"

    def distils_with(self, network: str) -> tuple[str, ...]:
        """Its own networks, whatever the suite's."""
        return self.networks
