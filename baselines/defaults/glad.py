"""Settings of GLaD under each method that it wraps, with the authors' values (glad, README, shared_args.py).

==========  ==========  ======  =====  =====  ==========================================================
under       iterations  lr_f    lr_w   layer  of the method itself
==========  ==========  ======  =====  =====  ==========================================================
DM          1,000       10      0.01   20     as DM's own: batch_real 256, DSA
DC          1,000       1       0.001  16     one update per network; DSA, in which GLaD differs from DC
MTT         1,000       10,000  10     12     20 steps match 3 epochs from one below 5; step size 0.01,
                                              its learning rate 1e-6
SRe2L       SRe2L's     0.1     0.01   12     as SRe2L's own (all of this row is ours)
==========  ==========  ======  =====  =====  ==========================================================

``layer`` counts the 26 layers of their StyleGAN-XL for 128 pixels. It is the default for a generator from a
file; for another size we take the same share of StyleGAN-XL's layers there. The compact generator is ours,
and so is its default: half of its layers, after which maps have 16 pixels a side at 32 and 64 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from baselines.base import MethodSettings, Need, Task
from baselines.defaults.dc import DCSettings
from baselines.defaults.dm import DMSettings
from baselines.defaults.mtt import MTTSettings
from baselines.defaults.sre2l import SRe2LSettings

I = TypeVar("I", bound=MethodSettings)  # noqa: E741  (the inner method's settings)

#: Layers of the authors' StyleGAN-XL for 128 pixels.
_STYLEGAN_XL_LAYERS = 26
#: Settings of an inner method that its images' latents take the place of, and what to set instead.
_REPLACED = {
    "iterations": "set it beside `inner`",
    "pixels": "set it beside `inner`",
    "lr_img": "`lr_f` and `lr_w` are the learning rates here",
    "lr": "`lr_f` and `lr_w` are the learning rates here",
    "init": "the generator makes the initial images",
}


class GLaDSettings(MethodSettings, Generic[I]):
    """Generative latent distillation (Cazenavette et al., CVPR 2023) under one method, ``inner``."""

    recipe: ClassVar[str] = "glad"

    #: The inner method, by its name in the registry, and its settings model.
    inner_name: ClassVar[str]
    inner_model: ClassVar[type[MethodSettings]]
    #: What the authors set otherwise than the inner method's own authors.
    inner_values: ClassVar[Mapping[str, Any]] = {}
    #: Layers before the cut of the authors' StyleGAN-XL, of :data:`_STYLEGAN_XL_LAYERS`.
    stylegan_xl_layer: ClassVar[int] = 12

    iterations: int = Field(1000, ge=1)
    generator: str = Field(
        "trained", pattern="^(random|trained|file:.+)$", description="random, trained, or file:PATH"
    )
    generator_settings: dict[str, Any] = Field(
        default_factory=dict, description="what the generator has otherwise than the dataset's default"
    )
    layer: int = Field(
        ge=0, description="the generator's layers before the cut; what comes out of them is moved"
    )
    lr_f: float = Field(gt=0, description="learning rate of the features at the cut")
    lr_w: float = Field(gt=0, description="learning rate of the styles")
    average_w: bool = Field(False, description="start from the mean style of each class; for IPC 1 only")
    random_features: bool = Field(False, description="start from noise with each image's mean and deviation")
    chunk: int = Field(10, ge=1, description="images that are rendered at once")
    generator_classes: list[int] = Field(
        default_factory=list, description="the generator's class for each of the dataset's; empty: the same"
    )
    inner: I

    @classmethod
    def resolve(cls, task: Task, overrides: Mapping[str, Any]) -> Self:
        """As for every method; ``inner`` is resolved likewise, from its own defaults and GLaD's.

        Raises:
            pydantic.ValidationError: as for every method; or ``inner`` sets what has no effect here, or
                ``average_w`` is asked for with several images per class.
        """
        values: dict[str, Any] = {"layer": cls._layer(task, overrides), **cls.defaults(task), **overrides}
        inner = values.get("inner", {})
        if isinstance(inner, Mapping):
            cls._refuse_replaced(inner)
            shared = {
                name: values.get(name, cls.model_fields[name].default) for name in ("iterations", "pixels")
            }
            inner = {**cls.inner_values, **inner, **shared}
            try:
                values["inner"] = cls.inner_model.resolve(task, inner)
            except ValidationError:  # refused again below, with its place in these settings
                values["inner"] = {**cls.inner_model.defaults(task), **inner}
        settings = cls.model_validate(values)
        if settings.average_w and task.ipc > 1:
            message = "all images of a class would start alike and stay so; use it with one image per class"
            raise cls._refusal(("average_w",), message, settings.average_w)
        return settings

    @property
    def cell_version(self) -> int:
        """Its own, and more where the inner method's is."""
        return self.version + self.inner.cell_version - self.inner.version

    @property
    def row_label(self) -> str:
        """The label with the prior, without which an accuracy cannot be read."""
        if self.generator.startswith("file:"):
            prior = PurePath(self.generator.removeprefix("file:")).name.removesuffix(".safetensors")
        else:
            prior = {"random": "untrained generator", "trained": "trained generator"}[self.generator]
        return f"{self.label}, {prior}"

    def parts(self, ipc: int) -> Sequence[int]:
        """The parts of the inner method."""
        return self.inner.parts(ipc)

    def distils_with(self, network: str) -> tuple[str, ...]:
        """The networks of the inner method."""
        return self.inner.distils_with(network)

    def needs(self, network: str) -> Mapping[str, Need]:
        """What the inner method needs, and the generator."""
        if self.generator.startswith("file:"):
            generator = Need("generator", file=self.generator)
        else:
            generator = Need("generator", {"kind": self.generator, **self.generator_settings})
        return {**self.inner.needs(network), "generator": generator}

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name in ("iterations", "pixels"):
            if getattr(self, name) != getattr(self.inner, name):
                raise ValueError(f"inner.{name} is {getattr(self.inner, name)!r}; {_REPLACED[name]}")
        if self.generator_settings and self.generator.startswith("file:"):
            raise ValueError("a generator from a file is what it is; leave `generator_settings` out")
        if "kind" in self.generator_settings:
            raise ValueError("say `generator: random` or `trained` instead of generator_settings.kind")
        return self

    @classmethod
    def _layer(cls, task: Task, overrides: Mapping[str, Any]) -> int:
        doublings = task.size.bit_length() - 1
        if str(overrides.get("generator", "")).startswith("file:"):
            layers = 5 * doublings - 9  # 11 at 16 pixels; each step of super-resolution adds 5
            return round(cls.stylegan_xl_layer * layers / _STYLEGAN_XL_LAYERS)
        return doublings - 1  # half of the compact generator's layers

    @classmethod
    def _refuse_replaced(cls, inner: Mapping[str, Any]) -> None:
        for name, instead in _REPLACED.items():
            if name in inner:
                raise cls._refusal(("inner", name), f"has no effect under GLaD; {instead}", inner[name])

    @classmethod
    def _refusal(cls, place: tuple[str, ...], message: str, given: object) -> ValidationError:
        error = PydanticCustomError("glad", message)
        return ValidationError.from_exception_data(
            cls.__name__, [InitErrorDetails(type=error, loc=place, input=given)]
        )


class GLaDDMSettings(GLaDSettings[DMSettings]):
    """GLaD under distribution matching."""

    label: ClassVar[str] = "GLaD (DM)"
    inner_name: ClassVar[str] = "dm"
    inner_model: ClassVar[type[MethodSettings]] = DMSettings
    stylegan_xl_layer: ClassVar[int] = 20

    lr_f: float = Field(10.0, gt=0)
    lr_w: float = Field(0.01, gt=0)


class GLaDDCSettings(GLaDSettings[DCSettings]):
    """GLaD under gradient matching: one update for each random network, which is never trained."""

    label: ClassVar[str] = "GLaD (DC)"
    inner_name: ClassVar[str] = "dc"
    inner_model: ClassVar[type[MethodSettings]] = DCSettings
    inner_values: ClassVar[Mapping[str, Any]] = {"outer": 1, "inner": 1, "augment": "dsa"}
    stylegan_xl_layer: ClassVar[int] = 16

    lr_f: float = Field(1.0, gt=0)
    lr_w: float = Field(0.001, gt=0)


class GLaDMTTSettings(GLaDSettings[MTTSettings]):
    """GLaD under trajectory matching; with its exact gradient, where the authors drop the second order."""

    label: ClassVar[str] = "GLaD (MTT)"
    inner_name: ClassVar[str] = "mtt"
    inner_model: ClassVar[type[MethodSettings]] = MTTSettings
    inner_values: ClassVar[Mapping[str, Any]] = {
        "syn_steps": 20,
        "expert_epochs": 3,
        "max_start_epoch": 5,
        "lr_teacher": 0.01,
        "lr_lr": 1e-6,
        "batch_syn": None,
    }

    lr_f: float = Field(10_000.0, gt=0)
    lr_w: float = Field(10.0, gt=0)


class GLaDSRe2LSettings(GLaDSettings[SRe2LSettings]):
    """GLaD under SRe2L's recovery; the combination and its learning rates are ours."""

    label: ClassVar[str] = "GLaD (SRe2L)"
    recipe: ClassVar[str] = "sre2l"
    inner_name: ClassVar[str] = "sre2l"
    inner_model: ClassVar[type[MethodSettings]] = SRe2LSettings

    lr_f: float = Field(0.1, gt=0)
    lr_w: float = Field(0.01, gt=0)

    @classmethod
    def defaults(cls, task: Task) -> dict[str, Any]:
        """As many iterations as SRe2L has there."""
        return {"iterations": SRe2LSettings.defaults(task).get("iterations", 1000)}
