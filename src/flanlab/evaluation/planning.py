"""What is evaluated of a task: which rows, through which templates, after how many exemplars."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from flanlab.data.choices import permutation
from flanlab.data.encoding import PromptStyle
from flanlab.data.exemplars import MOST_SHOTS
from flanlab.data.mixture import OptionOrder
from flanlab.data.rendering import BASELINE, PreparedRow, Truncation, gold_value_of, group_of, open_row, prepare_row, render
from flanlab.data.sources import Rows
from flanlab.settings import METRICS, NOTHING, PROMPT, QUESTIONS, RESULTS, ROUNDING, SAMPLE, Settings
from flanlab.tasks.phrasing import Phrasing, phrased
from flanlab.tasks.schema import Split, Task

Shots = Annotated[int, Field(ge=0, le=MOST_SHOTS)]


class EvaluationSettings(Settings):
    """What is evaluated, and how much of it."""

    split: Annotated[Split, QUESTIONS] = Field("test", description="The split whose rows are asked.")
    rows: Annotated[int, SAMPLE] = Field(
        200, gt=0, description="Rows of each task; a random choice, the same for every model. Groups stay whole."
    )
    templates_per_row: Annotated[int | None, SAMPLE] = Field(
        None, gt=0, description="Forward templates each row is shown through, taking turns; all, where not given."
    )
    options: Annotated[OptionOrder | tuple[OptionOrder, ...], QUESTIONS] = Field(
        "shuffled",
        description="Order of the OPTIONS block: shuffled, fixed, or none shown; a list asks every question each way.",
    )
    instructions: Annotated[Phrasing, QUESTIONS] = Field(
        "full", description="full; or, for ablations, name (of task type and data set) or none before the bare inputs."
    )
    end_token: Annotated[bool, QUESTIONS] = Field(
        True, description="Count an option's end token in its score, as it was trained."
    )
    generate: Annotated[bool, METRICS] = Field(True, description="Also generate an answer to each classification prompt.")
    pmi: Annotated[bool, METRICS] = Field(
        True,
        description="Also score each option without its question, for accuracy by PMI. Costs nothing where options are fixed;"
        " one short question a row where each row has its own.",
    )
    shots: Annotated[Shots | tuple[Shots, ...], PROMPT] = Field(
        0,
        description="Exemplars from the train split before each question (section 4.4); a list asks with each number.",
    )
    shot_tokens: Annotated[int, PROMPT] = Field(
        960, gt=0, description="Exemplars are shown while they and the question stay within this number."
    )
    prompt_tokens: Annotated[int, QUESTIONS] = Field(
        1024, gt=0, description="Limit of a prompt. Longer ones lose part of their longest field."
    )
    truncate: Annotated[Truncation, QUESTIONS] = Field(
        "end", description="What a field that is too long loses: its end, or its middle."
    )
    new_tokens: Annotated[int, QUESTIONS] = Field(
        256,
        gt=0,
        description="Most tokens of a generated free-text answer; a task whose longest reference is shorter gets half as much"
        " again as that.",
    )
    chat_template_args: Annotated[dict[str, bool | int | float | str], PROMPT] = Field(
        default_factory=dict,
        description="Handed to the model's chat template, where it is asked through one: `enable_thinking: false`, say.",
    )
    token_budget: Annotated[int, NOTHING] = Field(
        4096, gt=0, description="Tokens computed at once; bounds memory, changes no result."
    )
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], ROUNDING] = Field(
        "auto", description="Numbers that a model computes answers in; auto: float32 on a CPU, bfloat16 on a GPU."
    )
    choose_template: Annotated[bool, RESULTS] = Field(
        False, description="Also tell the score of the template that is best on the dev split (at most 200 rows of it)."
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
class EvaluationUnit:
    """One task to be evaluated, with the rows chosen."""

    task: Task
    rows: Rows
    pairs: list[tuple[int, int]]
    """(row, template) in the order they are asked."""
    exemplars: Rows | None = None
    """Train rows of the whole task, from which exemplars are taken."""

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


def plan_task(task: Task, rows: Rows, settings: EvaluationSettings, seed: int, exemplars: Rows | None = None) -> EvaluationUnit:
    """Choose rows and the templates each is shown through: a pure function of seed, task and settings.

    Where the task has `group`, whole groups are chosen, as few as hold `settings.rows` rows; the rows of a group are all
    shown through the same templates.

    Raises:
        FlanlabError: `group` or `gold_value` gives nothing that can be used.
    """
    task = phrased(task, settings.instructions)
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
    count = min(settings.templates_per_row or len(templates), len(templates))
    # Group after group takes the next `count` templates of a shuffled circle, so each template meets equally many.
    circle = [templates[int(place)] for place in permutation(len(templates), (seed, task.name, "templates"))]
    pairs = [
        (row, circle[(number * count + offset) % len(circle)])
        for number, group in enumerate(sorted(chosen))
        for row in group
        for offset in range(count)
    ]
    return EvaluationUnit(task, rows, pairs, exemplars)


def _groups(task: Task, rows: Rows) -> list[list[int]]:
    """Rows that belong together, in the order of their first; each row by itself where the task has no `group`."""
    if task.group is None:
        return [[row] for row in range(len(rows))]
    groups: dict[str | None, list[int]] = {}
    for row in range(len(rows)):
        groups.setdefault(group_of(task, open_row(task, rows[row], row)), []).append(row)
    return list(groups.values())
