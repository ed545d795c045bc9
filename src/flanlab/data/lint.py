"""The linter: checks a task on its own rows, rendered through each of its templates."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from flanlab.data import lint_answer_rules, lint_file_rules, lint_rules  # noqa: F401  (declare the rules)
from flanlab.data.choices import choose, permutation
from flanlab.data.encoding import TextEncoder
from flanlab.data.lint_sample import RULES, Answered, Finding, Sample, Shown, input_variables, numbered_prompts
from flanlab.data.rendering import BASELINE, PreparedRow, prepare_row, render
from flanlab.data.sources import Rows, label_names
from flanlab.errors import FlanlabError
from flanlab.tasks.schema import Task

__all__ = ["Finding", "Lengths", "TaskLint", "lint_task"]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of many texts."""

    median: int
    percentile_95: int
    maximum: int


@dataclass
class TaskLint:
    """What the linter found in one task, errors first, with counts."""

    task: str
    findings: list[Finding]
    rows_checked: dict[str, int]
    """Split to the number of rows rendered through every template."""
    label_histogram: dict[str, dict[str, int]] = field(default_factory=dict)
    """Split to answer to count: the option's text for fixed options, its position (from 1) if each row has its own
    options; empty for generation."""
    prompt_tokens: Lengths | None = None
    """Including the OPTIONS block; None without a tokenizer."""
    target_tokens: Lengths | None = None


COUNTED_ROWS = 20_000
"""Rows of a split whose answers and inputs are counted. Histograms and repeated rows need more than a sample."""


def lint_task(
    task: Task, rows_by_split: Mapping[str, Rows], encoders: Mapping[str, TextEncoder], *, rows_per_split: int = 200
) -> TaskLint:
    """Render rows of each split through every template and check them against the rules.

    Args:
        task: the task, as loaded.
        rows_by_split: its rows, by available split.
        encoders: name to tokenizer. The first counts tokens. All are checked where the answer follows the prompt. If empty,
            neither is done.
        rows_per_split: how many rows of a split are rendered. They are the same each time.

    Errors of the task or its rows become findings and are not raised.
    """
    failures: _Failures = defaultdict(list)
    rows: list[tuple[str, PreparedRow]] = []
    by_template: dict[int, list[Shown]] = defaultdict(list)
    lengths: dict[int, list[tuple[int, int]]] = defaultdict(list)
    merged: dict[str, list[Shown]] = defaultdict(list)
    for split, split_rows in rows_by_split.items():
        for index in _chosen(task, split, len(split_rows), rows_per_split):
            try:
                row = prepare_row(task, split_rows[index], index)
                _ = row.options
            except FlanlabError as error:
                failures["unreadable-row", None].append((index, error))
                continue
            rows.append((split, row))
            shown = _shown(task, split, row, failures)
            for item in shown:
                by_template[item.example.template].append(item)
            templates = [item for item in shown if item.example.template != BASELINE]
            if encoders and templates:
                # Each row through one template, because tokenizing is by far the slowest step.
                item = templates[choose(len(templates), ("lint", task.name, split, index))]
                lengths[item.example.template].append(_token_counts(task, item, next(iter(encoders.values()))))
                for name, encoder in encoders.items():
                    if _merges(item, encoder):
                        merged[name].append(item)
    answered = {split: _answered(task, split, split_rows) for split, split_rows in rows_by_split.items()}
    names = {column: names for split_rows in rows_by_split.values() for column, names in label_names(split_rows.table).items()}
    sample = Sample(task, rows, by_template, answered, lengths, merged, names)
    tried = len(rows) + len(failures["unreadable-row", None])
    findings = [
        Finding("error", name, f"{len(cases)} of {tried} rows: {error.message}", error.hint, template, index)
        for (name, template), cases in failures.items()
        for index, error in cases[:1]
    ]
    findings += [finding for rule in RULES for finding in rule(sample)]
    findings = _told_once(findings, len(numbered_prompts(task)))
    findings.sort(key=lambda finding: (finding.level != "error", finding.rule, finding.template or 0))
    pairs = [pair for template_pairs in lengths.values() for pair in template_pairs]
    return TaskLint(
        task.name,
        findings,
        {split: sum(name == split for name, _ in rows) for split in rows_by_split},
        {split: _histogram(task, items) for split, items in answered.items()} if task.is_classification else {},
        _summary([prompt for prompt, _ in pairs]),
        _summary([target for _, target in pairs]),
    )


def _told_once(findings: list[Finding], prompts: int) -> list[Finding]:
    """An error in the row's text shows in each prompt in the same words: report it once, without a template."""
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.rule, finding.message].append(finding)
    reported = []
    for group in groups.values():
        reported.extend([replace(group[0], template=None)] if len(group) == prompts > 1 else group)
    return reported


_Failures = dict[tuple[str, int | None], list[tuple[int, FlanlabError]]]
"""Rule and template (None: all of them) to the rows that cannot be rendered, each with its error."""


def _shown(task: Task, split: str, row: PreparedRow, failures: _Failures) -> list[Shown]:
    """The row through each template that can render it, and the baseline prompt. An error in all of them is reported once."""
    shown: list[Shown] = []
    failed: dict[int | None, tuple[int, FlanlabError]] = {}
    for number, _ in numbered_prompts(task):
        try:
            shown.append(Shown(split, row, render(task, number, row)))
        except FlanlabError as error:
            failed[number] = row.index, error
    for template, case in failed.items() if shown else [(None, next(iter(failed.values())))]:
        failures["not-renderable", template].append(case)
    return shown


def _chosen(task: Task, split: str, length: int, count: int) -> list[int]:
    """`count` row numbers of a split, ascending; the same for the same task."""
    if length <= count:
        return list(range(length))
    return sorted(permutation(length, ("lint", task.name, split))[:count].tolist())


def _answered(task: Task, split: str, rows: Rows) -> list[Answered]:
    """Inputs and answers of up to COUNTED_ROWS rows. Rows that cannot be rendered are left out (reported elsewhere)."""
    forward = task.forward_templates()
    names = sorted(frozenset().union(*(input_variables(task, task.templates[number - 1].prompt) for number in forward)))
    items = []
    for index in _chosen(task, split, len(rows), COUNTED_ROWS):
        try:
            row = prepare_row(task, rows[index], index)
            example = render(task, forward[0] if forward else 1, row)
        except FlanlabError:
            continue
        shown = [row.fields.get(name) for name in names]
        # If each row has its own options, they distinguish questions with the same words.
        choices = sorted(example.options) if isinstance(task.options, str) else []
        inputs = json.dumps([*shown, *choices], ensure_ascii=False, default=str)
        items.append(Answered(inputs, example.answer))
    return items


def _histogram(task: Task, items: list[Answered]) -> dict[str, int]:
    counts = Counter(item.option for item in items if item.option is not None)
    if isinstance(task.options, list):
        return {option: counts[position] for position, option in enumerate(task.options)}
    return {str(position + 1): counts[position] for position in sorted(counts)}


def _token_counts(task: Task, item: Shown, encoder: TextEncoder) -> tuple[int, int]:
    """Tokens of the prompt (with OPTIONS block) and the target."""
    order = range(len(item.example.options)) if item.example.options else None
    example = render(task, item.example.template, item.row, order)
    prompt, target = encoder.encode_pair(example.prompt, example.target)
    return len(prompt), len(target)


def _merges(item: Shown, encoder: TextEncoder) -> bool:
    """Whether one token ends the prompt and begins the answer, so that the answer is not scored from its first letter."""
    prompt, _ = encoder.encode_pair(item.example.prompt, item.example.target)
    return len(prompt) < len(encoder.encode(item.example.prompt, []).prompt)


def _summary(lengths: list[int]) -> Lengths | None:
    if not lengths:
        return None
    median, high = np.percentile(lengths, [50, 95])
    return Lengths(round(median), round(high), max(lengths))
