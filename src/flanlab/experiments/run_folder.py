"""Files of a run's or a step's folder, for those who only look whether and how long it ran."""

from __future__ import annotations

from pathlib import Path

from flanlab.files import read_json

RECIPE_FILE = "recipe.yaml"
FINISHED_FILE = "finished.json"
"""In `training`: there once the tuned model is saved."""
SECONDS_FILE = "seconds.json"


def seconds_of(folder: Path) -> float:
    """How long the work in a folder took, over all sittings; 0 if it is not known."""
    path = folder / SECONDS_FILE
    return float(read_json(path)["seconds"]) if path.is_file() else 0.0


def kept_model(folder: Path, step: int) -> Path:
    """Folder of the model as it was after a step of `training.keep_steps`."""
    return folder / "models" / f"step-{step}"
