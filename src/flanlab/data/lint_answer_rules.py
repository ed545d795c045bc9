"""The linter's rules about answers: they mean what the labels mean, are words, and begin where they are scored."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from flanlab.data.lint_sample import FEW, Problem, Sample, Shown, count_of, in_rows, rule, template_list
from flanlab.tasks.templating import variables_in


@rule("error", "wrong-label", "")
def answers_are_what_the_labels_mean(sample: Sample) -> Iterator[Problem]:
    """If an answer is the name of a label in the data, it is the name of the row's own label.

    Label ids have the order that the data set declares, which may be unexpected: CB's is entailment, contradiction, neutral.
    """
    used = _columns_of_the_answer(sample)
    for column, names in sample.label_names.items():
        plain = [_plain(name) for name in names]
        wrong = {
            number: hits
            for number, shown in sample.by_template.items()
            if column in used and (hits := [item for item in shown if _is_wrong(item, plain, column)])
        }
        if wrong:
            number, (first, *_) = next(iter(wrong.items()))
            yield Problem(
                f"The answer is {first.example.target!r}, but the data's `{column}` is"
                f" {_name_of(plain, first.row.columns[column])!r}, in {template_list(sorted(wrong))}"
                f" (first: {first.split} row {first.row.index}).",
                number if len(wrong) == 1 else None,
                first.row.index,
                hint=f"List the options in the order of the data's label ids: {', '.join(names)}.",
            )


def _is_wrong(item: Shown, names: list[str], column: str) -> bool:
    """Whether the answer is the name of a label other than the row's."""
    answer = _plain(item.example.target)
    return bool(item.example.options) and answer in names and answer != _name_of(names, item.row.columns.get(column))


def _columns_of_the_answer(sample: Sample) -> frozenset[str]:
    """The columns that the answer uses, directly or through fields."""
    used = variables_in(sample.task.answer) - {"options"}
    fields = used & sample.task.fields.keys()
    return (used - fields).union(*(variables_in(sample.task.fields[name]) for name in fields))


def _name_of(names: list[str], label: object) -> str | None:
    return names[label] if isinstance(label, int) and 0 <= label < len(names) else None


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold().replace("_", " ")))


@rule(
    "warning", "merged-labels", "Leave out the rows of a label that is not an answer with `filter`, or give it its own option."
)
def labels_stay_apart(sample: Sample) -> Iterator[Problem]:
    """No two labels of the data have the same answer, such as neutral tweets that count as negative."""
    columns = _columns_of_the_answer(sample)
    if not isinstance(sample.task.options, list) or len(columns) != 1:
        return
    (column,) = columns
    labels: dict[str, set[object]] = defaultdict(set)
    for item in sample.by_template.get(next(iter(sample.task.forward_templates())), ()):
        label = item.row.columns.get(column)
        if isinstance(label, int | str):
            labels[item.example.target].add(label)
    for answer, found in labels.items():
        if 1 < len(found) <= _MOST_LABELS:
            several = ", ".join(map(repr, sorted(found, key=str)))
            yield Problem(f"The answer is {answer!r} for each of the labels {several} in the column `{column}`.")


_MOST_LABELS = 20
"""A column with more different values is text or a number, not a label."""


@rule("warning", "options-partly-named", "Name all of them, or none.")
def instructions_name_every_option(sample: Sample) -> Iterator[Problem]:
    """An instruction that names answers names all of them: "yes or no" does not ask for one of three."""
    for number, template in enumerate(sample.task.templates, 1):
        options = template.options or sample.task.options
        if template.direction != "forward" or not isinstance(options, list) or len(options) < 3:
            continue
        written = f" {_plain(re.sub(r'{[{%].*?[%}]}', ' | ', template.prompt, flags=re.DOTALL))} "
        left_out = [option for option in options if f" {_plain(option)} " not in written]
        if 1 < (named := len(options) - len(left_out)) < len(options):
            yield Problem(
                f"The prompt names {named} of the {len(options)} options, but not {', '.join(map(repr, left_out))}.", number
            )


@rule("warning", "mark-for-answer", "Answer with the words of the item. The renderer lists the options itself.")
def answers_are_words(sample: Sample) -> Iterator[Problem]:
    """An answer is not the label of a list item, such as [4] or (b), which would mean nothing without the list."""
    return in_rows(
        sample,
        lambda item: _MARK.fullmatch(item.example.target),
        lambda mark: f"The answer is the label of a list item ({mark.group()!r})",
        more_than=0.5,
    )


_MARK = re.compile(r"[\[(](?:\d{1,2}|[A-Za-z])[\])][.:]?|(?:\d{1,2}|[A-Za-z])\)")


@rule("warning", "merged-boundary", "Check how the answers begin: a space or a line break there merges with the separator.")
def answers_begin_with_a_token(sample: Sample) -> Iterator[Problem]:
    """No token spans the end of the prompt and the beginning of the answer."""
    total = sum(map(len, sample.lengths.values()))
    for tokenizer, hits in sample.merged.items():
        if len(hits) > FEW * total:
            where = count_of(len(hits), total, hits[0].split, hits[0].row.index)
            yield Problem(
                f"With the tokenizer of {tokenizer} one token ends the prompt and begins the answer in {where}.",
                row=hits[0].row.index,
            )
