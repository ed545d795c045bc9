"""Zero-shot figures that others published, to be shown beside ours where task, metric and rows are the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from flanlab.results.schema import Results, TaskFacts
from flanlab.yaml_files import read_yaml_model


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
    metric: str
    flan_137b: float | None = None
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


def figures(task: TaskFacts, metric: str) -> dict[str, float]:
    """Model to its published score (0 to 1) on a task's rows by a metric; empty where none is comparable."""
    source = task.source
    if source is None:
        return {}
    for figure in published().figures:
        if (figure.hub, figure.config, figure.split, figure.metric) == (source.hub, source.config, source.split, metric):
            known = {model: getattr(figure, model) for model in published().models}
            return {model: value / 100 for model, value in known.items() if value is not None}
    return {}


def shown_models(results: Results, metric: str) -> Mapping[str, PublishedModel]:
    """The models that have a published figure for some task of these results by this metric."""
    found: Iterable[str] = {model for task in results.tasks.values() for model in figures(task, metric)}
    return {model: facts for model, facts in published().models.items() if model in found}
