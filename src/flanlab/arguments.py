"""Arguments of public functions, checked against their annotations, so that an odd one is an error that says so."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from flanlab.errors import FlanlabError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_CHECKED_BY_THE_FUNCTION = ("Any", "Iterable", "Recipe", "Predictions")
"""Words of annotations whose values a function checks by itself, and with better words."""


def checked(function: Callable[Arguments, Result], called: str = "") -> Callable[Arguments, Result]:
    """The function, whose arguments are made what its annotations say: any iterable a list, a number of numpy an int.

    Args:
        function: with annotations that are text.
        called: what errors call it. Default: its own name.

    Raises:
        FlanlabError: an argument is something else.
    """
    signature = inspect.signature(function)

    @cache
    def adapters() -> dict[str, tuple[Any, bool]]:
        from pydantic import PydanticSchemaGenerationError, TypeAdapter  # here, because importing flanlab must be quick

        written = {name: str(parameter.annotation) for name, parameter in signature.parameters.items() if name != "self"}
        checked = {name: text for name, text in written.items() if not any(word in text for word in _CHECKED_BY_THE_FUNCTION)}
        found = {}
        hints = get_type_hints(SimpleNamespace(__annotations__=checked), function.__globals__, include_extras=True)
        for name, annotation in hints.items():
            try:
                found[name] = TypeAdapter(annotation), _takes_sequence(annotation)
            except PydanticSchemaGenerationError:  # a protocol, or a class of torch
                continue
        return found

    @wraps(function)
    def call(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        from pydantic import BaseModel, ValidationError

        try:
            given = signature.bind(*arguments, **named)
        except TypeError as error:
            raise TypeError(f"{called or function.__name__}: {error}") from None
        for name, value in given.arguments.items():
            if name not in adapters() or are_rows(value):
                continue
            adapter, takes_sequence = adapters()[name]
            if takes_sequence and isinstance(value, Iterable) and not isinstance(value, (*_NO_LISTS, BaseModel)):
                value = list(value)
            try:
                given.arguments[name] = adapter.validate_python(value)
            except (ValidationError, AttributeError) as error:  # the latter for a task that was changed to what it may not be
                shown = repr(value)
                hint = f"help(fl.{called or function.__name__}) describes the arguments."
                if isinstance(error, AttributeError):
                    hint = 'Change a template with `template.model_copy(update={"prompt": ...})`. A dict is none.'
                raise FlanlabError(
                    f"{called or function.__name__}: `{name}` is {shown if len(shown) <= 100 else shown[:99] + '…'}."
                    f" {_what_is_wrong(error)}.",
                    hint=hint,
                ) from None
        return function(*given.args, **given.kwargs)

    return call


def are_rows(value: Any) -> bool:
    """Whether this is a data frame, or a list of dicts that are no tasks."""
    first = value[0] if isinstance(value, list | tuple) and value else None
    return hasattr(value, "columns") or (isinstance(first, Mapping) and "templates" not in first)


def _what_is_wrong(error: Any) -> str:
    """The error of the alternative that the value comes closest to: that of what it contains, or of its own checks."""
    if isinstance(error, AttributeError):
        return str(error)
    faults = error.errors()
    nearest = max(faults, key=lambda fault: (fault["type"] == "value_error", len(fault["loc"])))
    return str(nearest["msg"]).removeprefix("Value error, ")


def _takes_sequence(annotation: Any) -> bool:
    return get_origin(annotation) is Sequence or any(map(_takes_sequence, get_args(annotation)))


_NO_LISTS = (str, bytes, Path, Sequence, dict)
