"""`flan predict`: a model's answers to a file of rows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

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
    say_loading,
)
from flanlab.models.names import check_model_name

_INTERRUPTED = 130
"""Exit status of a program that Ctrl-C has ended."""


def predict(
    model: ModelName,
    task: Annotated[str, typer.Argument(help="A task, by name or file.")],
    input_file: Annotated[
        Path,
        typer.Option("--input", help="Rows to be answered: a CSV, TSV, JSON, JSONL, Parquet or Arrow file.", dir_okay=False),
    ],
    out: Annotated[Path, typer.Option(help="A .csv, .jsonl or .parquet file for the answers. The same command resumes.")],
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NUMBERS",
            help="Which templates vote, for example 1,3, or all. May be repeated. [default: the first forward one]",
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
    """Answer every row of a file by a task's templates. Where rows have their own answers, also say how good the answers are.

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
