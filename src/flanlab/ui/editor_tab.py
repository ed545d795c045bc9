"""The tab of the editor: a template with the prompts it gives, what the linter says, and what a model answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flanlab.data.encoding import TextEncoder
from flanlab.data.lint import lint_task
from flanlab.data.lint_sample import Finding
from flanlab.data.sources import Rows
from flanlab.errors import FlanlabError
from flanlab.evaluation.planning import EvaluationSettings, PlannedTask, Setup, plan_task
from flanlab.evaluation.predict import predict_pairs
from flanlab.models.answering import Model
from flanlab.tasks.schema import Task
from flanlab.ui.edits import edited, lies_in, metadata_of, save, without_template
from flanlab.ui.predictions import Answered, answered
from flanlab.ui.tasks_tab import Rendered, chosen_row, rendered
from flanlab.ui.workplace import Workplace, number_in, show, splits_of

PREVIEWED_ROWS = 3
LINTED_ROWS = 200
"""Rows that the linter sees while one types."""
SCORED_ROWS = 20


def previews(task: Task, number: int, rows: Rows, first: int, encoder: TextEncoder | None) -> list[Rendered]:
    """Some rows through one template; tokens are counted where there is an encoder.

    Raises:
        FlanlabError: there is no row `first`.
    """
    chosen_row(task, rows, first)
    shown = [rendered(task, number, rows, index) for index in range(first, min(first + PREVIEWED_ROWS, len(rows)))]
    if encoder is None:
        return shown
    return [
        one if one.fault else replace(one, tokens=list(map(len, encoder.encode_pair(one.prompt, one.target)))) for one in shown
    ]


def findings(task: Task, number: int, split: str, rows: Rows, encoder: TextEncoder | None) -> list[Finding]:
    """What the linter says of one template, and of the task as a whole, on its first rows."""
    some = replace(rows, kept=rows.kept[:LINTED_ROWS], turns=None if rows.turns is None else rows.turns[:LINTED_ROWS])
    encoders = {} if encoder is None else {"model": encoder}
    report = lint_task(task, {split: some}, encoders, rows_per_split=SCORED_ROWS)
    return [finding for finding in report.findings if finding.template in (None, number)]


def answers(model: Model, task: Task, number: int, rows: Rows, chosen: Sequence[int]) -> list[Answered]:
    """What a model answers to some rows through one template, asked and ranked as in an evaluation.

    Raises:
        FlanlabError: a row that cannot be rendered, or a model that computes no number.
    """
    settings = EvaluationSettings(pmi=False)
    pairs = [(row, number) for row in chosen]
    found = predict_pairs(Setup(model, settings), PlannedTask(task, rows, pairs), pairs).to_pylist()
    return [answered(prediction, task.metrics) for prediction in found]


def score_versions(model: Model, before: Task, task: Task, number: int, rows: Rows) -> list[tuple[Answered | None, Answered]]:
    """Ask the same rows in the version before (None for a new template) and in the new one, by templates of the same number.

    Raises:
        FlanlabError: an inverted template, or as `answers`.
    """
    if number not in task.forward_templates():
        raise FlanlabError(
            "An inverted template is not scored: the answer stands in its prompt.", hint="Score a forward template."
        )
    plan = plan_task(task, rows, EvaluationSettings(rows=SCORED_ROWS, templates_per_row=1), 0)
    chosen = list(dict.fromkeys(row for row, _ in plan.pairs))
    after = answers(model, task, number, rows, chosen)
    earlier: Sequence[Answered | None] = [None] * len(chosen)
    if number in before.forward_templates():
        earlier = answers(model, before, number, rows, chosen)
    return list(zip(earlier, after, strict=True))


def editor_page(workplace: Workplace, fields: Mapping[str, str]) -> str:
    """The form, with the template that is to be changed, or an empty one."""
    if not fields.get("task"):
        return show("editor_start", tab="editor", tasks=sorted(workplace.tasks))
    task = workplace.task(fields["task"])
    number = number_in(fields, "template")
    form: dict[str, Any] = {"prompt": "", "target": "{{ answer }}", "direction": "forward", "options": []}
    if 0 < number <= len(task.templates):
        form |= task.templates[number - 1].model_dump(mode="json")
    form["options"] = "\n".join(form["options"] or [])
    save_to, here = workplace.save_to, Path.cwd()
    is_own = lies_in(task, save_to)
    model = fields.get("model") or next(iter(workplace.models), "")
    filled = {
        "split": "",
        **fields,
        "template": str(number),
        "model": model,
        **{name: str(value) for name, value in form.items()},
    }
    columns: Mapping[str, Any] = {}
    try:
        split, rows = workplace.rows(task, fields.get("split", ""))
        filled["split"] = split
        columns = chosen_row(task, rows, number_in(fields, "row")).fields
        # The tokenizer may have to be loaded first, which a page should not wait for.
        preview = preview_part(workplace, {**filled, "model": ""}) if number else ""
    except FlanlabError as error:
        preview = show("fault", fault=error)
    return show(
        "editor",
        tab="editor",
        task=task,
        number=number,
        form=filled,
        row=number_in(fields, "row"),
        splits=splits_of(task),
        models=workplace.models,
        metadata=metadata_of(task),
        columns=columns,
        save_to=save_to.relative_to(here) if save_to.is_relative_to(here) else save_to,
        name=task.name if is_own else f"{task.name}_edited",
        preview=preview,
    )


def preview_part(workplace: Workplace, fields: Mapping[str, str]) -> str:
    """What stands beside the form: rendered rows, token counts, findings."""
    task, number = edited(workplace.task(fields.get("task", "")), number_in(fields, "template"), fields)
    split, rows = workplace.rows(task, fields.get("split", ""))
    encoder = workplace.encoder(fields["model"]) if fields.get("model") else None
    return show(
        "editor_preview",
        previews=previews(task, number, rows, number_in(fields, "row"), encoder),
        findings=findings(task, number, split, rows, encoder),
        linted=min(LINTED_ROWS, len(rows)),
    )


def score_part(workplace: Workplace, fields: Mapping[str, str]) -> str:
    """What a model answers in the new version and in the one before."""
    earlier = workplace.task(fields.get("task", ""))
    task, number = edited(earlier, number_in(fields, "template"), fields)
    split, rows = workplace.rows(task, fields.get("split", ""))
    with workplace.model(fields.get("model", "")) as model:
        scored = score_versions(model, earlier, task, number, rows)
    pairs = [(before.right, after.right) for before, after in scored if before is not None]
    return show(
        "editor_score",
        model=fields["model"],
        split=split,
        scored=scored,
        right=sum(after.right for _, after in scored),
        right_before=sum(before for before, _ in pairs) if pairs else None,
        better=sum(after and not before for before, after in pairs),
        worse=sum(before and not after for before, after in pairs),
    )


def save_part(workplace: Workplace, fields: Mapping[str, str]) -> str:
    """Save the task with the template as it stands in the form, or without it."""
    task = workplace.task(fields.get("task", ""))
    number = number_in(fields, "template")
    if fields.get("action") == "delete":
        changed, number = without_template(task, number, fields), 1
    else:
        changed, number = edited(task, number, fields)
    saved = save(changed, fields.get("name", ""), workplace.save_to, workplace.tasks)
    workplace.add(saved)
    return show("editor_saved", task=saved, number=number)
