"""A comparison in words, and its page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from flanlab.evaluation.comparison import SIDES
from flanlab.report.page import Block, Cell, Drawing, Figure, Group, Page, Row, Table, plain, text, write_page
from flanlab.report.plots import difference_panel
from flanlab.report.summary import numbers
from flanlab.report.views import cluster_lines, difference_cell, metric_lines, table, task_line
from flanlab.report.wording import (
    all_metrics,
    count,
    counted,
    explanation,
    interval_told,
    listed,
    metric_title,
    number,
    signed,
    unclear_told,
    without_stamp,
)
from flanlab.results.intervals import LEVEL
from flanlab.results.schema import MAIN_METRIC, Difference, Results


def write_comparison(results: Results, path: Path) -> None:
    """Write the page of `compare_sides`' result to `path`, whole or not at all."""
    sides = results.variants
    tasks = [task_line(results, name, task.main_metric) for name, task in results.tasks.items()]
    lines = [replace(line, marks=[metric_title(results, line.metric), *line.marks]) for line in tasks]
    means = cluster_lines(results)
    shown = [*lines, *means]
    drawn = {line.name: (one.difference, one.interval) for line in shown if (one := line.difference)}
    first, *sentences = verdict(results)
    told = " ".join(f"{name}: {signed(value)}." for name, (value, _) in list(drawn.items())[-6:])
    label = f"B minus A by each task's main metric, points, with 95 % intervals. {told} All numbers stand in the tables below."
    page = Page(
        "comparison",
        "\n".join(
            f"{name.upper()}: {side.model.removesuffix(', tuned')}, {side.title} ({side.run})" for name, side in sides.items()
        ),
        first,
        [
            Group(
                "Differences",
                [
                    table("Main metric, all tasks", shown, results, p_values=["p_value", "p_holm"], levels=["rows"]),
                    text("compared", family=counted(len(results.tasks), "test")),
                ],
            ),
            Group("Metric by metric", list(_by_metric(results))),
            Group("What was compared", [_sides_table(results), _asked(results)]),
        ],
        numbers=numbers(results),
        picture=Figure(
            [Drawing(difference_panel("B minus A, points", drawn, label, [line.name for line in means]))],
            text("compared_picture"),
            kind="single",
        ),
        sentences=sentences,
        footer="Made by flanlab from the files of the two folders alone.",
    )
    write_page(page, path)


def counts_told(results: Results) -> str:
    """On how many tasks B is clearly better and worse, by every metric."""
    alike: dict[str, list[str]] = {}
    for metric in all_metrics(results):
        counts, total = outcomes(results, metric), len(_differences(results, metric))
        told = f"clearly better on {counts['better']} and worse on {counts['worse']} of {counted(total, 'task')}"
        alike.setdefault(told, []).append(_lower(metric_title(results, metric)))
    return f"B is {'; '.join(f'{told} by {listed(metrics)}' for told, metrics in alike.items())}."


def _lower(title: str) -> str:
    """A title inside a sentence; abbreviations keep their capitals."""
    return title if title[1:2].isupper() or title[1:2].isdigit() else title[:1].lower() + title[1:]


def _by_metric(results: Results) -> Iterable[Block]:
    rows, tables = [], []
    for metric in all_metrics(results):
        title = metric_title(results, metric)
        counts, total = outcomes(results, metric), len(_differences(results, metric))
        found = [counts["better"], counts["worse"], total - counts["better"] - counts["worse"]]
        cells = [difference_cell(results.difference("tasks", None, metric)), *(plain(one, count) for one in found)]
        rows.append(Row(title, cells))
        shown = table(f"{title}, all tasks", metric_lines(results, metric), results, p_values=["p_value"])
        tables.append(Group(title, [explanation(results, metric), shown], "fold"))
    columns = ["mean of B minus A\n[95 % interval]", "B clearly\nbetter", "B clearly\nworse", "no clear\ndifference"]
    yield Table("Tasks by outcome, all metrics", columns, rows, "metric")
    yield text("each_metric")
    yield from tables


def _sides_table(results: Results) -> Table:
    sides = results.variants
    told = {"run": "run", "model": "model", "title": "asked as", "folder": "folder"}
    facts = {title: [str(getattr(side, of)) for side in sides.values()] for of, title in told.items()}
    facts["tasks only it has"] = [listed(results.only.get(name, [])) or "none" for name in sides]
    rows = [Row(title, [Cell(text=value) for value in values]) for title, values in facts.items()]
    return Table("The two sides", [name.upper() for name in sides], rows, kind="plain")


def _asked(results: Results) -> str:
    one = results.variants[SIDES[0]]
    parts = []
    for name, task in results.tasks.items():
        alone = " and ".join(f"{count(some)} predictions of {side.upper()}" for side, some in task.unpaired.items() if some)
        alone = f" ({alone} have no counterpart and are left aside)" if alone else ""
        parts.append(f"{name}: {counted(task.rows, 'row')}, {counted(len(task.templates), 'template')}{alone}")
    return f"Seed {one.seed}, {one.settings['split']} split. {'; '.join(parts)}."


def verdict(results: Results) -> list[str]:
    """The comparison in sentences that claim no more than the numbers."""
    return [*_differences_told(results), *cautions(results)]


def cautions(results: Results) -> list[str]:
    """What to know beside the numbers: different precisions, and what the models have seen."""
    return [*_precision_told(results), *_seen_told(results)]


def outcomes(results: Results, metric: str = MAIN_METRIC) -> Counter[str]:
    """How many tasks came out how by a metric: better, worse; after Holm's correction better_holm, worse_holm."""
    counts = Counter(better=0, worse=0, better_holm=0, worse_holm=0)
    for row in _differences(results, metric):
        word = "better" if row.difference > 0 else "worse"
        counts[word] += row.is_clear
        counts[f"{word}_holm"] += row.difference != 0 and row.p_holm is not None and row.p_holm < 1 - LEVEL
    return counts


def _differences(results: Results, metric: str = MAIN_METRIC) -> list[Difference]:
    """Those of single tasks by a metric, or by the main metric of each."""
    own = {name: task.main_metric if metric == MAIN_METRIC else metric for name, task in results.tasks.items()}
    return [row for name, one in own.items() if (row := results.difference("task", name, one))]


def _differences_told(results: Results) -> Iterable[str]:
    rows, counts, total = _differences(results), outcomes(results), len(results.tasks)
    of = f"of {counted(total, 'task')}"
    yield (
        f"B is clearly better on {counts['better']} {of} and clearly worse on {counts['worse']}"
        f" (95 % intervals that exclude zero); after Holm's correction over the {total}, better on {counts['better_holm']}"
        f" and worse on {counts['worse_holm']}."
    )
    if unclear := total - counts["better"] - counts["worse"]:
        where = "On all of them" if unclear == total else f"On the other {unclear}"
        yield f"{where} no difference is clear, which does not make the two equal."
        yield from _detectable_told(rows)
    tested = [row for row in rows if row.margin is not None]
    if tested:
        same, margin = sum(row.is_equivalent for row in tested), number(tested[0].margin or 0)
        yield f"On {same} {of} the two are equivalent within {margin} points (two one-sided tests at 5 %)."
    if total == 1:
        return
    over = results.difference("clusters", None, MAIN_METRIC)
    assert over is not None
    clusters = results.members("clusters")
    members = f"the {clusters} clusters" if clusters > 1 else "the tasks"
    told = f"On average over {members}, B minus A is {signed(over.difference)} points of the main metric"
    yield f"{told} ({interval_told(over)}).{unclear_told(over)}"


def _detectable_told(rows: Sequence[Difference]) -> Iterable[str]:
    """How large a difference would have been seen where none is clear."""
    sizes = sorted(row.detectable for row in rows if not row.is_clear and row.detectable is not None)
    if sizes:
        ends = dict.fromkeys((number(sizes[0]), number(sizes[-1])))
        on = "" if len(sizes) == 1 else " there, depending on the task"
        yield f"A difference of {' to '.join(ends)} points would have been detected{on} (80 % power)."


def _precision_told(results: Results) -> Iterable[str]:
    first, second = (results.variants[side].dtype for side in SIDES)
    if first and second and first != second:
        yield f"A was scored in {first} and B in {second}: rounding alone makes some answers differ."


def _seen_told(results: Results) -> Iterable[str]:
    for side in SIDES:
        if seen := results.seen_tasks(side):
            yield f"{side.upper()} was trained on {listed(seen)}, or on something close: its scores there are not zero-shot."
    unknown = [side.upper() for side in SIDES if not results.variants[side].stamped]
    if unknown:
        yield without_stamp(unknown)
