"""Settings of the ``random`` baseline."""

from typing import ClassVar

from pydantic import Field

from baselines.base import MethodSettings


class RandomSettings(MethodSettings):
    """Real images, chosen at random. Nothing is distilled, so there are no iterations."""

    label: ClassVar[str] = "Random"
    learns: ClassVar[bool] = False

    iterations: int = Field(0, ge=0, le=0)
