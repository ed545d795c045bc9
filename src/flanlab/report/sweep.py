"""A sweep read from its folder: the cells that are done, and what their results say about one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa

from flanlab.errors import FlanlabError
from flanlab.evaluation.comparison import compare_sides
from flanlab.evaluation.sides import Side, results_over_seeds
from flanlab.experiments.cells import SEED_MARK
from flanlab.experiments.folders import SWEEP_FILE, CellFacts, SweepFacts, read_sweep_facts
from flanlab.report.comparison import outcomes
from flanlab.report.views import score_facts
from flanlab.report.wording import counted, interval_told, listed, signed
from flanlab.results.files import difference_table, read_results
from flanlab.results.schema import BEST_ON_DEV, IN_DOMAIN, MAIN_METRIC, MEAN, Difference, Level, Results, Score
from flanlab.results.table import Table

_TOLD_FAILURES = 3


@dataclass(frozen=True)
class SweepCell:
    """A cell that is done."""

    facts: CellFacts
    folder: Path
    results: Results
    others: Sequence[Path] = ()
    """Folders of the same cell with other training seeds; `results` are over all of them."""

    @property
    def variant(self) -> str:
        """The variant that stands for the cell: of an untuned model's prompts the one that does best on average."""
        return max(self.results.variants, key=lambda variant: self.mean(variant).mean)

    @property
    def side(self) -> Side:
        """That variant, to be compared."""
        return Side(self.folder, self.variant, self.results, self.others)

    def mean(self, variant: str) -> Score:
        """The main metric, over clusters."""
        return self.results.scored("clusters", None, MAIN_METRIC)[variant]

    def clusters(self, variant: str) -> dict[str, Score]:
        """The main metric, by cluster."""
        return {name: self.results.scored("cluster", name, MAIN_METRIC)[variant] for name in self.results.clusters}

    def tasks(self, variant: str) -> dict[str, Score]:
        """Each task by its main metric."""
        return {name: self.results.main_scores(name)[variant] for name in self.results.tasks}

    def best_on_dev(self, variant: str) -> dict[tuple[Level, str | None], float]:
        """By level and name the score of the template that is best on dev: of tasks that have one, and the means over clusters'
        tasks, and over clusters, all of which have one. Subtasks count as one task, as in other means."""
        found: dict[tuple[Level, str | None], float] = {}
        for name in self.results.tasks:
            if score := self.results.main_scores(name, BEST_ON_DEV).get(variant):
                found["task", name] = score.mean
        for cluster, names in self.results.clusters.items():
            wholes = [name.partition(".")[0] for name in names]
            if all(("task", name) in found for name in names):
                shares = (found["task", name] / wholes.count(whole) for name, whole in zip(names, wholes, strict=True))
                found["cluster", cluster] = sum(shares) / len(set(wholes))
        if all(("cluster", cluster) in found for cluster in self.results.clusters):
            found["clusters", None] = fmean(found["cluster", cluster] for cluster in self.results.clusters)
        return found

    def rows(self) -> Iterable[dict[str, Any]]:
        """Its main metrics as rows of a table: each variant's tasks, clusters, and the mean over clusters."""
        facts = {"cell": self.facts.name, "title": self.facts.title, "state": self.facts.state}
        best = {variant: self.best_on_dev(variant) for variant in self.results.variants}
        for score in self.results.scores:
            main = MAIN_METRIC if score.level != "task" else self.results.tasks[score.name or ""].main_metric
            if score.template == MEAN and score.metric == main and score.level in ("task", "cluster", "clusters"):
                seen = {"task": self.seen.get(score.name or "", ""), "clusters": self.seen_mark}.get(score.level, "")
                beside = {"best_on_dev": best[score.variant].get((score.level, score.name)), "seen": seen}
                yield {**facts, "variant": score.variant, **score_facts(score), **beside}

    @property
    def seen(self) -> dict[str, str]:
        """Tasks that its model has seen, with the reason: their scores are no zero-shot results."""
        return {name: task.seen for name, task in self.results.tasks.items() if task.seen is not None}

    @property
    def seen_mark(self) -> str:
        """How its scores are marked; empty where it has seen no task."""
        word = self.seen_word
        return word if not word or len(self.seen) == len(self.results.tasks) else f"{', '.join(self.seen)} {word}"

    @property
    def seen_word(self) -> str:
        """The one word for all tasks that its model has seen; empty where there are none."""
        return (IN_DOMAIN if set(self.seen) <= set(self.results.in_domain) else "seen") if self.seen else ""


@dataclass(frozen=True)
class Pair:
    """Two cells on the same questions."""

    before: SweepCell
    after: SweepCell
    found: Results
    """As `compare_sides` gives it."""

    @property
    def over_clusters(self) -> Difference:
        """The difference of the means over clusters."""
        difference = self.found.difference("clusters", None, MAIN_METRIC)
        assert difference is not None
        return difference


@dataclass(frozen=True, repr=False)
class SweepRead:
    """The finished cells of an ablation, and what its page shows (`flanlab.Ablation`)."""

    folder: Path
    """Of the page, `report.html`."""
    facts: SweepFacts
    cells: Mapping[str, SweepCell]
    """Those that are done, by name, in order."""
    pairs: list[Pair]
    unpaired: list[str]
    """Why cells that are done cannot be compared, in sentences."""

    @property
    def scores(self) -> Table:
        """The main metric of each done cell, by variant: a row for each task, each cluster and the mean over clusters (`of`).

        Columns: `cell`, `title`, `state`, `variant`, `of`, `cluster`, `task`, `metric`, `score`, `low` and `high` (95 %
        interval), `std_over_templates`, `best_on_dev` and `seen` (why its task is not zero-shot; empty where it is).
        """
        return Table.from_rows([row for cell in self.cells.values() for row in cell.rows()])

    @property
    def differences(self) -> Table:
        """The comparisons of cells, with the columns of a run's differences; `before` and `after` are names of cells."""
        tables = []
        for pair in self.pairs:
            found = difference_table(pair.found)
            for name, cell in (("before", pair.before), ("after", pair.after)):
                place = found.column_names.index(name)
                found = found.set_column(place, name, pa.array([cell.facts.name] * len(found), pa.string()))
            tables.append(found)
        return Table(pa.concat_tables(tables) if tables else pa.table({}))

    @property
    def failed(self) -> dict[str, str]:
        """The error of each cell that failed, by name. The same call tries these cells again."""
        return {cell.name: cell.error for cell in self.facts.cells if cell.state == "failed"}

    @property
    def verdict(self) -> Sequence[str]:
        """What was found, in sentences that claim no more than the numbers."""
        return list(verdict(self))

    def __repr__(self) -> str:
        return f"Ablation({str(self.folder)!r}, {len(self.cells)} of {len(self.facts.cells)} cells done)"


def is_sweep(folder: Path) -> bool:
    """Whether the folder is a sweep's."""
    return (folder / SWEEP_FILE).is_file()


def read_sweep(folder: Path) -> SweepRead:
    """Read a sweep's folder and the results of its cells.

    Raises:
        FlanlabError: a file is missing or damaged.
    """
    facts = read_sweep_facts(folder)
    done = [cell for cell in facts.cells if cell.state == "done"]
    seeds: dict[str, list[Path]] = {}
    for cell in done:
        seeds.setdefault(cell.name.partition(SEED_MARK)[0], []).append(folder / cell.folder)
    cells = {}
    for cell in done:
        place = folder / cell.folder
        others = [other for other in seeds.get(cell.name, ()) if other != place]
        results = results_over_seeds(place, others) if others else read_results(place)
        cells[cell.name] = SweepCell(cell, place, results, others)
    pairs, unpaired = [], []
    for pair in facts.comparisons:
        before, after = cells.get(pair.before), cells.get(pair.after)
        if before and after and before.folder != after.folder:
            try:
                pairs.append(Pair(before, after, compare_sides(before.side, after.side)))
            except FlanlabError as error:
                titles = f"“{after.facts.title}” against “{before.facts.title}”"
                unpaired.append(f"{titles} cannot be paired: {error.message}")
    return SweepRead(folder, facts, cells, pairs, unpaired)


def verdict(sweep: SweepRead) -> Iterable[str]:
    """What the sweep found, in sentences that claim no more than the numbers."""
    failed = [f"“{cell.title}”" for cell in sweep.facts.cells if cell.state == "failed"]
    if failed:
        more = f" and {len(failed) - _TOLD_FAILURES} more" if len(failed) > _TOLD_FAILURES else ""
        lacks = "it" if len(failed) == 1 else "them"
        yield f"{counted(len(failed), 'cell')} failed ({listed(failed[:_TOLD_FAILURES])}{more}): the figure lacks {lacks}."
    waiting = sum(cell.state in ("waiting", "running") for cell in sweep.facts.cells)
    if waiting:
        yield f"{counted(waiting, 'cell')} of {len(sweep.facts.cells)} {'is' if waiting == 1 else 'are'} not done yet."
    pairs = sweep.pairs
    groups = _apart_by_task(pairs)
    if not pairs:
        yield "No two cells can be compared yet."
    elif all(len(group) > 1 for group in groups):
        for group in groups:
            yield _together(group, name_one=len(groups) > 1)
    else:
        yield told(pairs[0])
        if len(pairs) > 1:
            higher, lower = _clear(pairs)
            sides = [id(cell) for pair in pairs for cell in (pair.before, pair.after)]
            shared = ", which share cells" if len(sides) > len(set(sides)) else ""
            yield (
                f"Of the {len(pairs)} comparisons below{shared}, {higher} {'shows' if higher == 1 else 'show'} a clearly"
                f" higher mean, {lower} a clearly lower one, and {len(pairs) - higher - lower} no clear difference."
            )


def told(pair: Pair) -> str:
    """A comparison as a sentence."""
    counts, over = outcomes(pair.found), pair.over_clusters
    members = pair.found.members("clusters")
    clusters = f"the mean over {members} clusters" if members > 1 else "the mean over tasks"
    tasks = counted(counts["tests"], "task")
    outcome = f"clearly better on {counts['better']} of {tasks}, clearly worse on {counts['worse']}"
    if not counts["better"] and not counts["worse"]:
        outcome = f"no clear difference on any of {tasks}" if counts["tests"] > 1 else "no clear difference on the one task"
    seen = [
        f" Scores of “{cell.facts.title}” on {counted(len(cell.seen), 'task')} of these are marked as {cell.seen_word}."
        for cell in (pair.after, pair.before)
        if cell.seen
    ]
    return (
        f"{_named(pair)}: {outcome}; {clusters} differs by {signed(over.difference)} points ({interval_told(over)})."
        f"{''.join(seen)}"
    )


def _named(pair: Pair) -> str:
    """Both cells by their titles, and by the prompt that stands for a cell where it has several."""
    names = []
    for cell in (pair.after, pair.before):
        variants = cell.results.variants
        best = f" (by its best, {variants[cell.variant].title})" if len(variants) > 1 else ""
        names.append(f"“{cell.facts.title}”{best}")
    return " against ".join(names)


def _clear(pairs: Iterable[Pair]) -> tuple[int, int]:
    """How many means are clearly higher, and how many clearly lower."""
    clear = [pair.over_clusters.difference > 0 for pair in pairs if pair.over_clusters.is_clear]
    return sum(clear), len(clear) - sum(clear)


def _apart_by_task(pairs: list[Pair]) -> list[list[Pair]]:
    """Groups of pairs, in their order, within which no task occurs twice."""
    groups: list[list[Pair]] = []
    met: set[str] = set()
    for pair in pairs:
        names = set(pair.found.tasks)
        if not groups or met & names:
            groups.append([])
            met = set()
        groups[-1].append(pair)
        met |= names
    return groups


def _together(pairs: list[Pair], name_one: bool) -> str:
    """Comparisons of different tasks each, counted together; one stands for them by name where there are others beside."""
    tests, better, worse = (sum(outcomes(pair.found)[name] for pair in pairs) for name in ("tests", "better", "worse"))
    told = f"Over {len(pairs)} comparisons, each of tasks of its own"
    if name_one:
        told = f"{_named(pairs[0])}, and {counted(len(pairs) - 1, 'comparison')} like it"
    told += f": clearly better on {better} of {counted(tests, 'task')}, clearly worse on {worse}"
    if tests > len(pairs):
        higher, lower = _clear(pairs)
        told += f"; the mean over a comparison's tasks is clearly higher in {higher} and clearly lower in {lower}"
    return f"{told}."
