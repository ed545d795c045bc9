"""Results of a model that was trained several times, with different seeds, and asked the same questions each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flanlab.errors import FlanlabError
from flanlab.evaluation.metrics.declared import metrics_for
from flanlab.evaluation.scores import ScoredTask, build_results, score_predictions
from flanlab.results.files import read_results
from flanlab.results.predictions import PREDICTIONS, read_records
from flanlab.results.schema import BEST_ON_DEV, Results


def seed_folders(folder: Path) -> list[Path]:
    """Folders of the further trainings of a run, in order; of an evaluation, none."""
    found = {path.name.removeprefix("seed-"): path for path in folder.glob("seed-*") if (path / PREDICTIONS).is_dir()}
    return [found[number] for number in sorted(filter(str.isdecimal, found), key=int)]


def results_over_seeds(folder: Path, others: Sequence[Path], *, before: Sequence[str] = (), after: str = "") -> Results:
    """The results in a folder, with scores over all trainings: means, with intervals over rows, templates and seeds.

    The best template on dev rows and what is told of the model remain those of the first training.

    Args:
        folder: of the first training's results.
        others: of the other trainings: `predictions/<variant>/<task>` for those variants whose model was trained.
        before: see `build_results`.
        after: see `build_results`.

    Raises:
        FlanlabError: predictions are missing or damaged, or not of the same questions.
    """
    results = read_results(folder)
    scored = []
    for name, facts in results.tasks.items():
        first = {variant: read_records(folder / PREDICTIONS / variant / name) for variant in results.variants}
        more = {
            variant: [read_records(place / PREDICTIONS / variant / name) for place in others]
            for variant in results.variants
            if all((place / PREDICTIONS / variant).is_dir() for place in others)
        }
        for variant, trainings in more.items():
            asked = {(one["row"], one["template"]) for one in first[variant]}
            if any({(one["row"], one["template"]) for one in rows} != asked for rows in trainings):
                raise FlanlabError(
                    f"{folder}, {name}: the trainings with other seeds were asked other questions.",
                    hint="Run the same command again; it evaluates what is missing.",
                )
        settings = next(iter(results.variants.values())).settings
        metrics = metrics_for(
            facts.declared_metrics, next(iter(first.values())), end_token=bool(settings.get("end_token", True))
        )
        scores, grids, estimates = score_predictions(name, facts.clusters[0], metrics, first, more)
        chosen = [row for row in results.scores if row.template == BEST_ON_DEV and row.level == "task" and row.name == name]
        scored.append(ScoredTask(name, facts, [*scores, *chosen], grids, estimates))
    kept = {"name", "description", "hold_out", "left_out", "allowed_overlaps", "notes", "seconds"}
    told = {name: value for name, value in dict(results).items() if name in kept}
    return build_results(scored, results.variants, before=before, after=after, **told)


def variance_told(results: Results, variant: str) -> str:
    """What rows, templates and seeds each contribute to the variance of a variant's mean score; empty for one training."""
    score = next(row for row in reversed(results.scores) if row.variant == variant and row.level in ("clusters", "tasks"))
    if score.seeds is None:
        return ""
    shares = [score.rows_share or 0.0, score.templates_share or 0.0, score.seeds_share or 0.0]
    return " / ".join(f"{share:.0%}" for share in shares)
