"""The tab of results: scores, differences, a heat map of templates, and every prediction of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flanlab.errors import FlanlabError
from flanlab.report.run import Run, compare
from flanlab.report.wording import MEAN_OVER_CLUSTERS, headline_metrics, metric_title
from flanlab.results.schema import IN_DOMAIN, MAIN_METRIC, MEAN, SEEN, Difference, Level, Results, Score
from flanlab.ui.predictions import Index, index_of, matching, read
from flanlab.ui.workplace import Workplace, number_in, show

PAGE = 20
"""Predictions on a page."""
ALL = "all"
"""In place of a metric: every one."""
_LEVELS: Mapping[Level, str] = {
    "task": "single tasks",
    "cluster": "clusters",
    "tasks": "mean over tasks",
    "clusters": MEAN_OVER_CLUSTERS,
    "in_domain": "mean over in-domain tasks",
}


def filtered_scores(
    results: Results, *, text: str = "", variant: str = "", metric: str = "", level: str = "", template: str = MEAN
) -> list[Score]:
    """Rows of the score table that pass every filter; `text` is searched in the names of tasks and clusters."""
    wanted = {"variant": variant, "level": level, "template": template}
    return [
        score
        for score in results.scores
        if all(not value or getattr(score, name) == value for name, value in wanted.items())
        and (level or metric == ALL or not _repeats(results, score))
        and is_chosen(results, score, metric)
        and text.lower() in f"{score.name or ''} {score.cluster or ''}".lower()
    ]


def _repeats(results: Results, row: Score | Difference) -> bool:
    """Whether a mean is over one task or one cluster, and so says the same again."""
    if row.level == "task":
        return False
    over = {"cluster": results.clusters.get(row.name or "", ()), "tasks": results.averaged, "clusters": results.clusters}
    return len(over.get(row.level, results.in_domain)) == 1


def mark_of(results: Results, score: Score) -> str:
    """How a score is marked that is not zero-shot."""
    if not score.seen:
        return ""
    if score.level == "task":
        return results.tasks[score.name or ""].mark
    names = results.in_domain if score.level == "in_domain" else results.clusters.get(score.name or "", results.averaged)
    marks = {results.tasks[name].mark for name in names} - {""}
    return IN_DOMAIN if marks == {IN_DOMAIN} else f"with tasks {SEEN}"


def is_chosen(results: Results, row: Score | Difference, metric: str) -> bool:
    """Whether a row is by a metric. Where none is named, whether it is by a task's main metric, or a mean that headlines."""
    if metric:
        return metric in (row.metric, ALL)
    if row.level == "task":
        return row.metric == results.tasks[row.name or ""].main_metric
    several = len({task.main_metric for task in results.tasks.values()}) > 1
    return row.metric in (*([MAIN_METRIC] if several else []), *headline_metrics(results.tasks.values()))


def heat_map(results: Results, variant: str) -> tuple[list[int], list[tuple[str, str, list[float | None]]]]:
    """Templates in columns; in rows each task with its main metric and a variant's scores by it, None where there is none."""
    columns = sorted({template for task in results.tasks.values() for template in task.templates})
    rows = []
    for name, task in results.tasks.items():
        by_template = [results.scored("task", name, task.main_metric, str(template)).get(variant) for template in columns]
        rows.append((name, task.main_metric, [None if score is None else score.mean for score in by_template]))
    return columns, rows


def before_and_after(results: Results, metric: str = "") -> list[tuple[Difference, Score, Score]]:
    """The paired differences of a run or a comparison by a metric (see `is_chosen`), each with the scores before and after."""
    rows = []
    for one in results.differences:
        if not _repeats(results, one) and is_chosen(results, one, metric):
            scores = results.scored(one.level, one.name, one.metric)
            rows.append((one, scores[one.before], scores[one.after]))
    return rows


def results_page(workplace: Workplace, fields: Mapping[str, str]) -> str:
    """Scores of a run with filters, its heat map, its differences, and how it compares with another run."""
    if not workplace.runs:
        return show("results_start", tab="results")
    run = workplace.run(fields.get("run") or "0")
    results = run.results
    filters = {name: fields.get(name, "") for name in ("text", "variant", "metric", "level")}
    template = fields.get("template", MEAN)
    variant = filters["variant"] if filters["variant"] in results.variants else results.main_variant
    columns, heat = heat_map(results, variant)
    other, fault, compared = fields.get("other", ""), None, None
    if other:
        try:
            compared = compare(run, workplace.run(other)).results
        except FlanlabError as error:
            fault = error
    shown = [results] if compared is None else [results, compared]
    sides = {} if compared is None else compared.variants
    titles = {name: title for one in shown for name, title in _metric_titles(one).items()}
    return show(
        "results",
        tab="results",
        runs=list(enumerate(workplace.runs)),
        number=int(fields.get("run") or "0"),
        results=results,
        filters={**filters, "template": template},
        metrics=titles,
        levels=_LEVELS,
        templates=list(dict.fromkeys(score.template for score in results.scores)),
        scores=[(one, mark_of(results, one)) for one in filtered_scores(results, template=template, **filters)],
        heat_variant=variant,
        columns=columns,
        heat=heat,
        changes=before_and_after(results, filters["metric"]),
        other=other,
        compared=None if compared is None else before_and_after(compared, filters["metric"]),
        compared_titles={name: f"{Path(one.folder or '').name}: {one.title}" for name, one in sides.items()},
        fault=fault,
    )


def _metric_titles(results: Results) -> dict[str, str]:
    """Every metric of the score table with its title."""
    found = dict.fromkeys(score.metric for score in results.scores)
    return {name: "main metric" if name == MAIN_METRIC else metric_title(results, name) for name in found}


def predictions_page(workplace: Workplace, fields: Mapping[str, str]) -> str:
    """Predictions of a task by one variant, a page at a time."""
    number = fields.get("run") or "0"
    run = workplace.run(number)
    task = fields.get("task") or next(iter(run.results.tasks))
    variant = fields.get("variant") or run.results.main_variant
    index = index_of(run, variant, task)
    template = number_in(fields, "template") if fields.get("template") else None
    right = {"right": True, "wrong": False}.get(fields.get("right", ""))
    flipped = _flipped_with(workplace, run, variant, task, fields.get("flipped", ""))
    text = fields.get("text", "")
    positions = matching(index, template=template, right=right, text=text, flipped=flipped)
    page = min(number_in(fields, "page"), max(0, (len(positions) - 1) // PAGE))
    here = positions[page * PAGE : (page + 1) * PAGE]
    asked = {"run": number, "task": task, "variant": variant, "text": text}
    asked |= {name: fields.get(name, "") for name in ("template", "right", "flipped")}
    return show(
        "predictions",
        tab="results",
        results=run.results,
        runs=list(enumerate(workplace.runs)),
        asked=asked,
        others=_others(workplace, number, variant, task),
        shown=read(index, here) if len(here) else [],
        there={} if flipped is None else flipped.outcomes,
        found=len(positions),
        total=len(index.rows),
        total_right=int(index.right.sum()),
        templates=sorted(set(index.templates.tolist())),
        page=page,
        pages=max(1, -(-len(positions) // PAGE)),
    )


def _others(workplace: Workplace, number: str, variant: str, task: str) -> list[tuple[str, str]]:
    """What the predictions of a task can be compared with: value and title of each variant of each run that has it."""
    return [
        (f"{place}:{name}", f"{run.folder.name}: {one.title}")
        for place, run in enumerate(workplace.runs)
        if task in run.results.tasks
        for name, one in run.results.variants.items()
        if (str(place), name) != (number, variant)
    ]


def _flipped_with(workplace: Workplace, run: Run, variant: str, task: str, other: str) -> Index | None:
    if not other:
        return None
    place, _, name = other.partition(":")
    second = workplace.run(place)
    if task in second.results.tasks:
        hashes = [one.results.tasks[task].hashes for one in (run, second)]
        seeds = [run.results.variants[variant].seed, *(one.seed for key, one in second.results.variants.items() if key == name)]
        if hashes[0] != hashes[1] or len(set(seeds)) > 1:
            raise FlanlabError(
                f"The two runs did not ask the same of {task}: its file, its rows or the seed differs.",
                hint="Compare runs of the same version of a task, with the same seed.",
            )
    return index_of(second, name, task)
