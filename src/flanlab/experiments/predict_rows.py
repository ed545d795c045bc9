"""A model's answers to a file of rows: block after block, and kept as they come, so that a killed command can be resumed.

Until all rows are answered, a folder beside the output (`.answers.csv.unfinished`) holds what there is: what was asked, and a
file for each block of rows. Then the output is written, whole or not at all, and the folder is removed.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flanlab.data.encoding import PromptStyle
from flanlab.data.rendering import THE_ANSWER, render
from flanlab.data.table_files import read_table
from flanlab.errors import FlanlabError
from flanlab.evaluation.given import GivenTask, answer_row, ask_rows, given_task, table_of
from flanlab.evaluation.planning import EvaluationSettings, Setup
from flanlab.evaluation.predict import refuse_seen
from flanlab.evaluation.questions import evaluation_order
from flanlab.experiments.evaluate_model import opened
from flanlab.files import alone_in, check_writable, in_use, new_file, read_json, write_json
from flanlab.models.answering import Model
from flanlab.models.completions import Endpoint
from flanlab.progress import meter, say
from flanlab.results.table import Table
from flanlab.settings import PREDICTIONS, RESULTS, affecting
from flanlab.tasks.loading import find_task
from flanlab.tasks.printing import as_json
from flanlab.tasks.schema import Task

_PROTOCOL = 2
"""Raise it when code here, in evaluation/given or in models/scoring changes what is answered."""
_ROWS_AT_ONCE = 32
"""Rows asked together, so that an answer is the same, to the last digit, after a kill."""
OWN_COLUMNS = ("row", "prediction", "probability", "probabilities", "agreement", "gold")
"""What is written beside the columns of the input."""


def predict(
    model: str | Path | Model,
    task: str | Path | Task,
    rows: str | Path | Iterable[Mapping[str, Any]],
    out: str | Path | None = None,
    *,
    templates: Sequence[int] = (),
    chat: bool = False,
    seed: int = 0,
    collections: Sequence[str | Path] | None = None,
    endpoint: Endpoint | None = None,
    settings: EvaluationSettings | None = None,
) -> Table:
    """Answer rows by a task's templates: rows with or without their own answers, by one template or a vote of several.

    Options are ranked exactly as `evaluate` ranks them (the same prompts, shuffled OPTIONS, log-probabilities with the end
    token). The rows' own answers do not affect this. A text is generated until the model ends it, up to 256 tokens.

    Args:
        model: a name as for `load_model`, a model from it, or with `endpoint` a name that the server knows.
        task: the task whose templates are asked; a name, a YAML file or a task.
        rows: a file (.csv, .tsv, .json, .jsonl, .parquet, .arrow, .feather; text also as .gz or .zst), dicts, or a data frame
            of pandas or polars. A column for each column of the task's data, or field of the task, that the prompts show. Other
            columns are copied.
        out: a .csv, .jsonl or .parquet file. Rows answered so far are kept next to it, and the same call resumes. An
            earlier file is replaced when all rows are answered.
        templates: numbers of forward templates. Default: the first. With several, each option's probability is the mean over
            templates; of generated texts, the most frequent one counts.
        chat: ask through the model's chat template.
        seed: determines the order of OPTIONS, as in `evaluate`.
        collections: where to look up names: `library`, `extra`, `sampler`, or folders. Default: all three.
        endpoint: server that knows `model` by its name.
        settings: as for `evaluate`; rows, splits and exemplars have no effect here.

    Returns:
        For each row its columns, and `row` (its number, from 0), `prediction`, `probability` and `probabilities` (0 to 1, of
        all options; None for generated answers), `agreement` (share of templates that alone say the same) and `gold` (the
        row's own answer; None where it has none). `gold` equals `prediction` exactly where the prediction is right: of a text,
        where it is one of the row's references by the task's `exact_match`.

    Raises:
        FlanlabError: a column that the prompts show is missing, a row that cannot be asked, an output that cannot be written
            or holds answers to something else, no such model, or a model that computes NaN.

    Examples:
        >>> import flanlab as fl
        >>> row = {"comment": "We came on a rainy Sunday and loved every room."}
        >>> [answer] = fl.predict(example_model, "visitor_comments", [row])
        >>> answer["prediction"] in ("negative", "positive"), answer["gold"]
        (True, None)
    """
    asked = task if isinstance(task, Task) else find_task(task, collections)
    style: PromptStyle = "chat" if chat else "instruction"
    settings = (settings or EvaluationSettings()).model_copy(update={"shots": 0, "pmi": False})
    table = read_table(Path(rows)) if isinstance(rows, str | Path) else table_of(rows)
    given = _checked(asked, table, templates, settings, seed)
    if out is None:
        with tempfile.TemporaryDirectory() as place, opened(model, endpoint, settings, [style], Path(place)) as found:
            setup, blocks = _ranking(*found, seed, style, given), range(0, table.num_rows, _ROWS_AT_ONCE)
            answers = [answer for first in blocks for answer in _answers(setup, given, first)]
        return Table(_joined(table, answers))
    out = Path(out)
    _check_output(out, rows)
    with _work_folder(out) as folder, opened(model, endpoint, settings, [style], folder) as found:
        joined = _joined(table, _resumed_answers(folder, _ranking(*found, seed, style, given), given))
        with new_file(out) as temporary:
            _WRITERS[out.suffix.lower()](joined, temporary)
        shutil.rmtree(folder, ignore_errors=True)
    return Table(joined)


def _checked(task: Task, table: pa.Table, templates: Sequence[int], settings: EvaluationSettings, seed: int) -> GivenTask:
    """The rows, each of which can be asked: looked at before a model is loaded."""
    if not table.num_rows:
        raise FlanlabError("The input holds no rows.", hint="Write a line for each row after the names of the columns.")
    if clash := sorted(set(OWN_COLUMNS) & set(table.column_names)):
        raise FlanlabError(
            f"The input has a column `{clash[0]}`, and so has the output.", hint="Rename the column, or leave it out."
        )
    given = given_task(task, table, templates)
    targets = {number: task.templates[number - 1].target for number in given.templates}
    other = next((number for number, target in targets.items() if target != THE_ANSWER), None)
    if other is not None and (task.is_classification or len(set(targets.values())) > 1):
        raise FlanlabError(
            f"{task.path}: template {other} of {task.name} has its own `target`, so what it asks for is not the task's answer.",
            hint="Ask by this template alone." if not task.is_classification else "Ask by other templates.",
        )
    faults: dict[int, FlanlabError] = {}
    for row, template in given.pairs:
        try:
            prepared = given.prepare(row)
            render(task, template, prepared, evaluation_order(task, prepared, settings, seed))
            given.gold(row)
        except FlanlabError as error:
            faults.setdefault(row, error)
    if faults:
        first = next(iter(faults.values()))
        shown = ", ".join(map(str, list(faults)[:10])) + (", ..." if len(faults) > 10 else "")
        hint = first.hint
        if "`filter`" in hint:
            hint += " Here `filter` does not apply, because every row is answered: remove such rows from the input."
        raise FlanlabError(
            f"{len(faults)} of {table.num_rows} rows cannot be asked: {shown} (counted from 0). {first.message}", hint=hint
        )
    return given


def _check_output(out: Path, rows: object) -> None:
    if out.suffix.lower() not in _WRITERS:
        raise FlanlabError(f"{out}: cannot write files of this kind.", hint=f"Name a file that ends in {', '.join(_WRITERS)}.")
    if out.is_dir():
        raise FlanlabError(f"{out}: is a folder.", hint="Name a file.")
    if isinstance(rows, str | Path) and out.resolve() == Path(rows).resolve():
        raise FlanlabError(f"{out}: is the input.", hint="Name another file for the answers.")
    check_writable(out.parent)


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """The folder for what is not finished; one process at a time may work there."""
    folder = out.with_name(f".{out.name}.unfinished")
    if in_use(folder):
        raise FlanlabError(
            f"{out}: another process is writing answers for it.", hint="Wait for that one, or name another file."
        )
    with alone_in(folder):
        yield folder


def _ranking(model: Model, settings: EvaluationSettings, seed: int, style: PromptStyle, given: GivenTask) -> Setup:
    """Without generation, where options are ranked: it would cost time and change nothing."""
    if given.task.is_classification and model.scoring != "generation":
        settings = settings.model_copy(update={"generate": False})
    return Setup(model, settings, seed, style)


def _answers(setup: Setup, given: GivenTask, first: int) -> list[dict[str, Any]]:
    """The answers to the block of rows that begins with this one."""
    rows = range(first, min(first + _ROWS_AT_ONCE, len(given.rows)))
    answers = ask_rows(setup, given, rows)
    return [{"row": row, **answer_row(setup, given, row, one)} for row, one in zip(rows, answers, strict=True)]


def _resumed_answers(folder: Path, setup: Setup, given: GivenTask) -> list[dict[str, Any]]:
    """The answers to all rows: blocks that the folder holds, and the others, which are written there as they come."""
    _refuse_other_answers(folder / "asked.json", setup, given)
    total = len(given.rows)
    blocks = {first: folder / f"rows-{first:09d}.json" for first in range(0, total, _ROWS_AT_ONCE)}
    answers = {first: read_json(path) for first, path in blocks.items() if path.is_file()}
    done = sum(map(len, answers.values()))
    if done:
        say(f"{done} of {total} rows are answered already.")
    if setup.model.stamp is not None and any(given.gold(row) is not None for row in range(total)):
        for reason in refuse_seen([given.task], setup.model.name, setup.model.stamp, allow_seen=True).values():
            say(f"Accuracy on these rows is not zero-shot: {reason}.")
    with meter(f"{setup.model.name} on {given.task.name}", total, done) as bar:
        for first in [one for one in blocks if one not in answers]:
            answers[first] = _answers(setup, given, first)
            write_json(blocks[first], answers[first])
            bar.advance(len(answers[first]))
    return [answer for first in blocks for answer in answers[first]]


def _refuse_other_answers(path: Path, setup: Setup, given: GivenTask) -> None:
    """Write down what decides the answers, or refuse a folder whose answers were decided by something else."""
    facts = {
        "version of flanlab": _PROTOCOL,
        "model": setup.model.identity,
        "task file": given.task.hash,
        "input": given.rows.source_hash,
        "choice of templates": list(given.templates),
        "prompt style": setup.style,
        "choice of settings": {**affecting(setup.settings, *PREDICTIONS, RESULTS), "seed": setup.seed},
    }
    if not path.exists():
        write_json(path, facts)
    was = read_json(path)
    if differs := [name for name in facts if was.get(name) != facts[name]]:
        raise FlanlabError(
            f"{path}: holds answers that were made with another {', another '.join(differs)}.",
            hint="Repeat the command that they are from, name another output, or delete the folder to begin again.",
        )


def _joined(table: pa.Table, answers: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows with their answers."""
    names = {tuple(answer["probabilities"] or ()) for answer in answers}
    # Where every row has the same options, a column of these; else pairs.
    same = len(names) == 1 and names != {()}
    shares = pa.struct([(name, pa.float64()) for name in names.pop()]) if same else pa.map_(pa.string(), pa.float64())
    kinds = (pa.int64(), pa.string(), pa.float64(), shares, pa.float64(), pa.string())
    own = {}
    for name, kind in zip(OWN_COLUMNS, kinds, strict=True):
        values = [answer[name] for answer in answers]
        pairs = name == "probabilities" and not same
        own[name] = pa.array([list(value.items()) if pairs and value else value for value in values], kind)
    return pa.table({"row": own.pop("row"), **dict(zip(table.column_names, table.columns, strict=True)), **own})


def _records(joined: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in joined.to_batches(max_chunksize=1000):
        for record in batch.to_pylist():
            shares = record["probabilities"]
            yield record | {"probabilities": None if shares is None else dict(shares)}


def _write_csv(joined: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(joined.column_names)
        for record in _records(joined):
            writer.writerow([_cell(value) for value in record.values()])


def _cell(value: Any) -> Any:
    """A value as a CSV file has it: lists and dicts as JSON, nothing for None."""
    return as_json(value) if isinstance(value, list | dict) else value


def _write_jsonl(joined: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for record in _records(joined):
            file.write(as_json(record) + "\n")


_WRITERS: Mapping[str, Callable[[pa.Table, Path], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": pq.write_table,
}
