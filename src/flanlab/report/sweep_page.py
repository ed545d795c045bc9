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
from flanlab.experiments.sweep_file import LOG_FILE
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
    text,
    write_page,
)
from flanlab.report.plots import Line, line_panel
from flanlab.report.published import PublishedModel, figures, published
from flanlab.report.sweep import SweepCell, SweepRead, read_sweep, told, verdict
from flanlab.report.views import MEAN_OVER_TASKS, difference_cell, dots, score_cell, score_facts
from flanlab.report.wording import MEAN_OVER_CLUSTERS, cluster_title, listed, number
from flanlab.results.schema import MAIN_METRIC, MEAN, Score

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
            for pair in sweep.pairs
            if pair.found is not None
        ][:3],
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
        if cell.results is not None and not (cell.folder / PAGE_FILE).exists():
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
    reference = sweep.done(panel.reference)
    lines = [line for series in panel.series for line in _lines(sweep, panel, series, reference)]
    places = {place: f"{place:g}" for series in panel.series for place, name in series.points if sweep.done(name) is not None}
    if not lines:
        return None
    heard = [
        f"{line.title}: "
        + ", ".join(f"{number(score.mean)} at {places[place]}" for place, score in line.scores.items())
        + (f"; {number(line.reference.mean)} dashed" if line.reference else "")
        + "."
        for line in lines
    ]
    label = f"{panel.title}, main metric times 100 against {panel.axis}. {' '.join(heard)}"
    dashes = f" Dashed: {reference.facts.title}, by its best prompt." if reference else ""
    keys = [Key(line.title, line.dashed, line.dashed, "ink" if line.strong else "") for line in lines]
    drawing = Drawing(line_panel(lines, places, panel.axis, label))
    return Figure([drawing], text("sweep_picture") + dashes, keys, "single")


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


def _dots_figure(sweep: SweepRead, panel: Panel) -> Figure | None:
    """Cells beside each other, cluster by cluster; or, of several series, a drawing for each cluster with its tasks, where what
    is compared stands on cells of its own for each cluster or task."""
    gathered = len(panel.series) > 1
    drawn: dict[str, dict[str, dict[str, Score]]] = {}
    means: dict[str, dict[str, Score]] = {}
    titles: dict[str, str] = {}
    for series in panel.series:
        for _, name in series.points:
            if (cell := sweep.done(name)) is None:
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
    abouts = {title: f"{panel.title}, {title}" if gathered else panel.title for title in drawn}
    drawings = [Drawing(dots(title, rows, titles, abouts[title])) for title, rows in drawn.items()]
    keys = [Key(title) for title in titles.values()]
    return Figure(drawings, text("sweep_picture"), keys, "" if gathered else "single") if drawings else None


def _scores(sweep: SweepRead) -> Iterable[Block]:
    """One table of all cells and variants, or one by task where columns gather the cells of several."""
    gathered = [panel for panel in sweep.facts.panels if panel.kind == "dots" and len(panel.series) > 1]
    yield from [_task_table(sweep, panel) for panel in gathered] or [_cell_table(sweep)]
    seen = any(cell.seen for cell in sweep.cells.values() if cell.results)
    models = _published(sweep) if gathered else []
    sources = " ".join(f"{model.title}: {model.source}." for model in models)
    notes = [text("sweep"), text("seen") if seen else "", text("published", sources=sources) if models else ""]
    yield " ".join(filter(None, notes))


def _cell_table(sweep: SweepRead) -> Table:
    done = [cell for name, cell in sweep.cells.items() if cell.results is not None and SEED_MARK not in name]
    clusters = list(dict.fromkeys(name for cell in done if cell.results for name in cell.results.clusters))
    lines: list[tuple[str, list[Cell], list[Cell], list[str]]] = []
    for cell in done:
        assert cell.results is not None
        for variant, facts in cell.results.variants.items():
            own = cell.clusters(variant)
            cells = [score_cell(own[name]) if name in own else Cell() for name in clusters]
            cells += [score_cell(cell.mean(variant))] if len(clusters) > 1 else []
            spread = cell.spread(variant)
            extra = [Cell() if spread is None else Cell(spread, kind="level"), Cell(text=variance_told(cell.results, variant))]
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
    scores: dict[str, dict[tuple[str, str], Score]] = {}
    beside: dict[str, dict[str, float]] = {}
    seen: set[tuple[str, str]] = set()
    for series in panel.series:
        for _, name in series.points:
            cell = sweep.done(name)
            if cell is None or cell.results is None:
                continue
            for variant, facts in cell.results.variants.items():
                several = len(cell.results.variants) > 1
                columns[(series.title, variant)] = f"{series.title}, {facts.title}" if several else series.title
                seen |= {(series.title, variant)} if cell.seen else set()
                for task, score in cell.tasks(variant).items():
                    scores.setdefault(task, {})[(series.title, variant)] = score
            for task, result in cell.results.tasks.items():
                beside[task] = figures(result, result.main_metric)
    models = [model for model in published().models if any(model in known for known in beside.values())]
    titles = [f"{title} (seen)" if key in seen else title for key, title in columns.items()]
    titles += [f"{published().models[model].title},\nas published" for model in models]
    rows = []
    for task, found in scores.items():
        cells = [score_cell(found[key]) if key in found else Cell() for key in columns]
        cells += [Cell(beside[task][model]) if model in beside[task] else Cell() for model in models]
        rows.append(Row(task, cells))
    return Table(panel.title, titles, rows, "task", beside=len(models))


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
    return [facts for model, facts in published().models.items() if model in found]


def _comparisons(sweep: SweepRead) -> Iterable[Block]:
    lines = []
    for pair in sweep.pairs:
        if pair.found is None:
            lines.append(f"“{pair.after.facts.title}” against “{pair.before.facts.title}” cannot be paired: {pair.reason}")
            continue
        counts = pair.outcomes
        corrected = f" After Holm's correction over the {counts['tests']} tasks: better on {counts['better_holm']}, worse on"
        lines.append(told(pair) + (f"{corrected} {counts['worse_holm']}." if counts["tests"] > 1 else ""))
    if not lines:
        yield "No two cells that are compared are done."
        return
    yield Items(lines)
    several = any(cell.others for cell in sweep.cells.values())
    yield text("sweep_pairs") + ("" if several else f" {text('sweep_one_seed')}")


def _cells(sweep: SweepRead) -> Iterable[Block]:
    seconds = _seconds(sweep)
    rows = []
    for name, cell in sweep.cells.items():
        state = Cell(text=cell.facts.state, kind="failed" if cell.facts.state == "failed" else "")
        took = clock(seconds[name]) if seconds[name] else ""
        rows.append(Row(cell.facts.title, [state, Cell(text=took), Cell(text=_links(sweep.folder, cell))], [name]))
    rows.append(Row("together", [Cell(), Cell(text=clock(seconds[""])), Cell()], kind="total"))
    yield Table("All cells, with their cost", ["state", "took", "see"], rows, "cell", "plain")
    yield text("sweep_cells")
    for cell in sweep.cells.values():
        if cell.facts.error:
            yield Group(f"{cell.facts.title} failed", [Verbatim(cell.facts.error)], "fold open")


def _links(folder: Path, cell: SweepCell) -> Markup:
    """What there is to see of a cell, with addresses seen from the sweep's folder."""
    links = []
    for place in cell.facts.folders:
        files = [("report", PAGE_FILE), ("log", LOG_FILE)]
        if place != cell.facts.folder:
            files = [("recipe", "recipe.yaml"), ("training log", LOG_FILE)]
        links += [(title, f"{place}/{name}") for title, name in files]
    found = [(title, address) for title, address in links if (folder / address).is_file()]
    return Markup(" ").join(Markup('<a href="{}">{}</a>').format(address, title) for title, address in found)


def _seconds(sweep: SweepRead) -> dict[str, float]:
    """What a cell took, by name: shared work counts in each; and under the empty name everything once."""
    places = {place for cell in sweep.cells.values() for place in cell.facts.folders}
    took = {place: seconds_of(sweep.folder / place) for place in places}
    return {"": sum(took.values())} | {
        name: sum(took[place] for place in cell.facts.folders) for name, cell in sweep.cells.items()
    }


def _csv(sweep: SweepRead) -> str:
    """Every score: a line for each cell, variant, and task, cluster or mean."""
    lines: list[dict[str, Any]] = []
    unscored: list[dict[str, Any]] = []
    for name, cell in sweep.cells.items():
        facts = {"cell": name, "title": cell.facts.title, "state": cell.facts.state}
        if cell.results is None:
            unscored.append(facts)
            continue
        for score in cell.results.scores:
            main = MAIN_METRIC if score.level != "task" else cell.results.tasks[score.name or ""].main_metric
            if score.template == MEAN and score.metric == main and score.level in ("task", "cluster", "clusters"):
                seen = {"task": cell.seen.get(score.name or "", ""), "clusters": cell.seen_mark}.get(score.level, "")
                lines.append({**facts, "variant": score.variant, **score_facts(score), "seen": seen})
    return csv_text([*lines, *unscored])
