"""A comparison in words, and its page: one HTML file that opens offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flanlab.evaluation.comparison import SIDES
from flanlab.files import write_text
from flanlab.report.page import page_environment
from flanlab.report.plots import DifferenceRow, difference_panel
from flanlab.report.wording import (
    MEAN_OVER_CLUSTERS,
    cluster_title,
    counted,
    explanation,
    listed,
    metric_title,
    number,
    probability,
    signed,
    without_stamp,
)
from flanlab.results.intervals import LEVEL
from flanlab.results.schema import MAIN_METRIC, Difference, Level, Results


def write_comparison(results: Results, path: Path) -> None:
    """Write the page of `compare_sides`' result to `path`, whole or not at all."""
    page = (
        page_environment()
        .get_template("comparison.html.j2")
        .render(
            results=results,
            sides=results.variants,
            sentences=verdict(results),
            plot=_plot(results),
            main=[_row(results, "task", name, task.main_metric) for name, task in results.tasks.items()],
            averages=_averages(results),
            metrics=_metrics(results),
        )
    )
    write_text(path, page)


def verdict(results: Results) -> list[str]:
    """The comparison in sentences that claim no more than the numbers."""
    return [*_differences_told(results), *cautions(results)]


def cautions(results: Results) -> list[str]:
    """What to know beside the numbers: different precisions, and what the models have seen."""
    return [*_precision_told(results), *_seen_told(results)]


def outcomes(results: Results) -> Counter[str]:
    """How many tasks came out how, by their main metric: better, worse; and after Holm's correction better_holm, worse_holm."""
    counts = Counter(better=0, worse=0, better_holm=0, worse_holm=0)
    for name, task in results.tasks.items():
        row = results.difference("task", name, task.main_metric)
        if row is None or row.difference == 0:
            continue
        word = "better" if row.difference > 0 else "worse"
        counts[word] += row.is_clear
        counts[f"{word}_holm"] += row.p_holm is not None and row.p_holm < 1 - LEVEL
    return counts


def seen_by(results: Results, names: Iterable[str] | None = None) -> str:
    """The sides whose model has seen any of the tasks (all tasks, where none are named): empty, A, B, or A and B."""
    names = list(results.tasks if names is None else names)
    return listed([side.upper() for side in SIDES if set(names) & set(results.seen_tasks(side))])


def _differences_told(results: Results) -> Iterable[str]:
    counts, total = outcomes(results), len(results.tasks)
    rows = [results.difference("task", name, task.main_metric) for name, task in results.tasks.items()]
    if total == 1:
        outcome = "better" if counts["better"] else "worse"
        clear = counts["better"] + counts["worse"]
        yield (
            f"B is {outcome} on the one task, with an interval that excludes zero."
            if clear
            else "No difference is clear on the one task: its interval includes zero."
        )
        yield from _detectable_told(rows)
        yield from _equivalence_told(rows)
        return
    yield (
        f"B is better on {counts['better']} of {total} tasks with intervals that exclude zero, and worse on {counts['worse']};"
        f" after Holm's correction over the {total}, better on {counts['better_holm']} and worse on {counts['worse_holm']}."
    )
    if unclear := total - counts["better"] - counts["worse"]:
        where = "On all of them" if unclear == total else f"On the other {unclear}"
        yield f"{where} no difference is clear, which does not make the two equal."
        yield from _detectable_told(rows)
    yield from _equivalence_told(rows)
    over = results.difference("clusters", None, MAIN_METRIC)
    assert over is not None
    low, high = signed(over.low), signed(over.high)
    clusters = results.members("clusters")
    members = f"the {clusters} clusters" if clusters > 1 else "the tasks"
    includes = "" if over.is_clear else ", which includes zero"
    yield (
        f"On average over {members}, B minus A is {signed(over.difference)} points of the main metric (95 % interval"
        f" {low} to {high}{includes})."
    )
    if not over.is_clear and over.detectable is not None:
        yield f"A difference of {number(over.detectable)} points would have been detected with 80 % power."
    if over.margin is not None:
        yield _equivalent(over, f"On average over {members} the two are")


def _detectable_told(rows: Sequence[Difference | None]) -> Iterable[str]:
    """How large a difference would have been seen where none is clear."""
    sizes = sorted(row.detectable for row in rows if row and not row.is_clear and row.detectable is not None)
    if sizes:
        ends = dict.fromkeys((number(sizes[0]), number(sizes[-1])))
        on = "" if len(sizes) == 1 else " there, depending on the task"
        yield f"A difference of {' to '.join(ends)} points would have been detected{on} (80 % power)."


def _equivalence_told(rows: Sequence[Difference | None]) -> Iterable[str]:
    """On how many tasks the two are the same but for less than the margin, if there is one."""
    tested = [row for row in rows if row is not None and row.margin is not None]
    if len(tested) == 1:
        yield _equivalent(tested[0], "On the one task the two are")
    elif tested:
        same, margin = sum(row.is_equivalent for row in tested), number(tested[0].margin or 0)
        yield f"On {same} of {len(tested)} tasks the two are equivalent within {margin} points (two one-sided tests at 5 %)."


def _equivalent(row: Difference, subject: str) -> str:
    verdict = "equivalent" if row.is_equivalent else "not shown to be equivalent"
    p_value = "" if row.p_equivalence is None else f" (p = {probability(row.p_equivalence)})"
    return f"{subject} {verdict} within {number(row.margin or 0)} points{p_value}."


def _precision_told(results: Results) -> Iterable[str]:
    first, second = (results.variants[side].dtype for side in SIDES)
    if first and second and first != second:
        yield f"A was scored in {first} and B in {second}: rounding alone makes some answers differ."


def _seen_told(results: Results) -> Iterable[str]:
    for side in SIDES:
        if seen := results.seen_tasks(side):
            yield f"{side.upper()} was trained on {listed(seen)}, or on what is close: its scores there are not zero-shot."
    unknown = [side.upper() for side in SIDES if not results.variants[side].stamped]
    if unknown:
        yield without_stamp(unknown)


def _row(results: Results, level: Level, name: str | None, metric: str, title: str = "", seen: str = "") -> dict[str, Any]:
    """A line of a table."""
    task = results.tasks.get(name or "")
    return {
        "name": title or name,
        "title": metric_title(results, metric) if task else "",
        "seen": seen or (seen_by(results, [str(name)]) if task else ""),
        "scores": results.scored(level, name, metric),
        "difference": results.difference(level, name, metric),
    }


def _averages(results: Results) -> list[dict[str, Any]]:
    """The mean of the main metric over each cluster, and over the clusters; empty where that would repeat the one task."""
    clusters = results.clusters
    if sum(results.members("cluster", cluster) for cluster in clusters) < 2:
        return []
    rows = [
        _row(
            results,
            "cluster",
            name,
            MAIN_METRIC,
            f"{cluster_title(name)}, {counted(results.members('cluster', name), 'task')}",
            seen_by(results, tasks),
        )
        for name, tasks in clusters.items()
    ]
    if len(rows) > 1:
        rows.append(_row(results, "clusters", None, MAIN_METRIC, MEAN_OVER_CLUSTERS, seen_by(results)))
    return rows


def _plot(results: Results) -> Markup:
    shown = [(name, results.difference("task", name, task.main_metric), False) for name, task in results.tasks.items()]
    shown += [(row["name"], row["difference"], True) for row in _averages(results)]
    rows = [DifferenceRow(name, one.difference, one.interval, strong) for name, one, strong in shown if one]
    told = " ".join(f"{row.name}: {signed(row.difference)}." for row in rows[-6:])
    label = f"B minus A by each task's main metric, points, with 95 % intervals. {told} All numbers stand in the tables below."
    return difference_panel("B minus A, points", rows, label)


def _metrics(results: Results) -> list[dict[str, Any]]:
    """For each metric the tasks that have it, and their average where all do."""
    found = []
    for metric in dict.fromkeys(metric for task in results.tasks.values() for metric in task.metrics):
        rows = [_row(results, "task", name, metric) for name, task in results.tasks.items() if metric in task.metrics]
        average = None
        if len(rows) > 1 and results.scored("tasks", None, metric):
            average = _row(results, "tasks", None, metric, "average", seen_by(results))
        title = next(task.metrics[metric].title for task in results.tasks.values() if metric in task.metrics)
        found.append({"title": title, "explanation": explanation(results, metric), "rows": rows, "average": average})
    return found
