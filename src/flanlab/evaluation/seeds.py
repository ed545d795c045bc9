"""Results of a model that was trained several times, with different seeds, and asked the same questions each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flanlab.errors import FlanlabError
from flanlab.evaluation.scores import build_results, score_predictions
from flanlab.evaluation.sides import Side
from flanlab.results.files import read_results
from flanlab.results.predictions import PREDICTIONS
from flanlab.results.schema import BEST_ON_DEV, Results


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
    sides = {
        variant: Side(folder, variant, results, others if all((one / PREDICTIONS / variant).is_dir() for one in others) else ())
        for variant in results.variants
    }
    scored = []
    for name, facts in results.tasks.items():
        first = {variant: side.predictions(name) for variant, side in sides.items()}
        more = {variant: side.others_predictions(name) for variant, side in sides.items()}
        for variant, trainings in more.items():
            asked = {(one["row"], one["template"]) for one in first[variant]}
            if any({(one["row"], one["template"]) for one in rows} != asked for rows in trainings):
                raise FlanlabError(
                    f"{folder}, {name}: the trainings with other seeds were asked other questions.",
                    hint="Run the same command again; it evaluates what is missing.",
                )
        chosen = results.main_scores(name, BEST_ON_DEV).values()
        scored.append(score_predictions(name, facts, first, more).with_scores(chosen))
    kept = ("name", "description", "hold_out", "left_out", "allowed_overlaps", "notes", "seconds")
    told = {name: getattr(results, name) for name in kept}
    return build_results(scored, results.variants, before=before, after=after, **told)


def variance_told(results: Results, variant: str) -> str:
    """What rows, templates and seeds each contribute to the variance of a variant's mean score; empty for one training."""
    score = next(row for row in reversed(results.scores) if row.variant == variant and row.level in ("clusters", "tasks"))
    if score.seeds is None:
        return ""
    shares = [score.rows_share or 0.0, score.templates_share or 0.0, score.seeds_share or 0.0]
    return " / ".join(f"{share:.0%}" for share in shares)
