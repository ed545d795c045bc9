"""What is evaluated of a task: which rows, through which templates, after how many exemplars; and by which model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from flanlab.data.choices import Key, permutation, short_permutation
from flanlab.data.encoding import PromptStyle
from flanlab.data.exemplars import MOST_SHOTS
from flanlab.data.mixture import OptionOrder
from flanlab.data.rendering import BASELINE, PreparedRow, Truncation, gold_value_of, group_of, open_row, prepare_row, render
from flanlab.data.sources import Rows
from flanlab.data.wordings_by_rule import worded
from flanlab.errors import FlanlabError
from flanlab.models.answering import Model
from flanlab.results.schema import Hashes, Variant
from flanlab.settings import METRICS, NOTHING, PROMPT, QUESTIONS, RESULTS, ROUNDING, SAMPLE, Settings
from flanlab.tasks.phrasing import Phrasing, phrased
from flanlab.tasks.schema import Split, Task
from flanlab.yaml_files import faults_in_words

Shots = Annotated[int, Field(ge=0, le=MOST_SHOTS)]

_ANSWER_BUDGET = 2.0
ZERO_ONE_METRICS = ("accuracy", "exact_match")
"""Metrics that give each answer 0 or 1, of which the distribution over wordings can be estimated."""


class EvaluationSettings(Settings):
    """What is evaluated, and how much of it.

    `docs/reference/recipe.md` describes the fields.
    """

    split: Annotated[Split, QUESTIONS] = Field(default="test", description="The split whose rows are asked.")
    rows: Annotated[int, SAMPLE] = Field(
        default=200, gt=0, description="Rows of each task; a random choice, the same for every model. Groups stay whole."
    )
    templates_per_row: Annotated[Annotated[int, Field(gt=0)] | Literal["adaptive"] | None, SAMPLE] = Field(
        default=None,
        description="Number of forward templates for each row, which take turns; all by default. adaptive: as many as"
        " `answer_budget` allows, and what all would have scored is estimated.",
    )
    answer_budget: Annotated[float | None, SAMPLE] = Field(
        default=None,
        ge=1,
        description="With adaptive templates_per_row: mean number of answers to each row, such as 1.5. Default: 2.",
    )
    wordings: Annotated[int | None, SAMPLE] = Field(
        default=None,
        gt=1,
        description="Ask up to this many wordings of each task: its forward templates, and variants made from them by rule"
        " (order of instruction and input, line breaks, style of OPTIONS).",
    )
    options: Annotated[OptionOrder | tuple[OptionOrder, ...], QUESTIONS] = Field(
        default="shuffled",
        description="Order of the OPTIONS block: shuffled, fixed, or none (not shown). A list asks every question each way.",
    )
    instructions: Annotated[Phrasing, QUESTIONS] = Field(
        default="full",
        description="full, or for ablations: none (only the inputs) or name (names of task type and data set first).",
    )
    end_token: Annotated[bool, QUESTIONS] = Field(
        default=True, description="Count an option's end token in its score, as it was trained."
    )
    generate: Annotated[bool, METRICS] = Field(
        default=True, description="Also generate an answer to each classification prompt."
    )
    pmi: Annotated[bool, METRICS] = Field(
        default=True,
        description="Also score each option without its question, for accuracy by PMI. One short question for all rows if"
        " they have the same options, else one for each row.",
    )
    shots: Annotated[Shots | tuple[Shots, ...], PROMPT] = Field(
        default=0,
        description="Number of exemplars from the train split before a question (section 4.4). A list asks with each number.",
    )
    shot_tokens: Annotated[int, PROMPT] = Field(default=960, gt=0, description="Limit of exemplars and question together.")
    prompt_tokens: Annotated[int, QUESTIONS] = Field(
        default=1024, gt=0, description="Limit of a prompt. Longer ones lose part of their longest field."
    )
    truncate: Annotated[Truncation, QUESTIONS] = Field(
        default="end", description="What a field that is too long loses: its end, or its middle."
    )
    new_tokens: Annotated[int, QUESTIONS] = Field(
        default=256,
        gt=0,
        description="Limit of a generated free-text answer. For a task with short references it is one and a half times the"
        " longest of them.",
    )
    chat_template_args: Annotated[dict[str, bool | int | float | str], PROMPT] = Field(
        default_factory=dict,
        description="Arguments of the model's chat template, such as `enable_thinking: false`.",
    )
    token_budget: Annotated[int, NOTHING] = Field(
        default=4096, gt=0, description="Largest number of tokens computed at once. It limits memory."
    )
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], ROUNDING] = Field(
        default="auto", description="Number type of the computation. auto: float32 on a CPU, bfloat16 on a GPU."
    )
    choose_template: Annotated[bool, RESULTS] = Field(
        default=False,
        description="Also report the score of the template that is best on the dev split (at most 200 of its rows).",
    )

    @field_validator("options", "shots", mode="after")
    @classmethod
    def _lists_are_of_several(cls, value: Any) -> Any:
        if not isinstance(value, tuple):
            return value
        if not value or len(set(value)) < len(value):
            raise ValueError("a list names one or more values, each once")
        return value if len(value) > 1 else value[0]

    @property
    def option_orders(self) -> tuple[OptionOrder, ...]:
        """Every way in which options are shown, the main one first."""
        return self.options if isinstance(self.options, tuple) else (self.options,)

    @property
    def shot_counts(self) -> tuple[int, ...]:
        """Every number of exemplars, the main one first."""
        return self.shots if isinstance(self.shots, tuple) else (self.shots,)

    @property
    def order(self) -> OptionOrder:
        """The main way in which options are shown; the only one of an arm."""
        return self.option_orders[0]

    @property
    def shot_count(self) -> int:
        """The main number of exemplars; the only one of an arm."""
        return self.shot_counts[0]

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """The same with other values of some fields. None leaves a field as it is.

        Raises:
            FlanlabError: there is no such field, or the value is invalid.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        try:
            return type(self)(**(self.model_dump() | given))
        except ValidationError as error:
            raise FlanlabError(
                f"Evaluation settings: {' '.join(faults_in_words(error, EvaluationSettings))}",
                hint=f"The fields are: {', '.join(EvaluationSettings.model_fields)}.",
            ) from error

    def arms(self, style: PromptStyle = "instruction") -> list[Self]:
        """These settings for each number of exemplars and each way to show options, one of each; the main ones first.

        A baseline prompt never shows options, so it is asked one way.
        """
        orders = self.option_orders[:1] if style == "baseline" else self.option_orders
        return [
            self.model_copy(update={"shots": count, "options": order})
            for count, order in itertools.product(self.shot_counts, orders)
        ]

    @model_validator(mode="after")
    def _budget_is_used(self) -> Self:
        if self.answer_budget is not None and self.templates_per_row != "adaptive":
            raise ValueError("`answer_budget` needs `templates_per_row: adaptive`")
        return self

    @model_validator(mode="after")
    def _chosen_elsewhere(self) -> Self:
        if self.choose_template and self.split == "dev":
            raise ValueError("`choose_template` chooses on the dev split, so another split must be evaluated")
        return self


def variant_of(
    name: str, title: str, arm: EvaluationSettings, settings: EvaluationSettings, style: PromptStyle, plain_shots: int
) -> tuple[str, str]:
    """Name of an arm's predictions in files, and for people; `plain_shots` exemplars are not told."""
    if arm.shot_count != plain_shots:
        name = f"{name}_{arm.shot_count}_shot"
        title = f"{title}, {arm.shot_count} shot{'' if arm.shot_count == 1 else 's'}"
    if len(settings.option_orders) > 1 and style != "baseline":
        title = f"{title}, {'without OPTIONS' if arm.order == 'none' else f'OPTIONS {arm.order}'}"
        if arm.order != settings.order:
            name = f"{name}_options_{arm.order}"
    return name, title


@dataclass(frozen=True)
class Setup:
    """What decides, with a row and a template, a question and its answer. Its results stand under its name as a variant."""

    model: Model
    settings: EvaluationSettings
    seed: int = 0
    style: PromptStyle = "instruction"
    name: str = ""
    """Of the variant, in files."""
    title: str = ""
    """Of the variant, for people."""

    def variant(self, **facts: Any) -> Variant:
        """What results say of it; `facts` take the place of the model's own."""
        stamp = self.model.stamp
        found = {
            "title": self.title,
            "model": self.model.name,
            "identity": self.model.identity,
            "parameters": self.model.parameters,
            "dtype": self.model.dtype,
            "trained_in": (stamp or {}).get("recipe", {}).get("training", {}).get("compute_dtype"),
            "stamped": stamp is not None,
            "trained_on": None if stamp is None else {name: one["clusters"][0] for name, one in stamp["tasks"].items()},
            "scoring": self.model.scoring,
            "style": self.style,
            "seed": self.seed,
            "settings": self.settings.model_dump(mode="json"),
        }
        return Variant(**found | facts)


@dataclass(frozen=True)
class PlannedTask:
    """A task with the rows that are asked, and the templates that these are shown through."""

    task: Task
    rows: Rows
    pairs: list[tuple[int, int]]
    """(row, template) in the order they are asked."""
    exemplars: Rows | None = None
    """Train rows that exemplars are taken from: those of `task.exemplar_source`."""

    @property
    def hashes(self) -> Hashes:
        """Identity of the task's file and of the rows."""
        return Hashes(task=self.task.hash, rows=self.rows.source_hash)

    def prepare(self, row: int) -> PreparedRow:
        """A row with its fields worked out.

        Raises:
            FlanlabError: a field of it cannot be.
        """
        return prepare_row(self.task, self.rows[row], row)

    def asked(self, style: PromptStyle) -> list[tuple[int, int]]:
        """(row, template) as asked in a prompt style: there is but one baseline prompt for each row."""
        if style != "baseline":
            return self.pairs
        return [(row, BASELINE) for row in dict.fromkeys(row for row, _ in self.pairs)]

    @cached_property
    def longest_reference(self) -> str:
        """The longest acceptable answer, in characters, to any of the questions asked; a bound for generated ones."""
        prepared = {row: self.prepare(row) for row in dict.fromkeys(row for row, _ in self.pairs)}
        examples = (render(self.task, template, prepared[row]) for row, template in self.pairs)
        return max((reference for example in examples for reference in example.references), key=len)


def task_as_asked(task: Task, settings: EvaluationSettings) -> Task:
    """The task with the templates that these settings ask it through.

    Raises:
        FlanlabError: nothing is left of its prompts without the instructions.
    """
    task = phrased(task, settings.instructions)
    if settings.wordings is None:
        return task
    return worded(task, settings.wordings, with_options="none" not in settings.option_orders)


def plan_task(task: Task, rows: Rows, settings: EvaluationSettings, seed: int, exemplars: Rows | None = None) -> PlannedTask:
    """Choose rows and the templates each is shown through: a pure function of seed, task and settings.

    Where the task has `group`, whole groups are chosen, as few as hold `settings.rows` rows; the rows of a group are all
    shown through the same templates.

    Raises:
        FlanlabError: `group` or `gold_value` gives nothing that can be used.
    """
    task = task_as_asked(task, settings)
    templates = task.forward_templates()
    groups = _groups(task, rows)
    chosen: list[list[int]] = []
    row_count = 0
    for place in permutation(len(groups), (seed, task.name, "evaluation")):
        if row_count >= settings.rows:
            break
        chosen.append(groups[int(place)])
        row_count += len(chosen[-1])
    for row in (row for group in chosen for row in group):
        gold_value_of(task, open_row(task, rows[row], row))
    if settings.templates_per_row == "adaptive":
        turns = list(balanced_turns(templates, _answer_counts(task, len(chosen), settings), (seed, task.name, "wordings")))
    else:
        # Group after group takes the next `count` templates of a shuffled circle, so each template meets equally many.
        count = min(settings.templates_per_row or len(templates), len(templates))
        circle = [templates[int(place)] for place in permutation(len(templates), (seed, task.name, "templates"))]
        turns = [[circle[(number * count + offset) % len(circle)] for offset in range(count)] for number in range(len(chosen))]
    pairs = [(row, template) for group, shown in zip(sorted(chosen), turns, strict=True) for row in group for template in shown]
    return PlannedTask(task, rows, pairs, exemplars)


def balanced_turns(templates: Sequence[int], counts: Sequence[int], key: Key) -> Iterator[list[int]]:
    """The templates of one row or group after the other, so many of each: all templates equally often, give or take one.

    They are dealt from shuffled decks, so any two templates share some rows, and can be compared on these.

    Args:
        templates: all of them.
        counts: how many each row or group is shown through, at most all.
        key: what the shuffling depends on.
    """
    deck: list[int] = []
    decks = 0
    for count in counts:
        shown: list[int] = []
        while len(shown) < count:
            left = [template for template in deck if template not in shown]
            if not left:
                deck += [templates[place] for place in short_permutation(len(templates), (*key, decks))]
                decks += 1
                continue
            shown.append(left[0])
            deck.remove(left[0])
        yield shown


def _answer_counts(task: Task, groups: int, settings: EvaluationSettings) -> list[int]:
    """Through how many templates each row or group is shown, for the answer budget.

    Raises:
        FlanlabError: there is nothing to estimate, or too little to do it.
    """
    templates = len(task.forward_templates())
    if not set(task.metrics) & set(ZERO_ONE_METRICS):
        raise FlanlabError(
            f"{task.path}: `templates_per_row: adaptive` needs a metric that gives each answer 0 or 1"
            f" ({' or '.join(ZERO_ONE_METRICS)}), but the task {task.name} has {', '.join(task.metrics)}.",
            hint="Evaluate this task with a number of `templates_per_row`, or without the setting.",
        )
    if templates == 1:
        raise FlanlabError(
            f"{task.path}: the task {task.name} has one forward template, so there is no distribution over wordings.",
            hint="Leave out `templates_per_row`, or make more wordings by rule with `wordings: 10`.",
        )
    budget = min(settings.answer_budget or _ANSWER_BUDGET, templates)
    counts = [int((number + 1) * budget) - int(number * budget) for number in range(groups)]
    if sum(counts) < templates:
        raise FlanlabError(
            f"{task.path}: {sum(counts)} answers ({budget:g} to each of {groups} rows or groups) are fewer than the"
            f" {templates} wordings of {task.name}, and each needs one.",
            hint="Raise `rows` or `answer_budget`, or ask for fewer `wordings`.",
        )
    return counts


def _groups(task: Task, rows: Rows) -> list[list[int]]:
    """Rows that belong together, in the order of their first; each row by itself where the task has no `group`."""
    if task.group is None:
        return [[row] for row in range(len(rows))]
    groups: dict[str | None, list[int]] = {}
    for row in range(len(rows)):
        groups.setdefault(group_of(task, open_row(task, rows[row], row)), []).append(row)
    return list(groups.values())
