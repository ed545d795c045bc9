"""The tab to try a model: a text of one's own, or a task's template with values of one's own; two models side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flanlab.data.rendering import PreparedRow
from flanlab.data.written_numbers import DECODER
from flanlab.errors import FlanlabError
from flanlab.tasks.printing import as_json
from flanlab.tasks.schema import Task
from flanlab.tasks.templating import variables_in
from flanlab.ui.tasks_tab import chosen_row
from flanlab.ui.workplace import Workplace, number_in, show, splits_of

if TYPE_CHECKING:
    from flanlab.experiments.ask import ModelAnswer
    from flanlab.models.loading import LoadedModel

COLUMN = "column:"
"""Before the name of a column, in the form."""
HISTORY = "history:"
"""Before the name of a model, in the form."""
NEW_TOKENS = 128


@dataclass(frozen=True)
class Given:
    """A column that a template needs, with the value to begin with; a value that is no text is written as JSON."""

    name: str
    value: str
    is_json: bool


def needed_columns(task: Task, template: int, row: PreparedRow) -> list[Given]:
    """The columns of the task's data that a template's prompt and options are made of, with a row's values."""
    sources = [task.templates[template - 1].prompt, *([task.options] if isinstance(task.options, str) else [])]
    names: set[str] = set()
    for name in (name for source in sources for name in variables_in(source)):
        names |= variables_in(task.fields[name]) if name in task.fields else {name}
    return [
        Given(
            name,
            value if isinstance(value, str) else as_json(value),
            not isinstance(value, str),
        )
        for name in row.columns
        if name in names or "row" in names
        for value in [row.columns[name]]
    ]


def given_values(fields: Mapping[str, str]) -> dict[str, Any]:
    """The values of columns in a form.

    Raises:
        FlanlabError: one that should be JSON is not.
    """
    values: dict[str, Any] = {}
    for key, text in fields.items():
        if not key.startswith(COLUMN):
            continue
        name = key.removeprefix(COLUMN)
        values[name] = text
        if fields.get(f"json:{name}"):
            try:
                values[name] = DECODER.decode(text)
            except (ValueError, RecursionError) as error:
                raise FlanlabError(
                    f"`{name}` is not valid JSON: {error}", hint='Write a value such as 3 or ["a", "b"].'
                ) from error
    return values


def try_page(workplace: Workplace, fields: Mapping[str, str]) -> str:
    """The form: a text, or the columns of a task with the values of a row."""
    facts: dict[str, Any] = {"task": None, "templates": [], "given": [], "splits": [], "fault": None}
    template, row, split = number_in(fields, "template"), number_in(fields, "row"), fields.get("split", "")
    if fields.get("task"):
        task = workplace.task(fields["task"])
        forward = task.forward_templates()
        template = template if template in forward else forward[0]
        facts |= {"task": task, "templates": forward, "splits": splits_of(task)}
        try:
            split, rows = workplace.rows(task, split)
            facts["given"] = needed_columns(task, template, chosen_row(task, rows, row))
        except FlanlabError as error:
            facts["fault"] = error
    models = list(workplace.models)
    return show(
        "try",
        tab="try",
        tasks=sorted(workplace.tasks),
        models=models,
        chosen=[fields.get("model") or next(iter(models), ""), fields.get("other", "")],
        template=template,
        row=row,
        split=split,
        **facts,
    )


@dataclass
class Conversation:
    """What a model was asked and answered, oldest first; why it does not answer now; its answer to a task's question."""

    model: str
    turns: list[tuple[str, str]]
    dropped: int = 0
    """Earliest turns that no longer fit and are not shown to the model any more."""
    fault: FlanlabError | None = None
    answer: ModelAnswer | None = None

    @property
    def field(self) -> str:
        """Under which name the form carries the turns from question to question: the app itself remembers none."""
        return HISTORY + self.model

    @property
    def kept(self) -> str:
        """The turns as the form carries them."""
        return json.dumps(self.turns)


def conversation_in(fields: Mapping[str, str], model: str) -> Conversation:
    """A model's earlier turns, as the form carries them.

    Raises:
        FlanlabError: they are not what `Conversation.kept` writes.
    """
    try:
        turns = [(question, answer) for question, answer in json.loads(fields.get(HISTORY + model, "[]"))]
        if not all(isinstance(text, str) for turn in turns for text in turn):
            raise ValueError("a turn is no pair of texts")
    except (ValueError, TypeError, RecursionError) as error:
        raise FlanlabError(f"The earlier turns cannot be read: {error}.", hint="Begin a new conversation.") from error
    return Conversation(model, turns)


def answer_part(workplace: Workplace, fields: Mapping[str, str]) -> str:
    """The answers of one model or of two side by side: to a task's question, or to the next turn of a conversation.

    With the action `show`, the conversation as it stands; with `forget`, none. A model that fails leaves the other's answer.
    """
    action, question = fields.get("action", ""), fields.get("question", "")
    task = workplace.task(fields["task"]) if fields.get("task") else None
    names = list(dict.fromkeys(name for name in (fields.get("model", ""), fields.get("other", "")) if name))
    for name in names or [""]:
        workplace.check_model(name)
    if action == "forget":
        return ""
    values = given_values(fields)
    asked = [conversation_in(fields, name) for name in names]
    for one in asked if action != "show" else []:
        try:
            with workplace.model(one.model) as model:
                if task is None:
                    _next_turn(model, one, question, bool(fields.get("chat")))
                else:
                    from flanlab.experiments.ask import ask

                    one.answer = ask(model, task=task, row=values, template=number_in(fields, "template", 1))
        except FlanlabError as error:
            one.fault = error
    prompt = next((one.answer.prompt for one in asked if one.answer is not None), None)
    return show("try_answer", conversations=asked, prompt=prompt)


def _next_turn(model: LoadedModel, conversation: Conversation, question: str, chat: bool) -> None:
    from flanlab.experiments.ask import ask

    answer = ask(model, question, history=conversation.turns, chat=chat, new_tokens=NEW_TOKENS)
    conversation.dropped = answer.turns_dropped
    conversation.turns = [*conversation.turns[answer.turns_dropped :], (question, answer.text)]
