"""Text and expressions of task files, rendered by jinja2 in its immutable sandbox: data in, text out, nothing foreign runs."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flanlab.errors import FlanlabError


class TemplatingError(FlanlabError):
    """A template that cannot be read or filled in."""


def _refuse_null(value: Any) -> Any:
    if value is None:
        raise TemplatingError(
            "a value is missing (null), and would be written as the word None",
            mend="Leave such rows out with `filter`, or write {{ name or '' }}.",
        )
    return value


_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, finalize=_refuse_null)
# What a template gives must depend on its row alone.
del _ENVIRONMENT.filters["random"], _ENVIRONMENT.globals["lipsum"]

# A sign right after or before the braces is whitespace control, not part of the expression.
_SINGLE_EXPRESSION = re.compile(r"\A\s*\{\{[-+]?((?:(?!\}\}|\{\{).)*?)-?\}\}\s*\Z", re.DOTALL)


@functools.lru_cache(maxsize=8192)
def compile_source(source: str) -> Callable[[Mapping[str, Any]], Any]:
    """Compile `source` once: a lone `{{ expression }}` keeps its type, everything else renders to text.

    Raises:
        TemplatingError: the source is not valid jinja2.
    """
    check_syntax(source)
    expression = _SINGLE_EXPRESSION.match(source)
    try:
        if expression:
            evaluate = _ENVIRONMENT.compile_expression(expression.group(1), undefined_to_none=False)
            return lambda variables: _guarded(source, variables, lambda: _settled(evaluate(variables)))
        template = _ENVIRONMENT.from_string(source)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise TemplatingError("too deeply nested", mend="Write it simpler.") from error
    return lambda variables: _guarded(source, variables, lambda: template.render(variables))


def check_syntax(source: str) -> None:
    """Raise a TemplatingError that names the fault and its line within the template."""
    try:
        tree = _ENVIRONMENT.parse(source)
        # jinja2 itself looks these up only when it compiles.
        for kind, known in ((nodes.Filter, _ENVIRONMENT.filters), (nodes.Test, _ENVIRONMENT.tests)):
            for node in tree.find_all(kind):
                if node.name not in known:
                    raise TemplateSyntaxError(f"there is no {kind.__name__.lower()} called {node.name}", node.lineno)
    except TemplateSyntaxError as error:
        raise TemplatingError(
            f"not valid jinja2 (line {error.lineno} of the template): {(error.message or '').rstrip('.')}",
            mend="Write variables as {{ name }} and blocks as {% if ... %} ... {% endif %}.",
        ) from error
    except RecursionError as error:
        raise TemplatingError("too deeply nested", mend="Write it simpler.") from error


def is_expression(source: str) -> bool:
    """Whether `source` is one `{{ expression }}` and nothing else, so that its value keeps its type."""
    return _SINGLE_EXPRESSION.match(source) is not None


@functools.lru_cache(maxsize=8192)
def variables_in(source: str) -> frozenset[str]:
    """Names that `source` takes from outside."""
    return frozenset(meta.find_undeclared_variables(_ENVIRONMENT.parse(source)))


def _settled(value: Any) -> Any:
    """The value itself: what `map` and its like would only give once is made a list, and nothing in it is undefined."""
    if isinstance(value, Iterator):
        value = list(value)
    if isinstance(value, Undefined) and not isinstance(value, StrictUndefined):
        return ""  # an `if` without `else`, which jinja2 writes as nothing
    _refuse_undefined(value)
    return value


def _refuse_undefined(value: Any) -> None:
    if isinstance(value, StrictUndefined):
        value._fail_with_undefined_error()
    if isinstance(value, list | tuple):
        for part in value:
            _refuse_undefined(part)
    elif isinstance(value, dict):
        for part in value.values():
            _refuse_undefined(part)


def _guarded(source: str, variables: Mapping[str, Any], render: Callable[[], Any]) -> Any:
    try:
        return render()
    except TemplatingError as error:
        raise TemplatingError(f"{error.message} in: {_shorten(source)}", mend=error.mend) from error
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
    except Exception as error:  # whatever a template does wrong, a person must read where
        raise TemplatingError(
            f"{type(error).__name__}: {error} in: {_shorten(source)}",
            mend="Check the types of the row's values with `flan tasks show`.",
        ) from error


def _shorten(source: str, width: int = 100) -> str:
    one_line = " ".join(source.split())
    return one_line if len(one_line) <= width else one_line[: width - 1] + "…"
