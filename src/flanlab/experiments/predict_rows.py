"""A model's answers to a file of rows: row after row, and kept as they come, so that a killed command can be resumed.

Answers go into a journal beside the output, `.answers.csv.journal`: a line that says what was asked, then a line of JSON for
each row. When all are there, the output is written from it, whole or not at all, and the journal is removed.
"""

from __future__ import annotations

import csv
import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from flanlab.data.encoding import PromptStyle
from flanlab.data.rendering import render
from flanlab.data.table_files import read_table
from flanlab.errors import FlanlabError
from flanlab.evaluation.answering_rows import answer_row, ask_rows
from flanlab.evaluation.given import GivenUnit, given_unit, table_of
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.evaluation.predict import refuse_seen
from flanlab.evaluation.questions import evaluation_order
from flanlab.experiments.evaluate_model import remote_settings
from flanlab.files import new_file
from flanlab.models.answering import Model
from flanlab.models.completions import Endpoint
from flanlab.models.loading import load_model
from flanlab.models.remote import RemoteModel, open_remote_model
from flanlab.progress import meter, say
from flanlab.tasks.schema import Task

_PROTOCOL = 1
"""Raise it when code here, in evaluation/given or in models/scoring changes what is answered."""
_ROWS_AT_ONCE = 32
"""Rows asked together. Resuming begins at a multiple of it, so that an answer is the same, to the last digit, after a kill."""
OWN_COLUMNS = ("row", "prediction", "probability", "probabilities", "agreement", "gold")
"""What is written beside the columns of the input."""


def predict(
    model: str | Path | Model,
    task: Task,
    rows: str | Path | Iterable[Mapping[str, Any]],
    out: str | Path | None = None,
    *,
    templates: Sequence[int] = (),
    chat: bool = False,
    seed: int = 0,
    endpoint: Endpoint | None = None,
    settings: EvaluationSettings | None = None,
) -> list[dict[str, Any]]:
    """Answer rows by a task's templates: rows with or without their own answers, by one template or a vote of several.

    Options are ranked exactly as `evaluate` ranks them (the same prompts, shuffled OPTIONS, log-probabilities with the end
    token). Answers that the rows give take no part in that. A text is generated until the model ends it, up to 256 tokens.

    Args:
        model: a name as for `load_model`, a model that it has given, or with `endpoint` a name that the server knows.
        task: answers the rows.
        rows: a file (.csv, .tsv, .json, .jsonl, .parquet, .arrow, .feather; text also as .gz or .zst), or dicts. A column for
            each column of the task's data, or field of the task, that the prompts show; others are copied.
        out: a .csv, .jsonl or .parquet file. Rows answered so far are kept beside it, and the same call resumes there. An
            earlier file is replaced when all rows are answered.
        templates: numbers of forward templates; the first forward one, where none are given. Of several, each option's
            probability is the mean over templates; of generated texts, the one that most templates give counts.
        chat: ask through the model's chat template.
        seed: decides the order of OPTIONS, as in `evaluate`.
        endpoint: server that knows `model` by its name.
        settings: as for `evaluate`; what they say of rows, splits and exemplars means nothing here.

    Returns:
        For each row its columns, and `row` (its number, from 0), `prediction`, `probability` and `probabilities` (0 to 1, of
        all options; None for generated answers), `agreement` (share of templates that alone say the same) and `gold` (the
        row's own answer, None where it has none).

    Raises:
        FlanlabError: a column that the prompts show is missing, a row that cannot be asked, an output that cannot be written
            or holds answers to something else, no such model, or one that computes no number.

    >>> import flanlab as fl
    >>> task = fl.load_task("visitor_comments")
    >>> [answer] = predict(example_model, task, [{"comment": "We came on a rainy Sunday and loved every room."}])
    >>> answer["prediction"] in ("negative", "positive"), answer["gold"]
    (True, None)
    """
    settings = (settings or EvaluationSettings()).model_copy(update={"shots": 0, "pmi": False})
    table = read_table(Path(rows)) if isinstance(rows, str | Path) else table_of(rows)
    unit = _checked_unit(task, table, templates, settings, seed)
    style: PromptStyle = "chat" if chat else "instruction"
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            opened, settings = open_model(model, endpoint, Path(folder) / "responses.sqlite", settings, unit)
            answers = [answer for some in _answers(opened, unit, 0, settings, seed, style) for answer in some]
            _close(opened)
        return _with_columns(table, answers)
    out = Path(out)
    _check_output(out, rows)
    journal, responses = (out.with_name(f".{out.name}.{kind}") for kind in ("journal", "responses.sqlite"))
    with _alone_at(out), journal.open("ab+") as file:
        opened, settings = open_model(model, endpoint, responses, settings, unit)
        answers = _resumed(file, journal, _facts(opened, unit, settings, seed, style), len(unit.rows))
        _note_seen(opened, unit)
        if answers:
            say(f"{len(answers)} of {len(unit.rows)} rows are answered already.")
        with meter(f"{opened.name} on {task.name}", len(unit.rows), len(answers)) as bar:
            for some in _answers(opened, unit, len(answers), settings, seed, style):
                file.write(b"".join(json.dumps(answer, ensure_ascii=False).encode() + b"\n" for answer in some))
                file.flush()
                answers += some
                bar.advance(len(some))
        _close(opened)
        with new_file(out) as temporary:
            _WRITERS[out.suffix.lower()](temporary, table, answers)
        journal.unlink()
        responses.unlink(missing_ok=True)
    return _with_columns(table, answers)


def open_model(
    model: str | Path | Model,
    endpoint: Endpoint | None,
    kept: Path,
    settings: EvaluationSettings,
    unit: GivenUnit,
) -> tuple[Model, EvaluationSettings]:
    """The model, and the settings that it can be asked with."""
    opened: Model
    if not isinstance(model, str | Path):
        opened = model
    elif endpoint is None:
        opened = load_model(str(model), dtype=settings.dtype, say=say)
    else:
        opened = open_remote_model(str(model), endpoint, kept)
    if isinstance(opened, RemoteModel):
        settings = remote_settings(settings, opened)
    ranks = not isinstance(opened, RemoteModel) or opened.scoring == "log-probabilities"
    # Options are ranked: a generated answer beside that would cost time and change nothing.
    settings = settings.model_copy(update={"generate": settings.generate and not (unit.task.is_classification and ranks)})
    opened.encoder.chat_template_args = settings.chat_template_args
    return opened, settings


def _checked_unit(task: Task, table: pa.Table, templates: Sequence[int], settings: EvaluationSettings, seed: int) -> GivenUnit:
    """The rows, each of which can be asked: looked at before a model is loaded."""
    if not table.num_rows:
        raise FlanlabError("The input holds no rows.", hint="Write a line for each row after the names of the columns.")
    if clash := sorted(set(OWN_COLUMNS) & set(table.column_names)):
        raise FlanlabError(
            f"The input has a column `{clash[0]}`, and so has the output.", hint="Rename the column, or leave it out."
        )
    unit = given_unit(task, table, templates)
    for row, template in unit.pairs:
        prepared = unit.prepare(row)
        render(task, template, prepared, evaluation_order(task, prepared, settings, seed))
        unit.gold(row)
    return unit


def _check_output(out: Path, rows: object) -> None:
    if out.suffix.lower() not in _WRITERS:
        raise FlanlabError(f"{out}: cannot write files of this kind.", hint=f"Name a {', '.join(_WRITERS)} file.")
    if out.is_dir():
        raise FlanlabError(f"{out}: is a folder.", hint="Name a file.")
    if isinstance(rows, str | Path) and out.resolve() == Path(rows).resolve():
        raise FlanlabError(f"{out}: is the input.", hint="Name another file for the answers.")
    out.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def _alone_at(out: Path) -> Iterator[None]:
    """Let one process at a time answer into a file; a second one is refused."""
    path = out.with_name(f".{out.name}.lock")
    try:
        with FileLock(path, timeout=0):
            yield
            path.unlink(missing_ok=True)
    except Timeout as error:
        raise FlanlabError(
            f"{out}: another process is answering into this file.", hint="Wait for that one, or name another file."
        ) from error


def _note_seen(model: Model, unit: GivenUnit) -> None:
    """Say where the model knows the task, if anybody is going to count how often it is right."""
    if any(unit.gold(row) is not None for row in range(len(unit.rows))):
        for reason in refuse_seen([unit.task], model, allow_seen=True).values():
            say(f"Accuracy is not zero-shot: {reason}.")


def _close(model: Model) -> None:
    if isinstance(model, RemoteModel):
        model.completions.close()


def _answers(
    model: Model, unit: GivenUnit, start: int, settings: EvaluationSettings, seed: int, style: PromptStyle
) -> Iterator[list[dict[str, Any]]]:
    """The answers to the rows from `start` on, those that are asked together at a time."""
    for first in range(start, len(unit.rows), _ROWS_AT_ONCE):
        rows = range(first, min(first + _ROWS_AT_ONCE, len(unit.rows)))
        asked = ask_rows(model, unit, rows, settings, seed, style)
        yield [
            {"row": row, **answer_row(unit, row, replies, settings.end_token)} for row, replies in zip(rows, asked, strict=True)
        ]


def _facts(model: Model, unit: GivenUnit, settings: EvaluationSettings, seed: int, style: PromptStyle) -> dict[str, Any]:
    """What decides the answers."""
    shaping = settings.model_dump(exclude={"token_budget", "rows", "split", "templates_per_row", "choose_template", "dtype"})
    return {
        "version": _PROTOCOL,
        "model": model.identity,
        "task file": unit.task.hash,
        "input": unit.rows.source_hash,
        "templates": list(unit.templates),
        "prompt style": style,
        "settings": {**json.loads(json.dumps(shaping)), "seed": seed},
    }


def _resumed(file: BinaryIO, journal: Path, facts: Mapping[str, Any], total: int) -> list[dict[str, Any]]:
    """The answers in a journal; what comes after them, such as a half-written line, is removed from it."""
    file.seek(0)
    # What follows the last line break is half a line.
    lines = file.read().split(b"\n")[:-1]
    if not lines:
        file.truncate(0)
        file.write(json.dumps(facts).encode() + b"\n")
        file.flush()
        return []
    was = _parsed(lines[0])
    if differs := [name for name in facts if was is None or was.get(name) != facts[name]]:
        raise FlanlabError(
            f"{journal}: holds answers that were made with another {', another '.join(differs)}.",
            hint="Repeat the command that they are from, name another output, or delete this file to begin again.",
        )
    answers = [answer for answer in itertools.takewhile(lambda one: one is not None, map(_parsed, lines[1:])) if answer]
    if len(answers) < total:
        del answers[len(answers) // _ROWS_AT_ONCE * _ROWS_AT_ONCE :]
    file.truncate(sum(len(line) + 1 for line in lines[: 1 + len(answers)]))
    return answers


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _with_columns(table: pa.Table, answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each answer with the columns of its row."""
    return [{"row": answer["row"], **row, **answer} for row, answer in zip(_rows_of(table), answers, strict=True)]


def _rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=1000):
        yield from batch.to_pylist()


def _write_csv(path: Path, table: pa.Table, answers: Sequence[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", *table.column_names, *OWN_COLUMNS[1:]])
        for record in _with_columns(table, answers):
            writer.writerow([_cell(value) for value in record.values()])


def _cell(value: Any) -> Any:
    """A value as a CSV file has it: lists and dicts as JSON, nothing for None."""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


def _write_jsonl(path: Path, table: pa.Table, answers: Sequence[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for record in _with_columns(table, answers):
            file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")


def _write_parquet(path: Path, table: pa.Table, answers: Sequence[dict[str, Any]]) -> None:
    kinds = (pa.int64(), pa.string(), pa.float64(), pa.map_(pa.string(), pa.float64()), pa.float64(), pa.string())
    own = {}
    for name, kind in zip(OWN_COLUMNS, kinds, strict=True):
        values = [answer[name] for answer in answers]
        own[name] = pa.array([list(value.items()) if isinstance(value, dict) else value for value in values], kind)
    columns = {"row": own.pop("row"), **dict(zip(table.column_names, table.columns, strict=True)), **own}
    pq.write_table(pa.table(columns), path)


_WRITERS: Mapping[str, Callable[[Path, pa.Table, Sequence[dict[str, Any]]], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
