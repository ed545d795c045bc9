"""Judge again what was published before intervals came from variance components, from the means of templates that it has.

The summaries of the two longer hold-outs (docs/results) have the mean of each template, but not the rows: two templates a row,
taking turns, and one baseline prompt. Means tell the part of the variance between templates. What templates have in common
because they share rows is taken as large as it can be for right and wrong answers: as if every template gave a row the same
score, and no row's score before told of that after. So the intervals are today's at their widest.

    python benchmarks/rejudge.py docs/results/holdout-nli.csv docs/results/holdout-sentiment.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from flanlab.results.layout import Variance
from flanlab.results.power import row_overlap, shown_in_turns
from flanlab.results.statistics import Difference, difference_of, mean_difference

BEFORE = ("untuned_instruction", "untuned_chat", "untuned_baseline")
BASELINE, PER_ROW = "0", 2
Means = dict[str, float]
"""Template number, or `mean`, to a score."""


def judged(before: Means, after: Means, rows: int) -> Difference:
    """After minus before, of one task."""
    templates = sorted(after.keys() - {"mean"})
    overlap = row_overlap(shown_in_turns(len(templates), rows, PER_ROW))
    spreads = [means["mean"] * (1 - means["mean"]) for means in (before, after)]
    common = spreads[0] * (1 / rows if BASELINE in before else overlap) + spreads[1] * overlap
    gains = [after[one] - before.get(one, before["mean"]) for one in templates]
    parts = (np.var(gains, ddof=1) / len(gains), len(gains) - 1.0, common, common * np.sqrt(2 / rows), 0.0)
    value = after["mean"] - before["mean"]
    return difference_of(value, Variance(*map(np.array, parts)), (-1.0, 1.0), rows, "")


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        with path.open(encoding="utf-8") as file:
            lines = [line for line in csv.DictReader(file) if line["level"] == "task"]
        for metric in ("valid_answers", "exact_match", "accuracy"):
            tasks: dict[tuple[str, str], dict[str, Means]] = {}
            rows: dict[tuple[str, str], int] = {}
            for line in lines:
                task = line["task"], line["subtask"]
                if line["metric"] == metric:
                    tasks.setdefault(task, {}).setdefault(line["variant"], {})[line["template"]] = float(line["mean"])
                    rows[task] = rows.get(task) or int(line["rows"] or 0)
            wholes = [whole for whole, _ in tasks]
            weights = [1 / wholes.count(whole) for whole in wholes]
            for before in BEFORE:
                found = [judged(means[before], means["tuned"], rows[task]) for task, means in tasks.items()]
                mean = mean_difference(found, weights)
                low, value, high = (100 * number for number in (mean.low, mean.difference, mean.high))
                print(f"{path.stem} {metric} tuned - {before}: {value:+.1f} [{low:+.1f}, {high:+.1f}]")


if __name__ == "__main__":
    main()
