"""How values of a row become text: by jinja2's filters and operators, in which nothing turns into Python code or a word unseen.

jinja2 prints whatever it gets: `{{ title | trim }}` of a missing title is the word None, `{{ names | join(", ") }}` may contain
`b'...'`, `{{ label | int }}` of an empty label is 0, and `{{ endings[label] }}` of the label -1 (none) is the last ending.
A row with such a value is an error here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import wraps
from typing import Any

from jinja2 import Undefined, nodes, pass_context, pass_environment
from jinja2.environment import Environment
from jinja2.filters import do_float, do_int, make_attrgetter, sync_do_map
from jinja2.runtime import Context, TemplateReference
from jinja2.visitor import NodeTransformer

from flanlab.errors import FlanlabError


class TemplatingError(FlanlabError):
    """A template that cannot be parsed or rendered."""


PLAIN = frozenset({str, int, float, bool, type(None)})
"""Types of most values."""


def is_missing(value: Any) -> bool:
    """Whether a value is null, or not a number (NaN), as many programs write a missing value."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def printable(value: Any) -> Any:
    """The value itself, if it can be printed: not missing, and nothing that would be printed as Python code.

    A decimal is its digits, which Python would write as 0E-10. True and False stay as they are: jinja2 prints them so, and
    templates that were written for it may compare with these words.

    Raises:
        TemplatingError: says what the value is instead.
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool:
        return value
    if is_missing(value):
        name, word = ("null", "None") if value is None else ("NaN", "nan")
        raise TemplatingError(
            f"a value is missing ({name}) and would be printed as the word {word}",
            hint="Write {% if name %} ... {% endif %} around it, or {{ name or '' }}, or leave such rows out with `filter`."
            if value is None
            else "Leave such rows out with `filter`, for example with {{ name == name }}.",
        )
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, TemplateReference) or (callable(value) and not isinstance(value, Undefined)):
        raise TemplatingError(
            f"a value is {getattr(value, '__name__', 'self')}, which means something of its own in jinja2",
            hint="Write row['self'] for a column of this name, and name['items'] for a part called items.",
        )
    if isinstance(value, bytes | bytearray):
        raise TemplatingError(
            "a value is bytes that are not text in UTF-8",
            hint="Write the column as text, or leave it out of the template.",
        )
    if isinstance(value, list | tuple | dict | set | frozenset):
        what = "a mapping" if isinstance(value, dict) else "a list"
        code = repr(value)
        raise TemplatingError(
            f"a value is {what} and would be printed as Python code ({code if len(code) <= 60 else code[:59] + '…'})",
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
    if isinstance(value, Decimal):
        return format(value, "f")
    # Numbers that are printed as they were written are of other types than plain ones.
    if isinstance(value, int | float) and type(value) not in (bool, float):
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
    return "" if is_missing(value) else str(printable(value)).strip()


def _string(value: Any) -> str:
    """jinja2's `string`. A missing value is a word, because `{{ label | string in ['0', '1'] }}` asks for that in filters."""
    return str(value if is_missing(value) else printable(value))


@pass_environment
def _join(environment: Environment, values: Iterable[Any], separator: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    return str(printable(separator)).join(str(printable(value)) for value in values)


@pass_context
def _map(context: Context, values: Any, *arguments: Any, **named: Any) -> Iterable[Any]:
    """jinja2's `map`, but faster for `replace`, which tasks use in long chains: jinja2 looks up the filter for each value."""
    if arguments[:1] == ("replace",) and len(arguments) == 3 and not named:
        old, new = (str(printable(argument)) for argument in arguments[1:])
        return (str(printable(value)).replace(old, new) for value in values or ())
    return sync_do_map(context, values, *arguments, **named)


def _number(function: Callable[..., Any]) -> Callable[..., Any]:
    """`int` or `float`: without a default, what is no number is an error instead of 0."""

    @wraps(function)
    def call(value: Any, default: Any = _ABSENT, *arguments: Any, **named: Any) -> Any:
        found = function(value, default, *arguments, **named)
        if is_missing(found):
            found = default
        if found is _ABSENT:
            raise TemplatingError(
                f"{value!r} is not a number",
                hint="Leave such rows out with `filter`, or say what it counts as, such as {{ label | int(-1) }}.",
            )
        return found

    return call


_ABSENT = object()


@pass_environment
def _item(environment: Environment, values: Any, place: Any) -> Any:
    """`values[place]` where the place is computed: -1 is then a label that says "no label", not the last value."""
    if isinstance(place, Undefined):
        str(place)  # raises, and names what is undefined
    if isinstance(place, float) and place.is_integer():
        place = int(place)  # a column of labels, some of them missing, is often one of fractions
    if isinstance(values, list | tuple | str) and place not in range(len(values)):
        raise TemplatingError(
            f"[{place!r}] does not exist: labels go from 0 to {len(values) - 1} here",
            hint="This label is text. Make a number of it with {{ label | int }}, or a place with {{ names.index(label) }}."
            if isinstance(place, str)
            else 'Leave out rows without a label, for example with `filter: "{{ label >= 0 }}"`.',
        )
    return environment.getitem(values, place)


def _of_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of texts, which would print anything else first."""

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return function(*map(printable, arguments), **named)

    return call


_OF_TEXTS = (
    "capitalize center e escape forceescape indent lower replace striptags title trim truncate upper urlize wordcount wordwrap"
)


def printing_filters(filters: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """The filters of an environment that make text or numbers of values, changed so that they refuse what is neither."""
    return {
        **{name: _of_text(filters[name]) for name in _OF_TEXTS.split()},
        "as_lines": _as_lines,
        "float": _number(do_float),
        "int": _number(do_int),
        "item": _item,
        "join": _join,
        "map": _map,
        "printable": printable,
        "string": _string,
        "tojson": as_json,
    }


class CheckedOperators(NodeTransformer):
    """Gives the operators `a ~ b` and `a[b]` of a parsed template the checks of the filters `printable` and `item`."""

    def visit_Concat(self, node: nodes.Concat, *arguments: Any, **named: Any) -> nodes.Node:  # noqa: N802
        """Every text that is joined can be printed."""
        self.generic_visit(node)
        return nodes.Concat([_filtered("printable", part) for part in node.nodes], lineno=node.lineno)

    def visit_Getitem(self, node: nodes.Getitem, *arguments: Any, **named: Any) -> nodes.Node:  # noqa: N802
        """A place that is computed counts from the start. `[-1]`, `[-count]` and slices are written on purpose."""
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Const | nodes.Neg | nodes.Slice):
            return node
        return _filtered("item", node.node, node.arg)


def _filtered(name: str, value: nodes.Expr, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(arguments), [], None, None, lineno=value.lineno)
