"""`flan ask`: one question to a model, or a conversation."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import tempfile
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
    RemoteTokenizer,
    endpoint_of,
    named_values,
    say_loading,
)
from flanlab.models.names import check_model_name

if TYPE_CHECKING:
    from flanlab.experiments.ask import ModelAnswer
    from flanlab.models.answering import Model

_STOP = ("exit", "quit")


def ask(
    model: ModelName,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUESTION | NAME=VALUE ...]", help="A text; or with --task the values its prompt shows."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="A task, by name or file: its template is filled in.")] = None,
    template: Annotated[
        int | None, typer.Option(min=1, help="Which of its templates; the first forward one if not given.")
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
        raise typer.BadParameter("is needed beside --template.", param_hint="--task")
    row = _values(words or []) if task is not None else {}
    if server is None:
        check_model_name(model)

    say_loading()
    from flanlab.experiments.evaluate_model import opened

    if words or task is not None:
        question = " ".join(words or []) if task is None else None
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
