"""What a page offers for download: figures and tables as files of their own, held in the page itself too."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup


@dataclass(frozen=True)
class Drawing:
    """A figure of a page, offered as a file of its own."""

    name: str
    """Of the file, without its ending."""
    svg: Markup

    @cached_property
    def file(self) -> str:
        """The text of the file."""
        return standalone(self.svg)

    @property
    def address(self) -> str:
        """The file as a data: address."""
        return data_address("image/svg+xml", self.file)


def standalone(svg: Markup) -> str:
    """A page's figure as a file: the page's colours, by light, put into it."""
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", style.partition("@media")[0]))
    text = re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found.group(1)], str(svg))
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert box is not None
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{box.group(1)}" height="{box.group(2)}" font-family="sans-serif"'
    text = text.replace("font-family: inherit", "font-family: sans-serif")
    paper = f'<rect width="100%" height="100%" fill="{colours["paper"]}"/>'
    head, _, rest = text.removeprefix("<svg").partition(">")
    return f"{opening}{head}>{paper}{rest}"


def csv_text(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A table as a CSV file, the names of its columns first; None is an empty field."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return buffer.getvalue()


def data_address(kind: str, text: str) -> str:
    """A file as a data: address, so that the page needs nothing beside it."""
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"
