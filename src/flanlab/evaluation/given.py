"""Rows that a user gives: without answers, and with the columns of a task's data or its fields by name. A model answers them
by one template or a vote: with the option ranked first, as in evaluation, or a text.

A given column is taken for the column of that name that the task's expressions read. Where none of them reads it, and a field
is called so, it is that field itself: `premise=...` works whatever the data set calls its premises.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from flanlab.data.arrow_types import readable, shortest
from flanlab.data.rendering import THE_ANSWER, PreparedRow, answers_of, open_row, render
from flanlab.data.sources import Rows
from flanlab.data.table_files import UNREADABLE, refuse_same_names
from flanlab.data.written_numbers import column_of
from flanlab.errors import FlanlabError, one_line
from flanlab.evaluation.metrics.answers import exact_match, normalize_answer, option_said
from flanlab.evaluation.metrics.declared import normal_form
from flanlab.evaluation.metrics.options import option_shares
from flanlab.evaluation.planning import PlannedTask, Setup
from flanlab.evaluation.questions import TaskQuestion, ask, refuse_failed
from flanlab.models.answering import Answer
from flanlab.tasks.printing import TemplatingError
from flanlab.tasks.schema import Task
from flanlab.tasks.templating import variables_in


@dataclass(frozen=True)
class GivenTask(PlannedTask):
    """Given rows, each through the same forward templates, as evaluation asks them."""

    templates: tuple[int, ...] = ()

    def prepare(self, row: int) -> PreparedRow:
        """A row whose answer nothing may depend on.

        Raises:
            FlanlabError: a field that a prompt shows cannot be worked out.
        """
        columns = self.rows[row]
        opened = open_row(self.task, columns, row)
        if not self.task.fields:
            return PreparedRow(self.task, row, columns, columns, answered=False)
        fields: dict[str, Any] = {}
        for name in self.task.fields:
            if name in self._own_fields:
                fields[name] = columns[name]
            elif name in self._shown_fields:
                fields[name] = opened.fields[name]
            elif self._columns_of([self.task.fields[name]]) <= self._given:
                # Of no prompt, but the answer may need it. Where the answer is empty, it may be one that cannot be worked out.
                try:
                    fields[name] = opened.fields[name]
                except TemplatingError:
                    continue
        return PreparedRow(self.task, row, columns, fields, answered=False)

    def gold(self, row: int) -> tuple[str, Sequence[str]] | None:
        """The answer and all that are right, in the task's words; None where none is given.

        Raises:
            FlanlabError: what is given is no answer to this task.
        """
        columns = self.rows[row]
        if not self._answer_columns <= self._given or all(columns[name] in (None, "") for name in self._answer_columns):
            return None
        prepared = self.prepare(row)
        try:
            if self.task.is_classification:
                return answers_of(self.task, prepared)
            example = render(self.task, self.templates[0], replace(prepared, answered=True))
            return example.target, example.references
        except FlanlabError as error:
            raise FlanlabError(
                error.message,
                hint=f"Correct the answer, or leave {', '.join(sorted(self._answer_columns))} empty: it is not needed.",
            ) from error

    def refuse_unknown(self) -> None:
        """Refuse columns that the task cannot use.

        Raises:
            FlanlabError: names them.
        """
        if any("row" in variables_in(source) for source in (*self.task.fields.values(), *self._prompts, self.task.answer)):
            return  # `row['Review Text']` may read any column
        known = sorted(self._read_columns | set(self.task.fields))
        for name in sorted(self._given - set(known)):
            shown = sorted(self._shown_fields or self._columns_of([*self._prompts, *self._option_source]))
            near = difflib.get_close_matches(name, known, n=1)
            raise FlanlabError(
                f"The task {self.task.name} has no field `{name}`.",
                hint=f"Did you mean {near[0]}?" if near else f"Its fields are: {', '.join(shown)}.",
            )

    def refuse_missing(self) -> None:
        """Refuse columns in which something is missing that the prompts show.

        Raises:
            FlanlabError: names what is missing, and what is there.
        """
        if names := self.lacking():
            missing = self._lacking_columns
            raise FlanlabError(
                f"The prompts of {self.task.name} show what is not given: {', '.join(names)}.",
                hint=f"Given: {', '.join(sorted(self._given)) or 'nothing'}. Add {', '.join(names)}"
                + (f" (the data set's columns: {', '.join(sorted(missing))})." if set(names) - missing else "."),
            )

    def lacking(self) -> list[str]:
        """Names of what the prompts show and is not given. A field can be given in place of the column it is made of."""
        missing = self._lacking_columns
        names = {name for name in missing if not self.task.fields} | {
            name for name in self._shown_fields if self._columns_of([self.task.fields[name]]) & missing
        }
        return sorted(names or missing)

    @property
    def _lacking_columns(self) -> set[str]:
        return self._columns_of([*self._prompts, *self._option_source]) - self._given

    @cached_property
    def _given(self) -> frozenset[str]:
        return frozenset(self.rows.table.column_names)

    @property
    def _prompts(self) -> list[str]:
        return [self.task.templates[number - 1].prompt for number in self.templates]

    @property
    def _option_source(self) -> list[str]:
        return [self.task.options] if isinstance(self.task.options, str) else []

    @cached_property
    def _read_columns(self) -> set[str]:
        """Columns that the task's expressions read under their own names."""
        task = self.task
        sources = [source for source in (task.answer, task.references, *self._option_source) if source is not None]
        sources += [] if task.fields else [template.prompt for template in task.templates]
        beside_fields = {name for source in sources for name in variables_in(source)} - set(task.fields)
        return ({name for source in task.fields.values() for name in variables_in(source)} | beside_fields) - _NO_COLUMNS

    @cached_property
    def _own_fields(self) -> frozenset[str]:
        """Fields that are given as such."""
        return (self._given & set(self.task.fields)) - self._read_columns

    @cached_property
    def _shown_fields(self) -> frozenset[str]:
        """Fields that the prompts show or the options are made of."""
        names = {name for source in (*self._prompts, *self._option_source) for name in variables_in(source)}
        return frozenset(names & set(self.task.fields))

    @cached_property
    def _answer_columns(self) -> frozenset[str]:
        """Columns that tell the answer and nothing else: a prompt needs none of them."""
        task, target = self.task, self.task.templates[self.templates[0] - 1].target
        told = self._columns_of(filter(None, (task.answer, task.references if target == THE_ANSWER else target)))
        return frozenset(told - self._columns_of(self._prompts)) or frozenset(told)

    def _columns_of(self, sources: Iterable[str]) -> set[str]:
        """Columns that must be given for these sources to be filled in, fields that are given as such among them."""
        needed: set[str] = set()
        for name in (name for source in sources for name in variables_in(source)):
            if name in self._own_fields or name not in self.task.fields:
                needed.add(name)
            else:
                needed |= variables_in(self.task.fields[name])
        return needed - _NO_COLUMNS


_NO_COLUMNS = frozenset({"row", "options", "answer"})
"""Names that expressions have without a column."""


def given_task(
    task: Task, table: pa.Table, templates: Sequence[int], *, only_known: bool = False, complete: bool = True
) -> GivenTask:
    """A task with given rows.

    Args:
        task: answers them.
        table: the rows; a column for each column of the task's data, or field of the task, that the prompts show.
        templates: numbers of forward templates; the first one where there are none.
        only_known: refuse columns that the task cannot use.
        complete: refuse rows that lack what the prompts show.

    Raises:
        FlanlabError: something that the prompts show is missing, or no such template.
    """
    forward = task.forward_templates()
    if wrong := [number for number in templates if number not in forward]:
        raise FlanlabError(
            f"{task.path}: template {wrong[0]} of {task.name} is none that asks for the answer.",
            hint=f"Its forward templates are: {', '.join(map(str, forward))}.",
        )
    chosen = tuple(dict.fromkeys(templates)) or (forward[0],)
    pairs = [(row, template) for row in range(table.num_rows) for template in chosen]
    given = GivenTask(task, Rows(table, range(table.num_rows), _digest(table)), pairs, templates=chosen)
    if only_known:
        given.refuse_unknown()
    if complete:
        given.refuse_missing()
    return given


def table_of(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table, with every column that one of them has; a data frame of pandas or polars as it is.

    Raises:
        FlanlabError: no rows, rows that are no mappings, or a column with values of several types.
    """
    if hasattr(rows, "__arrow_c_stream__"):
        try:
            table = pa.table(rows)
        except (*UNREADABLE, BufferError) as error:  # two columns of one name, a column of several types, a series
            raise FlanlabError(
                f"The data frame cannot be read: {one_line(error)}",
                hint="Give each column a name of its own, and values of one type.",
            ) from error
        # What pandas calls an index is no column.
        table = table.select([place for place, name in enumerate(table.column_names) if not name.startswith("__index_level_")])
        refuse_same_names(table, "The data frame")
        return readable(table)
    try:
        listed = [{name: _without_numpy(value) for name, value in dict(row).items()} for row in rows]
    except (TypeError, ValueError) as error:
        raise FlanlabError(
            "Each row must be a dict of its columns.",
            hint="Give a list of dicts or a data frame.",
        ) from error
    if not listed:
        raise FlanlabError("There are no rows to answer.", hint="Give one or more rows.")
    names = dict.fromkeys(name for row in listed for name in row)
    try:
        return pa.table({name: column_of([row.get(name) for row in listed]) for name in names})
    except UNREADABLE as error:
        raise FlanlabError(
            f"The rows do not go together: {error}",
            hint="Give a column values of one type in all rows; a missing value is None.",
        ) from error


def _without_numpy(value: Any) -> Any:
    """A value whose numbers are Python's: a column of 3 beside 2.5 keeps the 3, and a 32-bit 0.1 is 0.1."""
    if isinstance(value, np.number | np.bool_):
        return shortest(value) if isinstance(value, np.float32 | np.float16) else value.item()
    if isinstance(value, np.ndarray | list | tuple):
        return [_without_numpy(part) for part in value]
    return {name: _without_numpy(part) for name, part in value.items()} if isinstance(value, dict) else value


def _digest(table: pa.Table) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr([(field.name, str(field.type)) for field in table.schema]).encode())
    for batch in table.to_batches(max_chunksize=1000):
        digest.update(repr(batch.to_pylist()).encode())
    return digest.hexdigest()


def ask_rows(setup: Setup, given: GivenTask, rows: Sequence[int]) -> Iterator[list[tuple[TaskQuestion, Answer]]]:
    """Ask some rows through each of the task's templates; yields the questions and answers of one row after the other.

    Raises:
        FlanlabError: a row that cannot be asked, or a model that computes no number.
    """
    asked = [ask(setup, given, row, template) for row in rows for template in given.templates]
    answers = dict(setup.model.answer(asked, setup.settings.token_budget))
    refuse_failed(given.task, asked, answers)
    count = len(given.templates)
    for start in range(0, len(asked), count):
        yield [(asked[place], answers[place]) for place in range(start, start + count)]


def counted_scores(setup: Setup, answer: Answer) -> list[float]:
    """The log-probabilities that options are ranked by, [options]; empty where nothing was ranked."""
    return answer.scores if setup.settings.end_token else answer.scores_without_end


def answer_row(setup: Setup, given: GivenTask, row: int, answers: Sequence[tuple[TaskQuestion, Answer]]) -> dict[str, Any]:
    """The answer to a row, from its answers through each template.

    Options are answered by the highest mean of their probabilities over templates (of equals, the first in the task's order);
    texts, and options that a server cannot rank, by the answer that most templates give (of equals, the first one's).

    Returns:
        `prediction`, in the task's own words (None where a generated text is none of the options), its `probability` and the
        `probabilities` of all options (None where nothing was ranked), `agreement`: the share of templates that alone would
        say the same, and `gold`: the answer that the row itself gives (None where it gives none). Where several answers are
        right and the prediction is one of them, that one; of a text that is a right one by the task's `exact_match`, its words.
    """
    options = given.prepare(row).options
    shares = None
    if options and answers[0][1].scores:
        by_template = [option_shares(counted_scores(setup, answer)).tolist() for _, answer in answers]
        means = [math.fsum(column) / len(by_template) for column in zip(*by_template, strict=True)]
        said: list[str | None] = [options[shares.index(max(shares))] for shares in by_template]
        prediction: str | None = options[means.index(max(means))]
        shares = dict(zip(options, means, strict=True))
        agreement = said.count(prediction) / len(said)
    elif options:
        places = [option_said(answer.text, one.example.options) for one, answer in answers]
        said = [None if place is None else options[place] for place in places]
        prediction, agreement = _most_said(said, said)
    else:
        texts = [answer.text for _, answer in answers]
        prediction, agreement = _most_said(texts, [normalize_answer(text) for text in texts])
    gold = given.gold(row)
    is_right = gold is not None and prediction in gold[1]
    if gold is not None and not options:
        judged = {"generated": prediction, "references": gold[1], "options": ()}
        is_right = bool(exact_match(judged, normal_form(given.task.metrics, has_options=False)))
    return {
        "prediction": prediction,
        "probability": shares[prediction] if shares is not None and prediction is not None else None,
        "probabilities": shares,
        "agreement": agreement,
        "gold": prediction if is_right else None if gold is None else gold[0],
    }


def _most_said(texts: Sequence[str | None], forms: Sequence[str | None]) -> tuple[str | None, float]:
    """The text whose form occurs most often, and its share. What is no answer counts only where nothing else was said."""
    counts = Counter(form for form in forms if form is not None)
    if not counts:
        return None, 1.0
    form = max(counts, key=lambda one: (counts[one], -list(forms).index(one)))
    return texts[list(forms).index(form)], counts[form] / len(forms)
