"""The files of a run folder, read and checked, so that the rest of the report need not doubt them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from flanlab.errors import FlanlabError
from flanlab.files import read_json

TUNED = "tuned"
MAIN_METRIC = "main_metric"
"""In averages over clusters: the main metric of each task, whichever that is."""

Content = TypeVar("Content")

Number = Annotated[float, Field(allow_inf_nan=False)]
Interval = tuple[Number, Number]
FolderName = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$")]
"""Variants and tasks name folders of predictions; no such name leads out of the run's folder."""


class Score(BaseModel):
    """One metric of one variant: the mean over templates (0 to 1), its interval, and the spread over templates, if any."""

    mean: Number
    interval: Interval
    std: Number | None = None
    min: Number | None = None
    max: Number | None = None
    by_template: dict[str, Number] = {}


class Difference(BaseModel):
    """After minus before, in the metric's unit (0 to 1), with its interval."""

    before: str
    after: str
    difference: Number
    interval: Interval

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        low, high = self.interval
        return low > 0 or high < 0


Scores = dict[str, dict[str, Score]]
"""Metric to variant to score."""


class BestTemplate(BaseModel):
    """The template that is best on dev: by its `dev_score` of `metric`, with its score on test over rows alone."""

    template: int
    metric: str
    dev_score: Number
    dev_rows: int
    score: Number
    interval: Interval


class RowSource(BaseModel):
    """Where on the Hub a task's rows come from; `split` is a slicing expression."""

    hub: str
    config: str | None
    split: str | None


class Hashes(BaseModel):
    """Identity of the task's file and of the rows read."""

    task: str
    rows: str


class TaskResult(BaseModel):
    """One evaluated task."""

    clusters: list[str] = []
    description: str | None = ""
    rows: int
    templates: list[int]
    shortened: int = 0
    main_metric: str
    declared_metrics: list[str] = []
    source: RowSource | None = None
    hashes: Hashes | None = None
    """None in results of a version that could not compare runs."""
    metrics: dict[str, str]
    definitions: dict[str, str] = {}
    chance: Number | None = None
    majority: Number | None = None
    scores: Scores
    comparison: dict[str, Difference] = {}
    best_dev_template: dict[str, BestTemplate] | None = {}
    """By variant; empty where none was asked for, None where the task has no dev split."""
    seen: str | None = None
    """Why this is no zero-shot result, where the model was trained on the task or on what is close to it."""

    @property
    def is_classification(self) -> bool:
        """Whether the task offers options to choose from."""
        return self.chance is not None


class Average(BaseModel):
    """Means over tasks, for the metrics that all tasks have."""

    tasks: int
    scores: Scores
    comparison: dict[str, Difference] = {}


class ClusterAverage(BaseModel):
    """Means over clusters, for the metrics that all clusters have."""

    clusters: int
    scores: Scores
    comparison: dict[str, Difference] = {}


class Evaluation(BaseModel):
    """How was evaluated: the seed, and the settings as a recipe has them."""

    seed: int
    settings: dict[str, Any]


class Results(BaseModel):
    """results.json, of a run or of an evaluation without training."""

    format: Literal[1]
    name: str
    description: str | None = ""
    hold_out: list[str] = []
    left_out: dict[str, str] = {}
    allowed_overlaps: dict[str, str] = {}
    trained_on: dict[str, str] = {}
    model: str
    parameters: int | None = None
    precision: dict[str, str | None] = {}
    """Numbers that `training` and `scoring` computed in; empty in results of an older version."""
    scoring: Literal["log-probabilities", "generation"] = "log-probabilities"
    """Whether options were ranked, or answers generated and compared with the options."""
    variants: dict[FolderName, str] = Field(min_length=1)
    tasks: dict[FolderName, TaskResult] = Field(min_length=1)
    average: Average | None = None
    clusters: dict[str, Average] = {}
    cluster_average: ClusterAverage | None = None
    evaluation: Evaluation | None = None
    stamped: dict[str, bool] = {}
    """By variant, whether the model says what it was trained on."""
    notes: list[str] = []
    seconds: Number | None = None

    @property
    def end_token(self) -> bool:
        """Whether the options' scores that count include the end token."""
        return self.evaluation is None or bool(self.evaluation.settings.get("end_token", True))

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        for name, task in self.tasks.items():
            if task.main_metric not in task.scores:
                raise ValueError(f"tasks.{name}.main_metric: {task.main_metric} has no scores")
            if missing := set(task.scores) - set(task.metrics):
                raise ValueError(f"tasks.{name}.metrics: no title for {', '.join(sorted(missing))}")
            _check_variants(f"tasks.{name}", task, self.variants)
        for name, part in self.clusters.items():
            _check_variants(f"clusters.{name}", part, self.variants)
        if self.average:
            _check_variants("average", self.average, self.variants)
        if self.cluster_average:
            _check_variants("cluster_average", self.cluster_average, self.variants)
        return self


def _check_variants(where: str, part: TaskResult | Average | ClusterAverage, variants: Mapping[str, str]) -> None:
    for metric, by_variant in part.scores.items():
        if set(by_variant) != set(variants):
            raise ValueError(f"{where}.scores.{metric}: expected {', '.join(variants)}, found {', '.join(by_variant)}")
    for metric, compared in part.comparison.items():
        if metric not in part.scores or not {compared.before, compared.after} <= set(variants):
            raise ValueError(f"{where}.comparison.{metric}: compares what has no scores")


class MixtureTask(BaseModel):
    """What training reads of one task."""

    cluster: str
    rows: int
    epochs: Number
    examples: int
    tokens: int
    target_tokens: int
    shortened: int
    dropped: dict[str, int]


class MixtureCard(BaseModel):
    """mixture.json."""

    planned_examples: int
    measured_examples: int
    cycle_length: int
    tasks: dict[str, MixtureTask]


class TrainingStep(BaseModel):
    """One line of training/log.jsonl; the loss is natural-log, per target token."""

    step: int
    loss: Number
    examples: int
    tokens: int
    target_tokens: int
    seconds: Number
    dev_loss: dict[str, Number] = {}
    """By cluster, of the dev rows of the training tasks; empty for a step after which none was measured."""


@dataclass(frozen=True)
class RunFiles:
    """What a report is made from, except predictions; None or empty is what an evaluation alone does not have."""

    folder: Path
    results: Results
    mixture: MixtureCard | None
    facts: Mapping[str, Any]
    recipe: str | None
    steps: list[TrainingStep]


def read_results(folder: Path) -> Results:
    """Read results.json alone.

    Raises:
        FlanlabError: it is missing or damaged.
    """
    path = folder / "results.json"
    return parse(TypeAdapter(Results), path, read_json(path))


def read_run(folder: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        FlanlabError: results.json is missing, or a file is damaged.
    """
    mixture, facts = folder / "mixture.json", folder / "run.json"
    recipe = folder / "recipe.yaml"
    return RunFiles(
        folder,
        read_results(folder),
        parse(TypeAdapter(MixtureCard), mixture, read_json(mixture)) if mixture.exists() else None,
        parse(TypeAdapter(dict[str, Any]), facts, read_json(facts)) if facts.exists() else {},
        recipe.read_text(encoding="utf-8") if recipe.exists() else None,
        _read_log(folder / "training" / "log.jsonl"),
    )


def parse(kind: TypeAdapter[Content], path: Path, content: Any) -> Content:
    """The content of a file, checked.

    Raises:
        FlanlabError: it is not what it should be.
    """
    try:
        return kind.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FlanlabError(
            f"{path}: is damaged, or from another version of flanlab ({f'{place}: ' if place else ''}{first['msg']}).",
            hint="Run the command that wrote it again; predictions that are there are kept.",
        ) from error


def _read_log(path: Path) -> list[TrainingStep]:
    if not path.exists():
        return []
    steps = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            steps.append(TrainingStep.model_validate(json.loads(line)))
        except ValueError as error:
            raise FlanlabError(
                f"{path}, line {number}: is damaged.", hint="Delete the file: the report then leaves the curve out."
            ) from error
    return steps
