"""The one page: a verdict, a few numbers, a picture, then sections made of a few kinds of blocks.

Blocks are data. `page.html.j2` renders them as HTML, `cli/tables.py` renders a `Table` on a terminal.
"""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flanlab.files import write_text
from flanlab.report import wording
from flanlab.report.plots import MARKERS


@dataclass(frozen=True)
class Cell:
    """A number with its interval, or a text, or both."""

    value: float | None = None
    shown: Callable[[float], str] = wording.number
    """From the value, and from the ends of the interval, to what is written."""
    interval: tuple[float, float] | None = None
    text: str | Markup = ""
    marks: Sequence[str] = ()
    """What must be known with the number: seen in training, not comparable."""
    below: Sequence[str | Markup] = ()
    """Details, which a terminal leaves out."""
    kind: str = ""
    """Its class in the style sheet."""

    @property
    def number(self) -> str:
        """The number as it is written; empty where there is none."""
        return "" if self.value is None else self.shown(self.value)

    @property
    def ends(self) -> str:
        """The interval as it is written; empty where there is none."""
        return "" if self.interval is None else f"[{self.shown(self.interval[0])}, {self.shown(self.interval[1])}]"


MISSING = Cell(text="\N{EN DASH}")


def plain(value: float | None, shown: Callable[[float], str] = wording.number, missing: Cell = MISSING) -> Cell:
    """A number without an interval."""
    return missing if value is None else Cell(value, shown, kind="level")


@dataclass(frozen=True)
class Row:
    """A line of a table. A single cell reaches across all columns."""

    name: str
    cells: Sequence[Cell] = ()
    marks: Sequence[str | Markup] = ()
    kind: str = ""
    """`total`, or `cluster` for the heading of a group of rows and `member` for those rows."""


@dataclass(frozen=True)
class Table:
    """Rows under columns. In a title of a column a line break stands for itself."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    corner: str = ""
    """Title of the rows' names."""
    kind: str = ""
    """`pinned`: the first two columns stay in view on a narrow screen. `plain`: texts."""
    beside: int = 0
    """So many last columns are of others' models, and stand beside a rule."""


@dataclass(frozen=True)
class Drawing:
    """A figure as inline SVG, offered as a file if it has a name."""

    svg: Markup
    name: str = ""
    """Of the file, without its ending."""

    @cached_property
    def file(self) -> str:
        """The text of the file: the figure with the page's colours, by light, put into it."""
        colours = dict(re.findall(r"--([\w-]+): (#\w+)", _style().partition("@media")[0]))
        text = re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found.group(1)], str(self.svg))
        box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
        assert box is not None
        size = f'width="{box.group(1)}" height="{box.group(2)}" font-family="sans-serif"'
        head, _, rest = text.replace("font-family: inherit", "font-family: sans-serif").removeprefix("<svg").partition(">")
        paper = f'<rect width="100%" height="100%" fill="{colours["paper"]}"/>'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size}{head}>{paper}{rest}'

    @property
    def link(self) -> Download:
        """The file, to be downloaded."""
        return Download("SVG", f"{self.name}.svg", "image/svg+xml", self.file)


@dataclass(frozen=True)
class Key:
    """An entry of a legend; colours and markers follow the order."""

    title: str
    hollow: bool = False
    dashed: bool = False
    colour: str = ""
    """A variable of the style sheet, where it is not the colour of its place."""


@dataclass(frozen=True)
class Figure:
    """Drawings side by side, with one legend and one caption."""

    drawings: Sequence[Drawing]
    caption: str = ""
    legend: Sequence[Key] = ()
    kind: str = ""
    """`single`: one drawing, larger. `wide`: one drawing of several panels."""


@dataclass(frozen=True)
class Items:
    """A list."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Verbatim:
    """A text as it is, line by line."""

    text: str | Markup


@dataclass(frozen=True)
class Facts:
    """Names with values."""

    facts: Mapping[str, str | Markup]


@dataclass(frozen=True)
class Download:
    """A file that the page holds itself."""

    title: str
    name: str
    media: str
    text: str

    @property
    def address(self) -> str:
        """The file as a data: address, so that the page needs nothing beside it."""
        return f"data:{self.media};base64,{base64.b64encode(self.text.encode()).decode()}"


@dataclass(frozen=True)
class Group:
    """Blocks under a title."""

    title: str | Markup
    blocks: Sequence[Block]
    kind: str = "section"
    """`section`, `part` of one, or `fold`, which opens on a click; `fold open` is open."""
    id: str = ""


Block: TypeAlias = str | Markup | Table | Figure | Items | Verbatim | Facts | Download | Group
"""A text is a paragraph."""


@dataclass(frozen=True)
class Headline:
    """One of the numbers at the top."""

    title: str
    cell: Cell


@dataclass(frozen=True)
class Page:
    """A report."""

    kind: str
    """What it is: report, comparison, ..."""
    title: str
    verdict: str
    sections: Sequence[Group]
    lede: str = ""
    numbers: Sequence[Headline] = ()
    picture: Figure | None = None
    sentences: Sequence[str] = ()
    """What else the numbers say, after the picture."""
    footer: str = ""


def write_page(page: Page, path: Path) -> None:
    """Write a page as one HTML file that opens offline, whole or not at all."""
    write_text(path, page_environment().get_template("page.html.j2").render(page=page))


@cache
def page_environment() -> Environment:
    """Renders pages; everything put into them is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = wording.breakable
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.globals["markers"] = MARKERS
    return environment


@cache
def _style() -> str:
    return (Path(__file__).parent / "style.css").read_text(encoding="utf-8")


def text(name: str, **facts: object) -> str:
    """A text of texts.yaml, with facts filled in."""
    return _texts()[name].format(**facts)


@cache
def _texts() -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load((Path(__file__).parent / "texts.yaml").read_text(encoding="utf-8"))
    return found


def exact(value: float, shown: Callable[[float], str] = wording.number) -> Markup:
    """A number as it is written, with all its digits for programs."""
    return Markup('<data value="{}">{}</data>').format(value, shown(value))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as a CSV file; None is an empty field."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
