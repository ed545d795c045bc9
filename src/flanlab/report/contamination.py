"""The figure of FLAN's appendix C: how much a score changes on clean rows, for each data set, ranked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flanlab.files import write_text
from flanlab.report.plots import difference_panel

FIGURE_FILE = "contamination.svg"
_PREFERRED = ("tuned", "instruction")
"""The variant that is drawn: the first of these that was evaluated, else any."""


def write_contamination_figure(summary: Mapping[str, Any], folder: Path) -> Path | None:
    """Draw the score on clean rows minus that on all rows, for each task that has clean rows; the largest loss first.

    Args:
        summary: content of contamination.json, with scores. Its first n is drawn, 13 unless others were chosen.
        folder: where contamination.svg is written.

    Returns:
        The figure; None if no task has both scores and clean rows.
    """
    size = str(summary["sizes"][0])
    found = {task: entry[size].get("clean_minus_all", {}) for task, entry in summary["scores"].items()}
    known = dict.fromkeys(name for variants in found.values() for name in variants)
    variant = next((name for name in (*_PREFERRED, *known) if name in known), None)
    path = folder / FIGURE_FILE
    if variant is None:
        # An earlier one would be of other predictions.
        path.unlink(missing_ok=True)
        return None
    rows: dict[str, tuple[float, tuple[float, float]]] = {}
    for task, variants in found.items():
        if one := variants.get(variant):
            counts = [summary["scores"][task][size][subset]["rows"] for subset in ("clean", "all")]
            interval = (-1.0, 1.0) if one["low"] is None else (one["low"], one["high"])
            rows[f"{task} ({counts[0]} of {counts[1]} rows clean)"] = (one["difference"], interval)
    rows = dict(sorted(rows.items(), key=lambda row: row[1][0]))
    title = f"Clean minus all rows, n = {size}: {variant}"
    write_text(path, difference_panel(title, rows, f"{title}, by task").file)
    return path
