"""What is compared: variants of folders of results, or single tasks or templates of these; and results over training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flanlab.errors import FlanlabError
from flanlab.evaluation.scores import build_results, read_counted, score_predictions
from flanlab.results.files import PREDICTIONS, read_results
from flanlab.results.grids import Prediction
from flanlab.results.schema import BEST_ON_DEV, TUNED, Results, Variant


@dataclass(frozen=True)
class Side:
    """One of the two: a variant of a run or an evaluation; one task of it, if named; one template of that, if named."""

    folder: Path
    name: str
    """Of the variant."""
    results: Results
    others: Sequence[Path] = ()
    """Folders of the further trainings with other seeds."""
    task: str | None = None
    template: int | None = None

    @property
    def variant(self) -> Variant:
        """What is known of it."""
        return self.results.variants[self.name]

    def seen(self, task: str) -> str | None:
        """Why its score on a task is not zero-shot; None where it is, or where nothing is known."""
        return self.results.tasks[task].seen if self.variant.stamped else None

    def mark(self, task: str) -> str:
        """How its score on a task is marked; empty where it is zero-shot, or where nothing is known."""
        return self.results.tasks[task].mark if self.variant.stamped else ""

    def predictions(self, task: str) -> list[Prediction]:
        """Its predictions of a task.

        Raises:
            FlanlabError: they are missing or damaged.
        """
        return self._read(self.folder, task)

    def others_predictions(self, task: str) -> list[list[Prediction]]:
        """The same of each further training."""
        return [self._read(folder, task) for folder in self.others]

    def _read(self, folder: Path, task: str) -> list[Prediction]:
        return read_counted(folder / PREDICTIONS / self.name / task, self.variant.end_token)


def open_side(text: str) -> Side:
    """Read what is to be compared: `folder`, or `folder:variant`. Without one, the tuned variant of a run, else the first.

    Raises:
        FlanlabError: results.json is missing, damaged or of another format, or there is no such variant.
    """
    folder, variant = folder_and_variant(text)
    return one_side(open_sides(folder), variant)


def folder_and_variant(text: str) -> tuple[Path, str]:
    """`folder` or `folder:variant` taken apart; the variant is empty where none is named."""
    parts = text.split(":")
    cut = next((cut for cut in range(len(parts), 0, -1) if Path(":".join(parts[:cut])).exists()), 1)
    return Path(":".join(parts[:cut])), ":".join(parts[cut:])


def open_sides(folder: Path) -> dict[str, Side]:
    """All variants of a folder, by name.

    Raises:
        FlanlabError: results.json is missing, damaged or of another format.
    """
    results = read_results(folder)
    found = {path.name.removeprefix("seed-"): path for path in folder.glob("seed-*") if (path / PREDICTIONS).is_dir()}
    others = [found[number] for number in sorted(filter(str.isdecimal, found), key=int)]
    trained = {variant: [path for path in others if (path / PREDICTIONS / variant).is_dir()] for variant in results.variants}
    return {variant: Side(folder, variant, results, trained[variant]) for variant in results.variants}


def one_side(sides: Mapping[str, Side], variant: str = "") -> Side:
    """The side of that name, of a folder's. Where none is named: the tuned variant of a run, else the first.

    Raises:
        FlanlabError: there is no such variant.
    """
    variant = variant or (TUNED if TUNED in sides else next(iter(sides)))
    if variant not in sides:
        folder = next(iter(sides.values())).folder
        raise FlanlabError(
            f"{folder}: there is no variant {variant}.", hint=f"Name one of these after a colon: {', '.join(sides)}."
        )
    return sides[variant]


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
