"""A first task file for a table: what can be guessed from columns and rows, with the gaps a person must fill marked TODO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import yaml

from flanlab.data.scaffold.answers import Answer, Ask, guess_answer
from flanlab.data.scaffold.columns import describe_columns, spoken
from flanlab.data.scaffold.inputs import Input, Inputs, guess_inputs
from flanlab.data.sources import Rows, joined
from flanlab.data.written_numbers import WrittenType, with_floats
from flanlab.errors import FlanlabError
from flanlab.tasks.clusters import Cluster
from flanlab.tasks.schema import Split
from flanlab.tasks.templating import compile_source

DEV_ROWS = 200
"""Rows held back from a train split where there is no dev split."""
FEW_ROWS = 50
"""Rows from which on a single split is cut 80, 10 and 10 in a hundred."""


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
    tables = {split: table for split, table in tables.items() if table.num_rows}
    if not tables:
        raise FlanlabError("There are column names but no rows.", hint="Put the rows below the line with the column names.")
    whole = joined(list(tables.values()), f"The splits {', '.join(tables)}")
    columns = describe_columns(tables, _with_plain_numbers(whole))
    if len(columns) == 1 and columns[0].kind != "nested":
        separator = next((mark for mark in ("\t", "|") if mark in columns[0].name), None)
        raise FlanlabError(
            f"There is one column alone, {columns[0].name!r}: a task needs an answer and something it is asked about.",
            hint="Separate columns by commas or semicolons (by tabs in a .tsv file)." if separator else "Add the other column.",
        )
    found = guess_answer(columns, answer, cluster, ask)
    inputs = guess_inputs(columns, found)
    filters = list(dict.fromkeys([*found.filters, *inputs.filters]))
    usable = _usable_rows(whole, tables, filters)
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
        *(
            ("not used", f"the split {split}")
            for split in tables
            if split not in {p.partition("[")[0] for p in splits.values()}
        ),
        *(("same rows", f"the task {other} has them too: `derived_from` says so") for other in same_rows),
    ]
    head = _head(name, cluster, place, splits, how, same_rows)
    return Scaffold("\n".join([*head, *_body(found, inputs, filters), *_templates(found, inputs)]) + "\n", guesses)


def _with_plain_numbers(table: pa.Table) -> pa.Table:
    """The table with every number as a float or a whole number, which can be counted and compared in bulk."""
    for position, field in enumerate(table.schema):
        if isinstance(field.type, WrittenType) or pa.types.is_decimal(field.type):
            table = table.set_column(position, field.name, pa.array(with_floats(table.column(position).to_pylist())))
    return table


def _usable_rows(whole: pa.Table, tables: Mapping[str, pa.Table], filters: Sequence[str]) -> dict[str, tuple[list[int], int]]:
    """Split to the numbers of the rows that the filters keep, and the number of all rows. `whole` has all splits in order."""
    keeps = compile_source(_braced(" and ".join(filters))) if filters else None
    kept = None if keeps is None else list(map(keeps, Rows(whole, range(whole.num_rows), "")))
    usable, start = {}, 0
    for split, table in tables.items():
        usable[split] = [row for row in range(table.num_rows) if kept is None or kept[start + row]], table.num_rows
        start += table.num_rows
    return usable


def _head(
    name: str, cluster: Cluster, place: Mapping[str, str], splits: Mapping[Split, str], how: str, same_rows: Sequence[str]
) -> list[str]:
    """The lines that say what the task is and where its rows are."""
    lines = [
        "# A first draft by `flan tasks new`: what it could not know is marked TODO. docs/add-a-task.md explains every field.",
        *_yaml({"name": name, "cluster": cluster.value}),
        'description: ""  # TODO: one sentence: what does somebody do who solves this task?',
        *_yaml({"source": dict(place)}),
    ]
    if "hub" in place and "revision" not in place:
        lines.append("  # TODO: revision: the commit of the data set, so that its rows stay the same")
    lines += [
        f"  # {how[:1].upper()}{how[1:]}.",
        *(f"  {line}" for line in _yaml({"splits": dict(splits)}, in_a_line=True)),
        "licence: unknown  # TODO: what the owner of the rows allows, such as CC BY 4.0",
        'citation: ""  # TODO: the paper or page to cite, or delete this line',
    ]
    if same_rows:
        return [*lines, *_yaml({"derived_from": dict.fromkeys(same_rows, "the same rows")})]
    return [
        *lines,
        "# TODO: if the rows come from other data sets, name them with the evidence; else delete these lines",
        "# derived_from: {squad: as the paper states}",
    ]


def _body(answer: Answer, inputs: Inputs, filters: Sequence[str]) -> list[str]:
    """The lines that say what is asked and what the answer is."""
    expressions = {"answer": answer.source, "references": answer.references, "gold_value": answer.gold_value}
    return [
        *(_yaml({"filter": _braced(" and ".join(filters))}) if filters else []),
        *_yaml({"fields": {item.name: _braced(item.source) for item in inputs.used}}),
        *(f"  # not used: {comment}" for comment in inputs.comments),
        *([f"# TODO: {answer.to_do}"] if answer.to_do else []),
        *(_yaml({"options": _braced(answer.options)}) if isinstance(answer.options, str) else []),
        *(_yaml({"options": answer.options}, in_a_line=True) if isinstance(answer.options, list) else []),
        *_yaml({key: _braced(source) for key, source in expressions.items() if source}),
        *_yaml({"metrics": answer.metrics}, in_a_line=True),
    ]


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


def _braced(source: str) -> str:
    return "{{ " + source + " }}"


def _yaml(content: Mapping[str, Any], *, in_a_line: bool = False) -> list[str]:
    """Lines of YAML: an entry on each line, or lists and mappings within brackets."""
    given: dict[str, Any] = {"sort_keys": False, "width": 120, "default_flow_style": None if in_a_line else False}
    text = str(yaml.safe_dump(content, **given, allow_unicode=True))
    # PyYAML would not read some of the line breaks that it writes.
    return (text if text.replace("\n", "").isprintable() else str(yaml.safe_dump(content, **given))).splitlines()


def guess_splits(usable: Mapping[str, tuple[list[int], int]]) -> tuple[dict[Split, str], str]:
    """Which rows are train, dev and test, and in words how that came about.

    Args:
        usable: split of the data to the numbers of those rows that the task keeps, and to how many rows it has.

    Raises:
        FlanlabError: too few rows.
    """
    kept = {split: rows for split, (rows, _) in usable.items() if rows}
    if list(kept) == ["test"]:
        return {"test": "test"}, "there are test rows only"
    dev = next((split for split in kept if split.startswith(("val", "dev"))), None)
    test = "test" if "test" in kept else None
    others = [split for split in kept if split not in (dev, test)] or ([dev] if dev else [])
    if not others:
        raise FlanlabError("No row has both an answer and an input.", hint="Name another answer with --answer COLUMN.")
    train = "train" if "train" in kept else max(others, key=lambda split: len(kept[split]))
    dev = None if dev == train else dev
    if dev and test:
        return {"train": train, "dev": dev, "test": test}, "as the data has them"
    rows, total = kept[train], usable[train][1]
    if (whole := dev or test) and len(rows) >= 2:
        held_back = total - rows[-min(DEV_ROWS, max(1, len(rows) // 10))]
        how = f"of the splits with answers only {train} and {whole} are left, so dev is the end of {train}"
        return {"train": f"{train}[:-{held_back}]", "dev": f"{train}[-{held_back}:]", "test": whole}, how
    if len(rows) < 3:
        raise FlanlabError(
            f"Only {len(rows)} rows have an answer and an input.",
            hint="Three are the least: one each to train on, to choose by, and to test on.",
        )
    # Of few rows more are kept aside, so that there is something to test on.
    first, second = (80, 90) if len(rows) >= FEW_ROWS else (50, 75)
    if len(rows) == total >= 4:
        cuts = f"[:{first}%]", f"[{first}%:{second}%]", f"[{second}%:]"
    else:
        # Counted in rows: those that are left out may stand anywhere.
        start, end = rows[max(1, len(rows) * first // 100)], rows[max(2, len(rows) * second // 100)]
        cuts = f"[:{start}]", f"[{start}:{end}]", f"[{end}:]"
    return {"train": train + cuts[0], "dev": train + cuts[1], "test": train + cuts[2]}, "the one split, cut in three"
