"""What the pages have in common: templates beside this file, with numbers and names as people read them."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flanlab.progress import clock
from flanlab.report import wording
from flanlab.report.plots import MARKERS


def page_environment() -> Environment:
    """Renders the pages; everything put into them is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for filter_ in (
        wording.number,
        wording.signed,
        wording.count,
        wording.counted,
        wording.cluster_title,
        clock,
        wording.listed,
        wording.breakable,
        wording.metric_title,
        wording.probability,
    ):
        environment.filters[filter_.__name__] = filter_
    environment.globals["markers"] = MARKERS
    return environment
