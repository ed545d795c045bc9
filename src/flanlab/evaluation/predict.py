"""Predictions: every row of a task through its forward templates, each answer a row of Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flanlab.data.rendering import gold_value_of, group_of, open_row
from flanlab.errors import FlanlabError
from flanlab.evaluation.neutral import NeutralScores
from flanlab.evaluation.planning import EvaluationUnit
from flanlab.evaluation.questions import Asked, ask
from flanlab.evaluation.setup import Setup
from flanlab.files import new_file
from flanlab.models.answering import Answer, Question
from flanlab.results.predictions import PREDICTION_SCHEMA, shard_paths
from flanlab.settings import PREDICTIONS, affecting
from flanlab.tasks.holdout import seen_reason
from flanlab.tasks.loading import known_lineage
from flanlab.tasks.schema import Task

_PROTOCOL = "6"
"""Raise it when code here or in models/scoring changes what a prediction is: old predictions are then made again."""
_QUESTIONS_PER_SHARD = 64
_QUESTIONS_OF_FIRST_SHARD = 2
"""The first shards of a task are smaller, each twice as large as the one before, so that there is something to see at once."""


def refuse_seen(
    tasks: Sequence[Task], model: str, stamp: Mapping[str, Any] | None, allow_seen: bool, *, way: str = "pass --allow-seen"
) -> dict[str, str]:
    """Which tasks a model with this stamp has seen, with the reason; an error unless allowed, which tells a `way` to allow it.

    Raises:
        FlanlabError: a stamped model would be scored on what it was trained on.
    """
    if stamp is None:
        return {}
    ancestors = known_lineage(tasks)
    reasons = {task.name: seen_reason(task, stamp, ancestors[task.name]) for task in tasks}
    seen = {name: reason for name, reason in reasons.items() if reason is not None}
    if seen and not allow_seen:
        raise FlanlabError(
            f"{model} has seen these tasks, so their scores would not be zero-shot:\n"
            + "\n".join(f"  {name}: {why}" for name, why in seen.items()),
            hint=f"Evaluate other tasks. Or {way} to score these all the same: the results are then marked as seen.",
        )
    return seen


@dataclass(frozen=True, eq=False)
class Shard:
    """Some of a unit's questions, whose answers make one file, whole or not at all.

    It is the unit of work: its predictions do not depend on what else the process computes, or has computed.
    """

    unit: EvaluationUnit
    pairs: list[tuple[int, int]]
    """(row, template) of each question."""
    path: Path
    key: str

    @property
    def is_done(self) -> bool:
        """Whether the file is there, and of what is asked now."""
        try:
            metadata = pq.read_schema(self.path).metadata or {}
        except (OSError, pa.ArrowInvalid):
            return False
        return metadata.get(b"key") == self.key.encode()


def shards_of(setup: Setup, unit: EvaluationUnit, folder: Path) -> list[Shard]:
    """A unit's questions in shards, with the files `folder/shard-00000.parquet` and so on."""
    key = prediction_key(setup, unit)
    cut = enumerate(_cut(unit.asked(setup.style)))
    return [Shard(unit, pairs, folder / f"shard-{number:05d}.parquet", key) for number, pairs in cut]


def _cut(asked: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    start, size = 0, _QUESTIONS_OF_FIRST_SHARD
    while start < len(asked):
        size = min(size, _QUESTIONS_PER_SHARD)
        yield asked[start : start + size]
        start, size = start + size, size * 2


def predict_shard(setup: Setup, shard: Shard) -> None:
    """Answer the questions of a shard and write its file."""
    table = _predict_pairs(setup, shard.unit, shard.pairs)
    with new_file(shard.path) as temporary:
        pq.write_table(table.replace_schema_metadata({"key": shard.key}), temporary)


def remove_stale_shards(folder: Path, shards: Sequence[Shard]) -> None:
    """Remove what an evaluation of more questions has left in `folder`."""
    for path in set(shard_paths(folder)) - {shard.path for shard in shards}:
        path.unlink()


def prediction_key(setup: Setup, unit: EvaluationUnit) -> str:
    """Hash of everything that shapes the predictions: model, tokenizer, task, rows, settings, protocol."""
    settings, style = setup.settings, setup.style
    # What numbers it computes in, the model's identity tells.
    shaping = affecting(settings, *PREDICTIONS)
    if style != "chat":
        del shaping["chat_template_args"]
    exemplars = unit.exemplars.source_hash if unit.exemplars is not None and settings.shot_count else None
    facts = [_PROTOCOL, setup.model.identity, unit.task.hash, unit.rows.source_hash, exemplars, shaping, setup.seed, style]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _refuse_failed(
    unit: EvaluationUnit, asked: Sequence[Asked], questions: Sequence[Question], answers: Mapping[int, Answer]
) -> None:
    """Refuse answers that mean nothing: the likeliest of options without a number would be an arbitrary one."""
    for position in sorted(answers):
        if not answers[position].failed:
            continue
        if position < len(asked):
            example = asked[position].example
            where = f"{unit.task.name}, row {example.row}, template {example.template}"
        else:
            where = f"{unit.task.name}, options without their question (for accuracy by PMI)"
        raise FlanlabError(
            f"{where}: the model computes no number (NaN or infinity) for this question of"
            f" {questions[position].length} tokens.",
            hint="It is a fault of the model: check its weights, or load it in float32 or bfloat16 if it overflows. What was"
            " done before is kept.",
        )


def _predict_pairs(setup: Setup, unit: EvaluationUnit, pairs: Sequence[tuple[int, int]]) -> pa.Table:
    model, settings, style = setup.model, setup.settings, setup.style
    # Of this shard alone: what earlier shards have learnt would make scores depend, in their last digits, on who computed them.
    neutral = NeutralScores(model.encoder, style)
    asked = [ask(setup, unit, row, template) for row, template in pairs]
    alone = neutral.questions([one.example.options for one in asked if one.example.options]) if settings.pmi else []
    questions = [one.question for one in asked] + alone
    answers: dict[int, Answer] = dict(model.answer(questions, settings.token_budget))
    _refuse_failed(unit, asked, questions, answers)
    neutral.learn(alone, [answers[len(asked) + number] for number in range(len(alone))])
    records = []
    for position, one in enumerate(asked):
        example, answer = one.example, answers[position]
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
                "own_options": list(row.options),
                # An untuned model that continues a text has no reason to end right after its answer.
                "option_scores": answer.scores_without_end if style == "baseline" else answer.scores,
                "option_scores_without_end": answer.scores_without_end,
                "option_scores_alone": scores_alone_without_end if style == "baseline" else scores_alone,
                "option_scores_alone_without_end": scores_alone_without_end,
                "option_tokens": answer.option_tokens,
                "answer": example.answer,
                "references": list(example.references),
                "exemplars": list(one.exemplars),
                "gold_value": gold_value_of(unit.task, row),
                "generated": answer.text if one.question.max_new_tokens else None,
                "shortened": one.shortened,
            }
        )
    return pa.Table.from_pylist(records, schema=PREDICTION_SCHEMA)
