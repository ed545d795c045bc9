"""The linter's rules about rows: what only rendering can show.

A rule does not stop at the first error. It counts the rows concerned and names one of them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flanlab.data.lint_sample import (
    FEW,
    Problem,
    Sample,
    Shown,
    count_of,
    in_rows,
    input_variables,
    numbered_prompts,
    problem_of,
    rule,
    template_list,
    unguarded_variables_in,
)
from flanlab.data.rendering import Example, PreparedRow
from flanlab.tasks.printing import is_missing
from flanlab.tasks.schema import Task
from flanlab.tasks.templating import variables_in


@rule("error", "null-field", "")
def fields_are_filled(sample: Sample) -> Iterator[Problem]:
    """No template prints a field that is null or empty. A template with `{% if field %}` around it is fine."""
    printed: dict[str, list[int]] = defaultdict(list)
    for number, template in numbered_prompts(sample.task):
        names = unguarded_variables_in(template.prompt) | unguarded_variables_in(template.target)
        for name in names & input_variables(sample.task, template.prompt + template.target):
            printed[name].append(number)
    # Rows that a missing value kept from being rendered are already reported.
    rendered = {(number, item.split, item.row.index) for number, shown in sample.by_template.items() for item in shown}
    for name, numbers in sorted(printed.items()):
        found: dict[str, list[tuple[str, PreparedRow]]] = defaultdict(list)
        for split, row in sample.rows:
            is_rendered = any((number, split, row.index) in rendered for number in numbers)
            if is_rendered and (fault := _lack(sample.task, name, row)):
                found[fault].append((split, row))
        for fault, hits in found.items():
            split, row = hits[0]
            yield Problem(
                f"The field `{name}` {fault} in {count_of(len(hits), len(sample.rows), split, row.index)},"
                f" and {template_list(numbers)} {'prints' if len(numbers) == 1 else 'print'} it anyway.",
                numbers[0] if len(numbers) == 1 else None,
                row.index,
                level="warning" if fault.endswith("in the data") else None,
                rule="empty-field" if fault == "is empty" else None,
                hint=f"Leave such rows out with `filter`, or write {{% if {name} %}} ... {{% endif %}} around it.",
            )


def _lack(task: Task, name: str, row: PreparedRow) -> str | None:
    """What is wrong with a field of a row, or None."""
    value = row.fields.get(name)
    if is_missing(value):
        return "is null"
    if value in ([], {}) or (isinstance(value, str) and not value.strip()):
        return "is empty"
    if isinstance(value, str) and (words := {"none", "nan", "null"} & set(value.casefold().split())):
        # Texts may contain these words. Only a null or such a word alone counts, in the columns that the field uses.
        for column in variables_in(task.fields[name]) if name in task.fields else (name,):
            source = row.columns.get(column)
            word = source.strip().casefold() if isinstance(source, str) else ""
            if word == "none":
                # It may be a normal answer.
                return f"is only the word {source!r} in the data"
            if is_missing(source) or word in words:
                return f"contains the word {words.pop()!r} for a missing value"
    return None


@rule("error", "unfilled", "Write fields as {{ name }}, outside of quotes.")
def nothing_is_left_unfilled(sample: Sample) -> Iterator[Problem]:
    """No expression is left unrendered: `{{ name }}` from a quoted text, or `{name}` with one brace."""
    names = "|".join(map(re.escape, sample.task.fields)) or "answer"
    left = re.compile(r"\{\{|\}\}|\{%|%\}|\{\s*(?:" + names + r")\s*\}")

    def find(item: Shown) -> str | None:
        found = left.search(item.example.prompt) or left.search(item.example.target)
        # Texts about templates or formulas may contain braces.
        return None if not found or any(found.group() in text for text in _texts(item.row.columns)) else found.group()

    return in_rows(sample, find, lambda left: f"{left!r} is left in the text")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


@rule(
    "warning", "gold-in-prompt", "Remove the field that gives the answer away from the prompt, or make the template inverted."
)
def gold_is_hidden(sample: Sample) -> Iterator[Problem]:
    """A forward prompt does not show the right answer more often than the wrong ones.

    It counts how much more often an option occurs in the prompt when it is right than when it is wrong. An instruction that
    names all answers, or always the same one, does not give the answer away.
    """
    for number, shown in sample.by_template.items():
        choices = [item for item in shown if item.example.answer is not None]
        if len(choices) < 10:
            continue
        # By option and whether it is the right one.
        counts, counts_shown = Counter[tuple[str, bool]](), Counter[tuple[str, bool]]()
        per_row = isinstance(sample.task.options, str)
        leaking = []
        for item in choices:
            found = _options_in(item.example)
            for position in range(len(item.example.options)):
                key = ("" if per_row else str(position), position == item.example.answer)
                counts[key] += 1
                counts_shown[key] += position in found
            if item.example.answer in found and len(found) < len(item.example.options):
                leaking.append(item)
        often = {key: counts_shown[key] / count for key, count in counts.items() if count >= 5}
        more = [often[option, True] - often[option, False] for option, right in often if right and (option, False) in often]
        if more and leaking and (excess := sum(more) / len(more)) > 0.4:
            what = f"An option is in the prompt {100 * excess:.0f} points more often when it is right. The right one is there"
            yield problem_of(what, number, leaking, len(choices), level="error" if excess > 0.8 else None)


def _options_in(example: Example) -> set[int]:
    """Positions of the options that occur in the prompt as whole words. Occurrences inside a longer option do not count."""
    spelled = {words: position for position, option in enumerate(example.options) if (words := _words(option))}
    left, found = f" {_words(example.prompt)} ", set()
    for words in sorted(spelled, key=len, reverse=True):
        if f" {words} " in left:
            found.add(spelled[words])
            left = left.replace(f" {words} ", " | ")
    return found


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


@rule("warning", "target-in-prompt", "Remove the field with the target from the prompt.")
def target_is_hidden(sample: Sample) -> Iterator[Problem]:
    """The prompt does not already contain the text to write. It may contain an answer that is taken from a long passage."""
    for number, shown in sample.by_template.items():
        texts = [item for item in shown if item.example.answer is None]
        hits = [
            item
            for item in texts
            if item.example.target in item.example.prompt and len(item.example.prompt) < 3 * len(item.example.target)
        ]
        if len(texts) >= 10 and len(hits) > 0.9 * len(texts):
            yield problem_of("The prompt contains the target word for word", number, hits, len(texts))


@rule("error", "constant-target", "Check `answer`, the template's target, and whether the data is sorted by label and cut.")
def targets_vary(sample: Sample) -> Iterator[Problem]:
    """A template whose target is always the same teaches to answer without reading."""
    for number, shown in sample.by_template.items():
        if len(shown) >= 10 and len({item.example.target for item in shown}) == 1:
            message = f"The target is {shown[0].example.target!r} in all of {len(shown)} rows."
            yield Problem(message, number, shown[0].row.index)


@rule(
    "warning", "literal-newline", r'Use a | block in YAML, or replace it in the field: "{{ text | replace(\'\\n\', \'\n\') }}".'
)
def line_breaks_are_line_breaks(sample: Sample) -> Iterator[Problem]:
    """No line break is written as backslash and n."""
    return _in_text(sample, _BACKSLASH_N, "The text contains a backslash and an n instead of a line break")


@rule("warning", "blank-lines", "Trim the field, or put {%- ... -%} around blocks.")
def layout_is_sound(sample: Sample) -> Iterator[Problem]:
    """There are no three blank lines in a row."""
    return _in_text(sample, re.compile(r"\n[ \t]*\n[ \t]*\n[ \t]*\n"), "The text has three or more blank lines in a row")


# Not the TeX commands that begin with n.
_BACKSLASH_N = re.compile(r"\\n(?!(u|e|eq|abla|eg|ot|otin|i|mid|earrow|olimits|oindent|ewline|ewcommand)\b)")


def _in_text(sample: Sample, pattern: re.Pattern[str], what: str) -> Iterator[Problem]:
    return in_rows(
        sample, lambda item: pattern.search(f"{item.example.prompt}\0{item.example.target}"), lambda _: what, more_than=FEW
    )


@rule("warning", "doubled-punctuation", "Put the field on its own line or in quotes, or end the sentence before it.")
def punctuation_is_single(sample: Sample) -> Iterator[Problem]:
    """A field that ends with its own full stop or question mark is not followed by another one from the template."""
    answers = _plain_answers(sample)
    sources = {number: prompt.prompt for number, prompt in numbered_prompts(sample.task)}

    def find(item: Shown) -> str | None:
        source = sources[item.example.template]
        values = [item.row.fields.get(name) for name in input_variables(sample.task, source)]
        if "answer" in variables_in(source):
            values.append(answers.get((item.split, item.row.index)))
        texts = [value.strip() for value in values if isinstance(value, str)]
        return next(filter(None, (_doubled_after(text, item.example.prompt, texts) for text in texts)), None)

    message = "The template adds punctuation to a field that has its own"
    return in_rows(sample, find, lambda doubled: f"{message} (...{doubled!r})", more_than=FEW)


def _plain_answers(sample: Sample) -> dict[tuple[str, int], str]:
    """Split and row to the answer, as inverted prompts print it."""
    for number in sample.task.forward_templates():
        template = sample.task.templates[number - 1]
        if template.options is None and "answer" in variables_in(template.target):
            shown = sample.by_template.get(number, ())
            return {(item.split, item.row.index): item.example.target for item in shown}
    return {}


def _doubled_after(text: str, prompt: str, texts: Sequence[str]) -> str | None:
    """The end of `text` with the template's punctuation, if the text has its own; else None."""
    # After an ellipsis a question mark is right.
    if len(text) < 3 or text[-1] not in ".?!,;:" or text.endswith(".."):
        return None
    place = prompt.find(text)
    after = prompt[place + len(text) : place + len(text) + 1]
    if place < 0 or not after or after not in ".?!,;:" or any(text + after in other for other in texts):
        return None
    return text[-15:] + after


@rule(
    "warning",
    "label",
    "Check `answer` against the label ids of the data, and source.splits. If the rows are sorted by label, shuffle them first.",
)
def labels_are_spread(sample: Sample) -> Iterator[Problem]:
    """Fixed options: each is the answer at least once in train and test, and none is nearly always the answer."""
    options = sample.task.options
    for split in ("train", "test"):
        answers = Counter(item.option for item in sample.answered.get(split, ()))
        total = answers.total()
        if not isinstance(options, list) or not total:
            continue
        where = f"rows of the {split} split."
        if missing := [option for position, option in enumerate(options) if not answers[position]]:
            never = " nor ".join(map(repr, missing))
            yield Problem(f"The answer is never {never} in {total} {where}", rule=f"missing-label-{split}")
        position, count = answers.most_common(1)[0]
        if position is not None and count > 0.9 * total:
            yield Problem(
                f"The answer is {options[position]!r} in {count} of {total} {where}",
                rule=f"one-label-{split}",
                hint="Accuracy says little here. Check `answer` and source.splits. If the rows are sorted by label, shuffle"
                " them first.",
            )


@rule(
    "warning",
    "gold-position",
    "Take the order from the data, or sort the options. If the order must stay, shuffle the OPTIONS block.",
)
def gold_changes_place(sample: Sample) -> Iterator[Problem]:
    """Options of each row: the right one is not always at the same position."""
    for split, items in sample.answered.items():
        answers = Counter(item.option for item in items)
        if not isinstance(sample.task.options, str) or answers.total() < 10:
            continue
        position, count = answers.most_common(1)[0]
        share = count / answers.total()
        if position is not None and (share == 1 or (share > 0.7 and answers.total() >= 50)):
            yield Problem(
                f"The right option is at position {position + 1} in {count} of {answers.total()} {split} rows.",
                level="error" if share == 1 else None,
                rule=f"gold-position-{split}",
            )


@rule("warning", "train-row-in-test", "Remove repeated rows from the data, or change source.splits.")
def train_and_test_differ(sample: Sample) -> Iterator[Problem]:
    """No row of the test split was trained on."""
    train = {item.inputs for item in sample.answered.get("train", ())}
    test = sample.answered.get("test", ())
    if hits := [item.inputs for item in test if item.inputs in train]:
        yield Problem(f"{len(hits)} of {len(test)} test rows have the inputs of a train row: {hits[0][:80]}...")


PROMPT_TOKENS, TARGET_TOKENS = 1024, 256


@rule("warning", "long-prompts", "Shorten a field in `fields`, or leave such rows out with `filter`.")
def prompts_fit(sample: Sample) -> Iterator[Problem]:
    """Few prompts are longer than a mixture's default limit."""
    prompts = [prompt for pairs in sample.lengths.values() for prompt, _ in pairs]
    if told := _too_long(prompts, PROMPT_TOKENS):
        yield Problem(f"{told.format('prompts')} and would be cut.")


@rule("warning", "long-targets", "Ask for less in the template, or leave such rows out with `filter`.")
def targets_fit(sample: Sample) -> Iterator[Problem]:
    """Few targets are longer than a mixture's default limit."""
    by_target: dict[str, list[int]] = defaultdict(list)
    for number in sorted(sample.lengths):
        by_target[sample.task.templates[number - 1].target].append(number)
    for numbers in by_target.values():
        targets = [target for number in numbers for _, target in sample.lengths[number]]
        if told := _too_long(targets, TARGET_TOKENS):
            yield Problem(f"{told.format(f'targets of {template_list(numbers)}')} and would be left out.", numbers[0])


def _too_long(lengths: Sequence[int], limit: int) -> str | None:
    """How many texts have more tokens than the limit, if that is more than a few."""
    long = sum(length > limit for length in lengths)
    share = f"({long / max(1, len(lengths)):.0%})"
    return f"{long} of {len(lengths)} {{}} {share} have more than {limit} tokens" if long > 0.05 * len(lengths) else None
