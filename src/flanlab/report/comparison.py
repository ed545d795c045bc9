"""A comparison in words, and its page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from flanlab.evaluation.comparison import SIDES, is_one_model, ways_of_asking
from flanlab.report.page import Block, Cell, Figure, Items, Page, Row, Table, plain, text, write_page
from flanlab.report.plots import difference_panel
from flanlab.report.summary import numbers
from flanlab.report.views import cluster_lines, difference_cell, line_of, metric_group, table
from flanlab.report.wording import (
    all_metrics,
    cannot,
    count,
    counted,
    interval_notes,
    interval_told,
    listed,
    metric_title,
    number,
    seen_told,
    signed,
    unclear_told,
)
from flanlab.results.intervals import LEVEL
from flanlab.results.schema import MAIN_METRIC, Difference, Results, Variant


def write_comparison(results: Results, path: Path) -> None:
    """Write the page of `compare_sides`' result to `path`, whole or not at all."""
    sides = results.variants
    tasks = [line_of(results, "task", name, task.main_metric, name) for name, task in results.tasks.items()]
    means = cluster_lines(results)
    if 0 < len(results.in_domain) < len(results.tasks):
        means.append(line_of(results, "in_domain", "", MAIN_METRIC, "mean over in-domain tasks"))
    shown = [*(replace(one, marks=[metric_title(results, one.metric), *one.marks]) for one in tasks), *means]
    drawn = {line.name: (one.difference, one.interval) for line in shown if (one := line.difference)}
    told = " ".join(f"{name}: {signed(value)}." for name, (value, _) in list(drawn.items())[-6:])
    label = f"B minus A by each task's main metric, points, with 95 % intervals. {told} All numbers stand in the tables below."
    picture = difference_panel("B minus A, points", drawn, label, [line.name for line in means])
    differences = table("Main metric, all tasks", shown, results, ["p_value", "p_holm", "rows"])
    page = Page(
        "comparison",
        "\n".join(f"{name.upper()}: {_title(side)}" for name, side in sides.items()),
        verdict(results),
        {
            "Differences": [differences, text("compared", family=counted(len(results.tasks), "test"))],
            "Metric by metric": _by_metric(results),
            "What was compared": _compared(results),
        },
        "Made by flanlab from the files of the two folders alone.",
        numbers=numbers(results),
        picture=Figure([picture], text("compared_picture"), kind="single"),
    )
    write_page(page, path)


def _title(side: Variant) -> str:
    title = f"{side.model.removesuffix(', tuned')}, {side.title}"
    return title if side.run == f"evaluation of {side.model}" else f"{title} ({side.run})"


def counts_told(results: Results) -> str:
    """On how many tasks B is clearly better and worse, by every metric."""
    alike: dict[str, list[str]] = {}
    for metric in all_metrics(results.tasks.values()):
        counts = outcomes(results, metric)
        told = f"clearly better on {counts['better']} and worse on {counts['worse']} of {counted(counts['tests'], 'task')}"
        title = metric_title(results, metric)
        # Inside a sentence, abbreviations keep their capitals.
        title = title if title[1:2].isupper() or title[1:2].isdigit() else title[:1].lower() + title[1:]
        alike.setdefault(told, []).append(title)
    return f"B is {'; '.join(f'{told} by {listed(metrics)}' for told, metrics in alike.items())}."


def _by_metric(results: Results) -> Iterable[Block]:
    rows, tables = [], []
    for metric in all_metrics(results.tasks.values()):
        title, counts = metric_title(results, metric), outcomes(results, metric)
        found = [plain(counts[name], count) for name in ("better", "worse", "unclear")]
        rows.append(Row(title, [difference_cell(results.difference("tasks", None, metric)), *found]))
        tables.append(metric_group(results, metric, ["p_value"], "fold"))
    columns = ["mean of B minus A\n[95 % interval]", "B clearly\nbetter", "B clearly\nworse", "no clear\ndifference"]
    yield Table("Tasks by outcome, all metrics", columns, rows, "metric")
    yield text("each_metric")
    yield from tables


def _compared(results: Results) -> Iterable[Block]:
    """The two sides, and what both were asked."""
    sides = results.variants
    told = {"run": "run", "model": "model", "title": "asked as", "folder": "folder"}
    facts = {title: [str(getattr(side, of)) for side in sides.values()] for of, title in told.items()}
    facts["tasks only it has"] = [listed(results.only.get(name, [])) or "none" for name in sides]
    rows = [Row(title, [Cell(text=value) for value in values]) for title, values in facts.items()]
    yield Table("The two sides", [name.upper() for name in sides], rows, kind="plain")
    tasks = []
    for name, task in results.tasks.items():
        alone = " and ".join(f"{count(some)} predictions of {side.upper()}" for side, some in task.unpaired.items() if some)
        alone = f" ({alone} have no counterpart and are left aside)" if alone else ""
        tasks.append(f"{name}: {counted(task.rows, 'row')}, {counted(len(task.templates), 'template')}{alone}")
    one = sides[SIDES[0]]
    yield f"Seed {one.seed}, {one.settings['split']} split. {'; '.join(tasks)}."
    if notes := interval_notes(results):
        yield Items(notes)


def verdict(results: Results) -> Iterable[str]:
    """The comparison in sentences that claim no more than the numbers."""
    rows, counts, total = _differences(results), outcomes(results), len(results.tasks)
    of = f"of {counted(total, 'task')}"
    unclear = total - counts["better"] - counts["worse"]
    if total == 1:
        word = "better" if counts["better"] else "worse"
        told = f"B is clearly {word} on the one task (its 95 % interval excludes zero)."
        yield "No difference is clear, which does not make the two equal." if unclear else told
    else:
        yield (
            f"B is clearly better on {counts['better']} {of} and clearly worse on {counts['worse']}"
            f" (95 % intervals that exclude zero); after Holm's correction over the {total}, better on {counts['better_holm']}"
            f" and worse on {counts['worse_holm']}."
        )
        if unclear:
            where = "On all of them" if unclear == total else f"On the other {unclear}"
            yield f"{where} no difference is clear, which does not make the two equal."
    if sizes := sorted(row.detectable for row in rows if not row.is_clear and row.detectable is not None):
        ends = dict.fromkeys((number(sizes[0]), number(sizes[-1])))
        on = " there, depending on the task" if len(ends) > 1 else " there" if len(sizes) > 1 else ""
        yield f"A difference of {' to '.join(ends)} points would have been detected{on} (80 % power)."
    if nothing := sum(not row.is_clear and row.detectable is None for row in rows):
        yield f"On {nothing} {of} no difference, however large, would have been detected."
    if tested := [row for row in rows if row.margin is not None]:
        same, margin = sum(row.is_equivalent for row in tested), number(tested[0].margin or 0)
        yield f"On {same} {of} the two are equivalent within {margin} points (two one-sided tests at 5 %)."
    over = results.difference("clusters", None, MAIN_METRIC)
    if over is not None and len(results.averaged) > 1:
        clusters, kind = results.members("clusters"), "zero-shot " if 0 < len(results.in_domain) < total else ""
        members = f"the {clusters} clusters" if clusters > 1 else f"the {kind}tasks"
        told = f"On average over {members}, B minus A is {signed(over.difference)} points of the main metric"
        yield f"{told} ({interval_told(over)}).{unclear_told(over)}"
    a, b = (results.variants[side] for side in SIDES)
    if (ways := listed(ways_told(a, b))) and is_one_model(a, b):
        yield f"A and B are one model, asked in two ways: {ways}. Differences are between these ways."
    elif ways:
        yield f"Not only the model differs, but also {ways}: the difference is of both together."
    yield from cautions(results)


def ways_told(a: Variant, b: Variant) -> list[str]:
    """In what two variants were asked differently, with both values, those of A first."""
    return [f"{name} ({left}, {right})" for name, (left, right) in ways_of_asking(a, b).items()]


def cautions(results: Results) -> Iterable[str]:
    """What to know beside the numbers: intervals that there are not, different precisions, and what the models have seen."""
    yield from filter(cannot, interval_notes(results))
    first, second = (results.variants[side].dtype for side in SIDES)
    if first and second and first != second:
        yield f"A was scored in {first} and B in {second}: rounding alone makes some answers differ."
    unknown = [side.upper() for side in SIDES if not results.variants[side].stamped]
    marks = {side.upper(): {name: results.tasks[name].mark for name in results.seen_tasks(side)} for side in SIDES}
    yield from seen_told(marks, unknown)


def outcomes(results: Results, metric: str = MAIN_METRIC) -> Counter[str]:
    """How many of all `tests` are better, worse, unclear by a metric; after Holm's correction better_holm, worse_holm."""
    counts = Counter(tests=0, better=0, worse=0, unclear=0, better_holm=0, worse_holm=0)
    for row in _differences(results, metric):
        word = "better" if row.difference > 0 else "worse"
        counts["tests"] += 1
        counts[word if row.is_clear else "unclear"] += 1
        counts[f"{word}_holm"] += row.difference != 0 and row.p_holm is not None and row.p_holm < 1 - LEVEL
    return counts


def _differences(results: Results, metric: str = MAIN_METRIC) -> list[Difference]:
    """Those of single tasks by a metric, or by the main metric of each."""
    own = {name: task.main_metric if metric == MAIN_METRIC else metric for name, task in results.tasks.items()}
    return [row for name, one in own.items() if (row := results.difference("task", name, one))]
