"""Views of the score table: lines with their scores and differences, and tables made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from flanlab.report.page import MISSING, Cell, Key, Row, Table, exact, plain
from flanlab.report.published import beside, figures
from flanlab.report.wording import (
    CLASSIFICATION_METRICS,
    MEAN_OVER_CLUSTERS,
    average_chance,
    cluster_title,
    count,
    counted,
    listed,
    number,
    probability,
    signed,
)
from flanlab.results.schema import BEST_ON_DEV, MAIN_METRIC, TUNED, Difference, Level, Results, Score, kept_step

AVERAGE = "average"
MEAN_OVER_TASKS = "mean over tasks"
_PLAIN = {"accuracy": "accuracy", "valid_answers": "format followed", "exact_match": "right answer written"}
"""What a metric says, in a few words."""


@dataclass(frozen=True)
class Line:
    """A task, or a mean over several, by one metric."""

    name: str
    metric: str
    scores: Mapping[str, Score]
    difference: Difference | None
    chance: float | None = None
    majority: float | None = None
    marks: Sequence[str] = ()
    task: str = ""
    """Empty for a mean."""
    in_domain: bool = False

    @property
    def outsiders(self) -> frozenset[str]:
        """Variants that count neither as before nor as after."""
        one = self.difference
        return frozenset(self.scores) - {one.before, one.after} if one else frozenset()


def is_comparison(results: Results) -> bool:
    """Whether results are of two runs that are compared."""
    return any(variant.run is not None for variant in results.variants.values())


def titles(results: Results) -> dict[str, str]:
    """Variant to its title; the sides of a comparison have letters."""
    if is_comparison(results):
        return {name: name.upper() for name in results.variants}
    return {name: variant.title for name, variant in results.variants.items()}


def seen_by(results: Results, names: Iterable[str] | None = None) -> str:
    """The sides of a comparison whose model has seen any of the tasks (all tasks, where none are named): A, or A and B."""
    names = set(results.tasks if names is None else names)
    return listed([side.upper() for side in results.variants if names & set(results.seen_tasks(side))])


def _seen(results: Results, names: Iterable[str], mean: bool) -> str:
    """How a line over these tasks is marked."""
    names = list(names)
    if is_comparison(results):
        by = seen_by(results, names)
        return f"seen in training by {by}" if by else ""
    if any(results.tasks[name].seen for name in names):
        return "with tasks seen in training" if mean else "seen in training"
    return "in-domain" if not mean and any(results.tasks[name].in_domain for name in names) else ""


def _line(results: Results, level: Level, key: str | None, metric: str, name: str, names: Iterable[str]) -> Line:
    mark = _seen(results, names, mean=True)
    scores, difference = results.scored(level, key, metric), results.difference(level, key, metric)
    chance = average_chance(results) if level == "tasks" and metric.startswith("accuracy") else None
    return Line(name, metric, scores, difference, chance, None, [mark] if mark else [], in_domain=level == "in_domain")


def task_line(results: Results, name: str, metric: str, title: str = "") -> Line:
    """A task by one metric."""
    task = results.tasks[name]
    mark = _seen(results, [name], mean=False)
    scores, difference = results.scored("task", name, metric), results.difference("task", name, metric)
    marks = [mark] if mark else []
    facts = task.metrics[metric]
    ranked = metric.startswith("accuracy")
    chance = facts.chance if facts.chance is not None else task.chance if ranked else None
    majority = facts.majority if facts.majority is not None else task.majority if ranked else None
    return Line(title or name, metric, scores, difference, chance, majority, marks, name, task.in_domain)


def metric_lines(results: Results, metric: str) -> list[Line]:
    """The tasks that have a metric, zero-shot ones first, each kind with its average if that is over several."""
    found = []
    for in_domain in (False, True):
        names = [name for name, task in results.tasks.items() if task.in_domain == in_domain and metric in task.metrics]
        found += [task_line(results, name, metric) for name in names]
        apart = in_domain and len(results.in_domain) < len(results.tasks)
        level: Level = "in_domain" if apart else "tasks"
        if len(names) > 1 and results.scored(level, None, metric):
            found.append(_line(results, level, None, metric, f"{AVERAGE}, in-domain" if apart else AVERAGE, names))
    return found


def cluster_lines(results: Results) -> list[Line]:
    """The main metric over each cluster's tasks and over the clusters; empty where that would repeat the one task there is."""
    clusters = results.clusters
    if sum(results.members("cluster", cluster) for cluster in clusters) < 2:
        return []
    lines = []
    for cluster, names in clusters.items():
        name = f"{cluster_title(cluster)}, {counted(results.members('cluster', cluster), 'task')}"
        lines.append(_line(results, "cluster", cluster, MAIN_METRIC, name, names))
    return lines if len(lines) == 1 else [*lines, over_clusters(results)]


def over_clusters(results: Results) -> Line:
    """The main metric over all clusters."""
    return _line(results, "clusters", None, MAIN_METRIC, MEAN_OVER_CLUSTERS, results.averaged)


def is_mixed(results: Results) -> bool:
    """Whether the tasks that means are over have several main metrics."""
    return len({task.main_metric for task in results.averaged.values()}) > 1


def headlines(results: Results) -> list[Line]:
    """What a reader wants to know first: means of the metrics that tasks are judged by, of both kinds of tasks.

    Where tasks have several main metrics, the mean of these over clusters, then by cluster, then over the in-domain tasks.
    """
    tasks = list(results.averaged.values())
    mains = [tasks[0].main_metric]
    if is_mixed(results):
        lines = cluster_lines(results)
        in_domain = [
            _line(results, "in_domain", None, metric, "in-domain mean", results.in_domain)
            for metric in (MAIN_METRIC, *dict.fromkeys(results.tasks[name].main_metric for name in results.in_domain))
            if results.scored("in_domain", None, metric)
        ]
        return [*lines[-1:], *lines[:-1], *in_domain[:1]]
    choices = [metric for metric in ("accuracy", *CLASSIFICATION_METRICS) if all(task.is_classification for task in tasks)]
    kinds: list[tuple[Level, str]] = [("tasks", ""), ("in_domain", "in-domain ")]
    if len(results.in_domain) == len(results.tasks):
        kinds = [("tasks", "in-domain ")]
    elif TUNED in results.variants and not is_comparison(results):
        kinds[0] = ("tasks", "held-out ")
    found: list[Line] = []
    for metric in dict.fromkeys([*choices, *mains]):
        for level, kind in kinds:
            if results.scored(level, None, metric):
                prefix = "" if kind == "held-out " and found else kind
                name = prefix + _PLAIN.get(metric, results.tasks[next(iter(results.averaged))].metrics[metric].title)
                found.append(_line(results, level, None, metric, name, results.averaged))
    return found


def clear(difference: Difference) -> str:
    """What a difference shows."""
    if not difference.is_clear:
        return "no clear difference"
    return "clearly higher" if difference.difference > 0 else "clearly lower"


def score_cell(score: Score | None, best_on_dev: float | None = None) -> Cell:
    """A score with its interval, its spread over templates, and the score of the template that is best on dev."""
    if score is None:
        return MISSING
    below = best_told(best_on_dev)
    if score.std is not None and score.min is not None and score.max is not None:
        below.append(Markup("std {}, {}\N{EN DASH}{}").format(exact(score.std), exact(score.min), exact(score.max)))
    return Cell(score.mean, interval=score.interval, below=below, kind="score")


def best_told(best_on_dev: float | None) -> list[str | Markup]:
    """The score of the template that is best on dev, as a cell tells it; empty where there is none."""
    return [] if best_on_dev is None else [Markup("best template on dev {}").format(exact(best_on_dev))]


def difference_cell(one: Difference | None, more: Sequence[str] = ()) -> Cell:
    """A difference with its interval, and what it shows."""
    if one is None:
        return MISSING
    kind = "score clear" if one.is_clear else "score unclear"
    marks = [] if one.is_clear or one.detectable is None else [f"{number(one.detectable)} detectable"]
    return Cell(one.difference, signed, one.interval, marks=marks, below=[clear(one), *more], kind=kind)


def table(
    title: str,
    lines: Sequence[Line],
    results: Results,
    *,
    corner: str = "task",
    levels: Sequence[str] = (),
    p_values: Sequence[str] = (),
    published: bool = False,
) -> Table:
    """Lines as a table: the tuned model and its difference first, then the other variants, and what stands beside.

    Args:
        title: what a screen reader says.
        lines: tasks and means.
        results: of all lines.
        corner: title of the first column.
        levels: of `rows`, `chance`, `majority`.
        p_values: of `p_value`, `p_holm`.
        published: with others' figures by the metric of the lines.
    """
    names = titles(results)
    compared = results.differences[0] if results.differences else None
    order = [compared.after] if compared else []
    order += [name for name in names if name not in order]
    columns = [names[name] for name in order]
    if compared:
        columns.insert(1, "B minus A\n[95 % interval]" if is_comparison(results) else "difference\n[95 % interval]")
    columns += [{"p_value": "p", "p_holm": "p by\nHolm"}[name] for name in p_values]
    columns += [{"rows": "rows", "chance": "guessing", "majority": "commonest\nanswer"}[name] for name in levels]
    others = beside({line.name: figures(results.tasks[line.task], line.metric) for line in lines if published and line.task})
    columns += others.columns
    rows = []
    for line in lines:
        cells = [score_cell(line.scores.get(name)) for name in order]
        if compared:
            one = line.difference
            before = f"before: {names[one.before].removeprefix('untuned, ')}" if one and len(names) > 2 else ""
            cells.insert(1, difference_cell(one, [before] if before else []))
        for name in p_values:
            cells.append(plain(getattr(line.difference, name, None), probability, Cell()))
        for level in levels:
            asked = next(iter(line.scores.values())).rows
            cells.append(
                plain(asked, count) if level == "rows" else plain({"chance": line.chance, "majority": line.majority}[level])
            )
        cells += others.of(line.name)
        rows.append(Row(line.name, cells, line.marks, "" if line.task else "total"))
    return Table(title, columns, rows, corner, "pinned" if compared else "", len(others.columns))


def drawn(results: Results) -> dict[str, str]:
    """The variants in pictures of before and after, with titles. Models kept while one was tuned have a curve of their own."""
    return {name: title for name, title in titles(results).items() if kept_step(name) is None}


def legend(results: Results) -> list[Key]:
    """The variants that are drawn, in the order of colours."""
    return [Key(title) for title in drawn(results).values()]


def overview(results: Results) -> Table:
    """All tasks with all their metrics, then the means, as a terminal shows them."""
    groups: list[tuple[str, Sequence[str], list[Line]]] = []
    for name, task in results.tasks.items():
        lines = [task_line(results, name, metric, facts.title) for metric, facts in task.metrics.items()]
        asked = f"n {count(task.rows)}" + ("" if task.chance is None else f", guessing {number(task.chance)}")
        wordings = [replace(line, name=f"wordings, {line.marks[0]}") for line in quantile_lines(results, name)]
        groups.append((name, [asked, *lines[0].marks], [*lines, *wordings, *_best_line(results, name)]))
    several = len(results.averaged) > 1
    means: list[tuple[Level, str]] = [("tasks", AVERAGE)] if several else []
    means += [("in_domain", f"{AVERAGE}, in-domain")] if len(results.in_domain) > 1 else []
    facts = {metric: one.title for task in results.tasks.values() for metric, one in task.metrics.items()}
    for level, title in means:
        lines = [
            _line(results, level, None, metric, facts.get(metric, "main metric"), results.averaged)
            for metric in results.metrics(level)
        ]
        if lines:
            groups.append((title, lines[0].marks, lines))
    if lines := cluster_lines(results):
        groups.append(("by cluster", ["main metric"], lines))
    rows: list[Row] = []
    p_values = ["p_value", "p_holm"] if is_comparison(results) else []
    shown = table(results.name, [line for _, _, lines in groups for line in lines], results, p_values=p_values)
    left = iter(shown.rows)
    for title, marks, lines in groups:
        rows.append(Row(title, [], marks, "cluster"))
        rows += [replace(next(left), kind="member", marks=[]) for _ in lines]
    columns = [title.removesuffix(" prompt").replace(", ", ",\n") for title in shown.columns]
    return replace(shown, rows=rows, columns=columns, corner="")


def quantile_lines(results: Results, name: str) -> list[Line]:
    """A task's estimated quantiles over all its templates; empty where they were not asked for."""
    over = results.over_wordings(name)
    metric = next(iter(over.values()))[0].metric if over else ""
    return [
        Line(name, metric, {variant: found[place] for variant, found in over.items()}, None, marks=[title], task=name)
        for place, title in enumerate(("5 %", "median", "95 %") if over else ())
    ]


def _best_line(results: Results, name: str) -> list[Line]:
    """The template that is best on dev, where it was asked for."""
    task = results.tasks[name]
    scores = results.main_scores(name, BEST_ON_DEV)
    if not scores:
        return []
    chosen = sorted({best.template for best in (task.best_on_dev or {}).values()})
    title = f"best on dev ({listed([str(one) for one in chosen])})"
    return [Line(title, task.main_metric, scores, None, task=name)]


def score_facts(score: Score) -> dict[str, Any]:
    """A score as a line of a CSV file."""
    return {
        "of": {"clusters": MEAN_OVER_CLUSTERS}.get(score.level, score.level),
        "cluster": score.cluster,
        "task": score.name if score.level == "task" else None,
        "metric": "main metric" if score.metric == MAIN_METRIC else score.metric,
        "score": score.mean,
        "low": score.low,
        "high": score.high,
        "std_over_templates": score.std,
    }
