"""Zero-shot figures that others published, to be shown beside ours where task, metric and rows are the same."""

from __future__ import annotations

from collections.abc import Mapping
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
            kinds = dict.fromkeys(published().models, figure.kind) | dict.fromkeys(_ONE_PROMPT, "mean")
            known = {model: getattr(figure, model) for model, one in kinds.items() if one == kind}
            return {model: round(value / 100, 6) for model, value in known.items() if value is not None}
    return {}


class Beside:
    """Columns of figures beside a table, for the models that have one in some row.

    Args:
        known: by row, model to its figure.
    """

    def __init__(self, known: Mapping[Any, Mapping[str, float]]) -> None:
        self._known = known
        self._models = {name: one for name, one in published().models.items() if any(name in row for row in known.values())}
        self.columns = [f"other model:\n{model.title}" for model in self._models.values()]
        self.sources = " ".join(f"{model.title}: {model.source}." for model in self._models.values())

    def of(self, row: Any) -> list[Cell]:
        """A row's cells; empty where it has no figure."""
        return [Cell(self._known.get(row, {}).get(name)) for name in self._models]
