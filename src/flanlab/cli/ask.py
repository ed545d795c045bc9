"""`flan ask` and `flan predict`: a question to a model, a conversation, or a file of rows."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import flanlab as fl
from flanlab.cli.options import (
    AcceptGemmaTerms,
    ApiKeyVariable,
    AsJson,
    Collections,
    EndpointUrl,
    ModelName,
    Parallel,
    RemoteTokenizer,
    RequestsPerMinute,
    comma_separated,
    endpoint_of,
    named_values,
    say_loading,
)
from flanlab.models.names import check_model_name

if TYPE_CHECKING:
    from flanlab.experiments.ask import ModelAnswer
    from flanlab.models.answering import Model

_STOP = ("exit", "quit")
_INTERRUPTED = 130
"""Exit status of a program that Ctrl-C has ended."""


def ask(
    model: ModelName,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUESTION | NAME=VALUE ...]", help="A text; or with --task the values its prompt shows."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="A task whose template is filled in, by name or file.")] = None,
    template: Annotated[
        int | None, typer.Option(min=1, help="Number of the task's template. Default: the first forward one.")
    ] = None,
    tasks: Collections = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the model's chat template.")] = False,
    new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer to a text, in tokens.")] = 256,
    endpoint: EndpointUrl = None,
    tokenizer: RemoteTokenizer = None,
    api_key_variable: ApiKeyVariable = None,
    accept_gemma_terms: AcceptGemmaTerms = False,
    as_json: AsJson = False,
) -> None:
    """Ask a model a question: a text of your own, or a task's. Without either, it answers line after line.

    Example: flan ask smollm2-135m-instruct --task rte premise="It rained all day." hypothesis="It was dry."
    """
    server = endpoint_of(endpoint, tokenizer, api_key_variable=api_key_variable)
    if template is not None and task is None:
        raise typer.BadParameter("is needed with --template.", param_hint="--task")
    texts = [word for word in words or [] if task is None or "=" not in word]
    row = {} if task is None else _values([word for word in words or [] if "=" in word])
    if server is None:
        check_model_name(model)

    say_loading()
    from flanlab.experiments.evaluate_model import opened

    if words or task is not None:
        question = " ".join(texts) if texts else None
        answer = fl.ask(
            model,
            question,
            task=task,
            row=row,
            template=template,
            chat=chat,
            new_tokens=new_tokens,
            collections=tasks,
            endpoint=server,
        )
        _show(answer, as_json, with_prompt=task is not None)
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        opened(model, server, fl.EvaluationSettings(), ["chat" if chat else "instruction"], Path(folder)) as (found, _),
    ):
        _converse(found, chat, new_tokens, as_json)


def _values(words: list[str]) -> dict[str, Any]:
    """NAME=VALUE, the value as JSON where it is a list or an object, else a text."""
    from flanlab.data.written_numbers import DECODER

    found: dict[str, Any] = dict(named_values(words, "NAME=VALUE"))
    for name, value in found.items():
        if value[:1] in ("[", "{"):
            with contextlib.suppress(ValueError):  # else a text that begins with a bracket
                found[name] = DECODER.decode(value)
    return found


def _show(answer: ModelAnswer, as_json: bool, *, with_prompt: bool = False) -> None:
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(answer), ensure_ascii=False))
        return
    if not with_prompt:
        typer.echo(answer.text)
        return
    typer.echo(answer.prompt)
    if answer.options:
        typer.echo("\nRanked:")
    for one in answer.options:
        width = max(len(option.option) for option in answer.options)
        typer.echo(f"  {one.option:{width}}  {one.probability:7.2%}  log-probability {one.log_probability:.3f}")
    typer.echo(f"\nGenerated: {answer.text}")


def _converse(model: Model, chat: bool, new_tokens: int, as_json: bool) -> None:
    """Answer line after line, each after the turns before it, until the input ends."""
    from flanlab.progress import say

    shown = sys.stdin.isatty()
    if shown:
        say(f"Type a question; an empty line forgets the turns before it; {' or '.join(_STOP)} ends.")
    history: list[tuple[str, str]] = []
    while True:
        try:
            question = input("> " if shown else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if question in _STOP:
            return
        if not question:
            history = []
            continue
        try:
            answer = fl.ask(model, question, history=history, chat=chat, new_tokens=new_tokens)
        except KeyboardInterrupt:
            say("Stopped.")
            continue
        except fl.FlanlabError as error:
            if not shown:
                raise
            say(f"flan: {error}")
            continue
        if answer.turns_dropped:
            say(f"The {answer.turns_dropped} oldest turns no longer fit and are dropped.")
            del history[: answer.turns_dropped]
        _show(answer, as_json)
        history.append((question, answer.text))


def predict(
    model: ModelName,
    task: Annotated[str, typer.Argument(help="A task, by name or file.")],
    input_file: Annotated[
        Path,
        typer.Option("--input", help="File with the rows: CSV, TSV, JSON, JSONL, Parquet or Arrow file.", dir_okay=False),
    ],
    out: Annotated[Path, typer.Option(help="A .csv, .jsonl or .parquet file for the answers. The same command resumes.")],
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NUMBERS",
            help="Which templates vote, for example 1,3, or all. May be repeated. Default: the first forward one.",
        ),
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Also print the accuracy for each value of this column. May be repeated.")
    ] = None,
    tasks: Collections = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the model's chat template.")] = False,
    endpoint: EndpointUrl = None,
    tokenizer: RemoteTokenizer = None,
    requests_per_minute: RequestsPerMinute = None,
    parallel: Parallel = None,
    api_key_variable: ApiKeyVariable = None,
    accept_gemma_terms: AcceptGemmaTerms = False,
    as_json: AsJson = False,
) -> None:
    """Answer every row of a file by a task's templates. If rows have right answers, also measure how good the predictions are.

    Example: flan predict runs/tickets/model tickets/urgency.yaml --input tickets.csv --out answers.csv
    """
    server = endpoint_of(endpoint, tokenizer, requests_per_minute, parallel, api_key_variable)
    if not input_file.is_file():
        raise typer.BadParameter(f"There is no file {input_file}.", param_hint="--input")
    if server is None:
        check_model_name(model)

    say_loading()
    from flanlab.data.table_files import read_table
    from flanlab.progress import say

    asked = fl.load_task(task, tasks)
    numbers = _numbers(template or [], asked.forward_templates())
    columns = read_table(input_file).column_names if by else []
    if absent := [column for column in by or [] if column not in columns]:
        raise typer.BadParameter(f"{input_file} has no column {absent[0]}; it has {', '.join(columns)}.", param_hint="--by")
    try:
        records = fl.predict(model, asked, input_file, out, templates=numbers, chat=chat, endpoint=server).rows()
    except KeyboardInterrupt:
        say("Stopped. The rows answered so far are kept; the same command resumes.")
        raise typer.Exit(_INTERRUPTED) from None
    judgement = _judgement(records, by or []) if asked.is_classification else {}
    facts = {"out": str(out), "rows": len(records), "rows_with_answer": _answered(records), **judgement}
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, default=str))
        return
    if judgement:
        _print(judgement)
    typer.echo(f"{len(records)} rows: {out}")


def _numbers(given: Sequence[str], forward: list[int]) -> list[int]:
    parts = comma_separated(given)
    if parts == ["all"]:
        return forward
    if wrong := [part for part in parts if not part.isdecimal()]:
        raise typer.BadParameter(f"{wrong[0]!r} is no number of a template, and not `all`.", param_hint="--template")
    return [int(part) for part in parts]


def _answered(records: Sequence[Mapping[str, Any]]) -> int:
    return sum(record["gold"] is not None for record in records)


def _judgement(records: Sequence[Mapping[str, Any]], by: Sequence[str]) -> dict[str, Any]:
    """How good the answers are, where the rows have their own."""
    from flanlab.evaluation.classification import calibration_error, per_class

    if not _answered(records):
        return {}
    known = [record for record in records if record["gold"] is not None]
    found: dict[str, Any] = {"accuracy": fl.accuracy_by(known).rows()[0]}
    found["by"] = {column: fl.accuracy_by(known, column).rows() for column in by}
    if any(record["probabilities"] for record in known):
        found["calibration"] = fl.calibration(known).rows()
        found["calibration_error"] = calibration_error(known)
    # Where the options differ from row to row there are no classes.
    with contextlib.suppress(fl.FlanlabError):
        found["confusion"], found["classes"] = fl.confusion(known).rows(), per_class(known).rows()
    return found


def _print(found: Mapping[str, Any]) -> None:
    from rich.markup import escape

    from flanlab.cli.tables import compact_table, result_console

    console = result_console()
    if "classes" in found:
        said = list(dict.fromkeys(pair["prediction"] for pair in found["confusion"]))
        columns = ["", *("(none)" if one is None else escape(one) for one in said), "precision", "recall"]
        table = compact_table("Right answer (rows) and prediction (columns)", *columns)
        for one in found["classes"]:
            counts = [str(pair["count"]) for pair in found["confusion"] if pair["gold"] == one["class"]]
            table.add_row(escape(one["class"]), *counts, _number(one["precision"]), _number(one["recall"]))
        console.print(table)
    for column, rows in {"": [found["accuracy"]], **found["by"]}.items():
        title = f"Accuracy by {escape(column)}" if column else "Accuracy"
        table = compact_table(title, escape(column), "rows", "accuracy", "95 % interval")
        for row in rows:
            name = ("(none)" if row["value"] is None else str(row["value"])) if column else "all rows"
            interval = f"[{row['low']:.3f}, {row['high']:.3f}]"
            table.add_row(escape(name), str(row["rows"]), _number(row["accuracy"]), escape(interval))
        console.print(table)
    if "calibration" in found:
        title = f"Calibration: expected error {found['calibration_error']:.3f}"
        table = compact_table(title, "probability", "rows", "mean", "right")
        for part in found["calibration"]:
            ends = f"{part['low']:.2f} to {part['high']:.2f}"
            table.add_row(ends, str(part["rows"]), _number(part["confidence"]), _number(part["accuracy"]))
        console.print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
