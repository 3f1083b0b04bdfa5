"""Adam that also runs on fake tensors: it counts its steps in a Python number.

PyTorch's own reads its step count back from a tensor, which a fake tensor cannot give.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class Adam(torch.optim.Optimizer):
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1) without weight decay.

    On a CPU it gives the bits of ``torch.optim.Adam(..., foreach=False)``.

    Args:
        params: what to move, or groups of it with a learning rate each; a parameter whose ``grad`` is None
            stays where it is.
        lr: the learning rate; a schedule may change it.
        betas: the decay rates of the gradient's mean and of its square's.
        eps: added to the root of the corrected square.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move each parameter by its gradient; there is no ``closure``.

        Raises:
            TypeError: a closure was given.
        """
        if closure is not None:
            raise TypeError("this Adam takes no closure")
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._move(param, param.grad, group["lr"], group["betas"], group["eps"])

    def _move(
        self, param: Tensor, gradient: Tensor, lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        state = self.state[param]
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(param), torch.zeros_like(param)
        state["step"] += 1
        first, second = (1 - beta ** state["step"] for beta in betas)
        state["mean"].lerp_(gradient, 1 - betas[0])
        state["square"].mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
        root = state["square"].sqrt().div_(second**0.5).add_(eps)
        param.addcdiv_(state["mean"], root, value=-lr / first)
