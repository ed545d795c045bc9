"""The one definition of results: a run, an evaluation, a cell of an ablation and a comparison are all described by it.

Numbers stand in a tidy table: one `Score` is one number with its interval, and says of what, how and by which model.
Everything else (which models, which tasks, which metrics) stands once beside the table, as facts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

FORMAT: Final = 2
TUNED = "tuned"
"""Name of the variant of a run's tuned model."""
_KEPT = f"{TUNED}_step_"
IN_DOMAIN = "in-domain"
SEEN = "seen in training"
"""How scores are marked that are not zero-shot: on other rows of a task whose train rows were trained on, or any other."""
MAIN_METRIC = "main_metric"
"""In means over clusters: the main metric of each task, whichever that is."""
MEAN = "mean"
"""In the column `template`: the mean over templates."""
BEST_ON_DEV = "best on dev"
"""In the column `template`: the template that is best on dev rows, scored on the test rows."""
QUANTILES: Final = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
"""In the column `template`: an estimated quantile over all templates, of which each row was shown a few."""

Number = Annotated[float, Field(allow_inf_nan=False)]
_ROUNDING = 1e-9
Rate = Annotated[float, Field(ge=-1 - _ROUNDING, le=1 + _ROUNDING, allow_inf_nan=False)]
"""A score: 0 to 1, or -1 to 1 for correlations."""
_Change = Annotated[float, Field(ge=-2 - _ROUNDING, le=2 + _ROUNDING, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1 + _ROUNDING, allow_inf_nan=False)]
_Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$")]
"""Variants and tasks name folders of predictions: no such name leads out of the run's folder."""
Level = Literal["task", "cluster", "tasks", "clusters", "in_domain"]
"""What a number is about: one task or subtask, the mean over a cluster's tasks, the mean over all tasks, or over clusters.

Where there are both zero-shot and in-domain tasks, these means are over the zero-shot ones; `in_domain` is over the others.
"""


def kept_variant(step: int) -> str:
    """Name of the variant of a model that was kept after a step of training (`training.keep_steps`)."""
    return f"{_KEPT}{step}"


def kept_step(variant: str) -> int | None:
    """The step after which a variant's model was kept; None for any other variant."""
    step = variant.removeprefix(_KEPT)
    return int(step) if step != variant and step.isdecimal() else None


def _check_order(low: float, value: float, high: float) -> None:
    if not low - _ROUNDING <= value <= high + _ROUNDING:
        raise ValueError(f"the interval from {low} to {high} does not contain {value}")


def _refuse_twice(what: str, keys: list[tuple[str | None, ...]]) -> None:
    if len(set(keys)) < len(keys):
        level, name, *rest = next(key for key, count in Counter(keys).items() if count > 1)
        raise ValueError(f"{what}: {', '.join(filter(None, (name or level, *rest)))}: is given twice")


class Frozen(BaseModel):
    """A part of results: unchangeable, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Row(Frozen):
    """What every row of a table says: what it is about, and by which metric."""

    level: Level
    task: Name | None = None
    subtask: str | None = None
    cluster: str | None = None
    """A task's home cluster, the first that it names; None for the means over all tasks and over clusters."""
    metric: str

    @property
    def name(self) -> str | None:
        """The task as it is named (`anli.r1` for a subtask), or the cluster; None for the means over everything."""
        if self.level == "task":
            return f"{self.task}.{self.subtask}" if self.subtask else self.task
        return self.cluster


class Score(_Row):
    """A row of the score table. Scores and interval ends are 0 to 1, or -1 to 1 for correlations."""

    variant: Name
    template: str = MEAN
    """The number of a template, MEAN, BEST_ON_DEV or one of QUANTILES."""
    mean: Rate
    low: Rate | None = None
    high: Rate | None = None
    """Ends of the 95 % interval, or the lowest and the highest possible score where none can be estimated (then `note` says
    why). None for a single template, of which no interval is computed."""
    standard_error: _Size | None = None
    std: _Size | None = None
    min: Rate | None = None
    max: Rate | None = None
    """Spread over templates; None unless several templates were asked the same rows."""
    rows: Count
    """Rows scored."""
    members: Count | None = None
    """Tasks or clusters that a mean is over."""
    seen: bool | None = None
    """Whether the model was trained on the task or on what is close to it; None where nothing is known of its training."""
    note: str = ""
    """What to know of the interval."""
    seeds: Count | None = None
    """Models trained with different seeds that it is a mean over; None if there is one model."""
    rows_share: _Share | None = None
    templates_share: _Share | None = None
    seeds_share: _Share | None = None
    """Shares of the variance that rows, templates and seeds contribute; None unless there are several seeds."""

    @model_validator(mode="after")
    def _ends_are_in_order(self) -> Self:
        if self.low is not None and self.high is not None:
            _check_order(self.low, self.mean, self.high)
        elif not self.template.isdecimal():
            raise ValueError("`low` and `high` are missing: only the score of a single template has no interval")
        return self

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the 95 % interval."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high


class Difference(_Row):
    """A row of the table of differences: `after` minus `before`, paired over rows and templates."""

    before: Name
    after: Name
    difference: _Change
    low: _Change
    high: _Change
    p_value: _Share
    standard_error: _Size | None = None
    wins: Count | None = None
    losses: Count | None = None
    ties: Count | None = None
    """Rows (or groups of rows) on which `after` is better, worse and equal, by their means over templates."""
    detectable: _Size | None = None
    """The smallest true difference that is detected with 80 % power; None where none would be, however large."""
    margin: _Size | None = None
    """How far apart the two may be and still count as the same; None where nobody asked."""
    p_equivalence: _Share | None = None
    """Of two one-sided tests (Schuirmann 1987): below 0.05 the two differ by less than `margin`."""
    note: str = ""
    p_holm: _Share | None = None
    """Corrected over the family of tests that it belongs to (Holm 1979); None where it belongs to none."""

    @model_validator(mode="after")
    def _ends_are_in_order(self) -> Self:
        _check_order(self.low, self.difference, self.high)
        return self

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the 95 % interval."""
        return self.low, self.high

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    @property
    def is_equivalent(self) -> bool:
        """Whether the two are the same but for less than `margin`."""
        return self.p_equivalence is not None and self.p_equivalence < 0.05


class MetricFacts(Frozen):
    """What a metric of a task is."""

    title: str
    definition: str
    signature: str | None = None
    """How it was computed, for metrics that come in many kinds (BLEU, ROUGE)."""
    chance: Rate | None = None
    """Its score for options guessed with equal probability."""
    majority: Rate | None = None
    """Its score for the best single answer to all rows."""


class RowSource(Frozen):
    """Where on the Hub a task's rows come from; `split` is a slicing expression."""

    hub: str
    config: str | None
    split: str | None


class Hashes(Frozen):
    """Identity of the task's file and of the rows read."""

    task: str
    rows: str


class BestTemplate(Frozen):
    """A variant's best template on dev rows; its score on the test rows is in the score table."""

    template: int
    metric: str
    dev_score: Rate
    dev_rows: Count
    dev_scores: dict[str, Rate] = {}


class TaskFacts(Frozen):
    """What was evaluated of a task or subtask."""

    clusters: list[str] = Field(min_length=1)
    description: str | None = ""
    rows: Count
    groups: Count | None = None
    """Groups of rows that belong together; None where each row stands alone."""
    templates: list[int]
    wordings: dict[str, str] = {}
    """Of templates made by rule: number to name."""
    shortened: Count = 0
    """Questions whose input was cut to fit."""
    main_metric: str
    declared_metrics: list[str] = []
    metrics: dict[str, MetricFacts]
    chance: Rate | None = None
    majority: Rate | None = None
    """Levels of ranking accuracy (or exact match, where nothing was ranked); None for a task without options."""
    source: RowSource | None = None
    hashes: Hashes | None = None
    content: dict[str, Any] = {}
    """What of the task's file shaped questions and answers (templates, fields, options, ...); empty in a comparison."""
    best_on_dev: dict[str, BestTemplate] | None = None
    """By variant. Empty where the task has no dev split; None where it was not asked for."""
    in_domain: bool = False
    """Whether the model was trained on the task's train rows, and these are other rows."""
    seen: str | None = None
    """Why scores of a stamped model are not zero-shot: it was trained on the task, or on what is close to it."""
    unpaired: dict[str, Count] = {}
    """In a comparison: predictions of each side that the other has no counterpart of."""

    @property
    def mark(self) -> str:
        """How its scores are marked; empty where they are zero-shot, or nothing is known."""
        return IN_DOMAIN if self.in_domain else SEEN if self.seen else ""

    @property
    def prompts(self) -> dict[int, str]:
        """The templates' words by their numbers; empty in a comparison."""
        return {number: template["prompt"] for number, template in enumerate(self.content.get("templates", ()), start=1)}

    @property
    def is_classification(self) -> bool:
        """Whether the task offers options to choose from."""
        return self.chance is not None


class Variant(Frozen):
    """A model asked in one way."""

    title: str
    model: str
    identity: str | None = None
    """Hash of weights and tokenizer."""
    parameters: Count | None = None
    dtype: str | None = None
    """Numbers that it was scored in."""
    trained_in: str | None = None
    """Numbers that its training computed in, where it is known."""
    stamped: bool = False
    """Whether the model says what it was trained on."""
    trained_on: dict[str, str] | None = None
    """Training task to cluster; None where nothing is known."""
    scoring: Literal["log-probabilities", "generation"] = "log-probabilities"
    """Whether options were ranked, or answers generated and compared with the options."""
    style: str = "instruction"
    seed: int = 0
    settings: dict[str, Any] = {}
    """The evaluation settings that this variant was asked with."""
    folder: str | None = None
    variant: str | None = None
    run: str | None = None
    """In a comparison: where the side comes from, its name there, and the name of that run."""

    @property
    def end_token(self) -> bool:
        """The setting: whether an option's end token counts in its score."""
        return bool(self.settings.get("end_token", True))


class Results(Frozen):
    """The content of results.json."""

    format: Literal[2] = 2
    flanlab: str = ""
    name: str
    description: str | None = ""
    hold_out: list[str] = []
    left_out: dict[str, str] = {}
    skipped: dict[str, str] = {}
    """Tasks that were to be scored but whose rows were not available: name to reason."""
    allowed_overlaps: dict[str, str] = {}
    variants: dict[Name, Variant] = Field(min_length=1)
    tasks: dict[Name, TaskFacts] = Field(min_length=1)
    scores: list[Score]
    differences: list[Difference] = []
    only: dict[str, list[str]] = {}
    """In a comparison: tasks that just one side has."""
    notes: list[str] = []
    seconds: _Size | None = None

    def __repr__(self) -> str:
        return f"Results of {self.name}: variants {', '.join(self.variants)}; tasks {', '.join(self.tasks)}"

    __str__ = __repr__

    def scored(self, level: Level, name: str | None, metric: str, template: str = MEAN) -> Mapping[str, Score]:
        """Scores by variant; empty where there are none."""
        return self._index.get((level, name, metric, template), {})

    def main_scores(self, name: str, template: str = MEAN) -> Mapping[str, Score]:
        """Scores of a task's main metric by variant."""
        return self.scored("task", name, self.tasks[name].main_metric, template)

    def over_wordings(self, name: str) -> dict[str, list[Score]]:
        """A task's estimated QUANTILES by variant, in order; empty where they were not asked for."""
        found: dict[str, list[Score]] = {}
        for row in self.scores:
            if row.level == "task" and row.name == name and row.template in QUANTILES:
                found.setdefault(row.variant, []).append(row)
        return found

    def metrics(self, level: Level, name: str | None = None) -> list[str]:
        """The metrics that there are scores of, in order."""
        return list(dict.fromkeys(row.metric for row in self.scores if (row.level, row.name) == (level, name)))

    def difference(self, level: Level, name: str | None, metric: str) -> Difference | None:
        """After minus before."""
        return self._differences.get((level, name, metric))

    def members(self, level: Level, name: str | None = None, metric: str = MAIN_METRIC) -> int:
        """How many tasks or clusters a mean is over; 0 where there is no such mean."""
        return next((score.members or 0 for score in self.scored(level, name, metric).values()), 0)

    @property
    def main_variant(self) -> str:
        """The tuned one where there is one, else the first."""
        return TUNED if TUNED in self.variants else next(iter(self.variants))

    @property
    def in_domain(self) -> list[str]:
        """The tasks whose train rows the model was trained on, and that were asked by other rows."""
        return [name for name, task in self.tasks.items() if task.in_domain]

    @property
    def averaged(self) -> dict[str, TaskFacts]:
        """The tasks that means are over: the zero-shot ones; all, if there are only in-domain ones."""
        return {name: task for name, task in self.tasks.items() if not task.in_domain} or dict(self.tasks)

    @property
    def clusters(self) -> dict[str, list[str]]:
        """Home cluster to those of its tasks that means are over, in order."""
        homes: dict[str, list[str]] = {}
        for name, task in sorted(self.averaged.items(), key=lambda item: item[1].clusters[0]):
            homes.setdefault(task.clusters[0], []).append(name)
        return homes

    def seen_tasks(self, variant: str) -> list[str]:
        """The tasks on which a variant's score is marked as seen, by the main metric."""
        return [name for name in self.tasks if self.main_scores(name)[variant].seen]

    @cached_property
    def _index(self) -> dict[tuple[str, str | None, str, str], dict[str, Score]]:
        found: dict[tuple[str, str | None, str, str], dict[str, Score]] = {}
        for row in self.scores:
            found.setdefault((row.level, row.name, row.metric, row.template), {})[row.variant] = row
        return found

    @cached_property
    def _differences(self) -> dict[tuple[str, str | None, str], Difference]:
        return {(row.level, row.name, row.metric): row for row in self.differences}

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        for name, task in self.tasks.items():
            if not self.scored("task", name, task.main_metric):
                raise ValueError(f"tasks.{name}.main_metric: {task.main_metric} has no scores")
        _refuse_twice("scores", [(row.level, row.name, row.metric, row.variant, row.template) for row in self.scores])
        _refuse_twice("differences", [(row.level, row.name, row.metric) for row in self.differences])
        for score in self.scores:
            if score.level == "task" and (score.name not in self.tasks or score.metric not in self.tasks[score.name].metrics):
                raise ValueError(f"scores: {score.name}, {score.metric}: the task or its metric has no facts")
        for (level, name_or_none, metric, template), by_variant in self._index.items():
            known = set(self.variants) if template == MEAN else set(by_variant)
            if not known <= set(by_variant) <= set(self.variants):
                where, there = name_or_none or level, ", ".join(by_variant)
                raise ValueError(f"scores: {where}, {metric}: expected {', '.join(self.variants)}, found {there}")
        for row in self.differences:
            if not {row.before, row.after} <= set(self.scored(row.level, row.name, row.metric)):
                raise ValueError(f"differences: {row.name or row.level}, {row.metric}: compares what has no scores")
        return self
