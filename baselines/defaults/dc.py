"""Settings of DC and DSA, with the authors' values (DatasetCondensation, README, main.py and utils.py).

=================================  =====  =====  ===========================================
IPC, on every dataset              outer  inner  source
=================================  =====  =====  ===========================================
1                                  1      1      utils.py, get_loops
10                                 10     50     utils.py, get_loops
20                                 20     25     utils.py, get_loops
30                                 30     20     utils.py, get_loops
40                                 40     15     utils.py, get_loops
50                                 50     10     utils.py, get_loops
100                                50     10     issue 2 of their repository: as for 50 images
any other: as the nearest of them                ours (the smaller of two): their code refuses
=================================  =====  =====  ===========================================

Nothing else depends on the dataset or on IPC:

======  ======================  ============  ====================  ======================================
method  iterations              initial       augmentation          images, network, batches
======  ======================  ============  ====================  ======================================
DC      1,000                   noise         none                  SGD 0.1, m 0.5; SGD 0.01; 256 and 256
DSA     1,000                   real images   DSA, in matching and  the same
                                              in training
======  ======================  ============  ====================  ======================================

The authors ran MNIST, FashionMNIST, SVHN, CIFAR-10 and, up to IPC 10 (DSA: 50), CIFAR-100; DC-BENCH ran
Tiny-ImageNet with the same values. For networks other than a ConvNet the README asks for a smaller
``lr_img`` without saying which. The authors run one more iteration than they name
(``range(Iteration + 1)``); we run as many as we say.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from baselines.base import MethodSettings, Task, later

#: Outer steps and inner epochs by images per class.
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}


class DCSettings(MethodSettings):
    """Dataset condensation with gradient matching (Zhao, Mopuri and Bilen, ICLR 2021)."""

    label: ClassVar[str] = "DC"
    recipe: ClassVar[str] = "dc"

    iterations: int = Field(1000, ge=1, description="outer iterations, each with a new network")
    outer: int = Field(1, ge=1, description="updates of the images per network")
    inner: int = Field(
        1, ge=0, description="epochs over the images that train the network between two updates"
    )
    lr_img: float = Field(0.1, gt=0, description="learning rate of the images")
    momentum: float = Field(0.5, ge=0, lt=1)
    lr_net: float = Field(0.01, gt=0, description="learning rate of the network between two updates")
    batch_real: int = Field(256, ge=1, description="real images per class and update")
    batch_train: int = Field(256, ge=1, description="images per step of the network")
    init: Literal["real", "noise"] = "noise"
    augment: Literal["dsa", "none"] = "none"
    distance: Literal["rows", "mse", "cos"] = Field(
        "rows", description="of gradients: cosine per row of each tensor, squared, or one cosine over all"
    )
    chunk: int = later(
        1, ge=1, description="classes whose graph is alive at once; more start fewer operators"
    )

    @classmethod
    def defaults(cls, task: Task) -> dict[str, Any]:
        """Outer steps and inner epochs by IPC, of the nearest IPC that the authors name."""
        outer, inner = LOOPS[min(LOOPS, key=lambda ipc: abs(ipc - task.ipc))]
        return {"outer": outer, "inner": inner}


class DSASettings(DCSettings):
    """Dataset condensation with differentiable Siamese augmentation (Zhao and Bilen, ICML 2021)."""

    label: ClassVar[str] = "DSA"
    recipe: ClassVar[str] = "dsa"

    init: Literal["real", "noise"] = "real"
    augment: Literal["dsa", "none"] = "dsa"
