"""Two wordings compared on the same rows: templates of two versions of a task file, or two templates of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from flanlab.errors import FlanlabError
from flanlab.evaluation.comparison import SIDES, compare_scored, score_kept, unlike
from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.metrics.options import chosen_option
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.evaluation.sides import Side, folder_and_variant, one_side, open_sides
from flanlab.results.grids import Metric, Prediction
from flanlab.results.schema import TaskFacts
from flanlab.results.statistics import holm
from flanlab.results.wordings import Flip, ShownAnswer, TemplatePair, Wordings
from flanlab.settings import QUESTIONS, fields_affecting, flattened

_CHOOSES_ROWS = ("source.splits", "subtasks", "filter", "turns")
"""What of a task's file decides which row a number means; the rest of its source, the hash of the rows vouches for."""
_BEYOND_TEMPLATES = ("templates", "baseline", "source", *_CHOOSES_ROWS)


def open_wordings(text: str) -> Side:
    """Read what is to be compared: `FOLDER[:VARIANT][:TASK[:TEMPLATE]]`, such as `runs/a:rte:3`.

    Without a variant: the tuned one of a run, else the first.

    Raises:
        FlanlabError: results.json is missing, damaged or of another format, or it has no such variant, task or template.
    """
    folder, names = folder_and_variant(text)
    rest = names.split(":") if names else []
    sides = open_sides(folder)
    side = one_side(sides, rest.pop(0) if rest and rest[0] in sides else "")
    if not rest:
        return side
    task, *numbers = rest
    tasks = side.results.tasks
    if task not in tasks:
        raise FlanlabError(
            f"{folder}: there is no variant or task {task}.",
            hint=f"The variants are: {', '.join(sides)}. The tasks are: {', '.join(tasks)}.",
        )
    if not numbers:
        return replace(side, task=task)
    known = tasks[task].templates
    if len(numbers) > 1 or not numbers[0].isdecimal() or int(numbers[0]) not in known:
        raise FlanlabError(
            f"{folder}, {task}: there is no template {':'.join(numbers)}.",
            hint=f"Write FOLDER:TASK:TEMPLATE. The templates asked are: {', '.join(map(str, known))}.",
        )
    return replace(side, task=task, template=int(numbers[0]))


def compare_wordings(first: Side, second: Side, *, margin: float | None = None) -> Wordings:
    """B minus A for each pair of templates, over the rows that were asked through both.

    If both sides name a template, these two are compared. Otherwise the two task files are: each template whose wording differs
    is paired with its counterpart. If other parts of the files differ (fields, options), all templates are compared.

    Args:
        first: A.
        second: B.
        margin: how far apart two scores may be and still count as the same (0.02: two points). None: not tested.

    Raises:
        FlanlabError: the rows, seed or settings differ, nothing differs in wording, or no row was asked through both.
    """
    names = _tasks(first, second)
    settings = unlike(first.variant, second.variant, fields_affecting(EvaluationSettings, QUESTIONS))
    rows = [told for name in names for told in _other_rows(name, first, second)]
    if settings or rows:
        raise FlanlabError(
            f"{first.folder} (A) and {second.folder} (B) were not asked the same rows in the same way:\n"
            + "\n".join(f"  {one}" for one in (*settings, *rows)),
            hint="Evaluate both with the same rows, seed and settings. Only the wording may differ.",
        )
    matched = {name: _matched(name, first, second) for name in names}
    if not any(changed for changed, _, _ in matched.values()):
        raise FlanlabError(
            f"A and B have the same wordings of {', '.join(names)}.",
            hint="Name two versions of a task, or two templates: FOLDER:TASK:TEMPLATE.",
        )
    pairs: list[TemplatePair] = []
    scored = []
    for name, (templates, _, _) in matched.items():
        if not templates:
            continue
        kept = [_paired(name, first, second, *pair) for pair in templates]
        for pair, both in zip(templates, kept, strict=True):
            pairs.append(_template_pair(name, first, second, pair, both, margin))
        # Numbered again, so that the two of a pair are paired; not from 0, which is the baseline's number.
        together = {
            side: [{**one, "template": number} for number, both in enumerate(kept, start=1) for one in both[side]]
            for side in SIDES
        }
        scored.append(score_kept(name, first, second, together))
    corrected = holm({str(number): pair.main.p_value for number, pair in enumerate(pairs)})
    return Wordings(
        results=compare_scored(scored, first, second, margin=margin),
        pairs=[_with_holm(pair, corrected[str(number)]) for number, pair in enumerate(pairs)],
        unchanged={name: unchanged for name, (_, unchanged, _) in matched.items()},
        only={name: only for name, (_, _, only) in matched.items() if any(only.values())},
    )


def wording(content: Mapping[str, Any], template: int, others: Sequence[str] = ()) -> str:
    """A template as text: its prompt, then its target and options where they are not the usual ones, then other keys."""
    found = content["templates"][template - 1]
    lines = [found["prompt"].strip("\n")]
    if "target" in found:
        lines.append(f"target: {found['target']}")
    if found.get("options"):
        lines.append(f"options: {', '.join(found['options'])}")
    flat = flattened(content)
    lines += [f"{name}: {flat[name]}" for name in others if name in flat]
    return "\n".join(lines)


def _tasks(first: Side, second: Side) -> list[str]:
    """The tasks that both have, or the one that is named."""
    if (first.template is None) != (second.template is None):
        raise FlanlabError("A template is named on one side only.", hint="Name one on both sides, or on neither.")
    named = {side.task for side in (first, second) if side.task is not None}
    if len(named) > 1:
        raise FlanlabError(
            f"A is of {first.task}, B of {second.task}: these have other rows.", hint="Name the same task on both sides."
        )
    tasks = [first.results.tasks, second.results.tasks]
    common = [name for name in named or tasks[0] if all(name in one for one in tasks)]
    if not common:
        raise FlanlabError(
            f"{first.folder} and {second.folder} have no such task in common.",
            hint=f"A has {', '.join(tasks[0])}; B has {', '.join(tasks[1])}.",
        )
    return common


def _other_rows(name: str, first: Side, second: Side) -> Iterator[str]:
    """Why the rows of a task cannot be paired by their numbers."""
    facts = [side.results.tasks[name] for side in (first, second)]
    hashes = [one.hashes.rows if one.hashes else None for one in facts]
    if hashes[0] is None or hashes[0] != hashes[1]:
        yield f"{name}: the rows come from other content (hash {hashes[0]} in A, {hashes[1]} in B)"
    for key in _differing(facts[0], facts[1]):
        if key.startswith(_CHOOSES_ROWS):
            values = [flattened(one.content).get(key) for one in facts]
            yield f"{name}, {key}: {values[0]} in A, {values[1]} in B"


def _differing(first: TaskFacts, second: TaskFacts) -> list[str]:
    """Keys of the task's file that differ, templates aside."""
    contents = [{key: value for key, value in one.content.items() if key != "templates"} for one in (first, second)]
    left, right = map(flattened, contents)
    return [key for key in dict.fromkeys([*left, *right]) if left.get(key) != right.get(key)]


def _others(first: TaskFacts, second: TaskFacts) -> list[str]:
    """Keys that differ and that shape every template's questions."""
    return [key for key in _differing(first, second) if not key.startswith(_BEYOND_TEMPLATES)]


def _matched(name: str, first: Side, second: Side) -> tuple[list[tuple[int, int]], int, dict[str, list[int]]]:
    """Which template of A is compared with which of B; how many are the same; which have no counterpart."""
    ours, theirs = (side.results.tasks[name] for side in (first, second))
    if first.template is not None and second.template is not None:
        pair, others = (first.template, second.template), _others(ours, theirs)
        same = wording(ours.content, pair[0], others) == wording(theirs.content, pair[1], others)
        return [] if same else [pair], int(same), {}
    texts = [[wording(facts.content, number) for number in facts.templates] for facts in (ours, theirs)]
    all_differ = bool(_others(ours, theirs))
    changed: list[tuple[int, int]] = []
    only: dict[str, list[int]] = {"a": [], "b": []}
    unchanged = 0
    for how, start, end, other_start, other_end in SequenceMatcher(None, texts[0], texts[1], autojunk=False).get_opcodes():
        left, right = ours.templates[start:end], theirs.templates[other_start:other_end]
        if how == "equal" and not all_differ:
            unchanged += len(left)
            continue
        both = list(zip(left, right, strict=False))
        changed += both
        only["a"] += left[len(both) :]
        only["b"] += right[len(both) :]
    return changed, unchanged, only


def _paired(name: str, first: Side, second: Side, ours: int, theirs: int) -> dict[str, list[Prediction]]:
    """The predictions of both templates, on the rows that were asked through both, in the same order."""
    by_row = [
        {one["row"]: one for one in side.predictions(name) if one["template"] == template}
        for side, template in ((first, ours), (second, theirs))
    ]
    common = sorted(by_row[0].keys() & by_row[1].keys())
    if not common:
        raise FlanlabError(
            f"{name}: no row was asked through template {ours} of A and template {theirs} of B.",
            hint="Evaluate more rows, each through all templates (leave templates_per_row out).",
        )
    for row in common:
        a, b = by_row[0][row], by_row[1][row]
        if any(a[field] != b[field] for field in ("answer", "group", "gold_value")) or len(a["options"]) != len(b["options"]):
            raise FlanlabError(
                f"{name}, row {row}: the right answer of A is not that of B.",
                hint="Wordings can be compared only where the rows and their right answers are the same.",
            )
    return {side: [rows[row] for row in common] for side, rows in zip(SIDES, by_row, strict=True)}


def _template_pair(
    name: str,
    first: Side,
    second: Side,
    templates: tuple[int, int],
    both: Mapping[str, Sequence[Prediction]],
    margin: float | None,
) -> TemplatePair:
    facts = [side.results.tasks[name] for side in (first, second)]
    others = _others(*facts)
    found = compare_scored([score_kept(name, first, second, both)], first, second, margin=margin)
    metric = _flip_metric(facts[0], both)
    texts = [wording(one.content, number, others) for one, number in zip(facts, templates, strict=True)]
    return TemplatePair(
        task=name,
        template_a=templates[0],
        template_b=templates[1],
        wording_a=texts[0],
        wording_b=texts[1],
        rows=len(both["a"]),
        main_metric=found.tasks[name].main_metric,
        scores=[score for score in found.scores if score.level == "task" and score.template == "mean"],
        differences=[row for row in found.differences if row.level == "task"],
        flip_metric=metric.name if metric else "",
        flips=_flips(metric, both) if metric else [],
    )


def _with_holm(pair: TemplatePair, p_holm: float) -> TemplatePair:
    """With the corrected p-value over all pairs in place of the one over tasks."""
    rows = [row.model_copy(update={"p_holm": p_holm if row.metric == pair.main_metric else None}) for row in pair.differences]
    return pair.model_copy(update={"differences": rows})


def _flip_metric(facts: TaskFacts, both: Mapping[str, Sequence[Prediction]]) -> Metric | None:
    """The metric by which a row is right or wrong: accuracy of a task with options, else the first that a row alone has."""
    found = [one for one in metrics_for(facts.declared_metrics, both["a"]) if one.combine is not None]
    return next((one for one in found if one.name == "accuracy"), found[0] if found else None)


def _flips(metric: Metric, both: Mapping[str, Sequence[Prediction]]) -> list[Flip]:
    flips = []
    for a, b in zip(both["a"], both["b"], strict=True):
        before, after = _answer(metric, a), _answer(metric, b)
        if before.score != after.score:
            flips.append(Flip(row=a["row"], a=before, b=after, references=b["references"]))
    return sorted(flips, key=lambda flip: (flip.b.score > flip.a.score, -abs(flip.b.score - flip.a.score), flip.row))


def _answer(metric: Metric, prediction: Prediction) -> ShownAnswer:
    assert metric.combine is not None
    score = float(metric.combine(np.asarray(metric.statistics([prediction]), float)))
    ranked = bool(prediction["option_scores"])
    answer = prediction["options"][chosen_option(prediction)] if ranked else prediction["generated"] or ""
    return ShownAnswer(prompt=prediction["prompt"], answer=answer, score=score)
