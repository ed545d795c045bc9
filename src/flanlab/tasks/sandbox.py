"""jinja2's immutable sandbox, in which a short template cannot ask for endless time or memory either.

jinja2 keeps templates away from Python and the disk. But `10 ** 1000000000`, `"x" * 10 ** 10` or `text | center(10 ** 10)`
would stop the process, some of them when the template is compiled: constants are computed then. What is refused here has no use
in a prompt. Nested loops are not bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sized
from functools import wraps
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flanlab.tasks.printing import printable

_MOST = 1_000_000
"""Largest length that one operation may give a text or a list, and largest number of bits of a power."""
_WIDENING = frozenset({"ljust", "rjust", "center", "zfill", "expandtabs"})
_WIDE = re.compile(r"\d{6}|%[^%a-zA-Z]*\*|\{[^{}]*\{")
"""In a format: a number of six digits, or a width that is itself a value."""


def _refuse(what: str) -> SecurityError:
    return SecurityError(f"{what} would be too large")


def _check_numbers(what: str, *values: Any) -> None:
    if any(isinstance(value, int) and abs(value) > _MOST for value in values):
        raise _refuse(what)


def _check_format(text: str, *values: Any) -> None:
    if _WIDE.search(text):
        raise _refuse("the formatted text")
    for value in values:
        printable(value)


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(value: Any, *arguments: Any, **named: Any) -> Any:
        if name == "format":
            _check_format(str(value), *arguments, *named.values())
        _check_numbers(f"the result of {name}", *(() if name == "format" else arguments), *named.values())
        return function(value, *arguments, **named)

    return call


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox of all templates."""

    intercepted_binops = frozenset({"**", "*", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("batch", "center", "format", "indent", "slice"):
            self.filters[name] = _bounded(name, self.filters[name])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute one of the intercepted operators, if its result is of a reasonable size."""
        if operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _MOST:
            raise _refuse("the power")
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, Sized) and isinstance(times, int) and len(many) * times > _MOST:
                    raise _refuse("the product")
        if operator == "%" and isinstance(left, str):
            by_name = isinstance(right, Mapping) and "%(" in left
            _check_format(left, *(right if isinstance(right, tuple) else right.values() if by_name else (right,)))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *arguments: Any, **named: Any) -> Any:  # noqa: N805
        """Call a method, unless it would make a very wide text."""
        if getattr(__obj, "__name__", "") in _WIDENING:
            _check_numbers(f"the result of {__obj.__name__}", *arguments, *named.values())
        return super().call(__context, __obj, *arguments, **named)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` in the sandbox, without wide fields."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def call(*arguments: Any, **named: Any) -> str:
            # A format may choose a part of a mapping: {name[part]}.
            given = [one for one in (*arguments, *named.values()) if not isinstance(one, Mapping)]
            _check_format(value.__self__, *given)
            return wrapped(*arguments, **named)

        return call
