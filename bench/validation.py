"""Values from outside, checked against a model: one line says what is wrong, where, and what is right."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bench.errors import UserError, near

M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], value: Any, where: str) -> M:
    """``model.model_validate(value)``, with its first error as one line.

    Raises:
        UserError: ``where``, the place inside it, and what would be right.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(explain(error, model, where, value)) from None


def explain(error: ValidationError, model: type[BaseModel], where: str, value: Any = None) -> str:
    """The first error of a validation (of ``value``) in one line, with the near keys where one is unknown."""
    # A misspelt key is also a missing one; its own error says more.
    errors = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    first, more = errors[0], len(errors) - 1
    place = ".".join(map(str, first["loc"] if value is None else _place(first["loc"], value)))
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        text = f"unknown key; {near(str(first['loc'][-1]), known)}"
    elif first["type"] == "missing":
        text = "is missing"
    else:
        given = first["input"] if isinstance(first["input"], str | int | float | bool) else None
        text = _message(first) + (f", not {given!r}" if given is not None else "")
    return f"{where}: {place}: {text}" + (f" (and {more} more)" if more else "")


def _message(error: ErrorDetails) -> str:
    """What is wrong with a value, without the value."""
    about = error.get("ctx", {})
    match error["type"]:
        case "too_short":
            least = about["min_length"]
            return f"at least {least} item{'s are' if least > 1 else ' is'} expected"
        case "too_long":
            return f"at most {about['max_length']} items are expected, not {about['actual_length']}"
        case "value_error":
            return str(about["error"])
    return error["msg"][0].lower() + error["msg"][1:]


def _place(steps: Iterable[int | str], value: Any) -> Iterator[int | str]:
    """The steps to a place in a value as it was given: what may be a list of one has no index there."""
    for step in steps:
        if isinstance(step, int) and not isinstance(value, list | tuple):
            continue
        yield step
        try:
            value = value[step]
        except (LookupError, TypeError):
            value = None


def _fields_at(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at a place in a model, found by walking its annotations."""
    current: Any = model
    for step in place:
        if isinstance(current, type) and issubclass(current, BaseModel):
            if step not in current.model_fields:
                return []
            current = current.model_fields[str(step)].annotation
        else:
            current = (typing.get_args(current) or (None,))[-1]
        while typing.get_origin(current) is Annotated or type(None) in typing.get_args(current):
            current = typing.get_args(current)[0]
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []
