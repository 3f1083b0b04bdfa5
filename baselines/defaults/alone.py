"""Settings of ``alone``: a plug-in by itself. All of them are ours."""

from typing import ClassVar

from pydantic import Field

from baselines.base import MethodSettings


class AloneSettings(MethodSettings):
    """Random real images that only a plug-in moves; without one they stay what ``random`` gives."""

    label: ClassVar[str] = "Real images"
    has_loss: ClassVar[bool] = False

    iterations: int = Field(300, ge=1)
    lr: float = Field(0.02, gt=0, description="Adam's learning rate of the images")

    def distils_with(self, network: str) -> tuple[str, ...]:
        """None: whatever takes part is the plug-in's."""
        return ()
