"""The one page: a verdict, a few numbers, a picture, then sections made of a few kinds of blocks.

Blocks are data. `page.html.j2` renders them as HTML, `cli/tables.py` renders a `Table` on a terminal.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flanlab.files import write_text
from flanlab.report import wording
from flanlab.report.plots import MARKERS, Drawing


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
    """A CSV file that the page holds itself."""

    title: str
    name: str
    text: str


@dataclass(frozen=True)
class Group:
    """Blocks under a title."""

    title: str | Markup
    blocks: Sequence[Block]
    kind: str = ""
    """`fold`: it opens on a click; `fold open` is open."""


Block: TypeAlias = str | Markup | Table | Figure | Items | Verbatim | Facts | Download | Group
"""A text is a paragraph."""


@dataclass(frozen=True)
class Page:
    """A report."""

    kind: str
    """What it is: report, comparison, ..."""
    title: str
    told: Iterable[str]
    """What the numbers say: the verdict, and what follows after the picture."""
    sections: Mapping[str, Iterable[Block]]
    """By title; those without content are left out."""
    footer: str
    lede: str = ""
    numbers: Sequence[tuple[str, Cell]] = ()
    """Those at the top, with titles."""
    picture: Figure | None = None


def write_page(page: Page, path: Path) -> None:
    """Write a page as one HTML file that opens offline, whole or not at all."""
    sections = {title: [block for block in blocks if block] for title, blocks in page.sections.items()}
    shown = [(title, blocks) for title, blocks in sections.items() if blocks]
    write_text(path, _environment().get_template("page.html.j2").render(page=page, told=list(page.told), sections=shown))


@cache
def _environment() -> Environment:
    found = environment(Path(__file__).parent)
    found.filters["kind"] = lambda block: type(block).__name__
    found.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode()
    found.globals["markers"] = MARKERS
    return found


def environment(folder: Path) -> Environment:
    """The templates of a folder; everything put into them is escaped."""
    found = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["breakable"] = wording.breakable
    return found


def text(*names: object, **facts: object) -> str:
    """Texts of texts.yaml by their names, with facts filled in; what is empty or false names none."""
    return " ".join(_texts()[str(name)].format(**facts) for name in names if name)


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
