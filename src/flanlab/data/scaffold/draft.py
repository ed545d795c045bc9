"""A first task file for a table: what can be guessed from columns and rows, with the gaps a person must fill marked TODO."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from flanlab.data.scaffold.answers import Answer, Ask, guess_answer
from flanlab.data.scaffold.columns import describe_columns, spoken
from flanlab.data.scaffold.inputs import Input, Inputs, guess_inputs
from flanlab.data.scaffold.splits import guess_splits, usable_rows
from flanlab.data.sources import label_names
from flanlab.data.written_numbers import WrittenType, with_floats
from flanlab.errors import FlanlabError, one_line
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.schema import Split


@dataclass(frozen=True)
class Scaffold:
    """The text of a task file, and what was guessed: topic and explanation, a line each."""

    text: str
    guesses: list[tuple[str, str]]


def scaffold_task(
    tables: Mapping[str, pa.Table],
    *,
    name: str,
    cluster: Cluster,
    place: Mapping[str, str],
    answer: str | None = None,
    ask: Ask | None = None,
    same_rows: Sequence[str] = (),
) -> Scaffold:
    """Write a first task file.

    Args:
        tables: the rows by split, whole; a single file is the split `all`.
        name: of the task.
        cluster: of the task.
        place: where the rows are, as the fields of `source`: `files`, or `hub` with `config` and `revision`.
        answer: the column with the answer, where the user says it.
        ask: asks the user for it where the guess would not be sure; without it the guess is marked as not sure.
        same_rows: tasks known to have the same rows.

    Raises:
        FlanlabError: no rows, no column that could be the answer, or none that could be an input.
    """
    tables = {split: _with_plain_numbers(table) for split, table in tables.items() if table.num_rows}
    if not tables:
        raise FlanlabError("There are column names but no rows.", hint="Put the rows below the line with the column names.")
    whole = _together(tables)
    columns = describe_columns(whole, {name: names for table in tables.values() for name, names in label_names(table).items()})
    if len(columns) == 1 and columns[0].kind != "nested":
        separator = next((mark for mark in (";", "\t", "|") if mark in columns[0].name), None)
        raise FlanlabError(
            f"There is one column alone, {columns[0].name!r}: a task needs an answer and something it is asked about.",
            hint="Separate columns by commas (by tabs in a .tsv file)." if separator else "Add the other column.",
        )
    unlabelled = {column.name for column in columns if column.kind == "whole" and _never_labelled(tables, column.name)}
    found = guess_answer(columns, answer, cluster, unlabelled, ask)
    inputs = guess_inputs(columns, found)
    filters = list(dict.fromkeys([*found.filters, *inputs.filters]))
    usable = {split: (usable_rows(table, found, inputs), table.num_rows) for split, table in tables.items()}
    splits, how = guess_splits(usable)
    left_out = sum(total - len(kept) for kept, total in usable.values())
    guesses = [
        ("rows", ", ".join(f"{table.num_rows} in `{split}`" for split, table in tables.items())),
        ("answer", found.why),
        ("metrics", ", ".join(found.metrics)),
        ("inputs", ", ".join(f"`{item.name}`" for item in inputs.used)),
        ("splits", f"{', '.join(f'{split}: {part}' for split, part in splits.items())} ({how})"),
        *([("filter", f"{left_out} rows are left out; kept are those with: {' and '.join(filters)}")] if filters else []),
        *(("not used", comment) for comment in inputs.comments),
        *(("not used", f"the split {split}") for split in tables if not any(_is_of(part, split) for part in splits.values())),
        *(("same rows", f"the task {other} has them too: `derived_from` says so") for other in same_rows),
    ]
    head = _head(name, cluster, place, splits, how, same_rows)
    return Scaffold("\n".join([*head, *_body(found, inputs, filters), *_templates(found, inputs)]) + "\n", guesses)


def _is_of(part: str, split: str) -> bool:
    return part.partition("[")[0] == split


def _with_plain_numbers(table: pa.Table) -> pa.Table:
    """The table with every number as a float or a whole number, which can be counted and compared in bulk."""
    for position, field in enumerate(table.schema):
        if isinstance(field.type, WrittenType):
            table = table.set_column(position, field.name, pa.array(with_floats(table.column(position).to_pylist())))
        elif pa.types.is_decimal(field.type):
            table = table.set_column(position, field.name, table.column(position).cast(pa.float64()))
    return table


def _together(tables: Mapping[str, pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(tables.values(), promote_options="permissive")
    except pa.ArrowException as error:
        raise FlanlabError(
            f"The splits {', '.join(tables)} do not go together: {one_line(error)}",
            hint="Give a column the same type everywhere.",
        ) from error


def _never_labelled(tables: Mapping[str, pa.Table], column: str) -> bool:
    """Whether a whole split has -1 in place of labels."""
    found = (table[column] for table in tables.values() if column in table.column_names)
    return len(tables) > 1 and any(pc.all(pc.equal(cells, -1)).as_py() is True for cells in found)


def _head(
    name: str,
    cluster: Cluster,
    place: Mapping[str, str],
    splits: Mapping[Split, str],
    how: str,
    same_rows: Sequence[str],
) -> list[str]:
    """The lines that say what the task is and where its rows are."""
    lines = [
        "# A first draft by `flan tasks new`: what it could not know is marked TODO. docs/add-a-task.md explains every field.",
        f"name: {name}",
        f"cluster: {cluster}",
        'description: ""  # TODO: one sentence: what does somebody do who solves this task?',
        "source:",
        *(f"  {key}: {_scalar(value)}" for key, value in place.items()),
    ]
    if "hub" in place and "revision" not in place:
        lines.append("  # TODO: revision: the commit of the data set, so that its rows stay the same")
    lines.append(f"  # {how[:1].upper()}{how[1:]}.")
    lines.append("  splits: {" + ", ".join(f"{split}: {_scalar(part)}" for split, part in splits.items()) + "}")
    lines.append("licence: unknown  # TODO: what the owner of the rows allows, such as CC BY 4.0")
    lines.append('citation: ""  # TODO: the paper or page to cite, or delete this line')
    if same_rows:
        lines += ["derived_from:", *(f"  {other}: the same rows" for other in same_rows)]
    else:
        lines.append("# TODO: if the rows come from other data sets, name them with the evidence; else delete these lines")
        lines.append("# derived_from: {squad: as the paper states}")
    return lines


def _body(answer: Answer, inputs: Inputs, filters: Sequence[str]) -> list[str]:
    """The lines that say what is asked and what the answer is."""
    lines = [f"filter: {_expression(' and '.join(filters))}"] if filters else []
    lines += ["fields:", *(f"  {item.name}: {_expression(item.source)}" for item in inputs.used)]
    lines += [f"  # not used: {comment}" for comment in inputs.comments]
    if answer.to_do:
        lines.append(f"# TODO: {answer.to_do}")
    if isinstance(answer.options, str):
        lines.append(f"options: {_expression(answer.options)}")
    elif answer.options is not None:
        quoted = [json.dumps(option, ensure_ascii=False) for option in answer.options]
        in_a_line = f"options: [{', '.join(quoted)}]"
        lines += [in_a_line] if len(in_a_line) <= 120 else ["options:", *(f"  - {option}" for option in quoted)]
    lines.append(f"answer: {_expression(answer.source)}")
    for key, source in (("references", answer.references), ("gold_value", answer.gold_value)):
        lines += [f"{key}: {_expression(source)}"] if source else []
    return [*lines, f"metrics: [{', '.join(answer.metrics)}]"]


def _templates(answer: Answer, inputs: Inputs) -> list[str]:
    """Three plain templates and a baseline prompt in comments."""
    shown = _shown(inputs.used, labelled=False)
    labelled = _shown(inputs.used, labelled=True)
    continued = f"{labelled}\n{answer.noun.capitalize()}:"
    if isinstance(answer.options, str):
        question, order = "Which of the choices is right?", "Pick the right choice."
    elif answer.options is not None:
        question, order = f"Choose the {answer.noun}.", f"Read this and say what the {answer.noun} should be."
    else:
        question, order = f"Give the {answer.noun}.", f"Read this, then write the {answer.noun} that belongs to it."
    lines = ["templates:", "  # TODO: better words, and more: ten in all, of which up to three may be `direction: inverted`"]
    for prompt in (f"{shown}\n\n{question}", f"{order}\n\n{labelled}", continued):
        lines += ["  - prompt: |", *(f"      {line}".rstrip() for line in prompt.split("\n"))]
    lines.append("# TODO: a text that an untuned model continues with the answer; if this one is good, remove the # signs")
    return [*lines, "# baseline:", "#   prompt: |", *(f"#     {line}" for line in continued.split("\n"))]


def _shown(inputs: Sequence[Input], *, labelled: bool) -> str:
    """The inputs one below the other, each after its name or as a paragraph."""
    shown, started, separator = "", False, "\n" if labelled else "\n\n"
    for item in inputs:
        line = f"{spoken(item.name).capitalize()}: {{{{ {item.name} }}}}" if labelled else f"{{{{ {item.name} }}}}"
        if not item.guarded:
            shown += (separator if started else "") + line
        else:
            # Its line break comes and goes with it.
            shown += f"{{% if {item.name} %}}" + (separator + line if started else line + separator) + "{% endif %}"
        started = started or not item.guarded
    return shown


def _expression(source: str) -> str:
    return _scalar("{{ " + source + " }}")


def _scalar(value: str) -> str:
    """Text as YAML writes it on one line; in quotes wherever it might be read as something else."""
    if re.fullmatch(r"[A-Za-z][\w/.-]*", value) and value.casefold() not in ("yes", "no", "on", "off", "true", "false", "null"):
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\u2028\u2029\ufeff]", lambda match: f"\\u{ord(match.group()):04x}", quoted)
