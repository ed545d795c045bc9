"""The report: one HTML file that opens offline, made from the files of a run folder alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flanlab.files import write_text
from flanlab.report import wording
from flanlab.report.examples import TaskExamples, task_examples
from flanlab.report.page import page_environment
from flanlab.report.plots import PanelRow, dev_curves, learning_curve, running_mean, score_panel, window
from flanlab.report.published import PublishedModel, figures, published, shown_models
from flanlab.report.reading import TUNED, MixtureCard, MixtureTask, RunFiles, read_run
from flanlab.report.summary import summary
from flanlab.results.schema import BEST_ON_DEV, MAIN_METRIC, Difference, Level, Results, Score, TaskFacts

REPORT_FILE = "report.html"
_AVERAGE = "average"


@dataclass(frozen=True)
class MetricRow:
    """A line of a metric's table."""

    name: str
    scores: Mapping[str, Score]
    difference: Difference | None
    chance: float | None
    majority: float | None
    seen: str = ""
    is_average: bool = False
    published: Mapping[str, float] = field(default_factory=dict)
    """Model to its score as others published it."""


@dataclass(frozen=True)
class MixtureGroup:
    """A cluster of the mixture, with its tasks and their totals."""

    title: str
    tasks: Mapping[str, MixtureTask]
    total: Mapping[str, int]


def write_report(folder: Path, *, examples: bool = True) -> Path:
    """Write `folder/report.html`, whole or not at all, from the results files in `folder`.

    Args:
        folder: a run's folder, or an evaluation's; only results.json must be there.
        examples: show example predictions; leave them out where the data may not be passed on.

    Returns:
        The file written.

    Raises:
        FlanlabError: results.json is missing, or a file is damaged.
    """
    run = read_run(folder)
    best = _best_published(run.results)
    page = (
        page_environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            results=run.results,
            trained=TUNED in run.results.variants,
            titles={name: variant.title for name, variant in run.results.variants.items()},
            model=next(iter(run.results.variants.values())),
            compared=bool(run.results.differences),
            BEST_ON_DEV=BEST_ON_DEV,
            summary=summary(run),
            panels=_panels(run.results),
            metric_tables=_metric_tables(run.results),
            published=_published(run.results),
            published_not_found=published().not_found,
            best_published=best,
            best_models=[
                model for model in published().models.values() if any(model.title in known for known in best.values())
            ],
            cluster_rows=_cluster_rows(run.results),
            over_wordings={name: found for name in run.results.tasks if (found := run.results.over_wordings(name))},
            with_best_templates=any(task.best_on_dev is not None for task in run.results.tasks.values()),
            unknown=wording.unknown_models(run.results.variants),
            headlines={name: wording.task_headlines(task) for name, task in run.results.tasks.items()},
            is_percent=wording.is_percent,
            curve=_curve(run) if run.steps else None,
            losses=_first_and_last(run),
            dev_curves=_dev_curves(run),
            mixture_groups=_mixture_groups(run.mixture) if run.mixture else [],
            mixture_total=_total(run.mixture.tasks.values()) if run.mixture else {},
            examples=_examples(run) if examples else None,
            shown_variant=_shown_variant(run.results),
            facts=list(_flattened({name: value for name, value in run.facts.items() if name != "tasks"})),
            task_hashes=run.facts.get("tasks"),
        )
    )
    path = folder / REPORT_FILE
    write_text(path, page)
    return path


def _panels(results: Results) -> list[Markup]:
    panels = []
    variants = list(results.variants)
    for metric in wording.headline_metrics(results):
        rows = []
        for row in _rows(results, metric):
            difference = row.difference
            others = set(variants) - {difference.before, difference.after} if difference else set()
            chance = row.chance if metric == "accuracy" else None
            rows.append(PanelRow(row.name, row.scores, frozenset(others), chance, row.is_average))
        title = wording.metric_title(results, metric)
        label = f"{title}, times 100, with 95 % intervals. "
        told = rows if len(rows) <= 4 else [row for row in rows if row.strong]
        label += " ".join(
            f"{row.name}: "
            + ", ".join(f"{results.variants[name].title} {wording.number(score.mean)}" for name, score in row.scores.items())
            + "."
            for row in told
        )
        panels.append(
            score_panel(
                title + (", %" if wording.is_percent(metric) else ", times 100"),
                rows,
                variants,
                wording.is_percent(metric),
                f"{label} All numbers stand in the tables below.",
            )
        )
    return panels


def _metric_tables(results: Results) -> list[dict[str, Any]]:
    """A table for each metric, the ones judged by first."""
    headlines = wording.headline_metrics(results)
    others = [metric for task in results.tasks.values() for metric in task.metrics if metric not in headlines]
    return [
        {
            "metric": metric,
            "title": wording.metric_title(results, metric),
            "explanation": wording.explanation(results, metric),
            "rows": _rows(results, metric),
            "published": shown_models(results, metric),
            "with_chance": metric.startswith("accuracy") or metric == "answer_probability",
            "with_majority": metric.startswith("accuracy"),
        }
        for metric in [*headlines, *dict.fromkeys(others)]
    ]


def _rows(results: Results, metric: str) -> list[MetricRow]:
    """The tasks that have a metric, and their average where results.json has one over just these."""
    rows = [
        MetricRow(
            name,
            results.scored("task", name, metric),
            results.difference("task", name, metric),
            task.chance,
            task.majority,
            _seen(task),
            False,
            figures(task, metric),
        )
        for name, task in results.tasks.items()
        if metric in task.metrics
    ]
    averages: list[tuple[Level, str]] = [("tasks", _AVERAGE), ("in_domain", f"{_AVERAGE}, in-domain")]
    for level, title in averages:
        average = results.scored(level, None, metric)
        if average and len(rows) > 1:
            rows.append(
                MetricRow(
                    title,
                    average,
                    results.difference(level, None, metric),
                    wording.average_chance(results) if level == "tasks" else None,
                    None,
                    _some_seen(results.averaged.values()) if level == "tasks" else "",
                    is_average=True,
                )
            )
    return rows


def _seen(task: TaskFacts) -> str:
    return "seen in training" if task.seen is not None else "in-domain" if task.in_domain else ""


def _some_seen(tasks: Iterable[TaskFacts]) -> str:
    return "with tasks seen in training" if any(task.seen is not None for task in tasks) else ""


def _cluster_rows(results: Results) -> list[MetricRow]:
    """The main metric over each cluster's tasks and over the clusters; empty where that would repeat the one task there is."""
    clusters = results.clusters
    if sum(results.members("cluster", cluster) for cluster in clusters) < 2:
        return []
    rows = [
        MetricRow(
            f"{wording.cluster_title(cluster)}, {wording.counted(results.members('cluster', cluster), 'task')}",
            results.scored("cluster", cluster, MAIN_METRIC),
            results.difference("cluster", cluster, MAIN_METRIC),
            None,
            None,
            _some_seen(results.tasks[name] for name in names),
        )
        for cluster, names in clusters.items()
    ]
    if len(rows) > 1:
        over, compared = results.scored("clusters", None, MAIN_METRIC), results.difference("clusters", None, MAIN_METRIC)
        seen = _some_seen(results.tasks.values())
        rows.append(MetricRow(wording.MEAN_OVER_CLUSTERS, over, compared, None, None, seen, is_average=True))
    return rows


def _best_published(results: Results) -> dict[str, dict[str, float]]:
    """Task to the figures published of other models' best dev template, by the model's title."""
    found = {name: figures(task, task.main_metric, "best dev template") for name, task in results.tasks.items()}
    return {
        name: {published().models[model].title: value for model, value in known.items()}
        for name, known in found.items()
        if known
    }


def _published(results: Results) -> list[PublishedModel]:
    """The models that some table shows published figures of."""
    metrics = {metric for task in results.tasks.values() for metric in task.metrics}
    shown = {model: facts for metric in sorted(metrics) for model, facts in shown_models(results, metric).items()}
    return [shown[model] for model in sorted(shown)]


def _curve(run: RunFiles) -> Markup:
    first, last = _first_and_last(run)
    label = f"Loss per target token by step: {first:.2f} in the first tenth of the steps, {last:.2f} in the last."
    return learning_curve(run.steps, label)


def _dev_curves(run: RunFiles) -> Markup | None:
    """None where the loss on dev rows was not measured."""
    measured = [step for step in run.steps if step.dev_loss]
    if not measured:
        return None
    titles = {cluster: wording.cluster_title(cluster) for cluster in measured[-1].dev_loss}
    told = ", ".join(
        f"{title} {measured[0].dev_loss[name]:.2f}, then {measured[-1].dev_loss[name]:.2f}" for name, title in titles.items()
    )
    return dev_curves(measured, titles, f"Loss per target token on dev rows, after the first step and the last: {told}.")


def _first_and_last(run: RunFiles) -> tuple[float, ...]:
    """Mean loss per target token over the first tenth of the steps, and over the last."""
    means = running_mean(run.steps)
    return (means[window(run.steps) - 1], means[-1]) if means else ()


def _mixture_groups(mixture: MixtureCard) -> list[MixtureGroup]:
    clusters = sorted({task.cluster for task in mixture.tasks.values()})
    groups = []
    for cluster in clusters:
        tasks = {name: task for name, task in mixture.tasks.items() if task.cluster == cluster}
        groups.append(MixtureGroup(wording.cluster_title(cluster), tasks, _total(tasks.values())))
    return groups


def _total(tasks: Iterable[MixtureTask]) -> dict[str, int]:
    tasks = list(tasks)
    return {
        "rows": sum(task.rows for task in tasks),
        "examples": sum(task.examples for task in tasks),
        "tokens": sum(task.tokens for task in tasks),
        "target_tokens": sum(task.target_tokens for task in tasks),
        "shortened": sum(task.shortened for task in tasks),
        "dropped": sum(sum(task.dropped.values()) for task in tasks),
    }


def _shown_variant(results: Results) -> str:
    return TUNED if TUNED in results.variants else next(iter(results.variants))


def _examples(run: RunFiles) -> dict[str, TaskExamples]:
    variant = _shown_variant(run.results)
    end_token = bool(run.results.variants[variant].settings.get("end_token", True))
    found = {}
    for name in run.results.tasks:
        chosen = task_examples(run.folder / "predictions" / variant / name, end_token)
        if chosen is not None:
            found[name] = chosen
    return found


def _flattened(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Facts of run.json as name and value, nested names joined by spaces."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", "not installed" if value is None else str(value)
