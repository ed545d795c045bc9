"""The linter's rules about rows: what only rendering can show.

A rule does not stop at the first error. It counts the rows concerned and names one of them.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flanlab.data.lint_sample import (
    Finding,
    Rule,
    Sample,
    count_of,
    input_variables,
    numbered_prompts,
    rows_finding,
    template_list,
    unguarded_variables_in,
)
from flanlab.data.rendering import Example, PreparedRow
from flanlab.tasks.schema import Task
from flanlab.tasks.templating import variables_in


def fields_are_filled(sample: Sample) -> Iterator[Finding]:
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
            if not any((number, split, row.index) in rendered for number in numbers):
                continue
            if fault := _lack(sample.task, name, row):
                found[fault].append((split, row))
        for fault, hits in found.items():
            split, row = hits[0]
            yield Finding(
                "warning" if fault.endswith("in the data") else "error",
                "empty-field" if fault == "is empty" else "null-field",
                f"The field `{name}` {fault} in {count_of(len(hits), len(sample.rows), split, row.index)},"
                f" and {template_list(numbers)} {'prints' if len(numbers) == 1 else 'print'} it anyway.",
                "Leave such rows out with `filter`, or write {% if " + name + " %} ... {% endif %} around it.",
                template=numbers[0] if len(numbers) == 1 else None,
                row=row.index,
            )


def _lack(task: Task, name: str, row: PreparedRow) -> str | None:
    """What is wrong with a field of a row, or None."""
    value = row.fields.get(name)
    if _is_null(value):
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
            if _is_null(source) or word in words:
                return f"contains the word {words.pop()!r} for a missing value"
    return None


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def nothing_is_left_unfilled(sample: Sample) -> Iterator[Finding]:
    """No expression is left unrendered: `{{ name }}` from a quoted text, or `{name}` with one brace."""
    names = "|".join(map(re.escape, sample.task.fields)) or "answer"
    left = re.compile(r"\{\{|\}\}|\{%|%\}|\{\s*(?:" + names + r")\s*\}")
    for number, shown in sample.by_template.items():
        hits = [
            (item, found)
            for item in shown
            if (found := left.search(item.example.prompt) or left.search(item.example.target))
            # Texts about templates or formulas may contain braces.
            and not any(found.group() in text for text in _texts(item.row.columns))
        ]
        if hits:
            yield rows_finding(
                "error",
                "unfilled",
                number,
                [item for item, _ in hits],
                len(shown),
                f"{hits[0][1].group()!r} is left in the text",
                "Write fields as {{ name }}, outside of quotes.",
            )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def nothing_is_python_code(sample: Sample) -> Iterator[Finding]:
    """No list, mapping or bytes are printed as Python code, such as `['a', 'b']` after `| trim`."""
    for number, shown in sample.by_template.items():
        hits = []
        for item in shown:
            codes = [repr(value) for value in item.row.columns.values() if isinstance(value, list | dict | bytes)]
            # Without texts in it, a list such as [1] looks as a person would write it.
            if any("'" in code and (code in item.example.prompt or code in item.example.target) for code in codes):
                hits.append(item)
        if hits:
            yield rows_finding(
                "error",
                "python-code",
                number,
                hits,
                len(shown),
                "The text contains a list, a mapping or bytes as Python code",
                "Choose a part of the value, or write {{ name | join(', ') }} or {{ name | tojson }}.",
            )


def gold_is_hidden(sample: Sample) -> Iterator[Finding]:
    """A forward prompt does not show the right answer more often than the wrong ones.

    It counts how much more often an option occurs in the prompt when it is right than when it is wrong. An instruction that
    names all answers, or always the same one, does not give the answer away.
    """
    for number, shown in sample.by_template.items():
        choices = [item for item in shown if item.example.answer is not None]
        if len(choices) < 10:
            continue
        right, wrong = Counter[str](), Counter[str]()
        right_shown, wrong_shown = Counter[str](), Counter[str]()
        per_row = isinstance(sample.task.options, str)
        leaking = []
        for item in choices:
            found = _options_in(item.example)
            for position in range(len(item.example.options)):
                key = "" if per_row else str(position)
                is_right = position == item.example.answer
                (right if is_right else wrong)[key] += 1
                (right_shown if is_right else wrong_shown)[key] += position in found
            if item.example.answer in found and len(found) < len(item.example.options):
                leaking.append(item)
        keys = [key for key in right if right[key] >= 5 and wrong[key] >= 5]
        if not keys or not leaking:
            continue
        excess = sum(right_shown[key] / right[key] - wrong_shown[key] / wrong[key] for key in keys) / len(keys)
        if excess > 0.4:
            yield rows_finding(
                "error" if excess > 0.8 else "warning",
                "gold-in-prompt",
                number,
                leaking,
                len(choices),
                f"The prompt contains the right answer {excess:.0%} more often than a wrong one; it is there",
                _HIDE_GOLD,
            )


_HIDE_GOLD = "Remove the field that gives the answer away from the prompt, or make the template inverted."


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


def target_is_hidden(sample: Sample) -> Iterator[Finding]:
    """The prompt does not already contain the text to write. It may contain an answer that is taken from a long passage."""
    for number, shown in sample.by_template.items():
        texts = [item for item in shown if item.example.answer is None]
        hits = [
            item
            for item in texts
            if item.example.target in item.example.prompt and len(item.example.prompt) < 3 * len(item.example.target)
        ]
        if len(texts) >= 10 and len(hits) > 0.9 * len(texts):
            yield rows_finding(
                "warning",
                "target-in-prompt",
                number,
                hits,
                len(texts),
                "The prompt contains the target word for word",
                "Remove the field with the target from the prompt.",
            )


def targets_vary(sample: Sample) -> Iterator[Finding]:
    """A template whose target is always the same teaches to answer without reading."""
    for number, shown in sample.by_template.items():
        if len(shown) >= 10 and len({item.example.target for item in shown}) == 1:
            yield Finding(
                "error",
                "constant-target",
                f"The target is {shown[0].example.target!r} in all of {len(shown)} rows.",
                "Check `answer`, the template's target, and whether the data is sorted by label and cut.",
                template=number,
                row=shown[0].row.index,
            )


def layout_is_sound(sample: Sample) -> Iterator[Finding]:
    """No line break is written as backslash and n, and there are no three blank lines in a row."""
    for number, shown in sample.by_template.items():
        for rule, pattern, what, hint in _LAYOUT:
            hits = [item for item in shown if pattern.search(f"{item.example.prompt}\0{item.example.target}")]
            if len(hits) > FEW * len(shown):
                yield rows_finding("warning", rule, number, hits, len(shown), what, hint)


FEW = 0.02
"""Up to this share of rows, such a case is part of the text (abbreviations, gaps left by its author)."""


_LAYOUT = (
    (
        "literal-newline",
        # Not the TeX commands that begin with n.
        re.compile(r"\\n(?!(u|e|eq|abla|eg|ot|otin|i|mid|earrow|olimits|oindent|ewline|ewcommand)\b)"),
        "The text contains a backslash and an n instead of a line break",
        r'Use a | block in YAML, or replace it in the field: "{{ text | replace(\'\\n\', \'\n\') }}".',
    ),
    (
        "blank-lines",
        re.compile(r"\n[ \t]*\n[ \t]*\n[ \t]*\n"),
        "The text has three or more blank lines in a row",
        "Trim the field, or put {%- ... -%} around blocks.",
    ),
)


def punctuation_is_single(sample: Sample) -> Iterator[Finding]:
    """A field that ends with its own full stop or question mark is not followed by another one from the template."""
    answers = _plain_answers(sample)
    sources = {number: prompt.prompt for number, prompt in numbered_prompts(sample.task)}
    for number, shown in sample.by_template.items():
        source = sources[number]
        names = input_variables(sample.task, source)
        hits = []
        for item in shown:
            values = [item.row.fields.get(name) for name in names]
            if "answer" in variables_in(source):
                values.append(answers.get((item.split, item.row.index)))
            texts = [value.strip() for value in values if isinstance(value, str)]
            doubled = (_doubled_after(text, item.example.prompt, texts) for text in texts)
            if found := next(filter(None, doubled), None):
                hits.append((item, found))
        if len(hits) > FEW * len(shown):
            yield rows_finding(
                "warning",
                "doubled-punctuation",
                number,
                [item for item, _ in hits],
                len(shown),
                f"The template adds punctuation to a field that has its own (...{hits[0][1]!r})",
                "Put the field on its own line or in quotes, or end the sentence before it.",
            )


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


def labels_are_spread(sample: Sample) -> Iterator[Finding]:
    """Fixed options: each is the answer at least once in train and test, and none is nearly always the answer."""
    if not isinstance(sample.task.options, list):
        return
    for split in ("train", "test"):
        answers = Counter(item.option for item in sample.answered.get(split, ()))
        total = answers.total()
        missing = [option for position, option in enumerate(sample.task.options) if not answers[position]]
        if total and missing:
            yield Finding(
                "warning",
                f"missing-label-{split}",
                f"The answer is never {' nor '.join(map(repr, missing))} in {total} rows of the {split} split.",
                "Check `answer` against the label ids of the data, and source.splits."
                " If the rows are sorted by label, shuffle them first.",
            )
        position, count = answers.most_common(1)[0] if answers else (None, 0)
        if position is not None and count > 0.9 * total:
            yield Finding(
                "warning",
                f"one-label-{split}",
                f"The answer is {sample.task.options[position]!r} in {count} of {total} rows of the {split} split.",
                "Accuracy says little here. Check `answer` and source.splits. If the rows are sorted by label, shuffle them"
                " first.",
            )


def gold_changes_place(sample: Sample) -> Iterator[Finding]:
    """Options of each row: the right one is not always at the same position."""
    if not isinstance(sample.task.options, str):
        return
    for split, items in sample.answered.items():
        answers = Counter(item.option for item in items)
        if answers.total() < 10:
            continue
        position, count = answers.most_common(1)[0]
        share = count / answers.total()
        if position is not None and (share == 1 or (share > 0.7 and answers.total() >= 50)):
            yield Finding(
                "error" if share == 1 else "warning",
                f"gold-position-{split}",
                f"The right option is at position {position + 1} in {count} of {answers.total()} {split} rows.",
                "Take the order from the data, or sort the options. If the order must stay, shuffle the OPTIONS block.",
            )


def train_and_test_differ(sample: Sample) -> Iterator[Finding]:
    """No row of the test split was trained on."""
    train = {item.inputs for item in sample.answered.get("train", ())}
    test = sample.answered.get("test", ())
    hits = [position for position, item in enumerate(test) if item.inputs in train]
    if hits:
        yield Finding(
            "warning",
            "train-row-in-test",
            f"{len(hits)} of {len(test)} test rows have the inputs of a train row: {test[hits[0]].inputs[:80]}...",
            "Remove them from one of the two splits with `filter` or source.splits.",
        )


def texts_fit(sample: Sample) -> Iterator[Finding]:
    """Few prompts and targets are longer than a mixture's default limits."""
    lengths = [pair for pairs in sample.lengths.values() for pair in pairs]
    long = sum(prompt > PROMPT_TOKENS for prompt, _ in lengths)
    if long > 0.05 * len(lengths):
        yield Finding(
            "warning",
            "long-prompts",
            f"{long} of {len(lengths)} prompts ({long / len(lengths):.0%}) have more than {PROMPT_TOKENS} tokens"
            " and would be cut.",
            "Shorten a field in `fields`, or leave such rows out with `filter`.",
        )
    by_target: dict[str, list[int]] = defaultdict(list)
    for number in sorted(sample.lengths):
        by_target[sample.task.templates[number - 1].target].append(number)
    for numbers in by_target.values():
        targets = [target for number in numbers for _, target in sample.lengths[number]]
        long = sum(target > TARGET_TOKENS for target in targets)
        if long > 0.05 * len(targets):
            yield Finding(
                "warning",
                "long-targets",
                f"{long} of {len(targets)} targets ({long / len(targets):.0%}) of {template_list(numbers)} have"
                f" more than {TARGET_TOKENS} tokens and would be left out.",
                "Ask for less in the template, or leave such rows out with `filter`.",
                template=numbers[0],
            )


PROMPT_TOKENS, TARGET_TOKENS = 1024, 256


ROW_RULES: tuple[Rule, ...] = (
    fields_are_filled,
    nothing_is_left_unfilled,
    nothing_is_python_code,
    gold_is_hidden,
    target_is_hidden,
    targets_vary,
    layout_is_sound,
    punctuation_is_single,
    labels_are_spread,
    gold_changes_place,
    train_and_test_differ,
    texts_fit,
)
