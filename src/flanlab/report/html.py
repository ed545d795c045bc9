"""The report of a run or an evaluation: one HTML file that opens offline, made from the files of its folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flanlab.progress import clock
from flanlab.report.classes import classification_blocks
from flanlab.report.examples import example_blocks, read_records
from flanlab.report.learning import score_curve
from flanlab.report.page import (
    Block,
    Cell,
    Drawing,
    Facts,
    Figure,
    Group,
    Items,
    Page,
    Row,
    Table,
    Verbatim,
    exact,
    plain,
    text,
    write_page,
)
from flanlab.report.plots import dev_curves, learning_curve, running_mean, score_panel, window
from flanlab.report.published import beside, figures, published
from flanlab.report.reading import MixtureCard, MixtureTask, RunFiles, read_run
from flanlab.report.summary import numbers, summary, verdict
from flanlab.report.views import (
    Line,
    cluster_lines,
    drawn,
    headlines,
    legend,
    metric_lines,
    quantile_lines,
    table,
    titles,
)
from flanlab.report.wording import (
    all_metrics,
    cluster_title,
    count,
    counted,
    explanation,
    headline_metrics,
    is_percent,
    listed,
    metric_title,
    task_headlines,
    unknown_models,
)
from flanlab.results.schema import BEST_ON_DEV, MEAN, TUNED, Results, TaskFacts

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
    shown = TUNED if TUNED in results.variants else next(iter(results.variants))
    records = {name: read_records(folder, shown, name, results) for name in results.tasks}
    sections = {
        "Task by task": _tasks(results),
        "Cluster by cluster": _clusters(results),
        "Over wordings": _over_wordings(results),
        "The template that is best on dev": _best_templates(results),
        "Template by template": _templates(results),
        "Right and wrong by class": classification_blocks(results, shown, records),
        "Learning curve": _learning(run),
        "What it was trained on": _mixture(run),
        "Example predictions": _examples(results, shown, records if examples else None),
        "Notes": _notes(run),
    }
    made_by = f" {run.facts['flanlab']}" if "flanlab" in run.facts else ""
    page = Page(
        "report",
        results.name,
        verdict(results),
        [Group(title, blocks) for title, made in sections.items() if (blocks := list(made))],
        results.description or "",
        numbers(results),
        _picture(results),
        summary(run),
        f"Made by flanlab{made_by} from the files of this run's folder alone.",
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
            panels.append(_panel(f"{kind}, over {counted(len(tasks), 'task')}", own, results, percent=True))
    return Figure(panels, _caption(results, lines), legend(results), "" if len(panels) > 1 else "single")


def _panel(title: str, lines: Sequence[Line], results: Results, percent: bool) -> Drawing:
    svg = score_panel(
        title,
        {line.name: line.scores for line in lines},
        drawn(results),
        title.removesuffix(", %").removesuffix(", times 100"),
        percent=percent,
        strong=[line.name for line in lines if not line.task and any(one.task for one in lines)],
        hollow={line.name: line.outsiders for line in lines},
        chance={line.name: _chance(line) for line in lines},
    )
    return Drawing(svg)


def _chance(line: Line) -> float | None:
    """The level that is drawn."""
    return line.chance if line.metric == "accuracy" else None


def _caption(results: Results, lines: Sequence[Line]) -> str:
    told = [text("picture")]
    if any(_chance(line) is not None for line in lines):
        told.append(text("guessing"))
    if results.differences and len(results.variants) > 2:
        told.append(text("hollow"))
    return " ".join(told)


def _tasks(results: Results) -> Iterable[Block]:
    headline = headline_metrics(results)
    panels = [
        _panel(
            metric_title(results, metric) + (", %" if is_percent(metric) else ", times 100"),
            metric_lines(results, metric),
            results,
            is_percent(metric),
        )
        for metric in headline
    ]
    yield Figure(panels, "", legend(results))
    told = [text("scores")]
    told += [text("difference")] if results.differences else []
    told += [text("before")] if results.differences and len(results.variants) > 2 else []
    yield " ".join([*told, unknown_models(results.variants)])
    metrics = all_metrics(results)
    others = beside({(name, one): figures(task, one) for name, task in results.tasks.items() for one in metrics})
    if others.columns:
        yield f"{text('published', sources=others.sources)} {published().not_found}"
    for metric in metrics:
        levels = ["rows"]
        levels += ["chance"] if metric.startswith("accuracy") or metric == "answer_probability" else []
        levels += ["majority"] if metric.startswith("accuracy") else []
        title = metric_title(results, metric)
        lines = metric_lines(results, metric)
        shown = table(f"{title}, all tasks", lines, results, levels=levels, published=True)
        yield Group(title, [explanation(results, metric), shown], "part")


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
    others = beside({name: figures(task, task.main_metric, "best dev template") for name, task in results.tasks.items()})
    yield text("best") + (f" {text('best_published', sources=others.sources)}" if others.columns else "")
    columns = [*titles(results).values(), *others.columns]
    rows = []
    for name, task in results.tasks.items():
        cells = [_best(results, name, task, variant) for variant in results.variants]
        cells += others.of(name)
        marks = [metric_title(results, task.main_metric), "seen in training" if task.seen else ""]
        rows.append(Row(name, cells if task.best_on_dev else [Cell(text="no dev split")], marks))
    yield Table("Best template on dev, all tasks", columns, rows, "task", beside=len(others.columns))


def _best(results: Results, name: str, task: TaskFacts, variant: str) -> Cell:
    best = (task.best_on_dev or {}).get(variant)
    if best is None:
        return Cell(text="one prompt")
    score = results.main_scores(name, BEST_ON_DEV)[variant]
    mean = results.main_scores(name)[variant].mean
    below = [Markup("mean over templates {}").format(exact(mean))]
    below += [Markup("template {}, {} on {}").format(best.template, exact(best.dev_score), counted(best.dev_rows, "dev row"))]
    return Cell(score.mean, interval=score.interval, below=below, kind="score")


def _templates(results: Results) -> Iterable[Block]:
    yield text("templates")
    for name, task in results.tasks.items():
        clusters = listed([cluster_title(cluster) for cluster in task.clusters])
        told = f"{task.description} " if task.description else ""
        told += f"{'Cluster' if len(task.clusters) == 1 else 'Clusters'}: {clusters}; {counted(task.rows, 'row')},"
        told += f" {counted(len(task.templates), 'template')}"
        told += f"; {counted(task.shortened, 'prompt')} shortened to fit" if task.shortened else ""
        told += f". Seen in training: {task.seen}." if task.seen else "."
        kind = "fold open" if len(results.tasks) <= _FEW_TASKS else "fold"
        yield Group(name, [told, _template_table(results, name, task)], kind)


def _template_table(results: Results, name: str, task: TaskFacts) -> Table:
    places = [(metric, variant) for metric in task_headlines(task) for variant in results.variants]
    short = {variant: title.removesuffix(" prompt") for variant, title in titles(results).items()}
    columns = [f"{metric_title(results, metric)}\n{short[variant]}" for metric, variant in places]

    def cells(template: str) -> list[Cell]:
        scores = (results.scored("task", name, metric, template).get(variant) for metric, variant in places)
        return [plain(score.mean if score else None) for score in scores]

    rows = []
    for one in task.templates:
        words = [Markup("<q>{}</q>").format(task.prompts[one])] if one in task.prompts else []
        rows.append(Row(str(one), cells(str(one)), words))
    rows.append(Row("mean", cells("mean"), kind="total"))
    return Table(f"{name}, template by template", columns, rows, "template", "wordings")


def _learning(run: RunFiles) -> Iterable[Block]:
    steps = run.steps
    if not steps:
        return
    means = running_mean(steps)
    first, last = means[window(steps) - 1], means[-1]
    label = f"Loss per target token by step: {first:.2f} in the first tenth of the steps, {last:.2f} in the last."
    yield Figure([Drawing(learning_curve(steps, label))], text("learning"), kind="single")
    yield Facts(
        {
            "steps": count(len(steps)),
            "examples": count(sum(step.examples for step in steps)),
            "tokens read": count(sum(step.tokens for step in steps)),
            "target tokens": count(sum(step.target_tokens for step in steps)),
            "loss, first tenth": exact(first, "{:.3f}".format),
            "loss, last tenth": exact(last, "{:.3f}".format),
            "time": clock(sum(step.seconds for step in steps)),
        }
    )
    yield from score_curve(run.results, len(steps))
    measured = [step for step in steps if step.dev_loss]
    if not measured:
        return
    names = {cluster: cluster_title(cluster) for cluster in measured[-1].dev_loss}
    ends = {name: [step.dev_loss[name] for step in (measured[0], measured[-1])] for name in names}
    told = ", ".join(f"{title} {ends[name][0]:.2f}, then {ends[name][1]:.2f}" for name, title in names.items())
    drawn = dev_curves(measured, names, f"Loss per target token on dev rows, after the first step and the last: {told}.")
    yield Group("Loss on dev rows, by cluster", [Figure([Drawing(drawn)], text("dev"), kind="wide")], "part")


_COUNTS = ("rows", "examples", "tokens", "target_tokens")


def _mixture(run: RunFiles) -> Iterable[Block]:
    mixture, results = run.mixture, run.results
    if mixture is None:
        return
    told = [f"{counted(mixture.planned_examples, 'example')} planned."]
    if mixture.measured_examples < mixture.planned_examples:
        told.append(text("measured", examples=count(mixture.measured_examples)))
    yield " ".join([*told, text("epochs")])
    yield _mixture_table(mixture)
    if results.left_out:
        reasons: dict[str, list[str]] = {}
        for name, reason in results.left_out.items():
            reasons.setdefault(reason, []).append(name)
        yield Group("Left out", [Items([f"{listed(names)}: {reason}" for reason, names in reasons.items()])], "part")
    if results.allowed_overlaps:
        lines = [f"{name}: {reason}" for name, reason in results.allowed_overlaps.items()]
        yield Group("Trained on all the same", [Items(lines)], "part")


def _mixture_table(mixture: MixtureCard) -> Table:
    def total(title: str, tasks: Iterable[MixtureTask], kind: str) -> Row:
        tasks = list(tasks)
        sums = [sum(getattr(task, name) for task in tasks) for name in _COUNTS]
        dropped = sum(sum(task.dropped.values()) for task in tasks)
        shortened = sum(task.shortened for task in tasks)
        return Row(
            title, [*(plain(one, count) for one in sums), Cell(), plain(shortened, count), plain(dropped, count)], kind=kind
        )

    rows = []
    for cluster in sorted({task.cluster for task in mixture.tasks.values()}):
        own = {name: task for name, task in mixture.tasks.items() if task.cluster == cluster}
        rows.append(total(cluster_title(cluster), own.values(), "cluster"))
        for title, task in own.items():
            cells = [plain(getattr(task, name), count) for name in _COUNTS]
            cells += [plain(task.epochs, "{:.2f}".format), plain(task.shortened, count)]
            reasons = [f"{reason}: {count(times)}" for reason, times in task.dropped.items()]
            cells.append(Cell(sum(task.dropped.values()), count, below=reasons, kind="level"))
            rows.append(Row(title, cells, kind="member"))
    rows.append(total("total", mixture.tasks.values(), "total"))
    columns = ["rows", "examples", "tokens", "target tokens", "epochs", "shortened", "dropped"]
    return Table("Training mixture", columns, rows, "cluster, task")


def _examples(results: Results, shown: str, records: Mapping[str, Any] | None) -> Iterable[Block]:
    if records is None:
        yield text("no_examples")
        return
    if not any(records.values()):
        yield "The folder holds no predictions to show."
        return
    whose = "the tuned model" if shown == TUNED else f"the model asked with the {results.variants[shown].title}"
    yield text("examples", whose=whose)
    for place, (name, predictions) in enumerate(records.items()):
        if predictions:
            blocks = list(example_blocks(predictions, results.tasks[name].declared_metrics))
            yield Group(name, blocks, "fold open" if place == 0 else "fold")


def _notes(run: RunFiles) -> Iterable[Block]:
    if notes := [*run.results.notes, *_cautions(run.results)]:
        yield Items(notes)
    facts = dict(_flattened({name: value for name, value in run.facts.items() if name != "tasks"}))
    if facts and run.results.seconds is not None:
        facts["time of the whole run"] = clock(run.results.seconds)
    if facts:
        yield Group("Versions and hashes", [Facts(facts)], "part")
    tasks = run.facts.get("tasks")
    if isinstance(tasks, Mapping):
        told = {
            name: ", ".join(f"{kind} {one}" for kind, one in hashes.items()) if isinstance(hashes, Mapping) else str(hashes)
            for name, hashes in tasks.items()
        }
        yield Group(f"Hashes of {counted(len(tasks), 'task')} and their rows", [Facts(told)], "fold")
    if run.recipe:
        yield Group("The recipe", [Verbatim(run.recipe)], "fold")


def _cautions(results: Results) -> Iterable[str]:
    """What must be known of intervals, and of how many."""
    notes = [row.note for row in results.scores if row.template == MEAN] + [row.note for row in results.differences]
    found = Counter(caution for note in notes for caution in note.split("; ") if caution)
    for caution, times in found.most_common():
        yield f"{counted(times, 'interval')}: {caution}. The column note of scores.parquet says which."


def _flattened(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Facts of run.json as name and value, nested names joined by spaces."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", "not installed" if value is None else str(value)
