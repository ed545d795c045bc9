"""Predictions by one process or several: every row of a task through its forward templates, each answer a row of Parquet."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from flanlab.data.rendering import gold_value_of, group_of, open_row
from flanlab.errors import FlanlabError
from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.metrics.options import with_counted_scores
from flanlab.evaluation.planning import PlannedTask, Setup
from flanlab.evaluation.questions import TaskQuestion, ask, refuse_failed
from flanlab.files import new_file
from flanlab.models.answering import Answer, Question
from flanlab.processes import is_first, world_size
from flanlab.progress import Meter, meter, say
from flanlab.results.files import PREDICTION_SCHEMA, read_shard, shard_paths
from flanlab.results.grids import score_grid
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
_SECONDS_BETWEEN_LOOKS = 0.5


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
    table = predict_pairs(setup, shard.planned, shard.pairs)
    with new_file(shard.path) as temporary:
        pq.write_table(table.replace_schema_metadata({"key": shard.key}), temporary)


def remove_stale_shards(folder: Path, shards: Sequence[Shard]) -> None:
    """Remove what an evaluation of more questions has left in `folder`, and the locks of several processes."""
    for path in (set(shard_paths(folder)) - {shard.path for shard in shards}).union(folder.glob(".*.lock")):
        path.unlink(missing_ok=True)


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
    encoder = setup.model.encoder
    if any(encoder.decode([token]).strip() for token in encoder.newline_tokens):
        facts.append("first lines keep the text of their last token")  # was not so in earlier versions
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def neutral_questions(setup: Setup, asked: Iterable[TaskQuestion]) -> dict[tuple[str, ...], Question]:
    """What the model is asked for the scores of options alone, where the settings ask for PMI: one question for each set.

    All options of a set together, since where the prompt ends may depend on all of them, as it does for the question itself.
    """
    sets = dict.fromkeys(one.example.options for one in asked if one.example.options and setup.settings.pmi)
    encoded = {options: setup.model.encoder.encode(NEUTRAL_PROMPT, options, setup.style) for options in sets}
    return {options: Question(one.prompt, one.answers) for options, one in encoded.items()}


def predict_pairs(setup: Setup, planned: PlannedTask, pairs: Sequence[tuple[int, int]]) -> pa.Table:
    """Ask some (row, template) together. A table of PREDICTION_SCHEMA.

    Raises:
        FlanlabError: a row that cannot be asked, or a model that computes no number.
    """
    model, settings, style = setup.model, setup.settings, setup.style
    asked = [ask(setup, planned, row, template) for row, template in pairs]
    # Of this shard alone: what earlier shards have learnt would make scores depend, in their last digits, on who computed them.
    neutral = neutral_questions(setup, asked)
    questions = [*asked, *neutral.values()]
    answers: dict[int, Answer] = dict(model.answer(questions, settings.token_budget))
    refuse_failed(planned.task, questions, answers, " What was done before is kept.")
    scores_alone = {options: answers[place] for place, options in enumerate(neutral, len(asked))}

    def counted(answer: Answer) -> list[float]:
        # An untuned model that continues a text has no reason to end right after its answer.
        return answer.scores_without_end if style == "baseline" else answer.scores

    records = []
    for position, one in enumerate(asked):
        example, answer = one.example, answers[position]
        row, alone = open_row(planned.task, planned.rows[example.row], example.row), scores_alone.get(example.options)
        nothing: list[float] | None = [] if settings.pmi else None
        records.append(
            {
                "task": planned.task.name,
                "template": example.template,
                "row": example.row,
                "group": group_of(planned.task, row),
                "prompt": example.prompt,
                "options": list(example.options),
                "own_options": list(row.options),
                "option_scores": counted(answer),
                "option_scores_without_end": answer.scores_without_end,
                "option_scores_alone": counted(alone) if alone else nothing,
                "option_scores_alone_without_end": alone.scores_without_end if alone else nothing,
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


class RunningScores:
    """How tasks stand: the main metric of each over the shards that are done, for people who wait and not for results.

    It is the mean over shards, by what they hold. For a metric that is a mean over rows that is its score so far; for others
    (correlations, BLEU) it comes close.
    """

    def __init__(self, end_token: bool) -> None:
        self._end_token = end_token
        self._sums: dict[str, tuple[float, float, int]] = {}

    def take_in(self, shard: Shard) -> str:
        """Take in a shard that is done; returns how its task stands by now, in words."""
        task = shard.planned.task
        predictions = with_counted_scores(read_shard(shard.path).to_pylist(), self._end_token)
        metric = metrics_for(task.metrics, predictions)[0]
        grid = score_grid(metric, predictions)
        weights = grid.shown.sum(axis=1)  # a shard does not show all templates equally often
        total, weight, questions = self._sums.get(task.name, (0.0, 0.0, 0))
        total, weight = total + float(weights @ grid.by_template()), weight + float(weights.sum())
        questions += len(predictions)
        self._sums[task.name] = total, weight, questions
        return f"{task.name}: {metric.title} {100 * total / weight:.1f} % after {questions}"


def predict_tasks(setup: Setup, planned: Sequence[PlannedTask], folder: Path, title: str) -> None:
    """Predict every task into `folder/<task>`, and show how the tasks stand; shards that are there already are kept.

    Of several processes each takes a shard that no other one works on, again and again, and returns when all shards are there.
    What they have in common is the folder alone. So no collective times out while somebody works, and the shard of a process
    that dies is done by another.

    Raises:
        FlanlabError: a row cannot be asked about.
    """
    by_task = [shards_of(setup, one, folder / one.task.name) for one in planned]
    shards = [shard for task_shards in by_task for shard in task_shards]
    missing = dict.fromkeys(shard for shard in shards if not shard.is_done)
    running = RunningScores(setup.settings.end_token)
    for task_shards in by_task if is_first() else ():
        if not missing.keys().isdisjoint(task_shards):
            for shard in task_shards:
                if shard not in missing:
                    running.take_in(shard)
    done = sum(len(shard.pairs) for shard in shards if shard not in missing)
    with meter(title, sum(len(shard.pairs) for shard in shards), done) as bar:
        while missing:
            if not any(_predict_if_free(setup, shard) for shard in missing):
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            _take_in(missing, running, bar)
    if is_first():
        for one, task_shards in zip(planned, by_task, strict=True):
            remove_stale_shards(folder / one.task.name, task_shards)


def _predict_if_free(setup: Setup, shard: Shard) -> bool:
    """Answer the questions of a shard, unless another process does so or has done so. Returns whether it was free."""
    if shard.is_done:  # looked at before the lock, too: the locks of finished work are removed
        return False
    shard.path.parent.mkdir(parents=True, exist_ok=True)
    # The lock ends with the process that holds it, however it ends.
    alone = FileLock(shard.path.with_name(f".{shard.path.stem}.lock"), timeout=0) if world_size() > 1 else nullcontext()
    try:
        with alone:
            if shard.is_done:
                return False
            predict_shard(setup, shard)
    except Timeout:
        return False
    return True


def _take_in(missing: dict[Shard, None], running: RunningScores, bar: Meter) -> None:
    """Count the shards that have been done meanwhile, by this process or another, and show how their tasks stand."""
    for shard in [shard for shard in missing if shard.is_done]:
        del missing[shard]
        note = running.take_in(shard) if is_first() else ""
        bar.advance(len(shard.pairs), note)
        if missing and all(other.planned is not shard.planned for other in missing):
            say(f"  {note}")  # the task is done; of the last one the bar has told
