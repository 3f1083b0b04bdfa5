"""Values from outside, checked against a model: one line says what is wrong, where, and what is right."""

from __future__ import annotations

import typing
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ValidationError

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
        raise UserError(explain(error, model, where)) from None


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """The first error of a validation in one line, with the near keys where a key is unknown."""
    # A misspelt key is also a missing one; its own error says more.
    errors = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    first, more = errors[0], len(errors) - 1
    place = ".".join(str(step) for step in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        text = f"unknown key; {near(str(first['loc'][-1]), known)}"
    elif first["type"] == "missing":
        text = "is missing"
    else:
        given = first["input"] if isinstance(first["input"], str | int | float | bool) else None
        message = first["msg"][0].lower() + first["msg"][1:]
        text = message + (f", not {given!r}" if given is not None else "")
    return f"{where}: {place}: {text}" + (f" (and {more} more)" if more else "")


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
