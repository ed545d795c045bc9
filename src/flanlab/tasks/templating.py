"""Text and expressions of task files, rendered by jinja2 in its immutable sandbox: data in, text out, nothing foreign runs."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, UndefinedError, meta, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import sync_do_map
from jinja2.runtime import Context
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
# jinja2 would copy its globals for every rendering; a `Compiled` hands over those that its source names.
_GLOBALS = dict(_ENVIRONMENT.globals)
_ENVIRONMENT.globals.clear()


@pass_context
def _map(context: Context, values: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
    """jinja2's `map`, which looks its filter up anew for each value; not so for `replace`, which tasks use in long chains."""
    if arguments[:1] == ("replace",) and len(arguments) == 3 and not named:
        old, new = map(str, arguments[1:])
        return (str(value).replace(old, new) for value in values or ())
    return sync_do_map(context, values, *arguments, **named)


_ENVIRONMENT.filters["map"] = _map

# A sign right after or before the braces is whitespace control, not part of the expression.
_SINGLE_EXPRESSION = re.compile(r"\A\s*\{\{[-+]?((?:(?!\}\}|\{\{).)*?)-?\}\}\s*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A source ready to be filled in."""

    source: str
    names: tuple[str, ...]
    """What the source takes from outside."""
    _fill: Callable[[dict[str, Any]], Any]

    def __call__(self, *layers: Mapping[str, Any]) -> Any:
        """Fill in the names from the first of the layers that has them; no other name of a layer is looked at.

        Raises:
            TemplatingError: what is wrong, and where in the source.
        """
        found = {}
        for name in self.names:
            for layer in layers:
                if name in layer:
                    found[name] = layer[name]
                    break
            else:
                if name in _GLOBALS:
                    found[name] = _GLOBALS[name]
        try:
            return self._fill(found)
        except Exception as error:  # whatever a template does wrong, a person must read where
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
        expression = _SINGLE_EXPRESSION.match(source)
        if expression:
            evaluate = _ENVIRONMENT.compile_expression(expression.group(1), undefined_to_none=False)
            return Compiled(source, names, lambda found: _settled(evaluate(found)))
        fill = _ENVIRONMENT.from_string(source).render
        return Compiled(source, names, _filling_names(tree, names, fill) or fill)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise TemplatingError("too deeply nested", mend="Write it simpler.") from error


def _filling_names(
    tree: nodes.Template, names: Collection[str], otherwise: Callable[[dict[str, Any]], str]
) -> Callable[[dict[str, Any]], str] | None:
    """A quicker way than jinja2's to fill in a source of nothing but text and names; what is missing is left to jinja2."""
    parts = [part for output in tree.body for part in (output.nodes if isinstance(output, nodes.Output) else [output])]
    if not all(isinstance(part, nodes.TemplateData) or (isinstance(part, nodes.Name) and part.name in names) for part in parts):
        return None
    text = "".join("%s" if isinstance(part, nodes.Name) else part.data.replace("%", "%%") for part in parts)
    used = [part.name for part in parts if isinstance(part, nodes.Name)]

    def fill(found: dict[str, Any]) -> str:
        if len(found) < len(names) or None in found.values():
            return otherwise(found)
        return text % tuple([found[name] for name in used])

    return fill


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
    return frozenset(meta.find_undeclared_variables(_ENVIRONMENT.parse(source))) - _GLOBALS.keys()


def _settled(value: Any) -> Any:
    """The value itself: what `map` and its like would only give once is made a list, and nothing in it is undefined."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Iterator):
        value = list(value)
    if isinstance(value, Undefined) and not isinstance(value, StrictUndefined):
        return ""  # an `if` without `else`, which jinja2 writes as nothing
    _refuse_undefined(value)
    return value


_PLAIN = frozenset({str, int, float, bool, type(None)})


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
    """The error as one that a person can mend."""
    where = f"in: {_shorten(source)}"
    if isinstance(error, TemplatingError):
        return TemplatingError(f"{error.message} {where}", mend=error.mend)
    if isinstance(error, UndefinedError):
        known = sorted(map(str, frozenset().union(*layers)))
        return TemplatingError(f"{error.message} {where}", mend=f"Known here: {', '.join(known) or 'nothing'}.")
    if isinstance(error, SecurityError):
        return TemplatingError(
            f"refused by the sandbox: {error} {where}",
            mend="Templates may only read the row's values; they cannot reach Python internals.",
        )
    return TemplatingError(
        f"{type(error).__name__}: {error} {where}", mend="Check the types of the row's values with `flan tasks show`."
    )


def _shorten(source: str, width: int = 100) -> str:
    one_line = " ".join(source.split())
    return one_line if len(one_line) <= width else one_line[: width - 1] + "…"
