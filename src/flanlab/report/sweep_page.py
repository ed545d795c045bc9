"""The page of a sweep: figures, tables, and what they say, in one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from flanlab.evaluation.seeds import variance_told
from flanlab.experiments.cells import SEED_MARK, Panel, Series
from flanlab.experiments.sweep_file import LOG_FILE, seconds_of
from flanlab.files import write_text
from flanlab.report.downloads import Drawing, csv_text, data_address
from flanlab.report.html import REPORT_FILE, write_report
from flanlab.report.page import page_environment
from flanlab.report.plots import Line, PanelRow, line_panel, score_panel
from flanlab.report.published import PublishedModel, figures, published
from flanlab.report.sweep import SweepCell, SweepRead, read_sweep, told, verdict
from flanlab.report.wording import MEAN_OVER_CLUSTERS, cluster_title, number
from flanlab.results.schema import Score

PAGE_FILE = "report.html"
CSV_FILE = "scores.csv"
_MEAN_OVER_TASKS = "mean over tasks"
_DOTS_CAPTION = (
    "Main metric of each task, times 100, with 95 % intervals over rows and templates; an untuned model by its best prompt."
)


@dataclass(frozen=True)
class Figure:
    """A panel of the ablation as it is drawn: in one drawing, or in one for each cluster."""

    title: str
    svgs: Sequence[Markup]
    legend: Sequence[Mapping[str, Any]]
    caption: str
    style: str = "differences"
    """Its class in the style sheet."""


@dataclass(frozen=True)
class ScoreRow:
    """A line of a table; None where a column has no score."""

    name: str
    note: str
    scores: Sequence[Score | None]
    extra: Sequence[str] = ()
    is_average: bool = False


def write_sweep_page(sweep: SweepRead) -> Path:
    """Write report.html, scores.csv and the figures into a sweep's folder, from what was read of it."""
    folder = sweep.folder
    figures = [figure for panel in sweep.facts.panels if (figure := _figure(sweep, panel)) is not None]
    numbers = count(1)
    drawn = [(figure, [Drawing(f"{sweep.facts.name}-{next(numbers)}", svg) for svg in figure.svgs]) for figure in figures]
    scores = _csv(sweep)
    page = (
        page_environment()
        .get_template("sweep.html.j2")
        .render(
            sweep=sweep.facts,
            models=_models(sweep),
            cells=sweep.cells.values(),
            sentences=verdict(sweep),
            figures=drawn,
            tables=_tables(sweep),
            pairs=[(pair, told(pair) if pair.found else "") for pair in sweep.pairs],
            published=_published(sweep),
            seen=any(cell.seen for cell in sweep.cells.values() if cell.results),
            recipe=yaml.safe_dump(sweep.facts.recipe, sort_keys=False, allow_unicode=True),
            csv=data_address("text/csv", scores),
            seconds=_seconds(sweep),
            links={name: _links(sweep.folder, cell) for name, cell in sweep.cells.items()},
        )
    )
    for place, drawing in enumerate((drawing for _, drawings in drawn for drawing in drawings), start=1):
        write_text(folder / f"figure-{place}.svg", drawing.file)
    write_text(folder / CSV_FILE, scores)
    write_text(folder / PAGE_FILE, page)
    return folder / PAGE_FILE


def write_pages(folder: Path) -> SweepRead:
    """Write the reports of a sweep's finished cells that have none yet, and the sweep's page. Returns what was read for it."""
    sweep = read_sweep(folder)
    for cell in sweep.cells.values():
        if cell.results is not None and not (cell.folder / REPORT_FILE).exists():
            write_report(cell.folder)
    write_sweep_page(sweep)
    return sweep


def _figure(sweep: SweepRead, panel: Panel) -> Figure | None:
    """None where no cell of it is done."""
    if panel.kind == "line":
        return _line_figure(sweep, panel)
    return _gathered_figure(sweep, panel) if len(panel.series) > 1 else _cells_figure(sweep, panel)


def _line_figure(sweep: SweepRead, panel: Panel) -> Figure | None:
    reference = sweep.done(panel.reference)
    lines = [line for series in panel.series for line in _lines(sweep, panel, series, reference)]
    places = {place: f"{place:g}" for series in panel.series for place, name in series.points if sweep.done(name) is not None}
    if not lines:
        return None
    legend = [{"title": line.title, "dashed": line.dashed, "colour": "ink" if line.strong else ""} for line in lines]
    dashes = f" Dashed: {reference.facts.title}, by its best prompt." if reference else ""
    heard = [
        f"{line.title}: "
        + ", ".join(f"{number(score.mean)} at {places[place]}" for place, score in line.scores.items())
        + (f"; {number(line.reference.mean)} dashed" if line.reference else "")
        + "."
        for line in lines
    ]
    label = f"{panel.title}, main metric times 100 against {panel.axis}. {' '.join(heard)}"
    svg = line_panel(lines, places, panel.axis, label)
    caption = f"Main metric of each task, times 100, with 95 % intervals over rows and templates.{dashes}"
    return Figure(panel.title, [svg], legend, caption, style="lines")


def _lines(sweep: SweepRead, panel: Panel, series: Series, reference: SweepCell | None) -> list[Line]:
    """A line for each cluster and their mean, or the mean alone."""
    cells = {place: cell for place, name in series.points if (cell := sweep.done(name)) is not None}
    if not cells:
        return []
    means = {place: cell.mean(cell.variant) for place, cell in cells.items()}
    if not panel.by_cluster:
        return [Line(series.title, means, dashed=series.dashed)]
    by_cluster = {place: cell.clusters(cell.variant) for place, cell in cells.items()}
    names = list(dict.fromkeys(name for scores in by_cluster.values() for name in scores))
    held_against = reference.clusters(reference.variant) if reference else {}
    lines = [
        Line(
            cluster_title(name),
            {place: scores[name] for place, scores in by_cluster.items() if name in scores},
            held_against.get(name),
        )
        for name in names
    ]
    if len(names) > 1:
        lines.append(Line(MEAN_OVER_CLUSTERS, means, reference.mean(reference.variant) if reference else None, strong=True))
    return lines


def _cells_figure(sweep: SweepRead, panel: Panel) -> Figure | None:
    """Cells beside each other, cluster by cluster."""
    columns: dict[str, str] = {}
    rows: dict[str, dict[str, Score]] = {}
    means: dict[str, Score] = {}
    for _, name in panel.series[0].points:
        if (cell := sweep.done(name)) is None:
            continue
        columns[name] = cell.facts.title
        means[name] = cell.mean(cell.variant)
        for cluster, score in cell.clusters(cell.variant).items():
            rows.setdefault(cluster_title(cluster), {})[name] = score
    if not rows:
        return None
    if len(rows) > 1:
        rows[MEAN_OVER_CLUSTERS] = means
    svg = _dots("Main metric, times 100", rows, columns, panel.title)
    return Figure(panel.title, [svg], _dots_legend(columns), _DOTS_CAPTION)


def _gathered_figure(sweep: SweepRead, panel: Panel) -> Figure | None:
    """A drawing for each cluster with its tasks, where what is compared stands on cells of its own for each cluster or task."""
    columns: dict[str, str] = {}
    by_cluster: dict[str, dict[str, dict[str, Score]]] = {}
    means: dict[str, dict[str, Score]] = {}
    for series in panel.series:
        for _, name in series.points:
            if (cell := sweep.done(name)) is None:
                continue
            columns[series.title] = series.title
            for cluster, (tasks, mean) in cell.tasks_by_cluster(cell.variant).items():
                rows = by_cluster.setdefault(cluster_title(cluster), {})
                for task, score in tasks.items():
                    rows.setdefault(task, {})[series.title] = score
                if len({task.partition(".")[0] for task in tasks}) > 1:
                    means.setdefault(cluster_title(cluster), {})[series.title] = mean
    if not by_cluster:
        return None
    for cluster, mean_row in means.items():
        by_cluster[cluster][_MEAN_OVER_TASKS] = mean_row
    svgs = [_dots(cluster, rows, columns, f"{panel.title}, {cluster}") for cluster, rows in by_cluster.items()]
    return Figure(panel.title, svgs, _dots_legend(columns), _DOTS_CAPTION, style="")


def _dots(title: str, rows: Mapping[str, Mapping[str, Score]], columns: Mapping[str, str], about: str) -> Markup:
    """Scores by row and column, as dots with intervals."""
    panel_rows = [
        PanelRow(name, scores, frozenset(), None, name in (MEAN_OVER_CLUSTERS, _MEAN_OVER_TASKS))
        for name, scores in rows.items()
    ]
    heard = [
        f"{row.name}: " + ", ".join(f"{columns[key]} {number(score.mean)}" for key, score in row.scores.items()) + "."
        for row in (panel_rows if len(panel_rows) <= 4 else panel_rows[-1:])
    ]
    label = f"{about}, main metric times 100. {' '.join(heard)} All numbers stand in the table below."
    return score_panel(title, panel_rows, list(columns), False, label)


def _dots_legend(columns: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"title": title, "dashed": False, "colour": ""} for title in columns.values()]


def _tables(sweep: SweepRead) -> list[dict[str, Any]]:
    """One table of all cells and variants, or one by task where columns gather the cells of several."""
    gathered = [panel for panel in sweep.facts.panels if panel.kind == "dots" and len(panel.series) > 1]
    tables = [_task_table(sweep, panel) for panel in gathered]
    return tables or [_cell_table(sweep)]


def _cell_table(sweep: SweepRead) -> dict[str, Any]:
    done = [cell for name, cell in sweep.cells.items() if cell.results is not None and SEED_MARK not in name]
    clusters = list(dict.fromkeys(name for cell in done if cell.results for name in cell.results.clusters))
    rows = []
    for cell in done:
        assert cell.results is not None
        for variant, facts in cell.results.variants.items():
            scores: list[Score | None] = [cell.clusters(variant).get(name) for name in clusters]
            if len(clusters) > 1:
                scores.append(cell.mean(variant))
            seeds = f"{len(cell.others) + 1} seeds" if cell.others else ""
            notes = [facts.title if len(cell.results.variants) > 1 else "", cell.seen_mark, seeds]
            spread = cell.spread(variant)
            extra = ["" if spread is None else number(spread), variance_told(cell.results, variant)]
            rows.append(ScoreRow(cell.facts.title, "; ".join(filter(None, notes)), scores, extra))
    titles = ["std over templates, mean over tasks", "variance from rows / templates / seeds"]
    shown = [place for place in range(len(titles)) if any(row.extra[place] for row in rows)]
    rows = [replace(row, extra=[row.extra[place] for place in shown]) for row in rows]
    columns = [cluster_title(name) for name in clusters] + ([MEAN_OVER_CLUSTERS] if len(clusters) > 1 else [])
    return {
        "label": "Scores of all cells",
        "columns": columns,
        "extra": [titles[place] for place in shown],
        "rows": rows,
    }


def _task_table(sweep: SweepRead, panel: Panel) -> dict[str, Any]:
    columns: dict[tuple[str, str], str] = {}
    scores: dict[str, dict[tuple[str, str], Score]] = {}
    beside: dict[str, dict[str, float]] = {}
    seen: dict[tuple[str, str], bool] = {}
    for series in panel.series:
        for _, name in series.points:
            cell = sweep.done(name)
            if cell is None or cell.results is None:
                continue
            for variant, facts in cell.results.variants.items():
                several = len(cell.results.variants) > 1
                columns[(series.title, variant)] = f"{series.title}, {facts.title}" if several else series.title
                seen |= {(series.title, variant): seen.get((series.title, variant), False) or bool(cell.seen)}
                for task, score in cell.tasks(variant).items():
                    scores.setdefault(task, {})[(series.title, variant)] = score
            for task, result in cell.results.tasks.items():
                beside[task] = figures(result, result.main_metric)
    models = [model for model in published().models if any(model in known for known in beside.values())]
    ordered = {key: columns[key] for series in panel.series for key in columns if key[0] == series.title}
    rows = [
        ScoreRow(
            task,
            "",
            [found.get(key) for key in ordered],
            [number(beside[task][model]) if model in beside[task] else "" for model in models],
        )
        for task, found in scores.items()
    ]
    extra = [f"{published().models[model].title}, as published" for model in models]
    titles = [f"{title} (seen)" if seen[key] else title for key, title in ordered.items()]
    return {"label": panel.title, "columns": titles, "extra": extra, "rows": rows}


def _models(sweep: SweepRead) -> list[str]:
    """The models that the cells began with, which may vary with the cell; the base recipe's while no cell is done."""
    found = [
        next(iter(cell.results.variants.values())).model.removesuffix(", tuned")
        for cell in sweep.cells.values()
        if cell.results
    ]
    return list(dict.fromkeys(found)) or [sweep.facts.recipe["model"]]


def _published(sweep: SweepRead) -> list[PublishedModel]:
    """The models of whose published figures some are shown."""
    found = {
        model
        for cell in sweep.cells.values()
        if cell.results
        for task in cell.results.tasks.values()
        for model in figures(task, task.main_metric)
    }
    shown = any(len(panel.series) > 1 for panel in sweep.facts.panels if panel.kind == "dots")
    return [facts for model, facts in published().models.items() if model in found and shown]


def _links(folder: Path, cell: SweepCell) -> list[tuple[str, str]]:
    """What there is to see of a cell, as (text, address seen from the sweep's folder)."""
    links = []
    for place in cell.facts.folders:
        found = [("report", "report.html"), ("log", LOG_FILE)]
        if place != cell.facts.folder:
            found = [("recipe", "recipe.yaml"), ("training log", LOG_FILE)]
        links += [(text, f"{place}/{name}") for text, name in found]
    return [(text, address) for text, address in links if (folder / address).is_file()]


def _seconds(sweep: SweepRead) -> dict[str, float]:
    """What a cell took, by name: shared work counts in each; and under the empty name everything once."""
    places = {place for cell in sweep.cells.values() for place in cell.facts.folders}
    took = {place: seconds_of(sweep.folder / place) for place in places}
    return {"": sum(took.values())} | {
        name: sum(took[place] for place in cell.facts.folders) for name, cell in sweep.cells.items()
    }


def _csv(sweep: SweepRead) -> str:
    """Every score: a line for each cell, variant, and task, cluster or mean."""
    header = ["cell", "title", "state", "variant", "of", "name", "metric", "score", "low", "high", "std_over_templates", "seen"]
    lines: list[list[Any]] = []
    for name, cell in sweep.cells.items():
        facts = [name, cell.facts.title, cell.facts.state]
        if cell.results is None:
            lines.append([*facts, *[""] * (len(header) - len(facts))])
            continue
        for variant in cell.results.variants:
            lines.extend([*facts, variant, *line] for line in _csv_lines(cell, variant))
    return csv_text(header, lines)


def _csv_lines(cell: SweepCell, variant: str) -> Iterable[list[Any]]:
    assert cell.results is not None
    for name, task in cell.results.tasks.items():
        score = cell.results.main_scores(name)[variant]
        yield ["task", name, task.main_metric, score.mean, *score.interval, score.std, task.seen or ""]
    for name, score in cell.clusters(variant).items():
        yield ["cluster", name, "main metric", score.mean, *score.interval, "", ""]
    score = cell.mean(variant)
    yield [MEAN_OVER_CLUSTERS, "", "main metric", score.mean, *score.interval, "", cell.seen_mark]
