"""Predictions: every row of a task through its forward templates, each answer a row of Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, model_validator

from flanlab.data.choices import permutation
from flanlab.data.encoding import Encoder, PromptStyle
from flanlab.data.mixture import OptionOrder, option_order
from flanlab.data.rendering import (
    BASELINE,
    Example,
    PreparedRow,
    gold_value_of,
    group_of,
    open_row,
    option_count,
    prepare_row,
    render,
    shorten_longest_field,
)
from flanlab.data.sources import Rows
from flanlab.errors import FlanlabError
from flanlab.evaluation.neutral import NeutralScores
from flanlab.files import new_file
from flanlab.models.answering import Model, Reply
from flanlab.models.scoring import Question
from flanlab.progress import Meter
from flanlab.tasks.holdout import seen_reason
from flanlab.tasks.schema import Split, Task

_PROTOCOL = "2"
"""Raise it when code here or in models/scoring changes what a prediction is: old predictions are then made anew."""
_QUESTIONS_PER_PART = 64
_EXTRA_TOKENS = 4
"""A generated answer may be this much longer than the longest option before it is cut: it cannot equal an option then."""

PREDICTION_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("template", pa.int32()),
        ("row", pa.int32()),
        ("group", pa.string()),
        ("prompt", pa.string()),
        ("options", pa.list_(pa.string())),
        ("option_scores", pa.list_(pa.float64())),
        ("option_scores_without_end", pa.list_(pa.float64())),
        ("option_scores_alone", pa.list_(pa.float64())),
        ("option_scores_alone_without_end", pa.list_(pa.float64())),
        ("option_tokens", pa.list_(pa.int32())),
        ("answer", pa.int32()),
        ("references", pa.list_(pa.string())),
        ("gold_value", pa.float64()),
        ("generated", pa.string()),
        ("shortened", pa.bool_()),
    ]
)
"""One prediction. Scores are natural-log probabilities, options in the task's own order; those "alone" are after a prompt that
asks nothing (see `neutral`). `option_tokens` counts end tokens. `answer` is the position of the right option that is trained
on, null for generation; `references` are all right options, or all right texts. `generated` is null where nothing was
generated, `group` and `gold_value` where the task has none, scores "alone" where the settings do without PMI."""


class EvaluationSettings(BaseModel):
    """What is evaluated, and how much of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Split = "test"
    rows: int = Field(200, gt=0, description="Rows of each task; a random choice, the same for every model. Groups stay whole.")
    templates_per_row: int | None = Field(
        None, gt=0, description="Forward templates each row is shown through, taking turns; all, where not given."
    )
    options: OptionOrder = Field("shuffled", description="Order of the OPTIONS block: shuffled, fixed, or none shown.")
    end_token: bool = Field(True, description="Count an option's end token in its score, as it was trained.")
    generate: bool = Field(True, description="Also generate an answer to each classification prompt.")
    pmi: bool = Field(
        True,
        description="Also score each option without its question, for accuracy by PMI. Costs nothing where options are fixed;"
        " one short question a row where each row has its own.",
    )
    prompt_tokens: int = Field(1024, gt=0, description="Longer prompts lose the end of their longest field.")
    new_tokens: int = Field(64, gt=0, description="Most tokens of a generated free-text answer.")
    token_budget: int = Field(4096, gt=0, description="Tokens computed at once; bounds memory, changes no result.")
    choose_template: bool = Field(
        False, description="Also tell the score of the template that is best on the dev split (at most 200 rows of it)."
    )

    @model_validator(mode="after")
    def _chosen_elsewhere(self) -> Self:
        if self.choose_template and self.split == "dev":
            raise ValueError("`choose_template` chooses on the dev split, so another split must be evaluated")
        return self


@dataclass(frozen=True)
class EvaluationUnit:
    """One task to be evaluated, with the rows chosen."""

    task: Task
    rows: Rows
    pairs: list[tuple[int, int]]
    """(row, template) in the order they are asked."""

    def asked(self, style: PromptStyle) -> list[tuple[int, int]]:
        """(row, template) as asked in a prompt style: there is but one baseline prompt for each row."""
        if style != "baseline":
            return self.pairs
        return [(row, BASELINE) for row in dict.fromkeys(row for row, _ in self.pairs)]


def plan_task(task: Task, rows: Rows, settings: EvaluationSettings, seed: int) -> EvaluationUnit:
    """Choose rows and the templates each is shown through: a pure function of seed, task and settings.

    Where the task has `group`, whole groups are chosen, as few as hold `settings.rows` rows; the rows of a group are all
    shown through the same templates.

    Raises:
        FlanlabError: `group` or `gold_value` gives nothing that can be used.
    """
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
    return EvaluationUnit(task, rows, pairs)


def _groups(task: Task, rows: Rows) -> list[list[int]]:
    """Rows that belong together, in the order of their first; each row by itself where the task has no `group`."""
    if task.group is None:
        return [[row] for row in range(len(rows))]
    groups: dict[str | None, list[int]] = {}
    for row in range(len(rows)):
        groups.setdefault(group_of(task, open_row(task, rows[row], row)), []).append(row)
    return list(groups.values())


def refuse_seen(tasks: Sequence[Task], loaded: Model, allow_seen: bool) -> dict[str, str]:
    """Which tasks the model has seen, with the reason; an error unless allowed.

    Raises:
        FlanlabError: a stamped model would be scored on what it was trained on.
    """
    if loaded.stamp is None:
        return {}
    seen = {task.name: reason for task in tasks if (reason := seen_reason(task, loaded.stamp)) is not None}
    if seen and not allow_seen:
        raise FlanlabError(
            f"{loaded.name} is no zero-shot model for:\n" + "\n".join(f"  {name}: {why}" for name, why in seen.items()),
            mend="Evaluate other tasks, or pass --allow-seen: the results are then marked as seen.",
        )
    return seen


def predict(
    loaded: Model,
    unit: EvaluationUnit,
    settings: EvaluationSettings,
    seed: int,
    style: PromptStyle,
    folder: Path,
    bar: Meter,
) -> None:
    """Answer every (row, template) pair of a unit; parts already in `folder` under the same key are kept.

    Writes `folder/part-00000.parquet` and so on, each whole or not at all, so that a run killed at any moment loses at most
    the part it was at.
    """
    key = prediction_key(loaded, unit, settings, seed, style)
    folder.mkdir(parents=True, exist_ok=True)
    asked = unit.asked(style)
    neutral = NeutralScores(loaded.encoder, style)
    for number, start in enumerate(range(0, len(asked), _QUESTIONS_PER_PART)):
        pairs = asked[start : start + _QUESTIONS_PER_PART]
        path = folder / f"part-{number:05d}.parquet"
        if not _is_done(path, key):
            table = _predict_pairs(loaded, unit, pairs, settings, seed, style, neutral)
            with new_file(path) as temporary:
                pq.write_table(table.replace_schema_metadata({"key": key}), temporary)
        bar.advance(len(pairs), f"{unit.task.name}")
    parts = -(-len(asked) // _QUESTIONS_PER_PART)
    for stale in folder.glob("part-*.parquet"):
        if int(stale.stem.removeprefix("part-")) >= parts:
            stale.unlink()


def prediction_key(loaded: Model, unit: EvaluationUnit, settings: EvaluationSettings, seed: int, style: PromptStyle) -> str:
    """Hash of everything that shapes the predictions: model, tokenizer, task, rows, settings, protocol."""
    shaping = settings.model_dump(exclude={"token_budget", "choose_template"})
    facts = [_PROTOCOL, loaded.identity, unit.task.hash, unit.rows.source_hash, shaping, seed, style]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def read_predictions(folder: Path) -> pa.Table:
    """All predictions of one task.

    Raises:
        FlanlabError: none are there.
    """
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        raise FlanlabError(f"{folder}: holds no predictions.", mend="Run the evaluation first.")
    return pa.concat_tables([pq.read_table(part).replace_schema_metadata(None) for part in parts])


def _is_done(path: Path, key: str) -> bool:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return False
    return metadata.get(b"key") == key.encode()


def _predict_pairs(
    loaded: Model,
    unit: EvaluationUnit,
    pairs: Sequence[tuple[int, int]],
    settings: EvaluationSettings,
    seed: int,
    style: PromptStyle,
    neutral: NeutralScores,
) -> pa.Table:
    asked = [_question(unit, row, template, settings, seed, style, loaded.encoder) for row, template in pairs]
    alone = neutral.questions([example.options for _, example, _ in asked if example.options]) if settings.pmi else []
    questions = [question for question, _, _ in asked] + alone
    replies: dict[int, Reply] = dict(loaded.answer(questions, settings.token_budget))
    neutral.learn(alone, [replies[len(asked) + number] for number in range(len(alone))])
    records = []
    for position, (question, example, shortened) in enumerate(asked):
        reply = replies[position]
        row = open_row(unit.task, unit.rows[example.row], example.row)
        scores_alone, scores_alone_without_end = neutral.scores(example.options) if settings.pmi else (None, None)
        records.append(
            {
                "task": unit.task.name,
                "template": example.template,
                "row": example.row,
                "group": group_of(unit.task, row),
                "prompt": example.prompt,
                "options": list(example.options),
                # An untuned model that continues a text has no reason to end right after its answer.
                "option_scores": reply.scores_without_end if style == "baseline" else reply.scores,
                "option_scores_without_end": reply.scores_without_end,
                "option_scores_alone": scores_alone_without_end if style == "baseline" else scores_alone,
                "option_scores_alone_without_end": scores_alone_without_end,
                "option_tokens": reply.option_tokens,
                "answer": example.answer,
                "references": list(example.references),
                "gold_value": gold_value_of(unit.task, row),
                "generated": reply.text if question.max_new_tokens else None,
                "shortened": shortened,
            }
        )
    return pa.Table.from_pylist(records, schema=PREDICTION_SCHEMA)


def _question(
    unit: EvaluationUnit,
    row_index: int,
    template: int,
    settings: EvaluationSettings,
    seed: int,
    style: PromptStyle,
    encoder: Encoder,
) -> tuple[Question, Example, bool]:
    task = unit.task
    row = prepare_row(task, unit.rows[row_index], row_index)
    count = option_count(task, row)
    # The epoch -1 keeps evaluation's orders apart from those of any training epoch.
    order = option_order(settings.options, count, (seed, task.name, row_index, -1)) if count else None
    shortened = False
    for example in _ever_shorter(task, template, row, order):
        encoded = encoder.encode(example.prompt, example.options or [example.target], style)
        if len(encoded.prompt) <= settings.prompt_tokens:
            break
        shortened = True
    else:
        raise FlanlabError(
            f"{task.path}, row {row_index}, template {template}: the prompt is longer than {settings.prompt_tokens} tokens"
            " and has no field left to shorten.",
            mend="Raise evaluation.prompt_tokens.",
        )
    stop = frozenset({encoder.end})
    # Where the answer is one line, a model that goes on after its first line has answered.
    one_line = style == "baseline" or not any("\n" in reference for reference in example.references)
    line_breaks = encoder.newline_tokens if one_line else frozenset()
    if example.options:
        longest = max(len(option) for option in encoded.answers)
        new_tokens = longest + _EXTRA_TOKENS if settings.generate else 0
        return Question(encoded.prompt, encoded.answers, new_tokens, stop, line_breaks), example, shortened
    return Question(encoded.prompt, [], settings.new_tokens, stop, line_breaks), example, shortened


def _ever_shorter(task: Task, template: int, row: PreparedRow, order: Sequence[int] | None) -> Iterator[Example]:
    """The example, and then with ever more cut off its longest field."""
    current: PreparedRow | None = row
    while current is not None:
        example = render(task, template, current, order)
        yield example
        current = shorten_longest_field(current, max(40, len(example.prompt) // 8))


def question_length(
    unit: EvaluationUnit, row: int, template: int, settings: EvaluationSettings, seed: int, encoder: Encoder
) -> int:
    """Tokens of one question with all its options."""
    return _question(unit, row, template, settings, seed, "instruction", encoder)[0].length
