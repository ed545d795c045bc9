"""Zero-shot figures that others published, to be shown beside ours where task, metric and rows are the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from flanlab.results.schema import Results, TaskFacts
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


def shown_models(results: Results, metric: str) -> Mapping[str, PublishedModel]:
    """The models that have a published figure for some task of these results by this metric."""
    found: Iterable[str] = {model for task in results.tasks.values() for model in figures(task, metric)}
    return {model: facts for model, facts in published().models.items() if model in found}
