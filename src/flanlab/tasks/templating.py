"""Text and expressions of task files, rendered by jinja2 in its immutable sandbox: data in, text out, nothing foreign runs."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from flanlab.errors import FlanlabError

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
_SINGLE_EXPRESSION = re.compile(r"\A\s*\{\{((?:(?!\}\}|\{\{).)*)\}\}\s*\Z", re.DOTALL)


class TemplatingError(FlanlabError):
    """A template that cannot be read or filled in."""


@functools.lru_cache(maxsize=8192)
def compile_source(source: str) -> Callable[[Mapping[str, Any]], Any]:
    """Compile `source` once: a lone `{{ expression }}` keeps its type, everything else renders to text.

    Raises:
        TemplatingError: the source is not valid jinja2.
    """
    check_syntax(source)
    expression = _SINGLE_EXPRESSION.match(source)
    if expression:
        evaluate = _ENVIRONMENT.compile_expression(expression.group(1), undefined_to_none=False)
        return lambda variables: _guarded(source, variables, lambda: _defined(evaluate(variables)))
    template = _ENVIRONMENT.from_string(source)
    return lambda variables: _guarded(source, variables, lambda: template.render(variables))


def check_syntax(source: str) -> None:
    """Raise a TemplatingError that names the fault and its line within the template."""
    try:
        _ENVIRONMENT.parse(source)
    except TemplateSyntaxError as error:
        raise TemplatingError(
            f"not valid jinja2 (line {error.lineno} of the template): {error.message}",
            mend="Write variables as {{ name }} and blocks as {% if ... %} ... {% endif %}.",
        ) from error


@functools.lru_cache(maxsize=8192)
def variables_in(source: str) -> frozenset[str]:
    """Names that `source` takes from outside."""
    return frozenset(meta.find_undeclared_variables(_ENVIRONMENT.parse(source)))


def _defined(value: Any) -> Any:
    if isinstance(value, StrictUndefined):
        value._fail_with_undefined_error()
    return value


def _guarded(source: str, variables: Mapping[str, Any], render: Callable[[], Any]) -> Any:
    try:
        return render()
    except UndefinedError as error:
        raise TemplatingError(
            f"{error.message} in: {_shorten(source)}",
            mend=f"Known here: {', '.join(sorted(map(str, variables))) or 'nothing'}.",
        ) from error
    except SecurityError as error:
        raise TemplatingError(
            f"refused by the sandbox: {error} in: {_shorten(source)}",
            mend="Templates may only read the row's values; they cannot reach Python internals.",
        ) from error
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise TemplatingError(
            f"{type(error).__name__}: {error} in: {_shorten(source)}",
            mend="Check the types of the row's values with `flan tasks show`.",
        ) from error


def _shorten(source: str, width: int = 100) -> str:
    one_line = " ".join(source.split())
    return one_line if len(one_line) <= width else one_line[: width - 1] + "…"
