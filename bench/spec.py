"""``tables.yaml`` as typed, strict values: suites (what is run), tables and figures (what is printed).

Read by every verb, so no torch. A mistake ends in one line with the file, the place in it, and what would
be right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bench.arithmetic import Precision
from bench.errors import UserError, near
from bench.networks.names import parse
from bench.unions import with_unions
from bench.validation import validated

#: So many comparisons of a table are tested at most: with more, more pairs are needed than anybody runs.
MOST_PRIMARY = 5


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _as_seeds(value: Any) -> Any:
    """``3`` means the seeds 0, 1, 2; a list is taken as it is."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value < 1:
        raise ValueError("a number of seeds, 1 or more, or a list of seeds is expected")
    return list(range(value))


def _distinct(values: list[Any]) -> list[Any]:
    """A list in which nothing stands twice: of two equal cells there would be one."""
    for number, value in enumerate(values):
        if value in values[:number]:
            raise ValueError(f"{getattr(value, 'name', value)} stands twice")
    return values


def _named(value: Any) -> Any:
    """``dsa`` means ``{name: dsa}``."""
    return {"name": value} if isinstance(value, str) else value


def _primary(value: Any) -> Any:
    """``DM + MetaDD`` means ``{method: DM + MetaDD}``."""
    return {"method": value} if isinstance(value, str) else value


def _as_texts(value: Any) -> Any:
    """``[1, DM]`` means ``("1", "DM")``; what is no text, number or truth value stays as it is."""
    return tuple(str(each) if isinstance(each, int | float) else each for each in _as_list(value))


T = TypeVar("T")
OneOrMore = Annotated[list[T], BeforeValidator(_as_list), Field(min_length=1), AfterValidator(_distinct)]
Seed = Annotated[int, Field(ge=0, strict=True)]
Seeds = Annotated[list[Seed], BeforeValidator(_as_seeds), Field(min_length=1), AfterValidator(_distinct)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Named(BaseModel):
    """A recipe or a plug-in by name, with settings of its own beside the name."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def overrides(self) -> dict[str, Any]:
        """The settings beside the name."""
        return dict(self.model_extra or {})


class NamedPlugin(Named):
    """A plug-in, and what tables shall put behind the method's name instead of the plug-in's own."""

    label: str | None = None


NamedOrText = Annotated[Named, BeforeValidator(_named)]
PluginOrText = Annotated[NamedPlugin, BeforeValidator(_named)]


class Evaluation(_Strict):
    """How each set is evaluated: on which networks, by which recipe, with how many seeds per network."""

    networks: OneOrMore[str]
    recipe: NamedOrText
    seeds: Seeds = [0]
    test_per_class: int | None = Field(
        None, ge=1, strict=True, description="test images per class; all by default"
    )


class Block(_Strict):
    """One block of a suite's grid: every combination of what it lists. What it leaves out, the suite says."""

    method: OneOrMore[str]
    label: str | None = Field(None, description="the row's name in tables; the method's own by default")
    settings: dict[str, Any] = {}
    protocol: Literal["authors", "common"] | None = None
    dataset: OneOrMore[str] | None = None
    ipc: OneOrMore[Annotated[int, Field(ge=1, strict=True)]] | None = None
    network: str | None = None
    plugin: OneOrMore[PluginOrText] | None = None
    teacher: dict[str, Any] | None = None
    seeds: Seeds | None = None
    precision: Precision | None = None
    channels_last: Annotated[bool, Field(strict=True)] | None = None
    evaluate: Evaluation | None = None


class Analysis(_Strict):
    """Through which networks each set of a suite, and real test images, are looked at (docs/tables.md)."""

    auxiliary: list[str] = Field(min_length=2, description="networks that the plug-in looks through")
    unseen: list[str] = Field(min_length=2, description="networks that take part in no distillation")
    training: dict[str, dict[str, Any]] = Field(
        {},
        description="what a network's training has otherwise than the dataset's default, by network; `all` "
        "stands for every one",
    )
    real_per_class: int = Field(10, ge=1, strict=True, description="real test images of each class")
    grid: int = Field(8, ge=4, le=64, strict=True, description="the maps have grid x grid positions")
    threshold: float = Field(0.5, gt=0, lt=1, description="from where on a position counts as seen")
    temperature: float = Field(0.1, ge=0.02, le=10, description="of a map's softmax, for the divergence")


class Primary(_Strict):
    """A primary comparison: the name of a row with a plug-in, and its other tags where several go by it."""

    method: str
    dataset: str | None = None
    ipc: Annotated[int, Field(ge=1, strict=True)] | None = None
    recipe: str | None = None
    protocol: str | None = None
    distilled_on: str | None = None

    def is_about(self, tags: Any) -> bool:
        """Whether a row with these tags is meant."""
        return all(str(tags[tag]) == str(value) for tag, value in self.model_dump(exclude_none=True).items())

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.model_dump(exclude_none=True).values())


PrimaryOrText = Annotated[Primary, BeforeValidator(_primary)]
Selected = Annotated[tuple[str, ...], BeforeValidator(_as_texts), Field(min_length=1)]
#: The values, as text, that some tags of a cell have: ``{method: DM, ipc: [1, 10]}``.
Selection = Annotated[dict[str, Selected], Field(min_length=1)]
Tag = Literal["dataset", "ipc", "method", "recipe", "network", "distilled_on", "protocol"]


class Suite(_Strict):
    """A grid of cells, and the tables and figures that are made of it."""

    title: str
    note: str = Field("", description="what is reduced, and whatever a reader of the table must know")
    protocol: Literal["authors", "common"]
    dataset: OneOrMore[str]
    network: str = Field(description="the network that methods distil with")
    ipc: OneOrMore[Annotated[int, Field(ge=1, strict=True)]] = [1]
    plugin: OneOrMore[PluginOrText] = [NamedPlugin(name="none")]
    teacher: dict[str, Any] = Field(
        {}, description="who recovers images and gives soft labels (SRe2L), where not the default"
    )
    seeds: Seeds = [0]
    precision: Precision = Field("fp32", description="of the networks' arithmetic (docs/gpu.md)")
    channels_last: bool = Field(False, strict=True, description="how networks are given their images")
    evaluate: Evaluation
    grid: list[Block] = Field(min_length=1)
    analyse: Analysis | None = None
    first: list[Selection] = Field(
        [],
        description="what matters most: a run makes the cells of the first selection, then of the second, …",
    )
    tables: list[str] = []
    figures: list[str] = []
    published: bool = Field(
        False, strict=True, description="whether its settings are the authors', so that papers' numbers fit"
    )
    primary: list[PrimaryOrText] | None = Field(
        None, max_length=MOST_PRIMARY, description="what its tables of accuracy test that declare nothing"
    )

    @property
    def panel(self) -> frozenset[str]:
        """The networks that means of accuracy are over; blocks may have others besides."""
        return frozenset(str(parse(name)) for name in self.evaluate.networks)


class TableSpec(_Strict):
    """A table: one row per combination of ``rows``.

    Of ``accuracy``, one column per value of ``columns``, and their means; of ``meta-features``, one column
    per measure and role of the networks; of both, a row with the difference that a plug-in makes. Of
    ``memory``, the peaks of a method alone, with MetaDD and under GLaD, and what these two add. Of ``time``,
    the same in seconds per update, and how long a whole set takes.
    """

    title: str
    kind: Literal["accuracy", "meta-features", "memory", "time"]
    rows: OneOrMore[Tag]
    columns: Literal["network", "dataset", "ipc"] = "network"
    primary: list[PrimaryOrText] | None = Field(
        None,
        max_length=MOST_PRIMARY,
        description="the differences that are tested, by the names of their rows with a plug-in; by default "
        "those of MetaDD, where they are not more than may be",
    )
    only: Annotated[dict[Tag, Selected], Field(min_length=1)] | None = Field(
        None, description="the rows that it is about, by their tags; all by default"
    )
    means: bool = Field(False, description="print the means over networks alone, no column for each")

    def is_about(self, tags: Mapping[Any, Any]) -> bool:
        """Whether a row with these tags is in the table."""
        return all(str(tags[tag]) in values for tag, values in (self.only or {}).items())

    @model_validator(mode="after")
    def _fits(self) -> TableSpec:
        if self.kind != "accuracy":
            if self.only is not None:
                raise ValueError(f"only: a table of kind `{self.kind}` is about all rows")
            if "columns" in self.model_fields_set:
                raise ValueError(f"columns: a table of kind `{self.kind}` has its own")
            if self.means:
                raise ValueError(f"means: a table of kind `{self.kind}` has its own columns")
            if self.primary is not None:
                raise ValueError(f"primary: differences in a table of kind `{self.kind}` are not tested")
            if training := {"recipe", "network"}.intersection(self.rows):
                raise ValueError(
                    f"rows: `{self.kind}` is about sets and not about training, so it has no {min(training)}"
                )
        if self.means and self.columns != "network":
            raise ValueError(f"means: they are over networks, and the columns are {self.columns}")
        if self.columns in self.rows:
            raise ValueError(f"rows: {self.columns} is what the columns are")
        if any(getattr(each, self.columns, None) is not None for each in self.primary or ()):
            raise ValueError(f"primary: a comparison is over all columns, so it names no {self.columns}")
        return self


#: What each kind of figure takes besides its title.
_FIGURES = {
    "images": {"columns", "classes"},
    "cams": {"classes", "networks"},
    "accuracy-ipc": {"over"},
    "heatmap": set(),
    "memory": set(),
    "memory-scaling": set(),
    "cost-accuracy": set(),
}


class FigureSpec(_Strict):
    """A figure: ``images`` and ``cams`` of the pictures that cells leave, others of rows."""

    title: str
    kind: Literal["images", "cams", "accuracy-ipc", "heatmap", "memory", "memory-scaling", "cost-accuracy"]
    columns: int = Field(10, ge=1, le=10, description="at most so many images of a class")
    classes: int = Field(10, ge=1, description="at most so many classes")
    networks: Literal["auxiliary", "unseen"] = Field("auxiliary", description="whose maps `cams` shows")
    over: Literal["networks", "means"] = Field("networks", description="a panel for each; of `accuracy-ipc`")

    @model_validator(mode="after")
    def _fits(self) -> FigureSpec:
        for other in sorted(self.model_fields_set - _FIGURES[self.kind] - {"title", "kind"}):
            raise ValueError(f"{other}: a figure of kind `{self.kind}` takes none")
        return self


class Spec(_Strict):
    """The whole file; ``extends`` puts it on top of the installation's own."""

    extends: Literal["installed"] | None = None
    suites: dict[str, Suite]
    tables: dict[str, TableSpec] = {}
    figures: dict[str, FigureSpec] = {}


class _Loader(yaml.SafeLoader):
    """Safe YAML with two differences.

    A key that stands twice is a mistake (PyYAML would take the last one), and ``1e-3`` is a number, as in
    YAML 1.2 (PyYAML, by YAML 1.1, reads text).
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value!r} stands twice", problem_mark=key.start_mark
                )
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def default_file() -> Path:
    """The ``tables.yaml`` of this installation: beside the packages in a checkout, inside one in a wheel."""
    here = Path(__file__).resolve().parent
    inside = here / "tables.yaml"
    return inside if inside.exists() else here.parent / "tables.yaml"


def read(file: Path | None = None) -> Spec:
    """Read and check a file (by default this installation's).

    Raises:
        UserError: the file is missing, is no YAML mapping, or says something that is not allowed.
    """
    file = default_file() if file is None else file
    content = _content(file)
    if content.get("extends") is not None and file != default_file():
        for part, installed in _content(default_file()).items():
            own = content.get(part, {})  # whatever is no mapping is refused below
            content = {**content, part: {**installed, **own} if isinstance(own, Mapping) else own}
    spec = validated(Spec, with_unions(content, str(file)), str(file))
    for name, suite in spec.suites.items():
        for kind, wanted, there in (
            ("table", suite.tables, spec.tables),
            ("figure", suite.figures, spec.figures),
        ):
            for item in wanted:
                if item not in there:
                    raise UserError(f"{file}: suites.{name}: {unknown(kind, item, there)}")
    return spec


def _content(file: Path) -> Mapping[str, Any]:
    """What a file says, not yet checked."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); --tables takes a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = f", line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        problem = getattr(error, "problem", None) or "not UTF-8 text"
        raise UserError(f"{file}{where}: not YAML ({problem})") from None
    if not isinstance(content, Mapping):
        found = type(content).__name__
        raise UserError(f"{file}: a mapping with `suites`, `tables` and `figures` is expected, not a {found}")
    return content


def unknown(kind: str, name: str, there: Mapping[str, Any]) -> str:
    """That a tables file has no suite, table or figure of this name, and which it has."""
    if not there:
        return f"no {kind} {name!r}: the tables file has none; `extends: installed` brings the built-in ones"
    return f"no {kind} {name!r}; {near(name, list(there))}"


def find_suite(spec: Spec, name: str) -> Suite:
    """The suite of this name.

    Raises:
        UserError: there is none; the message has the near names.
    """
    if name not in spec.suites:
        raise UserError(unknown("suite", name, spec.suites))
    return spec.suites[name]
