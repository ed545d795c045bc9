"""The linter: checks a task on its own rows, rendered through each of its templates."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from flanlab.data.choices import choose, permutation
from flanlab.data.encoding import TextEncoder
from flanlab.data.lint_answer_rules import ANSWER_RULES
from flanlab.data.lint_file_rules import FILE_RULES
from flanlab.data.lint_rules import ROW_RULES
from flanlab.data.lint_sample import Answered, Finding, Sample, Shown, input_variables, numbered_prompts
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

    @property
    def errors(self) -> list[Finding]:
        """Findings that make examples wrong."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """Findings that may be intended."""
        return [finding for finding in self.findings if finding.level == "warning"]


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
    failures = _Failures(task)
    rows: list[tuple[str, PreparedRow]] = []
    by_template: dict[int, list[Shown]] = defaultdict(list)
    lengths: dict[int, list[tuple[int, int]]] = defaultdict(list)
    merged: dict[str, list[Shown]] = defaultdict(list)
    for split, split_rows in rows_by_split.items():
        for index in _chosen(task, split, len(split_rows), rows_per_split):
            row = failures.prepared(split, split_rows, index)
            if row is None:
                continue
            rows.append((split, row))
            shown = failures.rendered(split, row)
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
    findings = [
        *failures.findings(len(rows)),
        *(finding for rule in (*FILE_RULES, *ROW_RULES, *ANSWER_RULES) for finding in rule(sample)),
    ]
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


class _Failures:
    """Rows that cannot be rendered. An error in all templates of a row is reported once."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._found: dict[tuple[str, int | None], list[tuple[int, FlanlabError]]] = defaultdict(list)

    def prepared(self, split: str, rows: Rows, index: int) -> PreparedRow | None:
        try:
            row = prepare_row(self._task, rows[index], index)
            _ = row.options
        except FlanlabError as error:
            self._found["unreadable-row", None].append((index, error))
            return None
        return row

    def rendered(self, split: str, row: PreparedRow) -> list[Shown]:
        """The row through each template that can render it, and the baseline prompt."""
        shown, failed = [], []
        for number, _ in numbered_prompts(self._task):
            try:
                shown.append(Shown(split, row, render(self._task, number, row)))
            except FlanlabError as error:
                failed.append((number, error))
        if not shown:
            self._found["not-renderable", None].append((row.index, failed[0][1]))
        else:
            for number, fault in failed:
                self._found["not-renderable", number].append((row.index, fault))
        return shown

    def findings(self, total: int) -> list[Finding]:
        findings = []
        for (rule, template), cases in self._found.items():
            row, fault = cases[0]
            message = f"{len(cases)} of {total} rows: {fault.message}"
            findings.append(Finding("error", rule, message, fault.hint, template=template, row=row))
        return findings


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
