"""Types of a task file's fields: jinja sources, expressions and options, each checked when a file is read."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from flanlab.errors import FlanlabError
from flanlab.tasks.templating import check_syntax, is_expression

Options = list[str] | str
"""A list of answers, or one expression that gives a list for each row."""


def _checked_jinja(value: str) -> str:
    try:
        check_syntax(value)
    except FlanlabError as error:
        raise ValueError(error.message) from error
    if not value.strip():
        raise ValueError("is empty")
    return value


def _checked_expression(value: str) -> str:
    if not is_expression(value):
        raise ValueError("write one expression with nothing around it, such as {{ label >= 0 }}")
    return value


def checked_options(value: Options | None) -> Options | None:
    """Options that differ, or an expression."""
    if not isinstance(value, list):
        return None if value is None else _checked_expression(_checked_jinja(value))
    if len(value) < 2 or len(set(value)) != len(value):
        raise ValueError("give at least two options, all different")
    for option in value:
        if not option.strip():
            raise ValueError("an option is empty")
        if option != option.strip():
            raise ValueError(f"the option {option!r} begins or ends with blank space")
    return value


def as_the_answer(target: str) -> str:
    """Write a target that is only the answer, with any spacing, as `{{ answer }}`, which also allows all references."""
    return "{{ answer }}" if re.fullmatch(r"\s*\{\{-?\s*answer\s*-?\}\}\s*", target) else target


Jinja = Annotated[str, AfterValidator(_checked_jinja)]
Expression = Annotated[str, AfterValidator(_checked_jinja), AfterValidator(_checked_expression)]
