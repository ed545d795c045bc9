"""The page of a sweep: figures, tables, and what they say, in one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from flanlab.evaluation.sides import variance_told
from flanlab.experiments.cells import SEED_MARK, Panel, Series
from flanlab.experiments.folders import LOG_FILE, CellFacts, seconds_of
from flanlab.files import write_text
from flanlab.progress import clock
from flanlab.report.comparison import outcomes
from flanlab.report.html import REPORT_FILE, write_report
from flanlab.report.page import (
    Block,
    Cell,
    Download,
    Figure,
    Group,
    Items,
    Key,
    Page,
    Row,
    Table,
    Verbatim,
    csv_text,
    plain,
    text,
    write_page,
)
from flanlab.report.plots import MARKERS, Curve, line_panel, score_panel
from flanlab.report.published import Beside, figures
from flanlab.report.sweep import SweepCell, SweepRead, read_sweep, told, verdict
from flanlab.report.views import MEAN_OVER_TASKS, Line, difference_cell, score_cell
from flanlab.report.wording import MEAN_OVER_CLUSTERS, cluster_title, column_letters, listed
from flanlab.results.schema import BEST_ON_DEV, MAIN_METRIC, Score

CSV_FILE = "scores.csv"


def write_sweep_page(sweep: SweepRead) -> Path:
    """Write report.html, scores.csv and the figures into a sweep's folder, from what was read of it."""
    folder, facts = sweep.folder, sweep.facts
    drawn = _figures(sweep)
    scores = _csv(sweep)
    first = (next(iter(cell.results.variants.values())).model.removesuffix(", tuned") for cell in sweep.cells.values())
    # The models that the cells began with, which may vary with the cell; the base recipe's while no cell is done.
    models = list(dict.fromkeys(first)) or [facts.recipe["model"]]
    recipe = Verbatim(yaml.safe_dump(facts.recipe, sort_keys=False, allow_unicode=True))
    sections: dict[str, Iterable[Block]] = {
        "Figures": [Group(title, [figure]) for title, figure in drawn[1:]],
        "Scores": [*_scores(sweep), Download("All scores as CSV", f"{facts.name}.csv", scores)],
        "Comparisons": _comparisons(sweep),
        "Cells": _cells(sweep),
        "Notes": [Items(facts.notes), Group("The base recipe", [recipe], "fold")],
    }
    if not drawn:
        sections["Figures"] = ["No cell is done yet, so there is nothing to draw."]
    page = Page(
        "ablation",
        facts.title,
        verdict(sweep),
        sections,
        f"Made by flanlab {facts.flanlab} from the results files of the cells alone.",
        f"{facts.question} Base recipe: {facts.recipe['name']}, model{'s' if len(models) > 1 else ''} {listed(models)}.",
        [
            (f"{pair.after.facts.title} against {pair.before.facts.title}", difference_cell(pair.over_clusters))
            for pair in sweep.pairs[:3]
        ],
        drawn[0][1] if drawn else None,
    )
    for place, drawing in enumerate((drawing for _, figure in drawn for drawing in figure.drawings), start=1):
        write_text(folder / f"figure-{place}.svg", drawing.file)
    write_text(folder / CSV_FILE, scores)
    write_page(page, folder / REPORT_FILE)
    return folder / REPORT_FILE


def write_pages(folder: Path) -> SweepRead:
    """Write the reports of a sweep's finished cells that have none yet, and the sweep's page. Returns what was read for it."""
    sweep = read_sweep(folder)
    for cell in sweep.cells.values():
        if not (cell.folder / REPORT_FILE).exists():
            write_report(cell.folder)
    write_sweep_page(sweep)
    return sweep


def _figures(sweep: SweepRead) -> list[tuple[str, Figure]]:
    """The panels of the ablation with their titles, drawings numbered; those of which no cell is done are left out."""
    found = []
    numbers = count(1)
    for panel in sweep.facts.panels:
        figure = _line_figure(sweep, panel) if panel.kind == "line" else _dots_figure(sweep, panel)
        if figure is not None:
            drawings = [replace(one, name=f"{sweep.facts.name}-{next(numbers)}") for one in figure.drawings]
            found.append((panel.title, replace(figure, drawings=drawings)))
    return found


def _done(sweep: SweepRead, *series: Series) -> list[tuple[Series, float, SweepCell]]:
    """The cells of some series that are done, each with its series and its place on the axis."""
    return [(one, place, sweep.cells[name]) for one in series for place, name in one.points if name in sweep.cells]


def _line_figure(sweep: SweepRead, panel: Panel) -> Figure | None:
    reference = sweep.cells.get(panel.reference or "")
    curves = [curve for series in panel.series for curve in _curves(sweep, panel, series, reference)]
    if not curves:
        return None
    places = {place: f"{place:g}" for _, place, _ in _done(sweep, *panel.series)}
    dashes = f" Dashed: {reference.facts.title}, by its best prompt." if reference else ""
    keys = [Key(curve.title, curve.dashed, curve.dashed, "ink" if curve.strong else "") for curve in curves]
    return Figure([line_panel(curves, places, panel.axis, panel.title)], text("sweep_picture") + dashes, keys, "single")


def _curves(sweep: SweepRead, panel: Panel, series: Series, reference: SweepCell | None) -> Iterable[Curve]:
    """A curve for each cluster and their mean, or the mean alone."""
    done = _done(sweep, series)
    means = {place: cell.mean(cell.variant) for _, place, cell in done}
    if done and not panel.by_cluster:
        yield Curve(series.title, means, dashed=series.dashed)
        return
    by_cluster = {place: cell.clusters(cell.variant) for _, place, cell in done}
    names = list(dict.fromkeys(name for scores in by_cluster.values() for name in scores))
    held_against = reference.clusters(reference.variant) if reference else {}
    for name in names:
        scores = {place: scores[name] for place, scores in by_cluster.items() if name in scores}
        yield Curve(cluster_title(name), scores, held_against.get(name))
    if len(names) > 1:
        yield Curve(MEAN_OVER_CLUSTERS, means, reference.mean(reference.variant) if reference else None, strong=True)


def _dots_figure(sweep: SweepRead, panel: Panel) -> Figure | None:
    """Cells beside each other, cluster by cluster; or, of several series, a drawing for each cluster with its tasks, where what
    is compared stands on cells of its own for each cluster or task."""
    gathered = len(panel.series) > 1
    titles: dict[str, str] = {}
    drawn: dict[str, dict[str, dict[str, Score]]] = {}
    means: dict[str, dict[str, Score]] = {}
    for series, _, cell in _done(sweep, *panel.series):
        key, tasks = series.title if gathered else cell.facts.name, cell.tasks(cell.variant)
        titles[key] = series.title if gathered else cell.facts.title
        for cluster, mean in cell.clusters(cell.variant).items():
            names = cell.results.clusters[cluster]
            title = cluster_title(cluster) if gathered else "Main metric, times 100"
            for row, score in {name: tasks[name] for name in names}.items() if gathered else [(cluster_title(cluster), mean)]:
                drawn.setdefault(title, {}).setdefault(row, {})[key] = score
            if not gathered or len({name.partition(".")[0] for name in names}) > 1:
                means.setdefault(title, {})[key] = mean if gathered else cell.mean(cell.variant)
    # Colours and markers come again after the last: then letters tell the cells apart.
    many = len(titles) > len(MARKERS)
    short = {key: letter if many else key for key, letter in zip(titles, column_letters(), strict=False)}
    columns = {short[key]: title for key, title in titles.items()}
    drawings = []
    for title, rows in drawn.items():
        mean_of = MEAN_OVER_TASKS if gathered else MEAN_OVER_CLUSTERS
        last = {mean_of: means[title]} if title in means and (gathered or len(rows) > 1) else {}
        lettered = {row: {short[key]: score for key, score in scores.items()} for row, scores in (rows | last).items()}
        lines = [Line(row, MAIN_METRIC, scores, None) for row, scores in lettered.items()]
        about = f"{panel.title}, {title}, main metric" if gathered else f"{panel.title}, main metric"
        drawings.append(score_panel(title, lines, columns, about, strong=[mean_of], named=many))
    keys = [Key(f"{key}: {title}" if many else title) for key, title in columns.items()]
    return Figure(drawings, text("sweep_picture"), keys, "" if gathered else "single") if drawings else None


def _scores(sweep: SweepRead) -> Iterable[Block]:
    """One table of all cells and variants, or one by task where columns gather the cells of several."""
    done = sweep.cells.values()
    gathered = [panel for panel in sweep.facts.panels if panel.kind == "dots" and len(panel.series) > 1]
    tasks = {name: task for cell in done for name, task in cell.results.tasks.items()}
    others = Beside({name: figures(task, task.main_metric) for name, task in tasks.items()} if gathered else {})
    yield from [_task_table(sweep, panel, others) for panel in gathered] or [_cell_table(sweep)]
    best = any(score.template == BEST_ON_DEV for cell in done for score in cell.results.scores)
    seen = any(cell.seen for cell in done)
    yield text("sweep", best and "sweep_best", seen and "seen", others.sources and "published", sources=others.sources)


def _cell_table(sweep: SweepRead) -> Table:
    done = [cell for name, cell in sweep.cells.items() if SEED_MARK not in name]
    clusters = list(dict.fromkeys(name for cell in done for name in cell.results.clusters))
    rows, more = [], []
    for cell in done:
        for variant, facts in cell.results.variants.items():
            own, best = cell.clusters(variant), cell.best_on_dev(variant)
            cells = [score_cell(own[name], best.get(("cluster", name))) if name in own else Cell() for name in clusters]
            cells += [score_cell(cell.mean(variant), best.get(("clusters", None)))] if len(clusters) > 1 else []
            seeds = f"{len(cell.others) + 1} seeds" if cell.others else ""
            notes = [facts.title if len(cell.results.variants) > 1 else "", cell.seen_mark, seeds]
            rows.append(Row(cell.facts.title, cells, notes))
            stds = [score.std for score in cell.tasks(variant).values() if score.std is not None]
            spread = Cell() if not stds else plain(sum(stds) / len(stds))
            more.append([spread, Cell(text=variance_told(cell.results, variant))])
    titles = ["std over templates,\nmean over tasks", "share of variance:\nrows / templates / seeds"]
    shown = [place for place in range(len(titles)) if any(cells[place] != Cell() for cells in more)]
    rows = [replace(row, cells=[*row.cells, *(cells[place] for place in shown)]) for row, cells in zip(rows, more, strict=True)]
    columns = [cluster_title(name) for name in clusters] + ([MEAN_OVER_CLUSTERS] if len(clusters) > 1 else [])
    return Table("Scores of all cells", [*columns, *(titles[place] for place in shown)], rows, beside=len(shown))


def _task_table(sweep: SweepRead, panel: Panel, others: Beside) -> Table:
    columns: dict[tuple[str, str], str] = {}
    scores: dict[str, dict[tuple[str, str], Cell]] = {}
    marks: dict[tuple[str, str], str] = {}
    for series, _, cell in _done(sweep, *panel.series):
        for variant, facts in cell.results.variants.items():
            key, best = (series.title, variant), cell.best_on_dev(variant)
            columns[key] = f"{series.title}, {facts.title}" if len(cell.results.variants) > 1 else series.title
            marks |= {key: cell.seen_word} if cell.seen else {}
            for task, score in cell.tasks(variant).items():
                scores.setdefault(task, {})[key] = score_cell(score, best.get(("task", task)))
    titles = [f"{title} ({marks[key]})" if key in marks else title for key, title in columns.items()]
    rows = [Row(task, [*(found.get(key, Cell()) for key in columns), *others.of(task)]) for task, found in scores.items()]
    return Table(panel.title, [*titles, *others.columns], rows, "task", beside=len(others.columns))


def _comparisons(sweep: SweepRead) -> Iterable[Block]:
    lines = []
    for pair in sweep.pairs:
        counts = outcomes(pair.found)
        corrected = f" After Holm's correction over the {counts['tests']} tasks: better on {counts['better_holm']}, worse on"
        lines.append(told(pair) + (f"{corrected} {counts['worse_holm']}." if counts["tests"] > 1 else ""))
    if lines := [*lines, *sweep.unpaired]:
        yield Items(lines)
        yield text("sweep_pairs", not any(cell.others for cell in sweep.cells.values()) and "sweep_one_seed")
    else:
        yield "No two cells that are compared are done."


def _cells(sweep: SweepRead) -> Iterable[Block]:
    took = {place: seconds_of(sweep.folder / place) for cell in sweep.facts.cells for place in cell.folders}
    rows = []
    for cell in sweep.facts.cells:
        seconds = sum(took[place] for place in cell.folders)
        state = Cell(text=cell.state, kind="failed" if cell.state == "failed" else "")
        cells = [state, Cell(text=clock(seconds) if seconds else ""), Cell(text=_links(sweep.folder, cell))]
        rows.append(Row(cell.title, cells, [cell.name]))
    rows.append(Row("together", [Cell(), Cell(text=clock(sum(took.values()))), Cell()], kind="total"))
    yield Table("All cells, with their cost", ["state", "took", "see"], rows, "cell", "plain")
    yield text("sweep_cells")
    for cell in sweep.facts.cells:
        if cell.error:
            yield Group(f"{cell.title} failed", [Verbatim(cell.error)], "fold open")


def _links(folder: Path, cell: CellFacts) -> Markup:
    """What there is to see of a cell, with addresses seen from the sweep's folder."""
    links = []
    for place in cell.folders:
        files = [("report", REPORT_FILE), ("log", LOG_FILE)]
        if place != cell.folder:
            files = [("recipe", "recipe.yaml"), ("training log", LOG_FILE)]
        links += [(title, f"{place}/{name}") for title, name in files]
    found = [(title, address) for title, address in links if (folder / address).is_file()]
    return Markup(" ").join(Markup('<a href="{}">{}</a>').format(address, title) for title, address in found)


def _csv(sweep: SweepRead) -> str:
    """Every score: a line for each cell, variant, and task, cluster or mean; and a line for each cell that is not done."""
    waiting = [cell for cell in sweep.facts.cells if cell.name not in sweep.cells]
    lines: list[dict[str, Any]] = sweep.scores.rows()
    return csv_text([*lines, *({"cell": cell.name, "title": cell.title, "state": cell.state} for cell in waiting)])
