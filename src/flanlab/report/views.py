"""Views of the score table: lines with their scores and differences, and tables made of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from flanlab.report.page import MISSING, Cell, Group, Key, Row, Table, exact, plain
from flanlab.report.published import Beside, figures
from flanlab.report.wording import (
    CLASSIFICATION_METRICS,
    MEAN_OVER_CLUSTERS,
    cluster_title,
    count,
    counted,
    explanation,
    listed,
    metric_title,
    number,
    probability,
    signed,
)
from flanlab.results.schema import BEST_ON_DEV, MAIN_METRIC, TUNED, Difference, Level, Results, Score, TaskFacts, kept_step

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
    hollow: Collection[str] = ()
    """Variants that do not count as the others do: neither as before nor as after, seen, or not comparable."""


def is_comparison(results: Results) -> bool:
    """Whether results are of two runs that are compared."""
    return any(variant.run is not None for variant in results.variants.values())


def titles(results: Results) -> dict[str, str]:
    """Variant to its title; the sides of a comparison have letters."""
    if is_comparison(results):
        return {name: name.upper() for name in results.variants}
    return {name: variant.title for name, variant in results.variants.items()}


def seen_by(results: Results, tasks: Iterable[str]) -> str:
    """The sides of a comparison whose model has seen any of these tasks: A, or A and B."""
    return listed([side.upper() for side in results.variants if {*tasks} & {*results.seen_tasks(side)}])


def line_of(results: Results, level: Level, key: str, metric: str, title: str) -> Line:
    """A task or the mean over a cluster (`key`), or another mean (no key), by one metric."""
    of = {"task": [key], "cluster": results.clusters.get(key), "in_domain": results.in_domain}.get(level) or results.averaged
    tasks = {name: results.tasks[name] for name in of if metric in (MAIN_METRIC, *results.tasks[name].metrics)}
    task, ranked = tasks.get(key) if level == "task" else None, metric.startswith("accuracy")
    chance = majority = None
    if level == "tasks" and ranked and all(one.chance is not None for one in results.averaged.values()):
        chance = sum(one.chance or 0 for one in results.averaged.values()) / len(results.averaged)
    elif task is not None:
        facts = task.metrics[metric]
        chance = task.chance if facts.chance is None and ranked else facts.chance
        majority = task.majority if facts.majority is None and ranked else facts.majority
    scores, one = results.scored(level, key or None, metric), results.difference(level, key or None, metric)
    marks = list(filter(None, [_seen(results, tasks, mean=task is None)]))
    in_domain = level == "in_domain" or (task is not None and task.in_domain)
    outside = set(scores) - {one.before, one.after} if one else ()
    return Line(title, metric, scores, one, chance, majority, marks, "" if task is None else key, in_domain, outside)


def _seen(results: Results, tasks: Mapping[str, TaskFacts], mean: bool) -> str:
    """How a line over these tasks is marked."""
    in_domain = all(task.in_domain for task in tasks.values() if task.seen or task.in_domain)
    if is_comparison(results):
        by = seen_by(results, tasks)
        return f"{'in-domain for' if in_domain else 'seen in training by'} {by}" if by else ""
    if mean:
        return "" if in_domain else "with tasks seen in training"
    return "".join(task.mark for task in tasks.values())


def metric_lines(results: Results, metric: str) -> list[Line]:
    """The tasks that have a metric, zero-shot ones first, each kind with its average if that is over several."""
    found = []
    for in_domain in (False, True):
        names = [name for name, task in results.tasks.items() if task.in_domain == in_domain and metric in task.metrics]
        found += [line_of(results, "task", name, metric, name) for name in names]
        apart = in_domain and len(results.in_domain) < len(results.tasks)
        level: Level = "in_domain" if apart else "tasks"
        if len(names) > 1 and results.scored(level, None, metric):
            found.append(line_of(results, level, "", metric, f"{AVERAGE}, in-domain" if apart else AVERAGE))
    return found


def cluster_lines(results: Results) -> list[Line]:
    """The main metric over each cluster's tasks and over the clusters; empty where that would repeat the one task there is."""
    members = {cluster: results.members("cluster", cluster) for cluster in results.clusters}
    if sum(members.values()) < 2:
        return []
    titles = {cluster: f"{cluster_title(cluster)}, {counted(tasks, 'task')}" for cluster, tasks in members.items()}
    lines = [line_of(results, "cluster", cluster, MAIN_METRIC, title) for cluster, title in titles.items()]
    return lines if len(lines) == 1 else [*lines, line_of(results, "clusters", "", MAIN_METRIC, MEAN_OVER_CLUSTERS)]


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
        metrics = (MAIN_METRIC, *(results.tasks[name].main_metric for name in results.in_domain))
        known = [metric for metric in metrics if results.scored("in_domain", None, metric)]
        in_domain = [line_of(results, "in_domain", "", metric, "in-domain mean") for metric in known]
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
                found.append(line_of(results, level, "", metric, name))
    return found


def clear(difference: Difference) -> str:
    """What a difference shows."""
    if not difference.is_clear:
        return "no clear difference"
    return "clearly higher" if difference.difference > 0 else "clearly lower"


def score_cell(score: Score | None, best_on_dev: float | None = None, *, spread: bool = True) -> Cell:
    """A score with its interval, its spread over templates, and the score of the template that is best on dev."""
    if score is None:
        return MISSING
    below = [] if best_on_dev is None else [Markup("best template on dev {}").format(exact(best_on_dev))]
    if spread and score.std is not None and score.min is not None and score.max is not None:
        below.append(Markup("std {}, {}\N{EN DASH}{}").format(exact(score.std), exact(score.min), exact(score.max)))
    return Cell(score.mean, interval=score.interval, below=below, kind="score")


def difference_cell(one: Difference | None, more: Sequence[str] = ()) -> Cell:
    """A difference with its interval, and what it shows."""
    if one is None:
        return MISSING
    kind = "score clear" if one.is_clear else "score unclear"
    size = "nothing" if one.detectable is None else number(one.detectable)
    marks = [] if one.is_clear else [f"{size} detectable"]
    marks += [f"equivalent within {number(one.margin)}"] if one.margin is not None and one.is_equivalent else []
    return Cell(one.difference, signed, one.interval, marks=marks, below=[clear(one), *by_row(one), *more], kind=kind)


def by_row(one: Difference | None) -> list[str]:
    """On how many rows (or groups) a difference is for the better, for the worse, and none; empty where rows have no score."""
    return [] if one is None or one.wins is None else [f"rows: {one.wins} better, {one.losses} worse, {one.ties} equal"]


_MORE: Mapping[str, tuple[str, Callable[[Line], Cell]]] = {
    "p_value": ("p", lambda line: plain(getattr(line.difference, "p_value", None), probability, Cell())),
    "p_holm": ("p by\nHolm", lambda line: plain(getattr(line.difference, "p_holm", None), probability, Cell())),
    "rows": ("rows", lambda line: plain(next(iter(line.scores.values())).rows, count)),
    "chance": ("guessing", lambda line: plain(line.chance)),
    "majority": ("commonest\nanswer", lambda line: plain(line.majority)),
}
"""What a table may show beside scores: title of the column, and its cell."""


def table(
    title: str,
    lines: Sequence[Line],
    results: Results,
    more: Sequence[str] = (),
    *,
    corner: str = "task",
    published: bool = False,
) -> Table:
    """Lines as a table: the tuned model and its difference first, then the other variants, and what stands beside.

    Args:
        title: what a screen reader says.
        lines: tasks and means.
        results: of all lines.
        more: columns beside, of `p_value`, `p_holm`, `rows`, `chance`, `majority`.
        corner: title of the first column.
        published: with others' figures by the metric of the lines.
    """
    names = titles(results)
    compared = results.differences[0] if results.differences else None
    order = list(dict.fromkeys([*([compared.after] if compared else []), *names]))
    columns = [names[name] for name in order] + [_MORE[name][0] for name in more]
    if compared:
        columns.insert(1, "B minus A\n[95 % interval]" if is_comparison(results) else "difference\n[95 % interval]")
    others = Beside({line.name: figures(results.tasks[line.task], line.metric) for line in lines if published and line.task})
    rows = []
    for line in lines:
        cells = [score_cell(line.scores.get(name)) for name in order]
        if compared:
            one = line.difference
            before = f"before: {names[one.before].removeprefix('untuned, ')}" if one and len(names) > 2 else ""
            cells.insert(1, difference_cell(one, [before] if before else []))
        cells += [*(_MORE[name][1](line) for name in more), *others.of(line.name)]
        rows.append(Row(line.name, cells, line.marks, "" if line.task else "total"))
    return Table(title, [*columns, *others.columns], rows, corner, "pinned" if compared else "", len(others.columns))


def metric_group(results: Results, metric: str, more: Sequence[str], kind: str = "", *, published: bool = False) -> Group:
    """What a metric measures, and a table of all tasks by it; see `Group` and `table`."""
    title = metric_title(results, metric)
    shown = table(f"{title}, all tasks", metric_lines(results, metric), results, more, published=published)
    return Group(title, [explanation(results, metric), shown], kind)


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
        lines = [line_of(results, "task", name, metric, facts.title) for metric, facts in task.metrics.items()]
        asked = f"n {count(task.rows)}" + ("" if task.chance is None else f", guessing {number(task.chance)}")
        told = [asked, *by_row(results.difference("task", name, task.main_metric)), *lines[0].marks]
        lines += [replace(one, name=f"wordings, {one.marks[0]}") for one in quantile_lines(results, name)]
        if scores := results.main_scores(name, BEST_ON_DEV):
            chosen = sorted({best.template for best in (task.best_on_dev or {}).values()})
            title = f"best on dev ({listed([str(one) for one in chosen])})"
            lines.append(Line(title, task.main_metric, scores, None, task=name))
        groups.append((name, told, lines))
    means: list[tuple[Level, str, int]] = [("tasks", AVERAGE, len(results.averaged))]
    means += [("in_domain", f"{AVERAGE}, in-domain", len(results.in_domain))]
    facts = {metric: one.title for task in results.tasks.values() for metric, one in task.metrics.items()}
    for level, title, tasks in means:
        lines = [line_of(results, level, "", metric, facts.get(metric, "main metric")) for metric in results.metrics(level)]
        if lines and tasks > 1:
            groups.append((title, lines[0].marks, lines))
    if lines := cluster_lines(results):
        groups.append(("by cluster", ["main metric"], lines))
    rows: list[Row] = []
    for title, marks, lines in groups:
        shown = table(results.name, lines, results, ["p_value", "p_holm"] if is_comparison(results) else [], corner="")
        rows += [Row(title, [], marks, "cluster"), *(replace(row, kind="member", marks=[]) for row in shown.rows)]
    return replace(shown, rows=rows, columns=[one.removesuffix(" prompt").replace(", ", ",\n") for one in shown.columns])


def quantile_lines(results: Results, name: str) -> list[Line]:
    """A task's estimated quantiles over all its templates; empty where they were not asked for."""
    over = results.over_wordings(name)
    metric = next(iter(over.values()))[0].metric if over else ""
    return [
        Line(name, metric, {variant: found[place] for variant, found in over.items()}, None, marks=[title], task=name)
        for place, title in enumerate(("5 %", "median", "95 %") if over else ())
    ]


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
