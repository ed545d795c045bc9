"""The paper's claims tested on the sweeps under a folder: `flan claims`, `fl.claims`, and their page."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from markupsafe import Markup

from flanlab import __version__
from flanlab.errors import FlanlabError
from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.planning import EvaluationSettings
from flanlab.experiments.cells import SEED_MARK
from flanlab.experiments.claims import Cells, ScoredCell, Verdict, VerdictName, variance_shares
from flanlab.experiments.claims import claims as test_claims
from flanlab.experiments.folders import SWEEP_FILE, SweepFacts, read_sweep_facts
from flanlab.experiments.paper_claims import CLAIMS
from flanlab.files import write_json
from flanlab.report.page import Block, Cell, Figure, Page, Row, Table, Verbatim, plain, text, write_page
from flanlab.report.plots import Drawing, difference_panel
from flanlab.report.sweep import SweepCell
from flanlab.report.wording import MEAN_OVER_CLUSTERS, capital, cluster_title, count, number, probability, signed
from flanlab.results.files import read_results
from flanlab.results.grids import ScoreGrid, score_grid
from flanlab.results.statistics import Difference
from flanlab.results.table import Table as Rows
from flanlab.settings import QUESTIONS, fields_affecting

PAGE_FILE, JSON_FILE = "claims.html", "claims.json"


def claims(folder: str | Path, *, recipe: str | None = None) -> Rows:
    """Test the paper's claims on the ablations under a folder (Wei et al. 2022, sections 4 and B.1).

    Args:
        folder: what `flan ablate --out` was given, or one sweep's folder.
        recipe: name of the base recipe, if the folder has sweeps of several.

    Returns:
        A row for each of nine claims: `claim`, `section`, `statement`, `comparison`, `verdict` (supported, contradicted,
        too small a sample, not tested, not comparable), `effect` with `low` and `high` (95 %), `smallest_effect` (that
        counts), `detectable` (with 80 % power), `p_value`, `p_holm`, `tasks`, `seeds`, `ablation` and `reason`. Effects
        are 0 to 1. A claim of several parts is shown by the one that decides.

    Raises:
        FlanlabError: no sweep there, sweeps of several recipes, or damaged files.

    >>> import flanlab as fl
    >>> fl.claims("nowhere")
    Traceback (most recent call last):
        ...
    flanlab.errors.FlanlabError: nowhere: there is no sweep here.
    Hint: Make one: flan ablate few-shot RECIPE --out nowhere
    """
    return Rows.from_rows([_row(one) for one in test_claims(read_cells(Path(folder), recipe))])


def command_for(verdict: Verdict, folder: Path) -> str:
    """The command that makes the cells which a claim lacks; empty where it lacks none."""
    if verdict.verdict not in ("not tested", "not comparable"):
        return ""
    name = verdict.ablation or verdict.claim.ablations[0]
    points = " --points SMALL_MODEL,LARGE_MODEL" if name == "scale" else ""
    return f"flan ablate {name} RECIPE{points} --out {shlex.quote(str(folder))}"


def read_cells(folder: Path, recipe: str | None = None) -> Cells:
    """Scores of all cells that a claim may need, of the sweeps in `folder` and one level below it.

    Raises:
        FlanlabError: as `claims`.
    """
    paths = [path.parent for path in sorted([*folder.glob(SWEEP_FILE), *folder.glob(f"*/{SWEEP_FILE}")])]
    sweeps = {path: read_sweep_facts(path) for path in paths}
    if not sweeps:
        raise FlanlabError(f"{folder}: there is no sweep here.", hint=f"Make one: flan ablate few-shot RECIPE --out {folder}")
    names = sorted({str(sweep.recipe["name"]) for sweep in sweeps.values()})
    if recipe is None and len(names) > 1:
        raise FlanlabError(
            f"{folder}: has sweeps of several base recipes: {', '.join(names)}.", hint=f"Add --recipe {names[0]}."
        )
    if recipe is not None and recipe not in names:
        raise FlanlabError(f"{folder}: has no sweep of a recipe called {recipe}.", hint=f"There are: {', '.join(names)}.")
    needed = {name for claim in CLAIMS for name in claim.ablations}
    cells: dict[str, dict[str, ScoredCell | None]] = {}
    for path, sweep in sweeps.items():
        if sweep.name in needed and recipe in (None, sweep.recipe["name"]):
            for name, cell in _cells_of(path, sweep).items():
                known = cells.setdefault(sweep.name, {})
                known[name] = known.get(name) or cell
    return cells


def _cells_of(path: Path, sweep: SweepFacts) -> dict[str, ScoredCell | None]:
    """A sweep's cells; those trained with further seeds are one with the first."""
    trained: dict[str, list[ScoredCell]] = {}
    for facts in sweep.cells:
        seeds, place = trained.setdefault(facts.name.partition(SEED_MARK)[0], []), path / facts.folder
        if facts.state == "done":
            seeds.append(_scored(SweepCell(facts, place, read_results(place))))
    cells: dict[str, ScoredCell | None] = dict.fromkeys(trained)
    for name, seeds in trained.items():
        if seeds:
            common = [task for task in seeds[0].grids if all(task in one.grids for one in seeds)]
            cells[name] = replace(seeds[0], grids={task: [one.grids[task][0] for one in seeds] for task in common})
    return cells


def _scored(cell: SweepCell) -> ScoredCell:
    results, side = cell.results, cell.side
    variant = side.variant
    facts = {"flanlab": results.flanlab, "seed": str(variant.seed)}
    facts |= {
        name: value for name, value in (("precision", variant.dtype), ("training precision", variant.trained_in)) if value
    }
    facts |= {name: json.dumps(variant.settings.get(name)) for name in fields_affecting(EvaluationSettings, QUESTIONS)}
    grids: dict[str, list[ScoreGrid]] = {}
    for task, about in results.tasks.items():
        predictions = side.predictions(task)
        metrics = metrics_for(about.declared_metrics, predictions)
        grids[task] = [score_grid(metrics[0], predictions)]
        facts[f"{task}: metric"] = metrics[0].name
        if about.hashes is not None:
            facts |= {f"{task}: task file": about.hashes.task, f"{task}: rows": about.hashes.rows}
    return ScoredCell(grids, {task: about.clusters[0] for task, about in results.tasks.items()}, facts)


def write_claims(cells: Cells, found: Sequence[Verdict], folder: Path) -> Path:
    """Write claims.json and the page: the verdicts on these cells, with a figure for each claim that was tested, and what
    share of the variance seeds have. Returns where the page is."""
    shares: Sequence[dict[str, Any]] = variance_shares(cells)
    several = any((one.seeds or 0) > 1 for one in found)
    seeds = ", and over training seeds where there are several" if several else ""
    sections: dict[str, Iterable[Block]] = {"Verdicts": [verdict_table(found), text("claims", seeds=seeds)]}
    for place, one in enumerate(found, 1):
        sections[f"{capital(one.claim.name)}: {one.verdict}"] = _claim(one, place, command_for(one, folder))
    if shares:
        shown = {"seeds": count, "tasks": count, "rows_share": number, "templates_share": number, "seeds_share": number}
        lines = [Row(f"{one['ablation']}: {one['cell']}", [plain(one[of], how) for of, how in shown.items()]) for one in shares]
        table = Table("Shares of the variance", ["seeds", "tasks", "rows, %", "templates, %", "seeds, %"], lines, "cell")
        sections["Where the uncertainty comes from"] = [table, text("claims_variance")]
    footer = f"Made by flanlab {__version__} from the predictions of the cells alone."
    page = Page("claims", "The paper's claims, tested", [summary(found)], sections, footer, text("claims_lede"))
    rows = [{**_row(one), "parts": _parts(one)} for one in found]
    content = {"format": 1, "flanlab": __version__, "claims": rows, "variance": shares}
    write_json(folder / JSON_FILE, content)
    write_page(page, folder / PAGE_FILE)
    return folder / PAGE_FILE


def summary(found: Sequence[Verdict]) -> str:
    """How many claims came out how, in a sentence."""
    names = sorted({one.verdict for one in found}, key=[*get_args(VerdictName)].index)
    counts = {name: sum(one.verdict == name for one in found) for name in names}
    told = {"too small a sample": "undecided (too small a sample)"}
    return f"Of {len(found)} claims: {', '.join(f'{count} {told.get(name, name)}' for name, count in counts.items())}."


def verdict_table(found: Sequence[Verdict]) -> Table:
    """The verdict on each claim."""
    rows = []
    for place, one in enumerate(found, 1):
        row = _row(one)
        interval = None if row["low"] is None else (row["low"], row["high"])
        effect = Cell() if row["effect"] is None else Cell(row["effect"], signed, interval, kind="score")
        cells = [Cell(text=row["verdict"]), effect, plain(row["smallest_effect"]), plain(row["detectable"], missing=Cell())]
        name = Markup('<a href="#section-{}">{}</a>').format(place, row["claim"])
        rows.append(Row(name, [*cells, plain(row["p_holm"], probability, Cell())], [f"section {row['section']}"]))
    columns = ["verdict", "effect\n[95 % interval]", "smallest\neffect", "detectable", "p by\nHolm"]
    return Table("The paper's claims", columns, rows, "claim", "verdicts")


def _claim(found: Verdict, place: int, command: str) -> Iterable[Block]:
    """What was compared, and what was found by cluster."""
    claim = found.claim
    told = f"{claim.statement} (Section {claim.section} of the paper.) Compared: {claim.comparison}."
    told += f" The smallest effect that counts is {number(claim.smallest)} points: {claim.why}."
    told += f" From the ablation {found.ablation}." if found.ablation else ""
    if found.seeds == 1:
        told += " Each cell was trained once: the interval does not tell how much another seed would change."
    elif found.seeds:
        told += f" Each cell was trained with {found.seeds} seeds."
    yield told
    yield found.reason
    if command:
        # An option breaks at no hyphen, unless it is longer than the line.
        yield Verbatim(Markup(" ").join(Markup("<span>{}</span>").format(word) for word in command.split(" ")))
    if drawings := [replace(drawing, name=f"claim-{place}") for drawing in _figures(found)]:
        yield Figure(drawings, text("claims_picture"))


def _figures(found: Verdict) -> Iterable[Drawing]:
    for part in (*found.parts, *found.also):
        shown = {cluster_title(name): one for name, one in part.clusters.items() if not math.isnan(one.difference)}
        if len(shown) > 1:
            shown[MEAN_OVER_CLUSTERS] = part.mean
        if shown:
            ends = {name: one.bounds if math.isnan(one.low) else (one.low, one.high) for name, one in shown.items()}
            rows = {name: (one.difference, ends[name]) for name, one in shown.items()}
            about = f"{found.claim.name}: {part.title}, by cluster"
            yield difference_panel(capital(part.title), rows, about, [MEAN_OVER_CLUSTERS])


def _row(found: Verdict) -> dict[str, Any]:
    effect = found.effect
    return {
        "claim": found.claim.name,
        **{name: getattr(found.claim, name) for name in ("section", "statement", "comparison")},
        "verdict": found.verdict,
        "effect": _known(effect.difference if effect else None),
        **{name: _known(getattr(effect, name, None)) for name in ("low", "high")},
        "smallest_effect": found.claim.smallest,
        "detectable": _known(found.detectable),
        "p_value": _known(found.p_value),
        "p_holm": _known(found.p_holm),
        "tasks": min((part.tasks for part in found.parts), default=None),
        "seeds": found.seeds,
        "ablation": found.ablation,
        "reason": found.reason,
    }


def _parts(found: Verdict) -> list[dict[str, Any]]:
    """All that was computed, for programs."""
    return [
        {
            "title": part.title,
            "decides": part in found.parts,
            "tasks": part.tasks,
            **_numbers(part.mean),
            "clusters": {name: _numbers(one) for name, one in part.clusters.items()},
        }
        for part in (*found.parts, *found.also)
    ]


def _numbers(found: Difference) -> dict[str, float | None]:
    return {name: _known(getattr(found, name)) for name in ("difference", "low", "high", "standard_error")}


def _known(number: float | None) -> float | None:
    return None if number is None or math.isnan(number) else float(number)
