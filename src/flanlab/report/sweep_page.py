"""The page of a sweep: figures, tables, and what they say, in one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from flanlab.evaluation.seeds import variance_told
from flanlab.experiments.cells import SEED_MARK, Panel, Series
from flanlab.experiments.run_folder import seconds_of
from flanlab.experiments.sweep_file import LOG_FILE, CellFacts
from flanlab.files import write_text
from flanlab.progress import clock
from flanlab.report.html import write_report
from flanlab.report.page import (
    Block,
    Cell,
    Download,
    Drawing,
    Figure,
    Group,
    Headline,
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
from flanlab.report.plots import Line, line_panel, score_panel
from flanlab.report.published import beside, figures
from flanlab.report.sweep import SweepCell, SweepRead, read_sweep, told, verdict
from flanlab.report.views import MEAN_OVER_TASKS, difference_cell, score_cell, score_facts
from flanlab.report.wording import MEAN_OVER_CLUSTERS, cluster_title, listed
from flanlab.results.schema import BEST_ON_DEV, MAIN_METRIC, MEAN, Score

PAGE_FILE = "report.html"
CSV_FILE = "scores.csv"


def write_sweep_page(sweep: SweepRead) -> Path:
    """Write report.html, scores.csv and the figures into a sweep's folder, from what was read of it."""
    folder, facts = sweep.folder, sweep.facts
    drawn = _figures(sweep)
    scores = _csv(sweep)
    first, *sentences = verdict(sweep)
    models = _models(sweep)
    figures = [Group(title, [figure], "part") for title, figure in drawn[1:]]
    sections = [
        Group("Figures", figures if drawn else ["No cell is done yet, so there is nothing to draw."]),
        Group("Scores", [*_scores(sweep), Download("All scores as CSV", f"{facts.name}.csv", "text/csv", scores)]),
        Group("Comparisons", list(_comparisons(sweep))),
        Group("Cells", list(_cells(sweep))),
        Group(
            "Notes",
            [
                Items(facts.notes),
                Group("The base recipe", [Verbatim(yaml.safe_dump(facts.recipe, sort_keys=False, allow_unicode=True))], "fold"),
            ],
        ),
    ]
    page = Page(
        "ablation",
        facts.title,
        first,
        [section for section in sections if section.blocks],
        f"{facts.question} Base recipe: {facts.recipe['name']}, model{'s' if len(models) > 1 else ''} {listed(models)}.",
        numbers=[
            Headline(f"{pair.after.facts.title} against {pair.before.facts.title}", difference_cell(pair.over_clusters))
            for pair in sweep.pairs[:3]
        ],
        picture=drawn[0][1] if drawn else None,
        sentences=sentences,
        footer=f"Made by flanlab {facts.flanlab} from the results files of the cells alone.",
    )
    for place, drawing in enumerate((drawing for _, figure in drawn for drawing in figure.drawings), start=1):
        write_text(folder / f"figure-{place}.svg", drawing.file)
    write_text(folder / CSV_FILE, scores)
    write_page(page, folder / PAGE_FILE)
    return folder / PAGE_FILE


def write_pages(folder: Path) -> SweepRead:
    """Write the reports of a sweep's finished cells that have none yet, and the sweep's page. Returns what was read for it."""
    sweep = read_sweep(folder)
    for cell in sweep.cells.values():
        if not (cell.folder / PAGE_FILE).exists():
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


def _line_figure(sweep: SweepRead, panel: Panel) -> Figure | None:
    reference = sweep.cells.get(panel.reference or "")
    lines = [line for series in panel.series for line in _lines(sweep, panel, series, reference)]
    places = {place: f"{place:g}" for series in panel.series for place, name in series.points if name in sweep.cells}
    if not lines:
        return None
    dashes = f" Dashed: {reference.facts.title}, by its best prompt." if reference else ""
    keys = [Key(line.title, line.dashed, line.dashed, "ink" if line.strong else "") for line in lines]
    drawing = Drawing(line_panel(lines, places, panel.axis, panel.title))
    return Figure([drawing], text("sweep_picture") + dashes, keys, "single")


def _lines(sweep: SweepRead, panel: Panel, series: Series, reference: SweepCell | None) -> list[Line]:
    """A line for each cluster and their mean, or the mean alone."""
    cells = {place: sweep.cells[name] for place, name in series.points if name in sweep.cells}
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


def _dots_figure(sweep: SweepRead, panel: Panel) -> Figure | None:
    """Cells beside each other, cluster by cluster; or, of several series, a drawing for each cluster with its tasks, where what
    is compared stands on cells of its own for each cluster or task."""
    gathered = len(panel.series) > 1
    drawn: dict[str, dict[str, dict[str, Score]]] = {}
    means: dict[str, dict[str, Score]] = {}
    titles: dict[str, str] = {}
    for series in panel.series:
        for _, name in series.points:
            if (cell := sweep.cells.get(name)) is None:
                continue
            key = series.title if gathered else name
            titles[key] = series.title if gathered else cell.facts.title
            for cluster, (tasks, mean) in cell.tasks_by_cluster(cell.variant).items():
                title = cluster_title(cluster) if gathered else "Main metric, times 100"
                rows = drawn.setdefault(title, {})
                for row, score in tasks.items() if gathered else [(cluster_title(cluster), mean)]:
                    rows.setdefault(row, {})[key] = score
                if gathered and len({task.partition(".")[0] for task in tasks}) > 1:
                    means.setdefault(title, {})[key] = mean
                elif not gathered:
                    means.setdefault(title, {})[key] = cell.mean(cell.variant)
    for title, rows in drawn.items():
        if gathered and title in means:
            rows[MEAN_OVER_TASKS] = means[title]
        elif not gathered and len(rows) > 1:
            rows[MEAN_OVER_CLUSTERS] = means[title]
    means_of = (MEAN_OVER_TASKS, MEAN_OVER_CLUSTERS)
    abouts = {title: f"{panel.title}, {title}, main metric" if gathered else f"{panel.title}, main metric" for title in drawn}
    drawings = [Drawing(score_panel(title, rows, titles, abouts[title], strong=means_of)) for title, rows in drawn.items()]
    keys = [Key(title) for title in titles.values()]
    return Figure(drawings, text("sweep_picture"), keys, "" if gathered else "single") if drawings else None


def _scores(sweep: SweepRead) -> Iterable[Block]:
    """One table of all cells and variants, or one by task where columns gather the cells of several."""
    gathered = [panel for panel in sweep.facts.panels if panel.kind == "dots" and len(panel.series) > 1]
    yield from [_task_table(sweep, panel) for panel in gathered] or [_cell_table(sweep)]
    seen = any(cell.seen for cell in sweep.cells.values())
    done = sweep.cells.values()
    known = {(cell.folder, name): figures(task, task.main_metric) for cell in done for name, task in cell.results.tasks.items()}
    sources = beside(known).sources if gathered else ""
    best = any(score.template == BEST_ON_DEV for cell in sweep.cells.values() for score in cell.results.scores)
    notes = [text("sweep"), text("sweep_best") if best else "", text("seen") if seen else ""]
    notes += [text("published", sources=sources)] if sources else []
    yield " ".join(filter(None, notes))


def _cell_table(sweep: SweepRead) -> Table:
    done = [cell for name, cell in sweep.cells.items() if SEED_MARK not in name]
    clusters = list(dict.fromkeys(name for cell in done for name in cell.results.clusters))
    lines: list[tuple[str, list[Cell], list[Cell], list[str]]] = []
    for cell in done:
        for variant, facts in cell.results.variants.items():
            own, best = cell.clusters(variant), cell.best_on_dev(variant)
            cells = [score_cell(own[name], best.get(("cluster", name))) if name in own else Cell() for name in clusters]
            cells += [score_cell(cell.mean(variant), best.get(("clusters", None)))] if len(clusters) > 1 else []
            spread = cell.spread(variant)
            extra = [plain(spread, missing=Cell()), Cell(text=variance_told(cell.results, variant))]
            seeds = f"{len(cell.others) + 1} seeds" if cell.others else ""
            notes = [facts.title if len(cell.results.variants) > 1 else "", cell.seen_mark, seeds]
            lines.append((cell.facts.title, cells, extra, notes))
    columns = [cluster_title(name) for name in clusters] + ([MEAN_OVER_CLUSTERS] if len(clusters) > 1 else [])
    more = ["std over templates,\nmean over tasks", "share of variance:\nrows / templates / seeds"]
    shown = [place for place in range(len(more)) if any(extra[place] != Cell() for _, _, extra, _ in lines)]
    rows = [Row(title, [*cells, *(extra[place] for place in shown)], notes) for title, cells, extra, notes in lines]
    return Table("Scores of all cells", [*columns, *(more[place] for place in shown)], rows, beside=len(shown))


def _task_table(sweep: SweepRead, panel: Panel) -> Table:
    columns: dict[tuple[str, str], str] = {}
    scores: dict[str, dict[tuple[str, str], Cell]] = {}
    known: dict[str, dict[str, float]] = {}
    seen: set[tuple[str, str]] = set()
    for series in panel.series:
        for _, name in series.points:
            if (cell := sweep.cells.get(name)) is None:
                continue
            for variant, facts in cell.results.variants.items():
                several = len(cell.results.variants) > 1
                columns[(series.title, variant)] = f"{series.title}, {facts.title}" if several else series.title
                seen |= {(series.title, variant)} if cell.seen else set()
                best = cell.best_on_dev(variant)
                for task, score in cell.tasks(variant).items():
                    scores.setdefault(task, {})[(series.title, variant)] = score_cell(score, best.get(("task", task)))
            for task, result in cell.results.tasks.items():
                known[task] = figures(result, result.main_metric)
    others = beside(known)
    titles = [f"{title} (seen)" if key in seen else title for key, title in columns.items()]
    rows = [Row(task, [*(found.get(key, Cell()) for key in columns), *others.of(task)]) for task, found in scores.items()]
    return Table(panel.title, [*titles, *others.columns], rows, "task", beside=len(others.columns))


def _models(sweep: SweepRead) -> list[str]:
    """The models that the cells began with, which may vary with the cell; the base recipe's while no cell is done."""
    found = (next(iter(cell.results.variants.values())).model.removesuffix(", tuned") for cell in sweep.cells.values())
    return list(dict.fromkeys(found)) or [sweep.facts.recipe["model"]]


def _comparisons(sweep: SweepRead) -> Iterable[Block]:
    lines = []
    for pair in sweep.pairs:
        counts = pair.outcomes
        corrected = f" After Holm's correction over the {counts['tests']} tasks: better on {counts['better_holm']}, worse on"
        lines.append(told(pair) + (f"{corrected} {counts['worse_holm']}." if counts["tests"] > 1 else ""))
    lines += sweep.unpaired
    if not lines:
        yield "No two cells that are compared are done."
        return
    yield Items(lines)
    several = any(cell.others for cell in sweep.cells.values())
    yield text("sweep_pairs") + ("" if several else f" {text('sweep_one_seed')}")


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
        files = [("report", PAGE_FILE), ("log", LOG_FILE)]
        if place != cell.folder:
            files = [("recipe", "recipe.yaml"), ("training log", LOG_FILE)]
        links += [(title, f"{place}/{name}") for title, name in files]
    found = [(title, address) for title, address in links if (folder / address).is_file()]
    return Markup(" ").join(Markup('<a href="{}">{}</a>').format(address, title) for title, address in found)


def _csv(sweep: SweepRead) -> str:
    """Every score: a line for each cell, variant, and task, cluster or mean."""
    lines: list[dict[str, Any]] = []
    for one in sweep.facts.cells:
        facts = {"cell": one.name, "title": one.title, "state": one.state}
        if (cell := sweep.cells.get(one.name)) is None:
            lines.append(facts)
            continue
        best = {variant: cell.best_on_dev(variant) for variant in cell.results.variants}
        for score in cell.results.scores:
            main = MAIN_METRIC if score.level != "task" else cell.results.tasks[score.name or ""].main_metric
            if score.template == MEAN and score.metric == main and score.level in ("task", "cluster", "clusters"):
                seen = {"task": cell.seen.get(score.name or "", ""), "clusters": cell.seen_mark}.get(score.level, "")
                beside = {"best_on_dev": best[score.variant].get((score.level, score.name)), "seen": seen}
                lines.append({**facts, "variant": score.variant, **score_facts(score), **beside})
    return csv_text(sorted(lines, key=len, reverse=True))
