"""Predictions: every row of a task through its forward templates, each answer a row of Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flanlab.data.encoding import EncodedQuestion
from flanlab.data.rendering import gold_value_of, group_of, open_row
from flanlab.errors import FlanlabError
from flanlab.evaluation.planning import PlannedTask
from flanlab.evaluation.questions import ask, refuse_failed
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
NEUTRAL_PROMPT = "Answer:"
"""Asks nothing. An option's log-probability after it is taken off its score in PMI: some options are likelier than others
whatever the question, being common or short (Holtzman et al. 2021, "Surface Form Competition: Why the Highest Probability
Answer Isn't Always Right")."""
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
            hint=f"Evaluate other tasks. Or {way} to score these all the same: their scores are then marked.",
        )
    return seen


@dataclass(frozen=True, eq=False)
class Shard:
    """Some of a task's questions, whose answers make one file, whole or not at all.

    It is the unit of work: its predictions do not depend on what else the process computes, or has computed.
    """

    planned: PlannedTask
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


def shards_of(setup: Setup, planned: PlannedTask, folder: Path) -> list[Shard]:
    """A task's questions in shards, with the files `folder/shard-00000.parquet` and so on."""
    key = prediction_key(setup, planned)
    cut = enumerate(in_shards(planned.asked(setup.style)))
    return [Shard(planned, pairs, folder / f"shard-{number:05d}.parquet", key) for number, pairs in cut]


def in_shards(asked: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """A task's questions in groups that are answered together."""
    start, size = 0, _QUESTIONS_OF_FIRST_SHARD
    while start < len(asked):
        size = min(size, _QUESTIONS_PER_SHARD)
        yield asked[start : start + size]
        start, size = start + size, size * 2


def predict_shard(setup: Setup, shard: Shard) -> None:
    """Answer the questions of a shard and write its file."""
    table = _predict_pairs(setup, shard.planned, shard.pairs)
    with new_file(shard.path) as temporary:
        pq.write_table(table.replace_schema_metadata({"key": shard.key}), temporary)


def remove_stale_shards(folder: Path, shards: Sequence[Shard]) -> None:
    """Remove what an evaluation of more questions has left in `folder`."""
    for path in set(shard_paths(folder)) - {shard.path for shard in shards}:
        path.unlink()


def prediction_key(setup: Setup, planned: PlannedTask) -> str:
    """Hash of everything that shapes the predictions: model, tokenizer, task, rows, settings, protocol."""
    settings, style = setup.settings, setup.style
    # What numbers it computes in, the model's identity tells.
    shaping = affecting(settings, *PREDICTIONS)
    if style != "chat":
        del shaping["chat_template_args"]
    exemplars = planned.exemplars.source_hash if planned.exemplars is not None and settings.shot_count else None
    hashes = (planned.task.hash, planned.rows.source_hash, exemplars)
    facts = [_PROTOCOL, setup.model.identity, *hashes, shaping, setup.seed, style]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def neutral_questions(encoded: Iterable[EncodedQuestion]) -> list[Question]:
    """What the model is asked for the scores of sets of options alone: one question for each set that has something new."""
    questions = []
    known: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
    for one in encoded:
        keys = {(tuple(one.prompt), tuple(option)): option for option in one.answers}
        if new := [option for key, option in keys.items() if key not in known]:
            questions.append(Question(one.prompt, new))
            known.update(keys)
    return questions


def _predict_pairs(setup: Setup, planned: PlannedTask, pairs: Sequence[tuple[int, int]]) -> pa.Table:
    model, settings, style = setup.model, setup.settings, setup.style
    asked = [ask(setup, planned, row, template) for row, template in pairs]
    # Of this shard alone: what earlier shards have learnt would make scores depend, in their last digits, on who computed them.
    # All options of a set together, since where the prompt ends may depend on all of them, as it does for the question itself.
    sets = dict.fromkeys(one.example.options for one in asked if one.example.options and settings.pmi)
    neutral = {options: model.encoder.encode(NEUTRAL_PROMPT, options, style) for options in sets}
    alone = neutral_questions(neutral.values())
    answers: dict[int, Answer] = dict(model.answer([*asked, *alone], settings.token_budget))
    refuse_failed(planned.task, [*asked, *alone], answers, " What was done before is kept.")
    scores = {
        (tuple(question.prompt), tuple(option)): pair
        for place, question in enumerate(alone, len(asked))
        for option, *pair in zip(question.options, answers[place].scores, answers[place].scores_without_end, strict=True)
    }
    records = []
    for position, one in enumerate(asked):
        example, answer = one.example, answers[position]
        row = open_row(planned.task, planned.rows[example.row], example.row)
        # An untuned model that continues a text has no reason to end right after its answer.
        counted = answer.scores_without_end if style == "baseline" else answer.scores
        options = neutral[example.options].answers if example.options in neutral else []
        found = [scores[tuple(neutral[example.options].prompt), tuple(option)] for option in options]
        without_end = [score for _, score in found]
        counted_alone = without_end if style == "baseline" else [score for score, _ in found]
        records.append(
            {
                "task": planned.task.name,
                "template": example.template,
                "row": example.row,
                "group": group_of(planned.task, row),
                "prompt": example.prompt,
                "options": list(example.options),
                "own_options": list(row.options),
                "option_scores": counted,
                "option_scores_without_end": answer.scores_without_end,
                "option_scores_alone": counted_alone if settings.pmi else None,
                "option_scores_alone_without_end": without_end if settings.pmi else None,
                "option_tokens": answer.option_tokens,
                "answer": example.answer,
                "references": list(example.references),
                "exemplars": list(one.exemplars),
                "gold_value": gold_value_of(planned.task, row),
                "generated": answer.text if one.max_new_tokens else None,
                "shortened": one.shortened,
            }
        )
    return pa.Table.from_pylist(records, schema=PREDICTION_SCHEMA)
