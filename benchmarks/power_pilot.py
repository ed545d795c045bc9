"""Measure what differences vary by, for recipes that have no pilot: prints the rows of `src/flanlab/experiments/power.csv`.

SmolLM2-135M is tuned by `power-pilot.yaml` with two seeds, and each tuned model is compared with the untuned one, on the same
rows through the same templates. A folder that has a part of that is resumed.

    python benchmarks/power_pilot.py runs/power-pilot --mirror path/to/mirror
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flanlab as fl
from flanlab.experiments.power import COLUMNS, read_pilot
from flanlab.experiments.recipe import read_recipe
from flanlab.results.power import pooled

RECIPE = Path(__file__).with_name("power-pilot.yaml")
TASKS = ("copa", "sst2", "snli", "trivia_qa", "squad.v1", "common_gen", "wmt16_de_en", "stsb")
SEEDS = 2
ASKED: dict[str, Any] = {
    "rows": 16,
    "templates_per_row": 4,
    "generate": False,
    "pmi": False,
    "dtype": "bfloat16",
    "prompt_tokens": 256,
    "new_tokens": 32,
}


def predict(folder: Path, mirror: Path | None, tasks: Sequence[str]) -> None:
    """Train with each seed, and ask the untuned and all tuned models the same questions."""
    recipe = read_recipe(RECIPE)
    models = {"untuned": recipe.model}
    for seed in range(SEEDS):
        model = folder / f"trained-{seed}" / "model"
        if not model.exists():
            fl.train(recipe.model_copy(update={"seed": seed}), model.parent, mirror=mirror)
        models[f"tuned-{seed}"] = str(model)
    for task, (name, model_name) in itertools.product(tasks, models.items()):
        fl.evaluate(model_name, task, out=folder / task / name, mirror=mirror, **ASKED)


def table(folder: Path, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """The measured components of each task, pooled as those of any pilot."""
    names = ["untuned", *(f"tuned-{seed}" for seed in range(SEEDS))]
    raw = {task: read_pilot([str(folder / task / name) for name in names])[task] for task in tasks}
    rows = []
    for name, found in pooled(raw).items():
        task = fl.load_task(name)
        numbers = (*found.one, *found.shared, found.seed)
        about = {"task": name, "metric": task.metrics[0]}
        rows.append(about | {column: f"{number:.5f}" for column, number in zip(COLUMNS, numbers, strict=True)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mirror", type=Path)
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    arguments = parser.parse_args()
    predict(arguments.folder, arguments.mirror, arguments.tasks)
    rows = table(arguments.folder, arguments.tasks)
    writer = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    main()
