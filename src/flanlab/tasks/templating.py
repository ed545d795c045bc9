"""Render texts and expressions of task files with jinja2, in its immutable sandbox: no foreign code runs."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, UndefinedError, meta, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import sync_do_map
from jinja2.runtime import Context

from flanlab.errors import FlanlabError
from flanlab.tasks.sandbox import BoundedEnvironment


class TemplatingError(FlanlabError):
    """A template that cannot be parsed or rendered."""


def printable(value: Any) -> Any:
    """The value itself, if it can be printed: not null, and nothing that would be printed as Python code.

    Raises:
        TemplatingError: says what the value is instead.
    """
    if type(value) in _PLAIN and value is not None:
        return value
    if value is None:
        raise TemplatingError(
            "a value is missing (null) and would be printed as the word None",
            hint="Write {{ name or '' }}, or leave such rows out with `filter`.",
        )
    if isinstance(value, bytes | bytearray):
        raise TemplatingError(
            "a value is bytes that are not text in UTF-8",
            hint="Write the column as text, or leave it out of the template.",
        )
    if isinstance(value, list | tuple | dict | set | frozenset):
        kind = "a mapping" if isinstance(value, dict) else "a list"
        raise TemplatingError(
            f"a value is {kind} and would be printed as Python code ({_shorten(repr(value), 60)})",
            hint="Choose a part of it, such as {{ name[0] }} or {{ name.member }}, or write {{ name | join(', ') }}"
            " or {{ name | tojson }}.",
        )
    return value


def as_json(value: Any, *, ensure_ascii: bool = False) -> str:
    """A value as JSON: quotes, <, non-Latin scripts and numbers stay as they are. What JSON does not know becomes a text."""
    if isinstance(value, Mapping):
        parts = ((as_json(str(name), ensure_ascii=ensure_ascii), part) for name, part in value.items())
        return "{" + ", ".join(f"{name}: {as_json(part, ensure_ascii=ensure_ascii)}" for name, part in parts) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(as_json(part, ensure_ascii=ensure_ascii) for part in value) + "]"
    # Numbers that are printed as they were written are of other types than plain ones.
    if isinstance(value, int | float | Decimal) and type(value) not in (bool, float):
        return str(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, default=str)


def _as_lines(values: Any) -> str:
    """Inputs without words around them: a line each, a list item by item, a mapping as `name: value` lines.

    What is nested deeper is JSON. A value that is missing has no line.
    """
    lines = []
    for value in values:
        if isinstance(value, Mapping):
            lines += [f"{name}: {line}" for name, part in value.items() if (line := _on_a_line(part))]
        else:
            lines += filter(None, map(_on_a_line, value if isinstance(value, list | tuple) else [value]))
    return "\n".join(lines)


def _on_a_line(value: Any) -> str:
    if isinstance(value, bool | Mapping | list | tuple):
        return as_json(value)
    is_missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if is_missing else str(printable(value)).strip()


_PLAIN = frozenset({str, int, float, bool, type(None)})

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


@pass_context
def _map(context: Context, values: Any, *arguments: Any, **named: Any) -> Iterable[Any]:
    """jinja2's `map`, but faster for `replace`, which tasks use in long chains: jinja2 looks up the filter for each value."""
    if arguments[:1] == ("replace",) and len(arguments) == 3 and not named:
        old, new = map(str, arguments[1:])
        return (str(value).replace(old, new) for value in values or ())
    return sync_do_map(context, values, *arguments, **named)


_ENVIRONMENT.filters["map"] = _map
_ENVIRONMENT.filters["tojson"] = as_json
_ENVIRONMENT.filters["as_lines"] = _as_lines

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
    tree = _ENVIRONMENT.parse(source)
    try:
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
    if type(value) in _PLAIN:
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
