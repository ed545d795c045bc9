"""Zero-shot figures that others published, to be shown beside ours where task, metric and rows are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from flanlab.report.page import Cell
from flanlab.results.schema import TaskFacts
from flanlab.yaml_files import read_yaml_model

Kind = Literal["mean", "best dev template"]
"""The mean over templates, or the template that is best on dev rows."""
_ONE_PROMPT = ("gpt3_175b",)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedModel(_Strict):
    """A model, and where its figures come from."""

    title: str
    source: str


class Figure(_Strict):
    """What is known of one metric on the rows of one split; figures are 0 to 100."""

    hub: str
    config: str | None = None
    split: str
    rows: int
    """Of the whole split as published."""
    metric: str
    flan_137b: float | None = None
    kind: Kind | None = None
    """What FLAN's figure is; None: not known. GPT-3 was asked one prompt, which is neither."""
    gpt3_175b: float | None = None
    quoted: str | None = None
    """Where FLAN's figure was found."""


class Published(_Strict):
    """published.yaml."""

    models: dict[str, PublishedModel]
    not_found: str
    figures: list[Figure]


@cache
def published() -> Published:
    """The packaged figures."""
    return read_yaml_model(Path(__file__).parent / "published.yaml", Published, "list of published figures")


def figures(task: TaskFacts, metric: str, kind: Kind = "mean") -> dict[str, float]:
    """Model to its published score (0 to 1) of a kind, on a task's rows by a metric.

    Empty where none is comparable: other rows, part of the split, or figures of another kind or of one that is not known.
    """
    source = task.source
    if source is None:
        return {}
    for figure in published().figures:
        same = (figure.hub, figure.config, figure.split, figure.metric) == (source.hub, source.config, source.split, metric)
        if same and task.rows == figure.rows:
            known = {
                model: getattr(figure, model)
                for model in published().models
                if (kind == "mean" if model in _ONE_PROMPT else figure.kind == kind)
            }
            return {model: round(value / 100, 6) for model, value in known.items() if value is not None}
    return {}


@dataclass(frozen=True)
class Beside:
    """Columns of figures beside a table."""

    columns: list[str]
    cells: dict[Any, list[Cell]]
    """By row; those of a row that is not here are empty."""
    sources: str

    def of(self, row: Any) -> list[Cell]:
        """A row's cells."""
        return self.cells.get(row, [Cell()] * len(self.columns))


def beside(known: Mapping[Any, Mapping[str, float]]) -> Beside:
    """Columns for the models that have a figure in some row, from the rows' figures."""
    models = {name: facts for name, facts in published().models.items() if any(name in row for row in known.values())}
    return Beside(
        [f"other model:\n{model.title}" for model in models.values()],
        {key: [Cell(row.get(name)) for name in models] for key, row in known.items()},
        " ".join(f"{model.title}: {model.source}." for model in models.values()),
    )
