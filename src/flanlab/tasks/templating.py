"""Render texts and expressions of task files with jinja2, in its immutable sandbox: no foreign code runs."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context

from flanlab.tasks.printing import PLAIN, CheckedOperators, TemplatingError, printable, printing_filters
from flanlab.tasks.sandbox import BoundedEnvironment

_ENVIRONMENT = BoundedEnvironment(undefined=StrictUndefined, autoescape=False, finalize=printable)
# The output of a template must depend on its row only.
del _ENVIRONMENT.filters["random"], _ENVIRONMENT.globals["lipsum"]
# jinja2 would copy its globals for each rendering. A `Compiled` passes only those that its source uses.
_GLOBALS = dict(_ENVIRONMENT.globals)
_ENVIRONMENT.globals.clear()


class _Context(Context):
    """Skips the record of globals that jinja2 makes for each rendering: only imports need it."""

    def __init__(self, *arguments: Any, globals: Any = None) -> None:
        super().__init__(*arguments)


_ENVIRONMENT.context_class = _Context
_ENVIRONMENT.filters.update(printing_filters(_ENVIRONMENT.filters))

# A sign right after or before the braces is whitespace control, not part of the expression.
_SINGLE_EXPRESSION = re.compile(r"\A\s*\{\{[-+]?((?:(?!\}\}|\{\{).)*?)-?\}\}\s*\Z", re.DOTALL)

Fill = Callable[[dict[str, Any]], Any]
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Compiled:
    """A source, compiled and ready to render."""

    source: str
    names: tuple[str, ...]
    """Names that the source uses."""
    _fill: Fill

    def __call__(self, *layers: Mapping[str, Any]) -> Any:
        """Render with each name's value from the first layer that has it. No other name of a layer is read.

        Raises:
            TemplatingError: says what is wrong, and where in the source.
        """
        found = {}
        for name in self.names:
            for layer in layers:
                if (value := layer.get(name, _ABSENT)) is not _ABSENT:
                    found[name] = value
                    break
            else:
                if name in _GLOBALS:
                    found[name] = _GLOBALS[name]
        try:
            return self._fill(found)
        except Exception as error:  # any error of a template must be reported with its place
            raise _explained(error, self.source, layers) from error


@functools.lru_cache(maxsize=8192)
def compile_source(source: str) -> Compiled:
    """Compile `source` once: a lone `{{ expression }}` keeps its type, everything else renders to text.

    Raises:
        TemplatingError: the source is not valid jinja2.
    """
    check_syntax(source)
    try:
        tree = CheckedOperators().visit(_ENVIRONMENT.parse(source))
        names = tuple(meta.find_undeclared_variables(tree))
        parts = [part for output in tree.body for part in (output.nodes if isinstance(output, nodes.Output) else [output])]
        if is_expression(source):
            [expression] = (part for part in parts if isinstance(part, nodes.Expr) and not isinstance(part, nodes.TemplateData))
            fill = _filling_in_value(expression)
        else:
            fill = _filling_in_text(tree)
        if all(isinstance(part, nodes.TemplateData) or (isinstance(part, nodes.Name) and part.name in names) for part in parts):
            fill = _filling_names(source, parts, names, fill)
        return Compiled(source, names, fill)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise TemplatingError("too deeply nested", hint="Write it simpler.") from error


def _filling_in_value(expression: nodes.Expr) -> Fill:
    template = _ENVIRONMENT.from_string(
        nodes.Template([nodes.Assign(nodes.Name("value", "store"), expression, lineno=1)], lineno=1)
    )

    def fill(found: dict[str, Any]) -> Any:
        context = template.new_context(found, shared=True)
        for _ in template.root_render_func(context):
            pass
        return _settled(context.vars["value"])

    return fill


def _filling_in_text(tree: nodes.Template) -> Fill:
    template = _ENVIRONMENT.from_string(tree)
    return lambda found: "".join(template.root_render_func(template.new_context(found, shared=True)))


def _filling_names(source: str, parts: Sequence[nodes.Node], names: Collection[str], otherwise: Fill) -> Fill:
    """A faster way for a source of only text and names. If a name or value is missing, jinja2 renders it."""
    text = "".join(part.data.replace("%", "%%") if isinstance(part, nodes.TemplateData) else "%s" for part in parts)
    used = [part.name for part in parts if isinstance(part, nodes.Name)]
    keeps_type = is_expression(source)

    def fill(found: dict[str, Any]) -> Any:
        if len(found) < len(names) or None in found.values():
            return otherwise(found)
        return _settled(found[used[0]]) if keeps_type else text % tuple([printable(found[name]) for name in used])

    return fill


def check_syntax(source: str) -> None:
    """Raise a TemplatingError with the error and its line in the template."""
    try:
        tree = _parsed(source)
        # jinja2 itself looks these up only when it compiles.
        for node in tree.find_all((nodes.Filter, nodes.Test)):
            kind = type(node).__name__.lower()
            if node.name not in (_ENVIRONMENT.filters if kind == "filter" else _ENVIRONMENT.tests):
                raise TemplateSyntaxError(f"there is no {kind} called {node.name}", node.lineno)
    except TemplateSyntaxError as error:
        raise TemplatingError(
            f"not valid jinja2 (line {error.lineno} of the template): {(error.message or '').rstrip('.')}",
            hint="Write variables as {{ name }} and blocks as {% if ... %} ... {% endif %}.",
        ) from error
    except RecursionError as error:
        raise TemplatingError("too deeply nested", hint="Write it simpler.") from error


@functools.lru_cache(maxsize=64)
def _parsed(source: str) -> nodes.Template:
    """A source as jinja2 parses it. Cached, because its syntax and its names are needed one after the other."""
    return _ENVIRONMENT.parse(source)


def is_expression(source: str) -> bool:
    """Whether `source` is exactly one `{{ expression }}`, so its value keeps its type."""
    return _SINGLE_EXPRESSION.match(source) is not None


@functools.lru_cache(maxsize=8192)
def variables_in(source: str) -> frozenset[str]:
    """Names that `source` uses."""
    return frozenset(meta.find_undeclared_variables(_parsed(source))) - _GLOBALS.keys()


def _settled(value: Any) -> Any:
    """The value itself, without undefined values. The result of `map` and others, which can be read once, becomes a list."""
    if type(value) in PLAIN:
        return value
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


def _explained(error: Exception, source: str, layers: Sequence[Mapping[str, Any]]) -> TemplatingError:
    """The error as a TemplatingError with a hint."""
    where = f"in: {_shorten(source)}"
    if isinstance(error, TemplatingError):
        missing = sorted(name for name in variables_in(source) if any(layer.get(name, "") is None for layer in layers))
        names = f" (missing in this row: {', '.join(missing)})" if missing else ""
        return TemplatingError(f"{error.message} {where}{names}", hint=error.hint)
    if isinstance(error, UndefinedError):
        known = sorted(map(str, frozenset().union(*layers)))
        return TemplatingError(f"{error.message} {where}", hint=f"Known names: {', '.join(known) or 'nothing'}.")
    if isinstance(error, SecurityError):
        return TemplatingError(
            f"refused by the sandbox: {error} {where}",
            hint="Templates may only read the row's values; they cannot reach Python internals.",
        )
    return TemplatingError(
        f"{type(error).__name__}: {error} {where}", hint="Check the types of the row's values with `flan tasks show`."
    )


def _shorten(source: str, width: int = 100) -> str:
    one_line = " ".join(source.split())
    return one_line if len(one_line) <= width else one_line[: width - 1] + "…"
