"""Measure what differences vary by, for recipes that have no pilot: prints the rows of `src/flanlab/experiments/power.csv`.

SmolLM2-135M is tuned by `power-pilot.yaml` with two seeds, and each tuned model is compared with the untuned one, on the same
rows through the same templates. A folder that has a part of that is resumed.

    python benchmarks/power_pilot.py runs/power-pilot --mirror path/to/mirror

With --run the folder is that of a run, and its tasks are printed; what it does not tell (of one seed: what seeds add) is
left empty.

    flan run benchmarks/power-pilot-gemma.yaml --out runs/power-pilot-gemma --mirror path/to/mirror --accept-gemma-terms
    python benchmarks/power_pilot.py runs/power-pilot-gemma --run
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import flanlab as fl
from flanlab.experiments.power import COLUMNS, read_pilot
from flanlab.experiments.recipe import read_recipe
from flanlab.results.power import Components, pooled

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


def table(found: Mapping[str, Components]) -> list[dict[str, Any]]:
    """The components of each task, pooled as those of any pilot."""
    rows = []
    for name, one in pooled(found).items():
        numbers = (*one.one, *one.shared, one.seed)
        texts = ("" if np.isnan(number) else f"{number:.5f}" for number in numbers)
        rows.append({"task": name, "metric": fl.load_task(name).metrics[0], **dict(zip(COLUMNS, texts, strict=True))})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mirror", type=Path)
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--run", action="store_true", help="print the tasks of a run")
    arguments = parser.parse_args()
    if arguments.run:
        found = read_pilot([str(arguments.folder)])
    else:
        predict(arguments.folder, arguments.mirror, arguments.tasks)
        names = ["untuned", *(f"tuned-{seed}" for seed in range(SEEDS))]
        found = {task: read_pilot([str(arguments.folder / task / name) for name in names])[task] for task in arguments.tasks}
    rows = table(found)
    writer = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    main()
