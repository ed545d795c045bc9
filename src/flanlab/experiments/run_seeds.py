"""A run whose model is trained several times with different seeds, and asked the same each time."""

from __future__ import annotations

import time
from pathlib import Path

from flanlab.data.reader import RowReader
from flanlab.evaluation.evaluate import evaluate
from flanlab.evaluation.seeds import results_over_seeds, variance_told
from flanlab.evaluation.setup import Setup
from flanlab.experiments.recipe import Recipe, make_plan, plan_test_tasks
from flanlab.experiments.run import counted_seconds, run_recipe, settled_earlier, train_recipe, tuned_variant
from flanlab.processes import is_first
from flanlab.progress import say
from flanlab.results.files import write_results
from flanlab.results.schema import TUNED


def run_seeds(recipe: Recipe, folder: Path, rows: RowReader | None = None, *, seeds: int) -> None:
    """Run a recipe in `folder`, train it again in `folder/seed-1` and so on, and write results over all trainings.

    There are `seeds` trainings in all. The untuned model is asked once. A folder that holds a part of this is resumed, and a
    finished run is extended.

    Raises:
        FlanlabError: as `run_recipe`.
    """
    rows = rows or RowReader()
    first = run_recipe(recipe, folder, rows)
    # What `auto` came to is the same for all trainings. The learning curve is the first one's.
    same = recipe.with_training(**settled_earlier(folder), keep_steps=[])
    settings, planned = recipe.evaluation, plan_test_tasks(make_plan(recipe, rows))
    others = [folder / f"seed-{number}" for number in range(1, seeds)]
    seconds = first.seconds or 0.0
    for number, other in enumerate(others, start=1):
        say(f"Training {number + 1} of {seeds}, with the seed {recipe.training_seed + number}:")
        with counted_seconds(other, time.monotonic()) as so_far:
            model = train_recipe(same.reseeded(number), other, rows)
            for arm in settings.arms():
                evaluate(Setup(model, arm, recipe.seed, "instruction", *tuned_variant(arm, settings)), planned, [], other)
            seconds += so_far()
    if seeds == 1 or not is_first():
        return
    untuned = [name for name, variant in first.variants.items() if variant.title.startswith("untuned")]
    before = [name for name in untuned if first.variants[name].settings["shots"] == settings.shot_count]
    found = results_over_seeds(folder, others, before=before, after=TUNED)
    note = (
        f"Scores of the tuned model are means over {seeds} trainings with the seeds {recipe.training_seed} to"
        f" {recipe.training_seed + seeds - 1}. Of the variance of its mean, rows / templates / seeds contribute"
        f" {variance_told(found, TUNED)}. Example predictions are of the first training."
    )
    write_results(found.model_copy(update={"notes": [*first.notes, note], "seconds": round(seconds, 1)}), folder)
