"""Pages from templates; everything put into them is escaped and shortened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from urllib.parse import urlencode

from jinja2 import Environment

from flanlab.report import wording
from flanlab.report.page import environment
from flanlab.ui.workplace import Workplace, short

Page = Callable[[Workplace, Mapping[str, str]], str]
"""From the fields of a form to HTML; raises FlanlabError."""


@cache
def _environment() -> Environment:
    found = environment(Path(__file__).parent / "templates")
    for filter_ in (short, tail, wording.number, wording.signed, wording.count):
        found.filters[filter_.__name__] = filter_
    found.globals["link"] = link
    return found


def show(template: str, /, **facts: object) -> str:
    """Fill in a page or a piece of one."""
    return _environment().get_template(f"{template}.html.j2").render(**facts)


def link(place: str, fields: Mapping[str, object] | None = None, **changes: object) -> str:
    """An address with a query; fields that are empty are left out."""
    query = {name: value for name, value in {**(fields or {}), **changes}.items() if value not in ("", None)}
    return f"{place}?{urlencode(query)}" if query else place


def tail(text: object, limit: int = 40) -> str:
    """A text as it fits into a list of choices: of a long path, the end tells more than the beginning."""
    whole = str(text)
    return whole if len(whole) <= limit else f"…{whole[1 - limit :]}"
