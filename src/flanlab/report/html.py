"""The report of a run or an evaluation: one HTML file that opens offline, made from the files of its folder alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from markupsafe import Markup

from flanlab.evaluation.sides import Side
from flanlab.report.page import Block, Cell, Figure, Group, Page, Row, Table, exact, plain, text, write_page
from flanlab.report.plots import score_panel
from flanlab.report.predictions import classification_blocks, example_sections
from flanlab.report.published import Beside, figures, published
from flanlab.report.summary import numbers, summary, verdict
from flanlab.report.training import learning_blocks, mixture_blocks, note_blocks, read_run
from flanlab.report.views import (
    cluster_lines,
    drawn,
    headlines,
    legend,
    metric_group,
    metric_lines,
    quantile_lines,
    score_cell,
    table,
    titles,
)
from flanlab.report.wording import (
    PERCENT,
    all_metrics,
    capital,
    cluster_title,
    counted,
    headline_metrics,
    listed,
    metric_title,
    unknown_models,
)
from flanlab.results.files import PREDICTIONS, shard_paths
from flanlab.results.schema import BEST_ON_DEV, MEAN, Results, TaskFacts

REPORT_FILE = "report.html"
_FEW_TASKS = 3
"""So many are shown open."""


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
    results = run.results
    shown = results.main_variant
    side = Side(folder, shown, results)
    there = [name for name in results.tasks if shard_paths(folder / PREDICTIONS / shown / name)]
    records = {name: side.predictions(name) for name in there}
    sections = {
        "Task by task": _tasks(results),
        "Cluster by cluster": _clusters(results),
        "Over wordings": _over_wordings(results),
        "The template that is best on dev": _best_templates(results),
        "Template by template": _templates(results),
        "Right and wrong by class": classification_blocks(results, shown, records),
        "Learning curve": learning_blocks(run),
        "What it was trained on": mixture_blocks(run),
        "Example predictions": example_sections(results, shown, records if examples else None),
        "Notes": note_blocks(run),
    }
    made_by = f" {run.facts['flanlab']}" if "flanlab" in run.facts else ""
    page = Page(
        "report",
        results.name,
        [verdict(results), *summary(run)],
        sections,
        f"Made by flanlab{made_by} from the files of this run's folder alone.",
        results.description or "",
        numbers(results),
        _picture(results),
    )
    path = folder / REPORT_FILE
    write_page(page, path)
    return path


def _picture(results: Results) -> Figure:
    """Before and after at a glance: zero-shot and in-domain side by side."""
    panels = []
    lines = headlines(results)
    for in_domain in (False, True):
        if own := [line for line in lines if line.in_domain == in_domain]:
            tasks = results.in_domain if in_domain else results.averaged
            kind = "In-domain" if in_domain else "Zero-shot" if results.in_domain else "Mean"
            title = f"{kind}, over {counted(len(tasks), 'task')}"
            panels.append(score_panel(title, own, drawn(results), title, percent=True))
    guessing = any(line.chance is not None for line in lines)
    caption = text("picture", guessing and "guessing", _has_other_prompt(results) and "hollow")
    return Figure(panels, caption, legend(results), "" if len(panels) > 1 else "single")


def _has_other_prompt(results: Results) -> bool:
    """Whether there is a variant that no difference is taken from."""
    return bool(results.differences) and len(results.variants) > 2


def _tasks(results: Results) -> Iterable[Block]:
    panels = []
    for metric in headline_metrics(results.tasks.values()):
        title, lines = metric_title(results, metric), metric_lines(results, metric)
        means = [line.name for line in lines if not line.task]
        lines = lines if metric == "accuracy" else [replace(line, chance=None) for line in lines]
        unit, percent = ("%", True) if metric in PERCENT else ("times 100", False)
        panels.append(score_panel(f"{title}, {unit}", lines, drawn(results), title, percent=percent, strong=means))
    yield Figure(panels, "", legend(results))
    told = text("scores", results.differences and "difference", _has_other_prompt(results) and "before")
    yield f"{told} {unknown_models(results.variants)}"
    metrics = all_metrics(results.tasks.values())
    others = Beside({(name, one): figures(task, one) for name, task in results.tasks.items() for one in metrics})
    if others.columns:
        yield f"{text('published', sources=others.sources)} {published().not_found}"
    for metric in metrics:
        more = ["rows"]
        more += ["chance"] if metric.startswith("accuracy") or metric == "answer_probability" else []
        more += ["majority"] if metric.startswith("accuracy") else []
        yield metric_group(results, metric, more, published=True)


def _clusters(results: Results) -> Iterable[Block]:
    if lines := cluster_lines(results):
        yield text("clusters")
        yield table("Main metric, all clusters", lines, results, corner="cluster")


def _over_wordings(results: Results) -> Iterable[Block]:
    if lines := [line for name in results.tasks for line in quantile_lines(results, name)]:
        yield text("over_wordings")
        rows = [replace(line, marks=[*line.marks, f"of {len(results.tasks[line.task].templates)} templates"]) for line in lines]
        yield table("Quantiles over wordings, all tasks", rows, results)


def _best_templates(results: Results) -> Iterable[Block]:
    if all(task.best_on_dev is None for task in results.tasks.values()):
        return
    others = Beside({name: figures(task, task.main_metric, "best dev template") for name, task in results.tasks.items()})
    yield text("best", others.columns and "best_published", sources=others.sources)
    rows = []
    for name, task in results.tasks.items():
        cells = []
        for variant in results.variants if task.best_on_dev else ():
            cell, best = Cell(text="one prompt"), (task.best_on_dev or {}).get(variant)
            if best is not None:
                mean = exact(results.main_scores(name)[variant].mean)
                told = Markup("template {}, {} on {}")
                told = told.format(best.template, exact(best.dev_score), counted(best.dev_rows, "dev row"))
                score = results.main_scores(name, BEST_ON_DEV)[variant]
                cell = replace(score_cell(score), below=[Markup("mean over templates {}").format(mean), told])
            cells.append(cell)
        marks = [metric_title(results, task.main_metric), task.mark]
        rows.append(Row(name, [*cells, *others.of(name)] if cells else [Cell(text="no dev split")], marks))
    columns = [*titles(results).values(), *others.columns]
    yield Table("Best template on dev, all tasks", columns, rows, "task", beside=len(others.columns))


def _templates(results: Results) -> Iterable[Block]:
    yield text("templates")
    for name, task in results.tasks.items():
        clusters = listed([cluster_title(cluster) for cluster in task.clusters])
        told = f"{task.description} " if task.description else ""
        told += f"{'Cluster' if len(task.clusters) == 1 else 'Clusters'}: {clusters}; {counted(task.rows, 'row')},"
        told += f" {counted(len(task.templates), 'template')}"
        told += f"; {counted(task.shortened, 'prompt')} shortened to fit" if task.shortened else ""
        told += f". {capital(task.mark)}: {task.seen}." if task.seen else "."
        kind = "fold open" if len(results.tasks) <= _FEW_TASKS else "fold"
        yield Group(name, [told, _template_table(results, name, task)], kind)


def _template_table(results: Results, name: str, task: TaskFacts) -> Table:
    places = [(metric, variant) for metric in headline_metrics([task]) for variant in results.variants]
    short = {variant: title.removesuffix(" prompt") for variant, title in titles(results).items()}
    rows = []
    for template in (*map(str, task.templates), MEAN):
        scores = (results.scored("task", name, metric, template).get(variant) for metric, variant in places)
        prompt = None if template == MEAN else task.prompts.get(int(template))
        words = [] if prompt is None else [Markup("<q>{}</q>").format(prompt)]
        cells = [plain(score.mean if score else None) for score in scores]
        rows.append(Row(template, cells, words, "total" if template == MEAN else ""))
    columns = [f"{metric_title(results, metric)}\n{short[variant]}" for metric, variant in places]
    return Table(f"{name}, template by template", columns, rows, "template", "wordings")
